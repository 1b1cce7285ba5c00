//! The memory budget: all clients together, the largest outboxes first.

use std::collections::BTreeMap;

use oddswire::topic::Topic;
use serde_json::{Value, json};

use crate::harness::follower::Follower;
use crate::harness::metrics;
use crate::harness::{App, eventually, narrow_socket, ws};

const BUDGET: usize = 2 << 20;
/// Of each message.
const DATA_BYTES: usize = 8000;

/// A server with room for each client, and not for all of them.
async fn tight() -> App {
    App::with(|config| {
        config.outbox_bytes = BUDGET;
        config.memory_budget = BUDGET;
    })
    .await
}

/// A client whose receive buffer is full soon.
async fn narrow(app: &App, query: &str) -> ws::Client {
    ws::Client::over(narrow_socket(app.address).await, app.address, query).await
}

/// Some 200 kB on 10 keys of a topic.
async fn publish_some(app: &App, topic: &str, number: usize) {
    let padding = "x".repeat(DATA_BYTES);
    let message = |at: usize| json!({"topic": topic, "key": (at % 10).to_string(), "data": [number, at, padding]});
    app.publish(&json!((0..25).map(message).collect::<Vec<Value>>())).await;
}

async fn end(app: &App) {
    app.publish(&json!({"topic": "scrape_progress", "data": "end"})).await;
}

async fn read_to_the_end(follower: &mut Follower, client: &mut ws::Client) {
    while follower.keyless.as_deref() != Some("\"end\"") || !follower.is_live() {
        follower.take(&client.text().await);
    }
}

/// What a client of `scrape_progress` gets before the end.
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
async fn all_outboxes_together_stay_within_the_budget_and_everybody_is_told_what_it_missed() {
    const CLIENTS: usize = 20;
    let app = tight().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut follower = Follower::default();
        let client = narrow(&app, &follower.resume()).await;
        follower.take(&client.ack.to_string());
        clients.push((follower, client));
    }
    for number in 0..50 {
        publish_some(&app, "odds_updates", number).await;
        // A step of a catch-up is one message at least.
        let most = BUDGET + CLIENTS * 2 * DATA_BYTES;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= most, "{used} bytes are on their way, {most} may be");
    }
    assert!(metrics::value(&app, "oddswire_over_memory_budget_total").await >= 1.0);
    metrics::becomes(&app, "oddswire_memory_budget_bytes", f64::from(1 << 21)).await;
    end(&app).await;
    for (mut follower, mut client) in clients {
        read_to_the_end(&mut follower, &mut client).await;
        assert!(follower.modes["conflated"] >= 1, "{:?}", follower.modes);
        assert_eq!(follower.state.len(), 10);
        assert!(follower.state.values().all(|data| data.starts_with("[49,")));
    }
    eventually("nothing is on its way", || app.manager.load().outbox_bytes == 0).await;
}

#[tokio::test]
async fn the_largest_outbox_goes_first_and_a_smaller_one_keeps_every_message() {
    let app = tight().await;
    let mut small = narrow(&app, "topics=scrape_progress").await;
    let mut large = narrow(&app, "topics=odds_updates").await;
    for number in 0..4 {
        publish_some(&app, "scrape_progress", number).await;
    }
    let kept = app.manager.load().outbox_bytes;
    assert!(kept > 4 * DATA_BYTES, "the kernel took all but {kept} bytes");
    let mut number = 0;
    while app.manager.load().behind == 0 {
        publish_some(&app, "odds_updates", number).await;
        number += 1;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= BUDGET, "{used} bytes are on their way");
    }
    end(&app).await;
    assert_eq!(messages_until_end(&mut small).await, 100);
    while large.next().await["type"] != "catch_up" {}
}

#[tokio::test]
async fn a_subscription_that_came_later_still_begins_where_it_came() {
    let app = tight().await;
    let progress: Topic = "scrape_progress".parse().unwrap();
    // Alone it would come to the limit of one client first.
    let _other = narrow(&app, "topics=odds_updates").await;
    let mut slow = narrow(&app, "topics=odds_updates").await;
    // Enough that what follows waits behind it.
    for number in 0..4 {
        publish_some(&app, "odds_updates", number).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": "before"})).await;
    slow.send(r#"{"type":"subscribe","topics":["scrape_progress"]}"#).await;
    eventually("it is subscribed", || app.manager.topic_counts()[&progress].subscribers == 1).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "after"})).await;
    let mut number = 4;
    while app.manager.load().behind == 0 {
        publish_some(&app, "odds_updates", number).await;
        number += 1;
    }
    end(&app).await;
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
async fn a_broadcast_beyond_the_budget_is_told_as_skipped() {
    let app = tight().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(narrow(&app, "topics=odds_updates").await);
    }
    let body = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let (mut sent, mut missed) = (0, 0);
    while missed < 5 {
        let answer = app.post("/api/broadcast", "application/json", body.clone()).await.body;
        let reached = answer["connections"].as_u64().unwrap();
        sent += reached;
        missed += 3 - reached;
        let used = app.manager.load().outbox_bytes;
        assert!(used <= BUDGET, "{used} bytes are on their way");
    }
    app.odds("end", "end").await;
    let (mut came, mut told) = (0, 0);
    for client in &mut clients {
        loop {
            let message = client.next().await;
            came += u64::from(message["type"] == "notice");
            told += message["data"]["broadcasts_skipped"].as_u64().unwrap_or_default();
            if message["key"] == "end" {
                break;
            }
        }
    }
    assert_eq!((came, told), (sent, missed));
}

#[tokio::test]
async fn who_fell_behind_earlier_pays_before_a_smaller_one() {
    let app = App::with(|config| {
        config.outbox_bytes = BUDGET / 2;
        config.memory_budget = BUDGET;
    })
    .await;
    let mut small = narrow(&app, "topics=scrape_progress").await;
    let mut large = Vec::new();
    for _ in 0..2 {
        large.push(narrow(&app, "topics=odds_updates").await);
    }
    // Each has all that one client may have, and waits no longer for what comes.
    let mut published = 0;
    while app.manager.load().behind < large.len() {
        publish_some(&app, "odds_updates", published).await;
        published += 1;
    }
    for number in 0..4 {
        publish_some(&app, "scrape_progress", number).await;
    }
    assert!(metrics::value(&app, "oddswire_over_memory_budget_total").await >= 1.0);
    end(&app).await;
    assert_eq!(messages_until_end(&mut small).await, 100);
    app.odds("end", "end").await;
    for client in &mut large {
        let (mut came, mut skipped) = (0, 0);
        loop {
            let message = client.next().await;
            came += u64::from(message["id"].is_string() && message["type"] == "odds_updates");
            skipped += message["data"]["topics"]["odds_updates"]["skipped"].as_u64().unwrap_or_default();
            if message["key"] == "end" {
                break;
            }
        }
        assert_eq!(came + skipped, published as u64 * 25 + 1, "every message came or was told");
    }
}

#[tokio::test]
async fn a_broadcast_reaches_whoever_has_nothing_on_its_way_however_little_is_left() {
    let app = tight().await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(narrow(&app, "topics=odds_updates").await);
    }
    let body = json!({"type": "notice", "data": "x".repeat(60_000)}).to_string();
    let broadcast = async || app.post("/api/broadcast", "application/json", body.clone()).await.body;
    while broadcast().await["connections"] == 3 {}
    let mut reader = app.ws("topics=odds_updates").await;
    broadcast().await;
    assert_eq!(reader.next().await["type"], "notice");
}
