//! Clients that read slowly or not at all: they use bounded memory, learn of gaps, and do not affect others.

use oddswire::topic::Topic;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::follower::Follower;
use crate::harness::process::Process;
use crate::harness::{App, TOKEN, narrow_socket, sse, within, ws};

/// Data so large that a few messages fill the kernel's buffers.
fn large(number: usize) -> Value {
    json!([number, "x".repeat(8000)])
}

/// Publishes 3,000 messages to 10 keys, so that a slow client certainly falls behind. Returns the number of messages.
async fn publish_until_behind(app: &App) -> usize {
    let mut number = 0;
    while number < 3000 {
        let batch: Vec<Value> = (number..number + 100)
            .map(|number| json!({"topic": "odds_updates", "key": (number % 10).to_string(), "data": large(number)}))
            .collect();
        app.publish(&json!(batch)).await;
        number += 100;
    }
    number
}

#[tokio::test]
async fn slow_websocket_client_gets_the_latest_message_of_each_key() {
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let mut follower = Follower::default();
    let mut slow = ws::Client::over(narrow_socket(app.address).await, app.address, &follower.resume()).await;
    follower.take(&slow.ack.to_string());
    let published = publish_until_behind(&app).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
    while follower.keyless.is_none() || !follower.is_live() {
        follower.take(&slow.text().await);
    }
    assert!(follower.modes["conflated"] >= 1, "{:?}", follower.modes);
    assert!(follower.messages < published / 2, "the client received {} of {published} messages", follower.messages);
    assert_eq!(follower.state.len(), 10);
    for (key, data) in &follower.state {
        let number = 2990 + key.parse::<usize>().unwrap();
        assert!(data.starts_with(&format!("[{number},")), "{key}: {}", &data[..20]);
    }
    app.odds("live", 1).await;
    assert_eq!(slow.next().await["data"], 1);
}

#[tokio::test]
async fn slow_event_stream_gets_the_latest_message_of_each_key() {
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let mut follower = Follower::default();
    let mut slow = sse::Client::over(narrow_socket(app.address).await, "").await;
    follower.resume();
    follower.take(&slow.ack.to_string());
    let published = publish_until_behind(&app).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
    while follower.keyless.is_none() || !follower.is_live() {
        follower.take(&slow.text().await);
    }
    assert!(follower.modes["conflated"] >= 1 && follower.messages < published / 2, "{:?}", follower.modes);
    assert_eq!(follower.state.len(), 10);
}

#[tokio::test]
async fn slow_client_does_not_delay_other_clients() {
    let app = App::with(|config| config.outbox_bytes = 1 << 20).await;
    let _slow = ws::Client::over(narrow_socket(app.address).await, app.address, "").await;
    let mut other = app.ws("").await;
    let reader = tokio::spawn(async move {
        let mut follower = Follower::default();
        follower.resume();
        follower.take(&other.ack.to_string());
        while follower.keyless.is_none() || !follower.is_live() {
            follower.take(&other.text().await);
        }
        follower
    });
    publish_until_behind(&app).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
    let follower = within(reader).await.unwrap();
    assert_eq!(follower.state.len(), 10);
}

#[tokio::test]
async fn broadcast_to_a_full_outbox_is_announced_as_skipped() {
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let mut slow = ws::Client::over(narrow_socket(app.address).await, app.address, "topics=odds_updates").await;
    publish_until_behind(&app).await;
    let large = "x".repeat(60_000);
    let mut reached = 1;
    while reached == 1 {
        let body = json!({"type": "notice", "data": large}).to_string();
        reached = app.post("/api/broadcast", "application/json", body).await.body["connections"].as_u64().unwrap();
    }
    app.odds("end", "end").await;
    let mut told = 0;
    loop {
        let message = slow.next().await;
        told += message["data"]["broadcasts_skipped"].as_u64().unwrap_or_default();
        if message["type"] == "caught_up" && told > 0 {
            break;
        }
    }
    assert_eq!(told, 1);
}

