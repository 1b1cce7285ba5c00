//! The memory budget for the outboxes of all clients: the server cuts the largest outboxes first.

use std::collections::BTreeMap;

use oddswire::topic::Topic;
use serde_json::{Value, json};

use crate::harness::follower::Follower;
use crate::harness::metrics;
use crate::harness::{App, eventually, narrow_socket, ws};

const BUDGET: usize = 2 << 20;
/// The size of each message's data, in bytes.
const DATA_BYTES: usize = 8000;

/// A server whose memory budget is enough for one full outbox, but not for several.
async fn app_with_small_budget() -> App {
    App::with(|config| {
        config.outbox_bytes = BUDGET;
        config.memory_budget = BUDGET;
    })
    .await
}

/// A client with a small receive buffer.
async fn slow_client(app: &App, query: &str) -> ws::Client {
    ws::Client::over(narrow_socket(app.address).await, app.address, query).await
}

/// Publishes about 200 kB to 10 keys of a topic.
async fn publish_some(app: &App, topic: &str, number: usize) {
    let padding = "x".repeat(DATA_BYTES);
    let message = |at: usize| json!({"topic": topic, "key": (at % 10).to_string(), "data": [number, at, padding]});
    app.publish(&json!((0..25).map(message).collect::<Vec<Value>>())).await;
}

async fn publish_end(app: &App) {
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
}

async fn read_to_the_end(follower: &mut Follower, client: &mut ws::Client) {
    while follower.keyless.as_deref() != Some("\"end\"") || !follower.is_live() {
        follower.take(&client.text().await);
    }
}

/// The number of messages that a client of `scrape_progress` receives before the last one.
async fn messages_until_end(client: &mut ws::Client) -> usize {
    let mut messages = 0;
    loop {
        let message = client.next().await;
        assert_eq!(message["type"], "scrape_progress", "{message}");
        if message["data"] == "end" {
            return messages;
        }
        messages += 1;
    }
}

#[tokio::test]
async fn outboxes_stay_within_the_budget_and_clients_learn_of_gaps() {
    const CLIENTS: usize = 20;
    let app = app_with_small_budget().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut follower = Follower::default();
        let client = slow_client(&app, &follower.resume()).await;
        follower.take(&client.ack.to_string());
        clients.push((follower, client));
    }
    for number in 0..50 {
        publish_some(&app, "odds_updates", number).await;
        // Each step of a catch-up sends at least one message, so clients that are behind may exceed the
        // budget a little.
        let most = BUDGET + CLIENTS * 2 * DATA_BYTES;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= most, "{used} bytes are in the outboxes, the limit is {most}");
    }
    assert!(metrics::value(&app, "oddswire_over_memory_budget_total").await >= 1.0);
    metrics::becomes(&app, "oddswire_memory_budget_bytes", f64::from(1 << 21)).await;
    publish_end(&app).await;
    for (mut follower, mut client) in clients {
        read_to_the_end(&mut follower, &mut client).await;
        assert!(follower.modes["conflated"] >= 1, "{:?}", follower.modes);
        assert_eq!(follower.state.len(), 10);
        assert!(follower.state.values().all(|data| data.starts_with("[49,")));
    }
    eventually("all outboxes are empty", || app.manager.load().outbox_bytes == 0).await;
}

#[tokio::test]
async fn largest_outbox_is_cut_and_a_smaller_one_keeps_every_message() {
    let app = app_with_small_budget().await;
    let mut small = slow_client(&app, "topics=scrape_progress").await;
    let mut large = slow_client(&app, "topics=odds_updates").await;
    for number in 0..4 {
        publish_some(&app, "scrape_progress", number).await;
    }
    let kept = app.manager.load().outbox_bytes;
    assert!(kept > 4 * DATA_BYTES, "only {kept} bytes are in the outbox, the kernel has buffered the rest");
    let mut number = 0;
    while app.manager.load().behind == 0 {
        publish_some(&app, "odds_updates", number).await;
        number += 1;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= BUDGET, "{used} bytes are in the outboxes");
    }
    publish_end(&app).await;
    assert_eq!(messages_until_end(&mut small).await, 100);
    while large.next().await["type"] != "catch_up" {}
}

