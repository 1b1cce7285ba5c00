//! A panic in the task of one connection ends that connection and nothing else.
//!
//! The production code has no known panic, so these tests pass a logger that panics once, at a certain event. The unit
//! tests in `manager` cover a panic under the manager's lock. Those in `session::writer` cover a panic in a session's
//! writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oddswire::config::{Config, EngineKind};
use oddswire::server::Server;
use serde_json::json;
use slog::{Drain, Logger, Never, OwnedKVList, Record};

use crate::harness::get::get;
use crate::harness::metrics::becomes;
use crate::harness::raw::{HANDSHAKE, Raw, frame};
use crate::harness::redis::Redis;
use crate::harness::{App, eventually, sse, within, ws};

/// A logger that panics at the first record of an event.
struct Faulty {
    event: &'static str,
    panicked: Arc<AtomicBool>,
}

impl Drain for Faulty {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let panics = record.msg().to_string() == self.event && !self.panicked.swap(true, Ordering::SeqCst);
        assert!(!panics, "a bug at {}", self.event);
        Ok(())
    }
}

/// A server with two clients, and room for one more connection.
struct Stage {
    app: App,
    socket: ws::Client,
    events: sse::Client,
    panicked: Arc<AtomicBool>,
}

impl Stage {
    /// Starts a server and connects the two clients. The server then panics at the next log record of this event.
    async fn start(event: &'static str) -> Self {
        let panicked = Arc::new(AtomicBool::new(true));
        let faulty = Faulty { event, panicked: Arc::clone(&panicked) };
        let limits = |config: &mut Config| config.max_connections = 3;
        let app = App::logging(Logger::root(faulty.fuse(), slog::o!()), limits).await;
        let (socket, events) = (app.ws("").await, app.sse("").await);
        panicked.store(false, Ordering::SeqCst);
        Self { app, socket, events, panicked }
    }

    /// Waits until the metrics count one client of each transport. A connection that is no longer counted has released
    /// its place.
    async fn two_are_counted(&self) {
        for transport in ["websocket", "sse"] {
            becomes(&self.app, &format!("oddswire_connections{{transport=\"{transport}\"}}"), 1.0).await;
        }
    }

    /// Checks that the connection whose task panicked has left no trace, and that the other clients still work.
    async fn only_that_connection_is_gone(mut self) {
        eventually("the logger has panicked", || self.panicked.load(Ordering::SeqCst)).await;
        self.app.connections(2).await;
        for count in self.app.manager.topic_counts().values() {
            assert_eq!(count.subscribers, 2);
        }
        self.two_are_counted().await;
        // The released place can be used again, by each transport in turn.
        for path in ["/api/ws", "/api/sse"] {
            let (raw, response) = get(self.app.address, path, &[]).await;
            assert!(matches!(response.status, 101 | 200), "{path}: {response:?}");
            drop(raw);
            self.two_are_counted().await;
        }
        self.app.odds("8301/1x2/a", "still here").await;
        assert_eq!(self.socket.expect("odds_updates").await["data"], "still here");
        assert_eq!(self.events.expect("odds_updates").await["data"], "still here");
        drop((self.socket, self.events));
        eventually("every connection is gone", || self.app.manager.is_empty()).await;
        assert!(self.app.stop().await, "no connection delays the drain");
    }
}

#[tokio::test]
async fn panic_at_the_start_of_a_websocket_ends_only_that_connection() {
    let stage = Stage::start("ws.connect").await;
    let mut raw = Raw::connect(stage.app.address).await;
    raw.send(HANDSHAKE.as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_in_a_websocket_reader_ends_only_that_connection() {
    let stage = Stage::start("ws.malformed_message").await;
    let mut raw = Raw::websocket(stage.app.address).await;
    raw.send(&frame(0x81, b"no json")).await;
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_at_the_end_of_a_websocket_ends_only_that_connection() {
    let stage = Stage::start("ws.disconnect").await;
    let mut raw = Raw::websocket(stage.app.address).await;
    raw.send(&frame(0x88, b"")).await;
    assert_eq!(raw.frame().await.expect("the answer").opcode, 0x8);
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_at_the_start_of_a_stream_ends_only_that_connection() {
    let stage = Stage::start("sse.connect").await;
    let mut raw = Raw::connect(stage.app.address).await;
    raw.send(b"GET /api/sse HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_at_the_end_of_a_stream_ends_only_that_connection() {
    let stage = Stage::start("sse.disconnect").await;
    let leaves = stage.app.sse("topics=odds_updates").await;
    drop(leaves);
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_in_a_plain_request_ends_only_that_connection() {
    let stage = Stage::start("publish.rejected").await;
    let mut bystander = Raw::connect(stage.app.address).await;
    let mut raw = Raw::connect(stage.app.address).await;
    let body = json!({"topic": "odds_updates", "data": 1}).to_string();
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw.send(request.as_bytes()).await;
    assert_eq!(raw.rest().await, b"");
    // The server answers the same request on another connection.
    bystander.send(request.as_bytes()).await;
    assert_eq!(bystander.response().await.status, 401);
    drop(bystander);
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn panic_in_the_engine_ends_the_server_as_failed() {
    let Some(redis) = Redis::start().await else { return };
    let panicked = Arc::new(AtomicBool::new(false));
    let faulty = Faulty { event: "redis.joined", panicked: Arc::clone(&panicked) };
    let mut config = Config::default();
    (config.listen, config.admin_listen) = ("127.0.0.1:0".parse().unwrap(), None);
    (config.engine, config.redis_url) = (EngineKind::Redis, Some(redis.url().parse().unwrap()));
    let server = Server::bind(config, Logger::root(faulty.fuse(), slog::o!())).unwrap();
    assert!(!within(server.run(std::future::pending())).await, "the server reports that it failed");
    assert!(panicked.load(Ordering::SeqCst));
}
