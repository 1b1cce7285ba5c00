//! The ways in which a connection ends, and the shutdown of the server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt as _;
use oddswire::config::{Config, EngineKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::raw::{HANDSHAKE, Raw, frame};
use crate::harness::{App, PATIENCE, TOKEN, eventually, within, ws};

const SSE: &str = "GET /api/sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server with one client that stays connected.
struct Stage {
    app: App,
    stays: ws::Client,
    published: u64,
}

impl Stage {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let app = App::with(change).await;
        let stays = app.ws("").await;
        Self { app, stays, published: 0 }
    }

    /// Publishes a message, and checks that the staying client receives it.
    async fn publish(&mut self, padding: &str) {
        self.published += 1;
        let data = format!("{} {padding}", self.published);
        self.app.publish(&json!({"topic": "scrape_progress", "data": data})).await;
        assert_eq!(self.stays.next().await["data"], data);
    }

    /// Waits until only the staying client is registered, and checks that each topic has one subscriber.
    async fn only_one_stays(&mut self) {
        self.app.connections(1).await;
        let body = self.app.get("/api/topics").await.body;
        assert_eq!(body["connections"], 1);
        for topic in body["topics"].as_array().unwrap() {
            assert_eq!(topic["subscribers"], 1, "{body}");
        }
        self.publish("").await;
    }

    /// Closes the staying client, and checks that no trace of any connection remains.
    async fn leave_nothing_behind(self) {
        self.stays.close().await;
        eventually("every connection is gone", || self.app.manager.is_empty()).await;
        assert!(self.app.stop().await, "no connection delays the drain");
    }
}

/// Opens an event stream, and reads its head and its first byte.
async fn sse(mut raw: Raw) -> Raw {
    raw.send(SSE.as_bytes()).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    within(raw.socket.read_u8()).await.expect("the acknowledgement");
    raw
}

/// Begins the drain, and waits until the server accepts no new connection.
async fn begin_drain(app: &mut App) {
    app.begin_stop();
    within(async { while TcpStream::connect(app.address).await.is_ok() {} }).await;
}

fn publish_head(length: usize) -> String {
    // With the header `Expect` the server asks for the body. The test then knows that the server has begun to handle
    // the request.
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
}