#[tokio::test]
async fn late_subscription_still_begins_at_its_own_position() {
    let app = app_with_small_budget().await;
    let progress: Topic = "scrape_progress".parse().unwrap();
    // With only one client, the limit of the client's own outbox would apply before the budget.
    let _other = slow_client(&app, "topics=odds_updates").await;
    let mut slow = slow_client(&app, "topics=odds_updates").await;
    // Publish enough that the following messages wait in the outbox.
    for number in 0..4 {
        publish_some(&app, "odds_updates", number).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": "before"})).await;
    slow.send(r#"{"type":"subscribe","topics":["scrape_progress"]}"#).await;
    eventually("the client is subscribed", || app.manager.topic_counts()[&progress].subscribers == 1).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "after"})).await;
    let mut number = 4;
    while app.manager.load().behind == 0 {
        publish_some(&app, "odds_updates", number).await;
        number += 1;
    }
    publish_end(&app).await;
    let mut modes = BTreeMap::new();
    let mut progress = Vec::new();
    while progress.last().is_none_or(|last| last != "end") {
        let message = slow.next().await;
        if message["type"] == "catch_up" {
            for (topic, told) in message["data"]["topics"].as_object().unwrap() {
                modes.insert(topic.clone(), told["skipped"].clone());
            }
        }
        if message["type"] == "scrape_progress" {
            progress.push(message["data"].clone());
        }
    }
    assert_eq!(progress, ["after", "end"]);
    assert_eq!(modes["scrape_progress"], 0);
}

#[tokio::test]
async fn broadcast_beyond_the_budget_is_counted_as_skipped() {
    let app = app_with_small_budget().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(slow_client(&app, "topics=odds_updates").await);
    }
    let body = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let (mut sent, mut missed) = (0, 0);
    while missed < 5 {
        let answer = app.post("/api/broadcast", "application/json", body.clone()).await.body;
        let reached = answer["connections"].as_u64().unwrap();
        sent += reached;
        missed += 3 - reached;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= BUDGET, "{used} bytes are in the outboxes");
    }
    app.odds("end", "end").await;
    let (mut received, mut skipped) = (0, 0);
    for client in &mut clients {
        loop {
            let message = client.next().await;
            received += u64::from(message["type"] == "notice");
            skipped += message["data"]["broadcasts_skipped"].as_u64().unwrap_or_default();
            if message["key"] == "end" {
                break;
            }
        }
    }
    assert_eq!((received, skipped), (sent, missed));
}

#[tokio::test]
async fn clients_already_behind_are_cut_before_a_smaller_one() {
    let app = App::with(|config| {
        config.outbox_bytes = BUDGET / 2;
        config.memory_budget = BUDGET;
    })
    .await;
    let mut small = slow_client(&app, "topics=scrape_progress").await;
    let mut large = Vec::new();
    for _ in 0..2 {
        large.push(slow_client(&app, "topics=odds_updates").await);
    }
    // Publish until both clients exceed the limits of their own outboxes and are behind.
    let mut published = 0;
    while app.manager.load().behind < large.len() {
        publish_some(&app, "odds_updates", published).await;
        published += 1;
    }
    for number in 0..4 {
        publish_some(&app, "scrape_progress", number).await;
    }
    assert!(metrics::value(&app, "oddswire_over_memory_budget_total").await >= 1.0);
    publish_end(&app).await;
    assert_eq!(messages_until_end(&mut small).await, 100);
    app.odds("end", "end").await;
    for client in &mut large {
        let (mut received, mut skipped) = (0, 0);
        loop {
            let message = client.next().await;
            received += u64::from(message["id"].is_string() && message["type"] == "odds_updates");
            skipped += message["data"]["topics"]["odds_updates"]["skipped"].as_u64().unwrap_or_default();
            if message["key"] == "end" {
                break;
            }
        }
        assert_eq!(received + skipped, published as u64 * 25 + 1, "every message was received or counted as skipped");
    }
}

#[tokio::test]
async fn broadcast_reaches_an_idle_client_if_the_budget_is_used_up() {
    let app = app_with_small_budget().await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(slow_client(&app, "topics=odds_updates").await);
    }
    let body = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let broadcast = async || app.post("/api/broadcast", "application/json", body.clone()).await.body;
    while broadcast().await["connections"] == 3 {}
    let mut reader = app.ws("topics=odds_updates").await;
    broadcast().await;
    assert_eq!(reader.next().await["type"], "notice");
}
