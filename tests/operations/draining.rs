//! The drain: the server tells each client when it will close the connection. Then it closes the connections one after
//! the other, and loses no message.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::get::{code, get};
use crate::harness::process::Process;
use crate::harness::{Answer, App, eventually, sse, within, ws};

const LONG: Duration = Duration::from_hours(1);

fn after_ms(notice: &Value) -> u64 {
    notice["data"]["after_ms"].as_u64().unwrap_or_else(|| panic!("no after_ms: {notice}"))
}

/// Reads the `reconnect` event of a stream. Returns the milliseconds until the close, and the milliseconds that the
/// client waits before it reconnects.
async fn read_reconnect(events: &mut sse::Client) -> (u64, u64) {
    let event = events.event().await.expect("the stream has another event");
    let notice: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(notice["type"], "reconnect");
    let retry = event.retry.expect("the event has a `retry` line");
    (after_ms(&notice), u64::try_from(retry.as_millis()).unwrap())
}

/// Stops the server and waits until it reports that it is not ready. The drain has then begun.
async fn begin_drain(app: &mut App) {
    app.begin_stop();
    let app = &*app;
    within(async { while get(app.address, "/readyz", &[]).await.1.status == 200 {} }).await;
}

#[tokio::test]
async fn closes_are_announced_and_spread_evenly_over_drain_spread() {
    const CLIENTS: u64 = 200;
    let mut app = App::with(|config| config.drain_spread = Duration::from_secs(2)).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(app.ws("").await);
    }
    let began = Instant::now();
    app.begin_stop();
    let leaving = clients.into_iter().map(|mut client: ws::Client| async move {
        let notice = client.expect("reconnect").await;
        assert!(notice["timestamp"].is_string(), "{notice}");
        let frame = client.closed().await.expect("a close code");
        assert_eq!(u16::from(frame.code), 1001);
        (after_ms(&notice), began.elapsed())
    });
    let mut left = within(join_all(leaving)).await;
    left.sort_unstable();
    let told: Vec<u64> = left.iter().map(|(after, _)| *after).collect();
    assert_eq!(told, (0..CLIENTS).map(|at| at * 10).collect::<Vec<_>>());
    for (after, closed) in &left {
        assert!(*closed >= Duration::from_millis(*after), "closed after {closed:?} instead of {after} ms");
    }
    // Compare closes that are half a second apart, because a busy machine may swap the order of closer ones.
    for (early, late) in left.iter().zip(&left[50..]) {
        assert!(early.1 < late.1, "{early:?} was closed after {late:?}");
    }
    assert!(app.stop().await);
}

#[tokio::test]
async fn event_streams_are_drained_like_websockets() {
    let mut app = App::with(|config| config.drain_spread = Duration::from_millis(400)).await;
    let mut streams: Vec<sse::Client> = Vec::new();
    for _ in 0..3 {
        streams.push(app.sse("").await);
    }
    let mut client = app.ws("").await;
    let began = Instant::now();
    app.begin_stop();
    let leaving = streams.into_iter().map(|mut events| async move {
        let (told, retry) = read_reconnect(&mut events).await;
        assert!(events.event().await.is_none(), "the stream ends");
        assert!(began.elapsed() >= Duration::from_millis(told));
        (told, retry)
    });
    let (mut told, mut retries): (Vec<u64>, Vec<u64>) = within(join_all(leaving)).await.into_iter().unzip();
    // A draining server answers 503, and an EventSource does not retry after that. So even the first client must wait
    // until the drain has ended.
    assert!(retries.iter().all(|retry| (1_400..4_400).contains(retry)), "{retries:?}");
    retries.dedup();
    assert!(retries.len() > 1, "equal delays would make all clients reconnect at once: {retries:?}");
    told.push(after_ms(&client.expect("reconnect").await));
    told.sort_unstable();
    assert_eq!(told, [0, 100, 200, 300]);
    assert!(app.stop().await);
}

#[tokio::test]
async fn client_registered_after_the_drain_began_is_closed_at_once() {
    let app = App::start().await;
    app.odds("8301/1x2/a", 1).await;
    // Start only the manager's part of the drain, so that the HTTP routes still accept connections. In a real drain, this
    // happens to a connection that the routes accepted just before the drain.
    assert!(app.manager.announce_drain(LONG).is_empty());
    for query in ["", "since=snapshot", "conflate_ms=60000"] {
        let mut client = app.ws(query).await;
        assert_eq!(after_ms(&client.expect("reconnect").await), 0, "{query}");
        assert_eq!(u16::from(client.closed().await.expect("a close code").code), 1001, "{query}");

        let mut events = app.sse(query).await;
        let (after, retry) = read_reconnect(&mut events).await;
        assert_eq!(after, 0, "{query}");
        assert!((3_601_000..3_604_000).contains(&retry), "{query}: the drain takes an hour: {retry}");
        assert!(events.event().await.is_none(), "{query}: the stream ends");
    }
    eventually("every connection is gone", || app.manager.is_empty()).await;
}

