//! Subscribers over WebSocket: acknowledgement, requests and delivery.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::App;

#[tokio::test]
async fn acknowledgement_comes_first_and_names_the_topics_twice() {
    let app = App::start().await;
    let client = app.ws("topics=odds_updates/8301,scrape_progress").await;
    let topics = json!(["odds_updates/8301", "scrape_progress"]);
    assert_eq!(client.ack["topics"], topics);
    assert_eq!(client.ack["data"]["topics"], topics);
    assert_eq!(client.ack["data"]["conflate_ms"], 0);
    assert!(client.ack["data"]["connection"].as_str().unwrap().starts_with('c'));
    assert!(client.ack["data"]["position"].as_str().unwrap().ends_with("-0"));
    let timestamp = client.ack["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with('Z') && timestamp.len() == "2026-02-06T12:00:00.123Z".len(), "{timestamp}");
}

#[tokio::test]
async fn client_without_topics_has_all_topics() {
    let app = App::start().await;
    for query in ["", "topics=", "topics=%20,"] {
        let client = app.ws(query).await;
        assert_eq!(client.ack["topics"], json!(["odds_updates", "scrape_progress"]), "{query}");
    }
}

#[tokio::test]
async fn message_reaches_its_topics_subscribers_byte_for_byte() {
    let app = App::start().await;
    let mut odds = app.ws("topics=odds_updates").await;
    let mut progress = app.ws("topics=scrape_progress").await;
    let body = r#"{"topic":"odds_updates","key":"8301/1x2/betpawa","type":"odds_update","data":{"b" : 1.50,"a":[ ]}}"#;
    let answer = app.post("/api/publish", "application/json", body).await;
    assert_eq!(answer.body["accepted"], 1);
    assert_eq!(answer.body["unchanged"], 0);

    let text = odds.text().await;
    assert!(text.ends_with(r#","data":{"b" : 1.50,"a":[ ]}}"#), "{text}");
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(message["type"], "odds_update");
    assert_eq!(message["topic"], "odds_updates");
    assert_eq!(message["key"], "8301/1x2/betpawa");
    assert_eq!(message["id"], answer.body["position"]);
    progress.nothing_came().await;
}

#[tokio::test]
async fn message_without_a_type_gets_its_topics_name_as_type() {
    let app = App::start().await;
    let mut client = app.ws("").await;
    app.publish(&json!({"topic": "scrape_progress", "data": 1})).await;
    let message = client.expect("scrape_progress").await;
    assert!(message.get("key").is_none());
}

#[tokio::test]
async fn ping_message_is_answered() {
    let app = App::start().await;
    let mut client = app.ws("").await;
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.expect("pong").await["data"], json!({}));
}

#[tokio::test]
async fn subscribe_and_unsubscribe_answer_with_all_current_topics() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates/8301").await;
    client.send(r#"{"type":"subscribe","topics":["scrape_progress","odds_updates/77"]}"#).await;
    let update = client.expect("subscription_update").await;
    let topics = json!(["odds_updates/77", "odds_updates/8301", "scrape_progress"]);
    assert_eq!((&update["topics"], &update["data"]["topics"]), (&topics, &topics));
    assert!(update["data"]["position"].is_string());

    app.odds("77/1x2/a", 1).await;
    client.expect("odds_updates").await;
    client.send(r#"{"type":"unsubscribe","topics":["odds_updates/77","odds_updates"]}"#).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates/8301", "scrape_progress"]));
    app.odds("77/1x2/a", 2).await;
    client.nothing_came().await;
}

#[tokio::test]
async fn narrowed_subscription_gets_only_messages_of_its_keys() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates/8301/1x2").await;
    for key in ["8301", "8301/1x2", "8301/1x2/a", "8301/1x22", "83011/1x2", "8301/ou/a"] {
        app.odds(key, key).await;
    }
    app.publish(&json!({"topic": "odds_updates", "data": "keyless"})).await;
    assert_eq!(client.next().await["data"], "8301/1x2");
    assert_eq!(client.next().await["data"], "8301/1x2/a");
    client.nothing_came().await;
}

#[tokio::test]
async fn overlapping_subscriptions_get_a_message_once() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates,odds_updates/8301,odds_updates/8301/1x2").await;
    app.odds("8301/1x2/a", 1).await;
    assert_eq!(client.next().await["data"], 1);
    client.send(r#"{"type":"unsubscribe","topics":["odds_updates"]}"#).await;
    client.expect("subscription_update").await;
    app.odds("8301/1x2/a", 2).await;
    assert_eq!(client.next().await["data"], 2);
    client.nothing_came().await;
}

#[tokio::test]
async fn unknown_topics_in_the_query_are_an_error_after_the_ack() {
    let app = App::start().await;
    let mut client = app.ws("topics=foo,odds_updates,bar/1").await;
    assert_eq!(client.ack["topics"], json!(["odds_updates"]));
    let error = client.expect("error").await;
    assert_eq!(error["data"]["code"], "unknown_topic");
    assert_eq!(error["data"]["topics"], json!(["foo", "bar/1"]));
    let detail = error["data"]["detail"].as_str().unwrap();
    assert!(detail.contains("scrape_progress, odds_updates"), "{detail}");
    client.nothing_came().await;
}

#[tokio::test]
async fn subscribe_takes_effect_for_known_topics_despite_unknown_ones() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    client.send(r#"{"type":"subscribe","topics":["foo","scrape_progress"]}"#).await;
    assert_eq!(client.expect("subscription_update").await["topics"], json!(["odds_updates", "scrape_progress"]));
    assert_eq!(client.expect("error").await["data"]["topics"], json!(["foo"]));
    client.send(r#"{"type":"unsubscribe","topics":["foo"]}"#).await;
    client.expect("subscription_update").await;
    assert_eq!(client.expect("error").await["data"]["code"], "unknown_topic");
}

#[tokio::test]
async fn invalid_topics_in_a_request_are_a_bad_request() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    let cases = [
        (r#"{"type":"subscribe"}"#, "list of strings"),
        (r#"{"type":"subscribe","topics":"odds_updates"}"#, "list of strings"),
        (r#"{"type":"unsubscribe","topics":[1]}"#, "list of strings"),
        (r#"{"type":"subscribe","topics":["scrape_progress","Odds!"]}"#, "a-z, 0-9 and _"),
        (r#"{"type":"subscribe","topics":["odds_updates//1"]}"#, "empty segment"),
        (r#"{"type":"subscribe","topics":["scrape_progress"],"since":"yesterday"}"#, "invalid position 'yesterday'"),
    ];
    for (request, rule) in cases {
        client.send(request).await;
        let error = client.expect("error").await;
        assert_eq!(error["data"]["code"], "bad_request");
        assert!(error["data"]["detail"].as_str().unwrap().contains(rule), "{error}");
    }
    client.send(r#"{"type":"unsubscribe","topics":[]}"#).await;
    assert_eq!(
        client.expect("subscription_update").await["topics"],
        json!(["odds_updates"]),
        "no invalid request took effect"
    );
}

#[tokio::test]
async fn malformed_unknown_and_binary_messages_are_ignored() {
    let app = App::start().await;
    let mut client = app.ws("").await;
    for text in ["", "no json", "[]", "{}", r#"{"type":7}"#, r#"{"type":"dance"}"#] {
        client.send(text).await;
    }
    client.send_frame(Message::Binary(br#"{"type":"ping"}"#.to_vec().into())).await;
    client.nothing_came().await;
}

#[tokio::test]
async fn broadcast_reaches_every_client_whatever_its_topics() {
    let app = App::start().await;
    let mut clients = [app.ws("topics=odds_updates/1").await, app.ws("topics=foo").await];
    let mut events = app.sse("topics=scrape_progress").await;
    clients[1].expect("error").await;
    let answer = app.post("/api/broadcast", "application/json", r#"{"type":"notice","data":{"a":1}}"#).await;
    assert_eq!((answer.status, &answer.body["connections"]), (200, &json!(3)));
    for client in &mut clients {
        let message = client.expect("notice").await;
        assert_eq!(message["data"], json!({"a": 1}));
        assert!(message.get("id").is_none() && message.get("topic").is_none());
    }
    events.expect("notice").await;
    assert!(app.manager.position().offset == 0, "a broadcast is not kept");
}

#[tokio::test]
async fn burst_of_a_thousand_requests_is_answered_in_order() {
    let app = App::with(|config| {
        config.client_messages_per_second = 1000;
        config.subscriptions_per_connection = 1000;
    })
    .await;
    let mut client = app.ws("topics=").await;
    let mut other = app.ws("").await;
    for at in 0..1000 {
        let kind = if at % 2 == 0 { "subscribe" } else { "unsubscribe" };
        client.send(format!(r#"{{"type":"{kind}","topics":["odds_updates/{at}"]}}"#)).await;
    }
    for at in 0..1000 {
        let update = client.expect("subscription_update").await;
        assert_eq!(update["topics"].as_array().unwrap().len(), 2 + at / 2 + 1, "{at}");
    }
    other.nothing_came().await;
}
