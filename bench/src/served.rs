//! Runs the whole server and its clients on one thread, so that instruction counts hardly vary.

use std::net::SocketAddr;

use oddswire::config::Config;
use oddswire::manager::ConnectionManager;
use oddswire::server::Server;
use slog::{Discard, Logger, o};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// A running server, and the runtime that it shares with its clients.
pub struct Served {
    runtime: Runtime,
    address: SocketAddr,
    pub manager: ConnectionManager,
}

impl Served {
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let mut config = Config::default();
        (config.listen, config.admin_listen) = (SocketAddr::from(([127, 0, 0, 1], 0)), None);
        let context = runtime.enter();
        let server = Server::bind(config, Logger::root(Discard, o!())).expect("the system finds a free port");
        drop(context);
        let (address, manager) = (server.local_addr(), server.manager().clone());
        runtime.spawn(server.run(std::future::pending()));
        Self { runtime, address, manager }
    }

    /// Connects a WebSocket client and reads its `connection_ack`.
    pub fn client(&self) -> TcpStream {
        const REQUEST: &[u8] = b"GET /api/ws?topics=odds_updates HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let greeted =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("connection_ack") && bytes.ends_with(b"}}");
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
            stream.write_all(REQUEST).await.expect("the server reads");
            let mut reply = Vec::new();
            while !greeted(&reply) {
                let count = stream.read_buf(&mut reply).await.expect("the server answers");
                assert!(count > 0, "the server closed the connection: {}", String::from_utf8_lossy(&reply));
            }
            stream
        })
    }

    /// Reads from each client's socket until the buffer is full.
    pub fn read(&self, clients: &mut [TcpStream], buffer: &mut [u8]) {
        self.runtime.block_on(async {
            for client in clients {
                client.read_exact(buffer).await.expect("each client gets every message");
            }
        });
    }
}
