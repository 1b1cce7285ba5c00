//! The fields of published messages: valid and invalid values, and how the server delivers them.

use serde_json::{Value, json};

use crate::harness::hub::{GOOD, Hub, JSON, Refusal, message};

#[tokio::test]
async fn data_arrives_byte_for_byte_and_over_sse_with_equal_value() {
    let mut hub = Hub::start().await;
    let mut stream = hub.app.sse("").await;
    let cases = [
        "1.50",
        "-0.0",
        "1e5",
        "1E+05",
        "12345678901234567890.10",
        r#""\u0041\/\ud83d\ude00 é 😀 \n""#,
        r#"{ "b" :1,"a": [ ],"b":2 }"#,
        "[1 ,\t2,  3]",
        "{\n  \"price\": 1.50,\n  \"of\": [1,\n 2]\n}",
        "{\r\n\"price\":\r\n1.50}",
        "{\n \"home team\": \"Beşiktaş  J K\"\r\n}",
        "[1,\r2,\n\r3]",
    ];
    for data in cases {
        let body = format!("{{ \"data\" : {data} ,\n \"topic\":\"odds_updates\"}}");
        let answer = hub.app.post("/api/publish", JSON, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let text = hub.subscriber.text().await;
        assert!(text.ends_with(&format!(r#","data":{data}}}"#)), "{data:?} arrived as {text:?}");
        let event = stream.text().await;
        let [over_websocket, over_sse] =
            [text.as_str(), &event].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(over_websocket, over_sse);
        assert!(data.contains(['\r', '\n']) || text.as_str() == event, "{event:?}");
    }
}

#[tokio::test]
async fn key_of_256_bytes_is_accepted_and_invalid_keys_are_refused() {
    let mut hub = Hub::start().await;
    for key in ["a".to_owned(), "8301/1x2/betpawa".to_owned(), "k".repeat(256), "é".repeat(128)] {
        let messages = hub.takes(JSON, message(&format!(r#""key":"{key}""#))).await;
        assert_eq!(messages[0]["key"], key);
    }
    let cases = [
        ("k".repeat(257), "too long"),
        (format!("{}k", "é".repeat(128)), "too long"),
        (String::new(), "it is empty"),
        ("/8301".to_owned(), "'/8301': it has an empty segment"),
        ("8301/".to_owned(), "empty segment"),
        ("8301//1x2".to_owned(), "empty segment"),
        (r"a\u0000b".to_owned(), "control character"),
        (r"a\nb".to_owned(), "control character"),
    ];
    for (key, rule) in cases {
        let says = [rule, "expected 1 to 256 bytes: segments joined by '/'"];
        hub.refuses(JSON, message(&format!(r#""key":"{key}""#)), (400, "invalid_message", Some(0), &says)).await;
    }
}

#[tokio::test]
async fn type_of_64_bytes_is_accepted_and_invalid_types_are_refused() {
    let mut hub = Hub::start().await;
    for kind in ["t".to_owned(), "t".repeat(64), "é".repeat(32), "odds update".to_owned(), "Pong".to_owned()] {
        let messages = hub.takes(JSON, message(&format!(r#""type":"{kind}""#))).await;
        assert_eq!(messages[0]["type"], kind);
    }
    for kind in ["", &"t".repeat(65), &format!("{}t", "é".repeat(32)), r"a\tb", r"\u007f"] {
        let says = ["invalid type '", "expected 1 to 64 bytes without control characters"];
        hub.refuses(JSON, message(&format!(r#""type":"{kind}""#)), (400, "invalid_message", Some(0), &says)).await;
    }
}

#[tokio::test]
async fn reserved_type_is_refused() {
    let mut hub = Hub::start().await;
    let reserved =
        ["connection_ack", "subscription_update", "ping", "pong", "error", "catch_up", "caught_up", "reconnect"];
    for kind in reserved {
        let named = format!("type '{kind}' is the server's own");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "use another one"]);
        hub.refuses(JSON, message(&format!(r#""type":"{kind}""#)), refusal).await;
        // JSON escapes do not change the name.
        let escaped = kind.replacen('e', r"\u0065", 1).replacen('p', r"\u0070", 1);
        hub.refuses(JSON, message(&format!(r#""type":"{escaped}""#)), refusal).await;
    }
}

#[tokio::test]
async fn expires_at_must_be_valid_in_the_future_and_have_a_key() {
    let mut hub = Hub::start().await;
    for moment in ["2999-02-06T19:00:00Z", "2999-02-06T19:00:00.123456+02:00"] {
        assert_eq!(hub.takes(JSON, message(&format!(r#""key":"{moment}","expires_at":"{moment}""#))).await.len(), 1);
    }
    for past in ["2020-02-06T19:00:00Z", "1969-12-31T23:59:59Z", "2020-02-06T23:59:59-02:00"] {
        let named = format!("expires_at '{past}' is in the past");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "expected a time after"]);
        hub.refuses(JSON, message(&format!(r#""key":"a","expires_at":"{past}""#)), refusal).await;
    }
    for malformed in ["", "tomorrow", "2999-02-06", "2999-02-06T19:00:00", "2999-02-30T19:00:00Z", "32472147600"] {
        let named = format!("invalid expires_at '{malformed}': expected an RFC 3339 time");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "2026-02-06T19:00:00Z"]);
        hub.refuses(JSON, message(&format!(r#""key":"a","expires_at":"{malformed}""#)), refusal).await;
    }
    let keyless = message(r#""expires_at":"2999-02-06T19:00:00Z""#);
    hub.refuses(JSON, keyless, (400, "invalid_message", Some(0), &["'expires_at' without a 'key'"])).await;
}

#[tokio::test]
async fn null_deletes_a_key_and_is_refused_without_a_key() {
    let mut hub = Hub::start().await;
    let keyless = json!({"topic": "odds_updates", "data": null}).to_string();
    hub.refuses(JSON, keyless, (400, "invalid_message", Some(0), &["null without a 'key'", "name the key"])).await;

    let [set, delete] = [json!(1), Value::Null].map(|data| json!({"topic": "odds_updates", "key": "a", "data": data}));
    hub.takes(JSON, set.to_string()).await;
    let messages = hub.takes(JSON, delete.to_string()).await;
    assert_eq!((&messages[0]["key"], &messages[0]["data"]), (&json!("a"), &Value::Null));
    assert!(messages[0].as_object().unwrap().contains_key("data"));
    assert_eq!(hub.app.publish(&delete).await["unchanged"], 1, "the key is already deleted");
    hub.subscriber.nothing_came().await;
    assert_eq!(hub.takes(JSON, set.to_string()).await.len(), 1, "the same value after a deletion is a change");
}

#[tokio::test]
async fn unchanged_keyed_message_is_confirmed_but_not_delivered() {
    let mut hub = Hub::start().await;
    let batch = |data: &[&str]| {
        let message = |data: &&str| format!(r#"{{"topic":"odds_updates","key":"a","data":{data}}}"#);
        format!("[{}]", data.iter().map(message).collect::<Vec<_>>().join(","))
    };
    // The server compares bytes, not values: the same number in another notation counts as a change.
    let cases = [("1.5", 1, 0), ("1.5", 0, 1), ("1.50", 1, 0), (" 1.50 ", 0, 1), ("1.5", 1, 0)];
    for (data, delivered, unchanged) in cases {
        let before = hub.offset();
        let answer = hub.app.post("/api/publish", JSON, batch(&[data])).await;
        assert_eq!((&answer.body["accepted"], &answer.body["unchanged"]), (&json!(1), &json!(unchanged)), "{data}");
        assert_eq!(answer.body["position"], hub.app.manager.position().to_string());
        assert_eq!(hub.offset() - before, delivered, "{data}");
    }
    let answer = hub.app.post("/api/publish", JSON, batch(&["1.5", "2", "2", "1.5"])).await;
    assert_eq!((&answer.body["accepted"], &answer.body["unchanged"]), (&json!(4), &json!(2)));
    for data in [1.5, 1.50, 1.5, 2.0, 1.5] {
        assert_eq!(hub.subscriber.next().await["data"].as_f64(), Some(data));
    }
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn same_data_is_unchanged_only_for_the_same_topic_and_key() {
    let mut hub = Hub::start().await;
    for _ in 0..2 {
        assert_eq!(hub.takes(JSON, GOOD).await.len(), 1, "a keyless message is never unchanged");
    }
    for key in ["a", "a/b"] {
        assert_eq!(hub.takes(JSON, message(&format!(r#""key":"{key}""#))).await.len(), 1, "each key has its own data");
    }
    let elsewhere = r#"{"topic":"scrape_progress","key":"a","data":1}"#;
    assert_eq!(hub.takes(JSON, elsewhere).await.len(), 1, "each topic has its own keys");
}

#[tokio::test]
async fn unchanged_messages_are_delivered_without_suppress_unchanged() {
    let mut hub = Hub::with(|config| config.suppress_unchanged = false).await;
    for offset in 1..=3 {
        let answer = hub.app.odds("a", 1).await;
        assert_eq!(answer["unchanged"], 0);
        assert_eq!(hub.offset(), offset);
        assert_eq!(hub.subscriber.next().await["id"], answer["position"]);
    }
}
