//! Runs a server inside another program, and adds a route to it.
//!
//! Run it with `cargo run --example embedded`, then open the printed address. The program ends with Ctrl-C or when its
//! standard input ends.

use std::error::Error;

use oddswire::config::Config;
use oddswire::server::Server;
use slog::{Discard, Logger, o};
use warp::{Filter as _, Reply as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = "127.0.0.1:0".parse()?;
    let config = Config { listen, admin_listen: None, publish_token: Some("dev-token".parse()?), ..Config::default() };
    let server = Server::bind(config.check()?, Logger::root(Discard, o!()))?;
    println!("http://{}/clients", server.local_addr());

    let manager = server.manager().clone();
    let clients = warp::path!("clients").map(move || format!("{} clients\n", manager.active_count()).into_response());
    let shutdown = async {
        let input = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = input => {}
        }
    };
    server.run_with(clients.boxed(), shutdown).await;
    Ok(())
}
