//! The metrics of the admin listener: each changes when the event that it counts happens.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::metrics::{becomes, exposition, value};
use crate::harness::{Answer, App, eventually, narrow_socket, ws};

#[tokio::test]
async fn clients_are_counted_by_transport_and_close_reason() {
    let app = App::start().await;
    let socket = app.ws("").await;
    let events = app.sse("").await;
    for transport in ["websocket", "sse"] {
        becomes(&app, &format!("oddswire_connections{{transport=\"{transport}\"}}"), 1.0).await;
        becomes(&app, &format!("oddswire_connects_total{{transport=\"{transport}\"}}"), 1.0).await;
    }
    socket.close().await;
    drop(events);
    becomes(&app, r#"oddswire_disconnects_total{transport="websocket",reason="peer_closed"}"#, 1.0).await;
    becomes(&app, r#"oddswire_disconnects_total{transport="sse",reason="peer_closed"}"#, 1.0).await;
    for transport in ["websocket", "sse"] {
        becomes(&app, &format!("oddswire_connections{{transport=\"{transport}\"}}"), 0.0).await;
    }
}

#[tokio::test]
async fn messages_are_counted_from_publisher_to_client() {
    let app = App::start().await;
    let mut socket = app.ws("").await;
    let mut events = app.sse("").await;
    app.odds("1", 1).await;
    app.odds("1", 1).await;
    socket.expect("odds_updates").await;
    events.expect("odds_updates").await;
    let expected = [
        (r#"oddswire_messages_published_total{topic="odds_updates"}"#, 2.0),
        (r#"oddswire_messages_unchanged_total{topic="odds_updates"}"#, 1.0),
        (r#"oddswire_publishes_total{publisher="default"}"#, 2.0),
        (r#"oddswire_messages_delivered_total{transport="websocket"}"#, 1.0),
        (r#"oddswire_messages_delivered_total{transport="sse"}"#, 1.0),
        ("oddswire_publish_latency_seconds_count", 2.0),
        ("oddswire_delivery_latency_seconds_count", 2.0),
        (r#"oddswire_subscribers{topic="odds_updates"}"#, 2.0),
        (r#"oddswire_keys{topic="odds_updates"}"#, 1.0),
        (r#"oddswire_history{topic="odds_updates"}"#, 1.0),
        (r#"oddswire_build_info{version="0.1.0"}"#, 1.0),
        ("oddswire_ready", 1.0),
        ("oddswire_max_connections", 100_000.0),
    ];
    for (series, expected) in expected {
        becomes(&app, series, expected).await;
    }
    for series in [
        r#"oddswire_sent_bytes_total{transport="websocket"}"#,
        r#"oddswire_sent_bytes_total{transport="sse"}"#,
        "oddswire_process_resident_memory_bytes",
        "oddswire_process_open_fds",
    ] {
        assert!(value(&app, series).await > 1.0, "{series}");
    }
    let open = value(&app, "oddswire_process_open_fds").await;
    assert!(value(&app, "oddswire_process_max_fds").await > open, "{open}");
    let started = value(&app, "oddswire_process_start_time_seconds").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 600.0..now).contains(&started), "{started}");
}

#[tokio::test]
async fn catch_ups_do_not_count_in_the_delivery_latency() {
    let app = App::start().await;
    app.odds("8301", 1).await;
    // One write may contain messages of the snapshot and live messages. The server must decide for each message by
    // itself.
    let mut socket = app.ws("topics=odds_updates&since=snapshot").await;
    let mut events = app.sse("topics=odds_updates&since=snapshot").await;
    while socket.next().await["type"] != "caught_up" {}
    while events.next().await["type"] != "caught_up" {}
    becomes(&app, r#"oddswire_messages_delivered_total{transport="websocket"}"#, 1.0).await;
    becomes(&app, r#"oddswire_messages_delivered_total{transport="sse"}"#, 1.0).await;
    assert_eq!(value(&app, "oddswire_delivery_latency_seconds_count").await.to_bits(), 0.0_f64.to_bits());
    app.odds("8301", 2).await;
    assert_eq!(socket.next().await["data"], 2);
    assert_eq!(events.next().await["data"], 2);
    becomes(&app, "oddswire_delivery_latency_seconds_count", 2.0).await;
}

#[tokio::test]
async fn refused_requests_are_counted_by_error_code() {
    let app = App::start().await;
    app.get("/nowhere").await;
    app.post("/api/publish", "application/json", "[]").await;
    app.get("/api/sse?topics=Odds").await;
    for code in ["not_found", "empty", "bad_request"] {
        becomes(&app, &format!("oddswire_requests_refused_total{{code=\"{code}\"}}"), 1.0).await;
    }
}

#[tokio::test]
async fn slow_client_shows_in_metrics_and_list_of_connections() {
    let app = App::with(|config| config.outbox_bytes = 64 << 10).await;
    let mut slow = ws::Client::over(narrow_socket(app.address).await, app.address, "topics=odds_updates").await;
    let mut number = 0;
    while value(&app, "oddswire_clients_behind").await < 1.0 {
        let batch: Vec<Value> = (0..100)
            .map(|key| json!({"topic": "odds_updates", "key": key.to_string(), "data": [number, "x".repeat(2000)]}))
            .collect();
        app.publish(&json!(batch)).await;
        number += 1;
    }
    for number in number..number + 3 {
        // Newer messages replace these, so the client will not receive them.
        app.odds("0", number).await;
    }
    assert!(value(&app, "oddswire_outbox_bytes").await > 0.0);
    assert!(value(&app, "oddswire_outbox_bytes_max").await > 0.0);
    assert!(value(&app, "oddswire_slow_clients_total").await >= 1.0);
    let url = format!("http://{}/api/connections", app.admin);
    let listed = Answer::of(reqwest::Client::new().get(url)).await.body["connections"][0].clone();
    assert_eq!(listed["id"], slow.ack["data"]["connection"]);
    assert_eq!(listed["subscriptions"], json!(["odds_updates"]));
    assert!(listed["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{listed}");
    for field in ["outbox_bytes", "behind", "bytes_sent"] {
        assert!(listed[field].as_u64().unwrap() > 0, "{field}: {listed}");
    }
    assert!(listed["age_ms"].is_u64());
    app.odds("end", "end").await;
    while slow.next().await["key"] != "end" {}
    assert!(value(&app, r#"oddswire_catch_ups_total{mode="conflated"}"#).await >= 1.0);
    assert!(value(&app, "oddswire_messages_conflated_total").await > 0.0);
    becomes(&app, "oddswire_clients_behind", 0.0).await;
}

#[tokio::test]
async fn admin_and_public_listener_share_only_the_health_endpoints() {
    let app = App::start().await;
    let get = |path: &str| Answer::of(reqwest::Client::new().get(format!("http://{}{path}", app.admin)));
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.body["ready"], true);
    assert_eq!(get("/api/topics").await.status, 404);
    assert_eq!(app.get("/metrics").await.status, 404);
    assert_eq!(app.get("/api/connections").await.status, 404);
    let exposition = exposition(&app).await;
    assert_eq!(exposition.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(exposition.text.ends_with("# EOF\n") && exposition.text.matches("# EOF").count() == 1);
    eventually("no client is connected", || app.manager.active_count() == 0).await;
}