#[tokio::test]
async fn drain_spread_is_at_most_half_the_drain_timeout() {
    let mut app = App::with(|config| {
        config.drain_spread = LONG;
        config.drain_timeout = Duration::from_secs(1);
    })
    .await;
    let mut clients = [app.ws("").await, app.ws("").await];
    app.begin_stop();
    let mut told = [after_ms(&clients[0].expect("reconnect").await), after_ms(&clients[1].expect("reconnect").await)];
    told.sort_unstable();
    assert_eq!(told, [0, 250]);
    for client in &mut clients {
        assert_eq!(u16::from(client.closed().await.expect("a close code").code), 1001);
    }
    drop(clients);
    assert!(app.stop().await, "no connection was cut");
}

/// A server whose drain takes an hour, and one of its two clients. The server closes this client after half an hour. It
/// closes the other client at once.
async fn draining() -> (App, ws::Client) {
    let mut app = App::with(|config| (config.drain_spread, config.drain_timeout) = (LONG, 2 * LONG)).await;
    let clients = [app.ws("").await, app.ws("").await];
    begin_drain(&mut app).await;
    let mut stays = None;
    for mut client in clients {
        match after_ms(&client.expect("reconnect").await) {
            0 => assert_eq!(u16::from(client.closed().await.expect("a close code").code), 1001),
            after => {
                assert_eq!(Duration::from_millis(after), LONG / 2);
                stays = Some(client);
            }
        }
    }
    (app, stays.expect("one of the two clients is closed later"))
}

#[tokio::test]
async fn draining_server_is_alive_but_refuses_new_connections() {
    let (app, mut stays) = draining().await;
    for path in ["/api/ws", "/api/sse"] {
        let (mut raw, response) = get(app.address, path, &[]).await;
        assert_eq!((response.status, code(&response)), (503, "draining"), "{path}");
        assert_eq!(response.header("retry-after"), "2");
        assert!(response.detail().contains("shutting down"), "{}", response.detail());
        assert_eq!(raw.rest().await, b"", "the connection ends after the response");
    }
    let (_, ready) = get(app.address, "/readyz", &[]).await;
    assert_eq!((ready.status, &ready.body["ready"], &ready.body["draining"]), (503, &json!(false), &json!(true)));
    assert_eq!(get(app.address, "/healthz", &[]).await.1.status, 200);
    let metrics = Answer::of(reqwest::Client::new().get(format!("http://{}/metrics", app.admin))).await;
    assert!(metrics.text.contains("\noddswire_ready 0\n"), "{}", metrics.text);
    stays.nothing_came().await;
}

#[tokio::test]
async fn publish_during_a_drain_reaches_the_remaining_clients() {
    let (app, mut stays) = draining().await;
    let published = app.odds("8301/1x2/a", "late").await;
    let message = stays.expect("odds_updates").await;
    assert_eq!((&message["data"], &message["id"]), (&json!("late"), &published["position"]));
    let read = app.get("/api/topics/odds_updates/state").await;
    assert_eq!(read.body["items"][0]["data"], "late");
    // The server still handles messages of the remaining client.
    stays.send(r#"{"type":"unsubscribe","topics":["odds_updates"]}"#).await;
    stays.expect("subscription_update").await;
    stays.close().await;
    eventually("the client is gone", || app.manager.active_count() == 0).await;
}

#[tokio::test]
async fn client_that_leaves_early_does_not_delay_the_drain() {
    let mut app = App::with(|config| config.drain_spread = Duration::from_millis(200)).await;
    let clients = [app.ws("").await, app.ws("").await, app.ws("").await];
    app.begin_stop();
    for client in clients {
        client.close().await;
    }
    assert!(app.stop().await);
}

#[tokio::test]
async fn second_signal_ends_the_program_at_once_but_sighup_does_not() {
    for second in ["TERM", "INT"] {
        let slow = [("ODDSWIRE_DRAIN_SPREAD", "1h"), ("ODDSWIRE_DRAIN_TIMEOUT", "1h")];
        let mut process = Process::serve(&slow).await;
        let clients = [ws::Client::connect(process.address, "").await, ws::Client::connect(process.address, "").await];
        process.signal("TERM");
        assert_eq!(process.event("server.draining").await["connections"], 2);
        process.signal("HUP");
        process.event("config.reloaded").await;
        assert_eq!(get(process.address, "/healthz", &[]).await.1.status, 200, "the server still drains");
        process.signal(second);
        assert_eq!(process.event("server.stopped").await["reason"], "a second signal");
        let ended = process.end().await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        drop(clients);
    }
}