#[tokio::test]
async fn close_frame_causes_exactly_one_disconnect() {
    let mut stage = Stage::start(|_| {}).await;
    for close in [&b""[..], &1000_u16.to_be_bytes(), &4321_u16.to_be_bytes()] {
        let mut raw = Raw::websocket(stage.app.address).await;
        raw.send(&frame(0x88, close)).await;
        assert_eq!(raw.frame().await.expect("the answer").payload, close);
        stage.only_one_stays().await;
        assert_eq!(raw.rest().await, b"");
    }
    stage.app.ws("topics=odds_updates/1,odds_updates/2,odds_updates").await.close().await;
    stage.only_one_stays().await;
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn end_without_a_close_frame_causes_exactly_one_disconnect() {
    let mut stage = Stage::start(|_| {}).await;
    let begun = frame(0x81, br#"{"type":"ping"}"#);
    for sent in [&b""[..], &frame(0x01, b"half a message"), &begun[..1], &begun[..9]] {
        let mut raw = Raw::websocket(stage.app.address).await;
        raw.send(sent).await;
        within(raw.socket.shutdown()).await.unwrap();
        assert_eq!(raw.rest().await, b"", "the server ends its side too");
        stage.only_one_stays().await;
    }
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn reset_causes_exactly_one_disconnect() {
    let mut stage = Stage::start(|_| {}).await;
    let raw = Raw::websocket(stage.app.address).await;
    raw.socket.set_zero_linger().unwrap();
    drop(raw);
    stage.only_one_stays().await;

    let raw = Raw::websocket(stage.app.address).await;
    stage.publish("").await;
    within(raw.socket.readable()).await.unwrap();
    // The client closes with unread data, so the kernel sends a reset.
    drop(raw);
    stage.only_one_stays().await;
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn protocol_error_causes_exactly_one_disconnect() {
    let mut stage = Stage::start(|_| {}).await;
    for (breach, code) in
        [(frame(0xc1, b""), 1002), (frame(0x81, b"\xff"), 1007), (frame(0x82, &vec![0; 20_000]), 1009)]
    {
        let mut raw = Raw::websocket(stage.app.address).await;
        raw.send(&breach).await;
        assert_eq!(raw.closed().await, code);
        // The server removes the client from the registry although the client has not ended the connection yet.
        stage.only_one_stays().await;
    }
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn client_that_leaves_before_the_answer_is_not_registered() {
    let mut stage = Stage::start(|_| {}).await;
    for request in [HANDSHAKE, SSE, &HANDSHAKE[..60]] {
        for reset in [false, true] {
            let mut raw = Raw::connect(stage.app.address).await;
            raw.send(request.as_bytes()).await;
            if reset {
                raw.socket.set_zero_linger().unwrap();
            }
            drop(raw);
            // When the server answers this request, it has read the bytes that the client sent before.
            stage.app.get("/healthz").await;
            stage.only_one_stays().await;
        }
    }
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn client_leaving_an_event_stream_causes_one_disconnect() {
    let mut stage = Stage::start(|_| {}).await;
    for reset in [false, true] {
        let raw = sse(Raw::connect(stage.app.address).await).await;
        stage.app.connections(2).await;
        if reset {
            raw.socket.set_zero_linger().unwrap();
        }
        drop(raw);
        stage.only_one_stays().await;
    }
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn silent_client_is_pinged_and_closed_after_idle_timeout() {
    let app = App::in_memory(|_| {}).await;
    let Config { ping_interval, idle_timeout, .. } = Config::default();
    let started = Instant::now();
    let mut raw = Raw::websocket(app.address).await;
    tokio::time::pause();
    for pings in 1..=2 {
        assert_eq!(raw.frame().await.unwrap().opcode, 0x9);
        assert!(started.elapsed() >= ping_interval * pings, "{:?}", started.elapsed());
    }
    assert_eq!(raw.closed().await, 4408);
    assert!(started.elapsed() >= idle_timeout, "{:?}", started.elapsed());
    eventually("every connection is gone", || app.manager.is_empty()).await;
}

#[tokio::test]
async fn messages_to_a_silent_client_do_not_keep_it_alive() {
    let app = App::in_memory(|_| {}).await;
    let mut raw = Raw::websocket(app.address).await;
    tokio::time::pause();
    let started = Instant::now();
    loop {
        app.publish(&json!({"topic": "scrape_progress", "data": "x"})).await;
        let frame = raw.frame().await.expect("a frame");
        if frame.opcode == 0x8 {
            assert_eq!(frame.close_code(), 4408);
            break;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(started.elapsed() < Config::default().idle_timeout * 10, "the connection is still open");
    }
}

#[tokio::test]
async fn client_that_sends_pongs_or_anything_else_stays_connected() {
    let app = App::in_memory(|config| config.ping_interval = Duration::from_secs(1)).await;
    let mut answers = app.ws("").await;
    let mut talks = Raw::websocket(app.address).await;
    tokio::time::pause();
    let started = Instant::now();
    while started.elapsed() < Config::default().idle_timeout * 3 {
        // The client library answers pings while the test reads.
        assert!(matches!(answers.frame().await, Some(Ok(Message::Ping(_)))));
        talks.send(&frame(0x82, b"ignored")).await;
        assert_eq!(talks.frame().await.unwrap().opcode, 0x9);
    }
    assert_eq!(app.manager.active_count(), 2);
}

#[tokio::test]
async fn websocket_that_never_reads_is_closed_and_others_get_all() {
    let mut stage = Stage::start(|config| config.write_timeout = Duration::from_millis(500)).await;
    let mut stalled = Raw::narrow(stage.app.address).await;
    stalled.shake_hands().await;
    let padding = "x".repeat(60_000);
    let publishing = async {
        while stage.app.manager.active_count() > 1 {
            stage.publish(&padding).await;
        }
    };
    within(publishing).await;
    let end = within(stalled.socket.read_to_end(&mut Vec::new())).await;
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::ConnectionReset,
        "the server resets the connection and drops its data"
    );
    stage.only_one_stays().await;
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn event_stream_that_never_reads_is_closed_and_others_get_all() {
    let mut stage = Stage::start(|config| config.write_timeout = Duration::from_millis(500)).await;
    let mut stalled = sse(Raw::narrow(stage.app.address).await).await;
    let mut events = stage.app.sse("").await;
    let padding = "x".repeat(60_000);
    let publishing = async {
        while stage.app.manager.active_count() > 2 {
            stage.publish(&padding).await;
            assert_eq!(events.next().await["data"], format!("{} {padding}", stage.published));
        }
    };
    within(publishing).await;
    let end = within(stalled.socket.read_to_end(&mut Vec::new())).await;
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::ConnectionReset,
        "the server resets the connection and drops its data"
    );
    drop(events);
    stage.only_one_stays().await;
    stage.leave_nothing_behind().await;
}

/// Reads this many bytes. Uses `try_read` and yields, because a runtime without work would advance the paused clock.
async fn take(raw: &Raw, length: usize) {
    let (mut taken, mut buffer, begun) = (0, vec![0; length], std::time::Instant::now());
    while taken < length {
        assert!(begun.elapsed() < PATIENCE, "timed out waiting for bytes");
        match raw.socket.try_read(&mut buffer) {
            Ok(read @ 1..) => taken += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
            ended => panic!("the server ended the connection: {ended:?}"),
        }
    }
}

#[tokio::test]
async fn client_that_reads_slowly_stays_connected() {
    let mut stage = Stage::start(|config| config.idle_timeout *= 100).await;
    let mut slow = [Raw::websocket(stage.app.address).await, sse(Raw::connect(stage.app.address).await).await];
    let padding = "x".repeat(60_000);
    for _ in 0..200 {
        stage.publish(&padding).await;
    }
    tokio::time::pause();
    for _ in 0..10 {
        for raw in &mut slow {
            take(raw, 64 << 10).await;
        }
        tokio::time::advance(Config::default().write_timeout / 2).await;
    }
    assert_eq!(stage.app.manager.active_count(), 3);
}

#[tokio::test]
async fn client_that_only_sends_gets_backpressure_and_is_closed() {
    let mut stage = Stage::start(|config| (config.engine, config.outbox_bytes) = (EngineKind::Memory, 64 << 10)).await;
    let mut floods = Raw::narrow(stage.app.address).await;
    floods.shake_hands().await;
    let pings = frame(0x89, &[0; 125]).repeat(500);
    // Pause the clock. The clock then reaches the write timeout only when client and server wait for each other.
    tokio::time::pause();
    for sent in 0.. {
        assert!(sent < 2000, "the server still reads after 131 MB");
        if within(floods.socket.write_all(&pings)).await.is_err() {
            break;
        }
    }
    tokio::time::resume();
    stage.only_one_stays().await;
    stage.leave_nothing_behind().await;
}

#[tokio::test]
async fn drain_closes_websockets_and_event_streams() {
    let mut app = App::start().await;
    let mut clients = [app.ws("").await, app.ws("topics=odds_updates/1&conflate_ms=60000").await];
    let mut raw = sse(Raw::connect(app.address).await).await;
    let mut kept = Raw::connect(app.address).await;
    kept.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(kept.response().await.status, 200);
    app.odds("1", "last").await;
    begin_drain(&mut app).await;

    clients[0].expect("odds_updates").await;
    for client in &mut clients {
        let close = client.closed().await.expect("a close code");
        assert_eq!(u16::from(close.code), 1001);
        assert!(client.frame().await.is_none());
    }
    let events = String::from_utf8(raw.rest().await).unwrap();
    assert!(events.contains(r#""data":"last""#) && events.ends_with("\r\n0\r\n\r\n"), "{events}");
    assert_eq!(kept.rest().await, b"", "a connection without a request ends too");
    assert!(app.manager.is_empty());
    assert!(app.stop().await);
}

#[tokio::test]
async fn drain_waits_for_the_rest_of_a_publish_body() {
    let mut app = App::start().await;
    let manager = app.manager.clone();
    let body = r#"{"topic":"odds_updates","key":"1","data":1}"#;
    let mut raw = Raw::connect(app.address).await;
    raw.send(publish_head(body.len()).as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100"));
    raw.send(&body.as_bytes()[..10]).await;
    begin_drain(&mut app).await;

    raw.send(&body.as_bytes()[10..]).await;
    let response = raw.response().await;
    assert_eq!((response.status, &response.body["accepted"]), (200, &json!(1)));
    assert_eq!(response.header("connection"), "close");
    assert_eq!(raw.rest().await, b"");
    assert_eq!(manager.position().offset, 1);
    assert!(app.stop().await);
}

#[tokio::test]
async fn request_begun_before_the_drain_is_answered_as_draining() {
    let mut app = App::start().await;
    let (begun, rest) = SSE.split_at(30);
    let mut ready = Raw::connect(app.address).await;
    ready.send(b"GET /readyz HTTP/1.1\r\nHost: loc").await;
    let mut handshake = Raw::connect(app.address).await;
    handshake.send(&HANDSHAKE.as_bytes()[..60]).await;
    let mut events = Raw::connect(app.address).await;
    events.send(begun.as_bytes()).await;
    // When the server answers this request, it has read the bytes that the clients sent before.
    assert_eq!(app.get("/healthz").await.status, 200);
    begin_drain(&mut app).await;

    ready.send(b"alhost\r\n\r\n").await;
    let response = ready.response().await;
    assert_eq!(response.status, 503);
    assert_eq!((&response.body["ready"], &response.body["draining"]), (&json!(false), &json!(true)));
    handshake.send(&HANDSHAKE.as_bytes()[60..]).await;
    events.send(rest.as_bytes()).await;
    for mut late in [handshake, events] {
        let response = late.response().await;
        assert_eq!((response.status, &response.body["error"]["code"]), (503, &json!("draining")));
    }
    assert!(app.stop().await);
}

#[tokio::test]
async fn incomplete_request_delays_the_drain_only_for_header_timeout() {
    let mut app = App::with(|config| config.header_timeout = Duration::from_secs(1)).await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(&HANDSHAKE.as_bytes()[..60]).await;
    begin_drain(&mut app).await;
    assert!(app.stop().await);
}

#[tokio::test]
async fn client_that_ignores_the_close_delays_the_drain_only_briefly() {
    let mut app = App::in_memory(|_| {}).await;
    let mut silent = Raw::websocket(app.address).await;
    let floods = Raw::websocket(app.address).await;
    tokio::time::pause();
    let started = Instant::now();
    app.begin_stop();
    assert_eq!(silent.frame().await.expect("the notice").opcode, 0x1);
    assert_eq!(silent.closed().await, 1001);
    let mut stopping = std::pin::pin!(app.stop());
    // The other client keeps sending pings during the drain.
    let drained = loop {
        let _ = floods.socket.try_write(&frame(0x89, b"still here"));
        if let Some(drained) = stopping.as_mut().now_or_never() {
            break drained;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    };
    assert!(drained);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn drain_timeout_cuts_requests_that_do_not_end() {
    let mut app = App::with(|config| config.drain_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(publish_head(1000).as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100"));
    begin_drain(&mut app).await;
    assert!(!app.stop().await);
}

/// Connects, and disconnects in a random way.
async fn visit(address: SocketAddr, mut random: Rng) {
    let key = random.u8(..4);
    let begun = random.usize(1..HANDSHAKE.len());
    match random.u8(..8) {
        0 => ws::Client::connect(address, &format!("topics=odds_updates/{key}")).await.close().await,
        1 => drop(ws::Client::connect(address, "").await),
        2 => {
            let mut client = ws::Client::connect(address, "topics=odds_updates").await;
            client.send(format!(r#"{{"type":"subscribe","topics":["odds_updates/{key}","scrape_progress"]}}"#)).await;
            client.send(r#"{"type":"unsubscribe","topics":["odds_updates"]}"#).await;
            while client.next().await["type"] != "odds_update" {}
        }
        3 => Raw::websocket(address).await.socket.set_zero_linger().unwrap(),
        4 => Raw::websocket(address).await.send(&frame(0xc1, b"")).await,
        5 => {
            let mut raw = Raw::websocket(address).await;
            raw.send(&frame(0x88, &1000_u16.to_be_bytes())).await;
            while raw.frame().await.expect("the answer").opcode != 0x8 {}
        }
        6 => drop(sse(Raw::connect(address).await).await),
        _ => Raw::connect(address).await.send(&HANDSHAKE.as_bytes()[..begun]).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_visitors_leave_no_trace_and_do_not_affect_a_client() {
    let app = App::with(|config| config.outbox_bytes = 64 << 20).await;
    let mut stays = app.ws("topics=odds_updates").await;
    let stays = tokio::spawn(async move {
        let mut received = Vec::new();
        loop {
            match stays.next().await["data"].clone() {
                Value::Null => return (stays, received),
                data => received.push(data),
            }
        }
    });
    let mut visitors = JoinSet::new();
    for seed in 0..200 {
        let (address, mut random) = (app.address, Rng::with_seed(seed));
        visitors.spawn(async move {
            for _ in 0..3 {
                visit(address, random.fork()).await;
            }
        });
    }
    let mut sent = Vec::new();
    while !visitors.is_empty() {
        let number = sent.len();
        app.publish(&json!({"topic": "odds_updates", "key": format!("{}/x", number % 4), "type": "odds_update", "data": number}))
            .await;
        sent.push(json!(number));
        while let Some(visitor) = visitors.try_join_next() {
            visitor.expect("every visit passes its checks");
        }
    }
    app.connections(1).await;
    let counts = app.manager.topic_counts().into_values().map(|count| count.subscribers);
    assert_eq!(counts.collect::<Vec<_>>(), [1, 0]);
    app.publish(&json!({"topic": "odds_updates", "key": "0/x", "data": null})).await;
    let (stays, received) = within(stays).await.unwrap();
    assert!(received == sent, "the client received {} of {} messages, or another order", received.len(), sent.len());
    stays.close().await;
    eventually("every connection is gone", || app.manager.is_empty()).await;
    assert!(app.stop().await);
}