#[tokio::test]
async fn server_stops_reading_from_a_client_that_never_reads() {
    let app = App::with(|config| {
        config.outbox_bytes = 32 << 10;
        config.client_messages_per_second = 1_000_000;
    })
    .await;
    let mut socket = narrow_socket(app.address).await;
    let request = crate::harness::raw::frame(0x81, br#"{"type":"subscribe","topics":[]}"#);
    let handshake = crate::harness::raw::HANDSHAKE.as_bytes();
    socket.write_all(handshake).await.unwrap();
    let burst: Vec<u8> = request.repeat(1000);
    // When the server stops reading, the kernel's buffers fill up, and this client can no longer write. Each answer has
    // about 150 bytes. If the server kept reading, 600,000 answers would take 90 MB in the outbox.
    let mut sent = 0;
    while sent < 600 {
        let wrote = tokio::time::timeout(std::time::Duration::from_secs(2), socket.write_all(&burst)).await;
        match wrote {
            Ok(wrote) => wrote.expect("the connection is open"),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < 600, "the server did not stop reading");
}

/// Connects a client that never reads: over WebSocket if the number is even, over SSE if it is odd.
async fn never_reads(address: std::net::SocketAddr, number: usize) -> tokio::net::TcpStream {
    let mut socket = narrow_socket(address).await;
    let events = "GET /api/sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = if number.is_multiple_of(2) { crate::harness::raw::HANDSHAKE } else { events };
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn memory_of_clients_that_never_read_is_within_the_stated_limit() {
    const CLIENTS: usize = 100;
    // The terms of the table in docs/design/delivery.md, in KiB: the outbox, the rest of a partial write, and hyper's buffer over
    // SSE.
    const STATED: u64 = (64 + 64 + 16 + 16 + 64) << 10;
    let arguments = ["--outbox-bytes=64KiB", "--history-messages=10", "--history-bytes=64KiB"];
    let process = Process::start(&arguments, &[("ODDSWIRE_PUBLISH_TOKEN", TOKEN)]).await;
    let client = reqwest::Client::new();
    let publish = async |number: usize| {
        let batch: Vec<Value> = (0..100)
            .map(|key| json!({"topic": "odds_updates", "key": key.to_string(), "data": [number, "x".repeat(2000)]}))
            .collect();
        let request = client.post(format!("http://{}/api/publish", process.address)).bearer_auth(TOKEN);
        let answer = request.header("content-type", "application/json").body(json!(batch).to_string()).send();
        assert_eq!(within(answer).await.unwrap().status(), 200);
    };
    publish(0).await;
    let mut sockets = Vec::new();
    for number in 0..CLIENTS {
        sockets.push(never_reads(process.address, number).await);
    }
    let before = process.resident();
    // Publish 60 MB. Without a limit, the server would keep all of these bytes for the clients.
    for number in 1..300 {
        publish(number).await;
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < STATED * CLIENTS as u64, "{} KiB a client", grown / CLIENTS as u64 / 1024);
}

#[tokio::test]
async fn expiry_of_many_keys_at_once_does_not_block_the_writers() {
    const KEYS: usize = 20_000;
    let app = App::with(|config| config.publish_batch_messages = KEYS).await;
    let odds: Topic = "odds_updates".parse().unwrap();
    let batch = |keys: std::ops::Range<usize>, expires: &str| {
        let message =
            |key: usize| json!({"topic": "odds_updates", "key": key.to_string(), "data": key, "expires_at": expires});
        json!(keys.map(message).collect::<Vec<Value>>())
    };
    for first in (0..KEYS).step_by(1000) {
        app.publish(&batch(first..first + 1000, "2999-02-06T19:00:00Z")).await;
    }
    let mut client = app.ws("topics=odds_updates").await;
    // A single request makes all keys expire soon. The data does not change, so the server delivers nothing.
    app.publish_expiring(|soon| batch(0..KEYS, soon)).await;
    assert_eq!(client.next().await["data"], Value::Null);
    // This test runs on one thread. If the server published all deletions without yielding, no key would be left here.
    let left = app.manager.topic_counts()[&odds].kept.keys;
    assert!(left > 0, "the client received the first deletion only after the last was published");
}

/// The limit of an outbox in the tests of conflation windows, in bytes. One step of a catch-up has at most as many
/// bytes.
const WINDOW_OUTBOX: usize = 64 << 10;

/// A server whose state is many times as large as an outbox.
async fn large_state() -> App {
    let app = App::with(|config| config.outbox_bytes = WINDOW_OUTBOX).await;
    for first in (0..1000).step_by(100) {
        let message = |key: usize| json!({"topic": "odds_updates", "key": key.to_string(), "data": large(key)});
        app.publish(&json!((first..first + 100).map(message).collect::<Vec<Value>>())).await;
    }
    app
}

/// Checks the largest outbox: at most the limit plus one step of a catch-up, with the message that ends the step.
fn assert_bounded(app: &App) {
    let queued = app.manager.load().outbox_bytes_max;
    assert!(queued <= 2 * WINDOW_OUTBOX + 10_000, "{queued} bytes are queued");
}

#[tokio::test]
async fn outbox_of_a_slow_websocket_is_bounded_with_conflate_ms() {
    let app = large_state().await;
    let socket = narrow_socket(app.address).await;
    let mut slow = ws::Client::over(socket, app.address, "topics=odds_updates&since=snapshot&conflate_ms=1").await;
    while slow.next().await["type"] != "caught_up" {
        assert_bounded(&app);
    }
}

#[tokio::test]
async fn outbox_of_a_slow_stream_is_bounded_with_conflate_ms() {
    let app = large_state().await;
    let socket = narrow_socket(app.address).await;
    let mut slow = sse::Client::over(socket, "topics=odds_updates&since=snapshot&conflate_ms=1").await;
    while slow.next().await["type"] != "caught_up" {
        assert_bounded(&app);
    }
}
