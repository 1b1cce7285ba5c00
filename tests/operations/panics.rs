//! A bug that panics in the task of one connection takes down that connection and nothing else.
//!
//! The production code has no panic to call for, so its log is made to: it panics once, when a certain event is logged.
//! (What a panic under the manager's lock does stands in `manager`, what one in a session's writer in `session::writer`.)

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

/// A log that panics at the first record of an event.
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

/// A server with a place for one more than is connected to it.
struct Stage {
    app: App,
    socket: ws::Client,
    events: sse::Client,
    panicked: Arc<AtomicBool>,
}

impl Stage {
    /// It panics at this event, which comes of nothing that is connected here.
    async fn set(event: &'static str) -> Self {
        let panicked = Arc::new(AtomicBool::new(true));
        let faulty = Faulty { event, panicked: Arc::clone(&panicked) };
        let limits = |config: &mut Config| config.max_connections = 3;
        let app = App::logging(Logger::root(faulty.fuse(), slog::o!()), limits).await;
        let (socket, events) = (app.ws("").await, app.sse("").await);
        panicked.store(false, Ordering::SeqCst);
        Self { app, socket, events, panicked }
    }

    /// The metrics know one client of each transport. Who is not counted any more has given its place back.
    async fn two_are_counted(&self) {
        for transport in ["websocket", "sse"] {
            becomes(&self.app, &format!("oddswire_connections{{transport=\"{transport}\"}}"), 1.0).await;
        }
    }

    /// The connection whose task panicked is gone, from everywhere, and whoever else was there goes on.
    async fn only_that_connection_is_gone(mut self) {
        eventually("it panicked", || self.panicked.load(Ordering::SeqCst)).await;
        self.app.connections(2).await;
        for count in self.app.manager.topic_counts().values() {
            assert_eq!(count.subscribers, 2);
        }
        self.two_are_counted().await;
        // The place is free again, once for each transport.
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
        eventually("nothing left of any connection", || self.app.manager.is_empty()).await;
        assert!(self.app.stop().await, "nothing holds the drain");
    }
}

#[tokio::test]
async fn a_panic_where_a_websocket_begins_takes_down_that_connection_only() {
    let stage = Stage::set("ws.connect").await;
    let mut raw = Raw::connect(stage.app.address).await;
    raw.send(HANDSHAKE.as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_in_the_reader_of_a_websocket_takes_down_that_connection_only() {
    let stage = Stage::set("ws.malformed_message").await;
    let mut raw = Raw::websocket(stage.app.address).await;
    raw.send(&frame(0x81, b"no json")).await;
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_where_a_websocket_ends_takes_down_that_connection_only() {
    let stage = Stage::set("ws.disconnect").await;
    let mut raw = Raw::websocket(stage.app.address).await;
    raw.send(&frame(0x88, b"")).await;
    assert_eq!(raw.frame().await.expect("the answer").opcode, 0x8);
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_where_an_event_stream_begins_takes_down_that_connection_only() {
    let stage = Stage::set("sse.connect").await;
    let mut raw = Raw::connect(stage.app.address).await;
    raw.send(b"GET /api/sse HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.rest().await, b"");
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_where_an_event_stream_ends_takes_down_that_connection_only() {
    let stage = Stage::set("sse.disconnect").await;
    let leaves = stage.app.sse("topics=odds_updates").await;
    drop(leaves);
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_in_a_plain_request_takes_down_that_connection_only() {
    let stage = Stage::set("publish.rejected").await;
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
    // The same request on another connection is answered.
    bystander.send(request.as_bytes()).await;
    assert_eq!(bystander.response().await.status, 401);
    drop(bystander);
    stage.only_that_connection_is_gone().await;
}

#[tokio::test]
async fn a_panic_in_the_engine_ends_the_server_and_says_that_it_did_not_end_well() {
    let Some(redis) = Redis::start().await else { return };
    let panicked = Arc::new(AtomicBool::new(false));
    let faulty = Faulty { event: "redis.joined", panicked: Arc::clone(&panicked) };
    let mut config = Config::defaults();
    (config.listen, config.admin_listen) = ("127.0.0.1:0".parse().unwrap(), None);
    (config.engine, config.redis_url) = (EngineKind::Redis, Some(redis.url().parse().unwrap()));
    let server = Server::bind(config, Logger::root(faulty.fuse(), slog::o!())).unwrap();
    assert!(!within(server.run(std::future::pending())).await, "nobody asked it to stop");
    assert!(panicked.load(Ordering::SeqCst));
}
