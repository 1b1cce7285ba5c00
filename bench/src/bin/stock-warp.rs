//! The peer stock-warp: a WebSocket server that broadcasts, written like the examples of `warp`, without tuning.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedSender};
use warp::Filter;
use warp::ws::{Message, WebSocket, Ws};

/// Broadcasts each body that is posted to /api/publish to all clients of /api/ws.
#[derive(Parser)]
struct Cli {
    /// The address to accept connections on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001")]
    listen: SocketAddr,
}

#[derive(Clone, Default)]
struct Clients {
    senders: Arc<Mutex<HashMap<u64, UnboundedSender<Message>>>>,
    next_id: Arc<AtomicU64>,
}

impl Clients {
    /// Locks the map of clients. Ignores a poisoned lock: each change is one insertion or removal, so a panic leaves
    /// the map valid.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UnboundedSender<Message>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broadcast(&self, text: &str) {
        for sender in self.lock().values() {
            // If the channel is closed, the client has disconnected, and `serve` will remove it from the map.
            let _ = sender.send(Message::text(text));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the examples of warp spawn a task for each connection, too")]
    async fn serve(self, socket: WebSocket) {
        let (mut sink, mut stream) = socket.split();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        // This send fails only if the client has already disconnected.
        let _ = sender.send(Message::text(r#"{"type":"connection_ack"}"#));
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, sender);
        // While this loop reads, warp answers pings. The loop ends when the client disconnects.
        while let Some(Ok(_)) = stream.next().await {}
        self.lock().remove(&id);
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let clients = Clients::default();
    let with_clients = {
        let clients = clients.clone();
        warp::any().map(move || clients.clone())
    };
    let subscribe = warp::path!("api" / "ws")
        .and(warp::get())
        .and(warp::ws())
        .and(with_clients.clone())
        .map(|ws: Ws, clients: Clients| ws.on_upgrade(move |socket| clients.serve(socket)));
    let publish = warp::path!("api" / "publish").and(warp::post()).and(warp::body::bytes()).and(with_clients).map(
        |body: warp::hyper::body::Bytes, clients: Clients| {
            clients.broadcast(&String::from_utf8_lossy(&body));
            warp::http::StatusCode::NO_CONTENT
        },
    );

    let listener = TcpListener::bind(cli.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    warp::serve(subscribe.or(publish)).incoming(listener).run().await;
    Ok(())
}
