//! The parameter `since` over both transports: the messages of a catch-up, the announced mode and the number of skipped
//! messages.

use serde_json::{Value, json};

use crate::harness::{App, within, ws};

/// A server whose history has only the last 3 messages of each topic.
async fn short_history() -> App {
    App::with(|config| config.history_messages = 3).await
}

/// The mode and the number of skipped messages that a `catch_up` announces for a subscription.
fn told(message: &Value, subscription: &str) -> (String, Value) {
    let told = &message["data"]["topics"][subscription];
    (told["mode"].as_str().unwrap_or("not announced").to_owned(), told["skipped"].clone())
}

/// Reads a catch-up to its end. Returns the announced mode and number of skipped messages for the subscription, and the
/// data of the messages.
async fn catch_up(client: &mut ws::Client, subscription: &str) -> ((String, Value), Vec<Value>) {
    let first = client.expect("catch_up").await;
    let mut data = Vec::new();
    loop {
        let message = client.next().await;
        if message["type"] == "caught_up" {
            return (told(&first, subscription), data);
        }
        data.push(message["data"].clone());
    }
}

#[tokio::test]
async fn snapshot_has_the_latest_message_of_each_key_in_order() {
    let app = short_history().await;
    for (key, data) in [("1/a", 1), ("1/b", 2), ("2/a", 3), ("1/a", 4), ("3/a", 5)] {
        app.odds(key, data).await;
    }
    app.odds("3/a", Value::Null).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "scraping"})).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "completed"})).await;
    let mut client = app.ws("since=snapshot").await;
    let first = client.expect("catch_up").await;
    for topic in ["odds_updates", "scrape_progress"] {
        assert_eq!(told(&first, topic), ("snapshot".to_owned(), json!(0)));
    }
    for (key, data) in [("1/b", json!(2)), ("2/a", json!(3)), ("1/a", json!(4))] {
        let message = client.expect("odds_updates").await;
        assert_eq!((&message["key"], &message["data"]), (&json!(key), &data));
    }
    assert_eq!(client.expect("scrape_progress").await["data"], "completed");
    let position = client.expect("caught_up").await["data"]["position"].clone();
    assert_eq!(position, client.ack["data"]["position"]);
    app.odds("9", 9).await;
    assert_eq!(client.next().await["data"], 9);
}

#[tokio::test]
async fn cursor_within_the_history_gets_every_later_message() {
    let app = short_history().await;
    let positions = [app.odds("1", 1).await, app.odds("1", 2).await, app.odds("1", 3).await, app.odds("1", 4).await];
    // The history has the messages 2, 3 and 4. So a client at the position of message 1 has lost nothing.
    let since = positions[0]["position"].as_str().unwrap();
    let mut client = app.ws(&format!("topics=odds_updates&since={since}")).await;
    let (told, data) = catch_up(&mut client, "odds_updates").await;
    assert_eq!(told, ("replayed".to_owned(), json!(0)));
    assert_eq!(data, [2, 3, 4]);
}

#[tokio::test]
async fn cursor_before_the_history_gets_latest_message_of_each_key() {
    let app = short_history().await;
    let first = app.odds("1", 1).await;
    for data in 2..=5 {
        app.odds("1", data).await;
    }
    app.odds("2", 6).await;
    app.odds("2", Value::Null).await;
    let since = first["position"].as_str().unwrap();
    let mut client = app.ws(&format!("topics=odds_updates&since={since}")).await;
    let (told, data) = catch_up(&mut client, "odds_updates").await;
    // The client missed 2, 3, 4, 5, 6 and the deletion. It gets 5 and the deletion.
    assert_eq!(told, ("conflated".to_owned(), json!(4)));
    assert_eq!(data, [json!(5), Value::Null]);

    let mut narrowed = app.ws(&format!("topics=odds_updates/1&since={since}")).await;
    let first = narrowed.expect("catch_up").await;
    let entry = &first["data"]["topics"]["odds_updates/1"];
    assert_eq!(entry, &json!({"mode": "conflated", "skipped": null}), "the number is unknown for a part of a topic");
}

#[tokio::test]
async fn cursor_older_than_removed_tombstones_gets_a_snapshot() {
    let app = App::with(|config| {
        config.history_messages = 0;
        config.state_keys = 1;
    })
    .await;
    app.odds("1", 1).await;
    let first = app.odds("1", Value::Null).await;
    app.odds("2", 2).await;
    // With `state_keys` at 1 the server keeps one tombstone. So the tombstone of this deletion replaces the tombstone
    // of "1".
    app.odds("2", Value::Null).await;
    app.odds("3", 3).await;
    let position = app.manager.position();
    let mut client = app.ws(&format!("topics=odds_updates&since={}-1", position.epoch)).await;
    let (told, data) = catch_up(&mut client, "odds_updates").await;
    assert_eq!(told, ("snapshot".to_owned(), json!(3)));
    assert_eq!(data, [3]);
    // This cursor comes after the deletion of "1", so the client does not need the removed tombstone.
    let since = first["position"].as_str().unwrap();
    let mut client = app.ws(&format!("topics=odds_updates&since={since}")).await;
    assert_eq!(catch_up(&mut client, "odds_updates").await.0.0, "conflated");
}

#[tokio::test]
async fn lost_messages_without_a_key_are_a_gap() {
    let app = short_history().await;
    for data in 1..=5 {
        app.publish(&json!({"topic": "scrape_progress", "data": data})).await;
    }
    let epoch = app.manager.position().epoch;
    // The history has the messages 3, 4 and 5. So a client at position 1 has lost message 2.
    for (cursor, expected) in [(1, ("gap", 1)), (2, ("replayed", 0))] {
        let mut client = app.ws(&format!("topics=scrape_progress&since={epoch}-{cursor}")).await;
        let (told, data) = catch_up(&mut client, "scrape_progress").await;
        assert_eq!(told, (expected.0.to_owned(), json!(expected.1)));
        assert_eq!(data, [3, 4, 5]);
    }
}

#[tokio::test]
async fn position_of_another_epoch_or_the_future_gets_snapshot_or_gap() {
    let app = short_history().await;
    app.odds("1", 1).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "a"})).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "b"})).await;
    let position = app.manager.position();
    let foreign = [format!("{}-1", position.epoch - 1), format!("{}-{}", position.epoch, position.offset + 1)];
    for since in foreign {
        let mut client = app.ws(&format!("since={since}")).await;
        let first = client.expect("catch_up").await;
        assert_eq!(told(&first, "odds_updates"), ("snapshot".to_owned(), Value::Null), "{since}");
        assert_eq!(told(&first, "scrape_progress"), ("gap".to_owned(), Value::Null), "{since}");
        for data in [json!(1), json!("a"), json!("b")] {
            assert_eq!(client.next().await["data"], data);
        }
        client.expect("caught_up").await;
    }
}

#[tokio::test]
async fn subscribe_with_since_catches_up_only_on_the_new_topics() {
    let app = short_history().await;
    app.odds("1", 1).await;
    app.odds("2", 2).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "a"})).await;
    let mut client = app.ws("topics=scrape_progress").await;
    client.send(r#"{"type":"subscribe","topics":["odds_updates/2"],"since":"snapshot"}"#).await;
    client.expect("subscription_update").await;
    let first = client.expect("catch_up").await;
    assert_eq!(first["data"]["topics"], json!({"odds_updates/2": {"mode": "snapshot", "skipped": 0}}));
    assert_eq!(client.next().await["data"], 2);
    client.expect("caught_up").await;
    app.odds("2", 3).await;
    app.publish(&json!({"topic": "scrape_progress", "data": "b"})).await;
    assert_eq!(client.next().await["data"], 3);
    assert_eq!(client.next().await["data"], "b");
}

#[tokio::test]
async fn long_catch_up_is_complete_and_in_order() {
    let app = App::start().await;
    let batch: Vec<Value> =
        (0..5000).map(|at| json!({"topic": "odds_updates", "key": format!("e{at}"), "data": at})).collect();
    app.publish(&json!(batch)).await;
    let mut client = app.ws("topics=odds_updates&since=snapshot").await;
    let (told, data) = catch_up(&mut client, "odds_updates").await;
    assert_eq!(told, ("snapshot".to_owned(), json!(0)));
    assert_eq!(data, (0..5000).map(|at| json!(at)).collect::<Vec<_>>());
}

#[tokio::test]
async fn cut_event_stream_resumes_from_the_last_id() {
    let app = App::start().await;
    let mut client = app.sse("topics=odds_updates").await;
    assert_eq!(
        client.last_id,
        client.ack["data"]["position"].as_str().unwrap(),
        "the acknowledgement's id is its position"
    );
    app.odds("1", 1).await;
    client.expect("odds_updates").await;
    let last = client.last_id.clone();
    drop(client);
    app.odds("1", 2).await;
    app.odds("1", 3).await;
    let mut client = crate::harness::sse::Client::connect(&app, "topics=odds_updates", Some(&last)).await;
    assert_eq!(told(&client.expect("catch_up").await, "odds_updates"), ("replayed".to_owned(), json!(0)));
    for data in [2, 3] {
        assert_eq!(client.next().await["data"], data);
    }
    client.expect("caught_up").await;
}

#[tokio::test]
async fn deleted_or_expired_key_arrives_as_null() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    let odds = |key, data: Value| json!({"topic": "odds_updates", "key": key, "data": data});
    app.publish_expiring(|soon| {
        let goes = json!({"topic": "odds_updates", "key": "1", "data": 1, "expires_at": soon});
        json!([goes, odds("2", json!(2)), odds("2", Value::Null)])
    })
    .await;
    for (key, data) in [("1", json!(1)), ("2", json!(2)), ("2", Value::Null), ("1", Value::Null)] {
        let message = client.next().await;
        assert_eq!((&message["key"], &message["data"]), (&json!(key), &data));
    }
    let state = app.get("/api/topics/odds_updates/state").await;
    assert_eq!(state.body["items"], json!([]));
}

#[tokio::test]
async fn conflated_client_gets_latest_keyed_and_all_keyless_messages() {
    let app = App::start().await;
    let mut client = app.ws("conflate_ms=200").await;
    assert_eq!(client.ack["data"]["conflate_ms"], 200);
    let mut batch: Vec<Value> = Vec::new();
    for at in 1..=100 {
        batch.push(json!({"topic": "odds_updates", "key": "k", "data": at}));
        batch.push(json!({"topic": "scrape_progress", "data": at}));
    }
    app.publish(&json!(batch)).await;
    let mut progress = Vec::new();
    let mut odds = Vec::new();
    while progress.len() < 100 || odds.is_empty() {
        let message = client.next().await;
        let list = if message["topic"] == "odds_updates" { &mut odds } else { &mut progress };
        list.push(message["data"].clone());
    }
    assert_eq!(odds, [100]);
    assert_eq!(progress, (1..=100).map(|at| json!(at)).collect::<Vec<_>>());
    app.odds("k", "next").await;
    assert_eq!(client.next().await["data"], "next");
}

#[tokio::test]
async fn conflated_event_stream_gets_the_latest_message_of_each_key() {
    let app = App::start().await;
    app.odds("k", 0).await;
    let mut client = app.sse("topics=odds_updates&conflate_ms=150&since=snapshot").await;
    assert_eq!(told(&client.expect("catch_up").await, "odds_updates").0, "snapshot");
    assert_eq!(client.next().await["data"], 0);
    client.expect("caught_up").await;
    let batch: Vec<Value> = (1..=50).map(|at| json!({"topic": "odds_updates", "key": "k", "data": at})).collect();
    app.publish(&json!(batch)).await;
    assert_eq!(client.next().await["data"], 50);
}

/// Checks the control messages of a catch-up that contains no subscription.
fn empty_catch_up(told: &Value, caught_up: &Value, app: &App) {
    assert_eq!(told["type"], "catch_up", "{told}");
    assert_eq!(told["data"], json!({"topics": {}}));
    assert_eq!(caught_up["type"], "caught_up", "{caught_up}");
    assert_eq!(caught_up["data"]["position"], app.manager.position().to_string());
}

#[tokio::test]
async fn since_with_unknown_topics_only_is_answered_with_caught_up() {
    let app = App::start().await;
    app.odds("1", 1).await;
    let mut socket = app.ws("topics=foo&since=snapshot").await;
    socket.expect("error").await;
    empty_catch_up(&within(socket.next()).await, &within(socket.next()).await, &app);
    socket.nothing_came().await;
    let mut events = app.sse("topics=foo&since=snapshot").await;
    events.expect("error").await;
    empty_catch_up(&within(events.next()).await, &within(events.next()).await, &app);
    assert_eq!(events.last_id, app.manager.position().to_string());
}

#[tokio::test]
async fn subscribe_to_unknown_topics_only_is_answered_with_caught_up() {
    let app = App::start().await;
    app.odds("1", 1).await;
    let mut client = app.ws("topics=odds_updates").await;
    client.send(r#"{"type":"subscribe","topics":["foo"],"since":"snapshot"}"#).await;
    client.expect("subscription_update").await;
    client.expect("error").await;
    empty_catch_up(&within(client.next()).await, &within(client.next()).await, &app);
    app.odds("1", 2).await;
    assert_eq!(client.next().await["data"], 2);
}
