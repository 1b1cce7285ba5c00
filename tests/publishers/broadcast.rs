//! Valid and invalid broadcasts. `websocket.rs` and `sse.rs` test that broadcasts reach the clients.

use crate::harness::hub::{Hub, JSON, LINES, refused};

#[tokio::test]
async fn invalid_broadcast_is_refused_and_not_delivered() {
    let mut hub = Hub::start().await;
    let long = format!(r#"{{"type":"{}","data":1}}"#, "t".repeat(65));
    let cases: [(&str, &str, &[&str]); 14] = [
        ("", "empty", &["an object with 'type' and 'data'"]),
        ("{", "invalid_json", &["not JSON", "line 1 column 1"]),
        (r#"{"type":"notice","data":1} 2"#, "invalid_json", &["not JSON", "trailing characters"]),
        ("[]", "invalid_message", &["an object with 'type' and 'data'"]),
        (r#"["notice",1]"#, "invalid_message", &["an object with 'type' and 'data'"]),
        ("7", "invalid_message", &["an object with 'type' and 'data'"]),
        (r#"{"type":"notice"}"#, "invalid_message", &["missing field `data`"]),
        (r#"{"data":1}"#, "invalid_message", &["missing field `type`"]),
        (
            r#"{"type":"notice","data":1,"topic":"a"}"#,
            "invalid_message",
            &["unknown field `topic`", "`type` or `data`"],
        ),
        (r#"{"type":"a","type":"b","data":1}"#, "invalid_message", &["duplicate field `type`"]),
        (r#"{"type":7,"data":1}"#, "invalid_message", &["'type' is a number: expected a string"]),
        (r#"{"type":"","data":1}"#, "invalid_message", &["invalid type ''", "expected 1 to 64 bytes"]),
        (&long, "invalid_message", &["1 to 64 bytes"]),
        (r#"{"type":"pong","data":1}"#, "invalid_message", &["type 'pong' is the server's own"]),
    ];
    for (body, code, says) in cases {
        let answer = hub.app.post("/api/broadcast", JSON, body.to_owned()).await;
        refused(&answer, (400, code, None, says));
    }
    let not_text = hub.app.post("/api/broadcast", JSON, &b"{\"type\":\"\xff\",\"data\":1}"[..]).await;
    refused(&not_text, (400, "invalid_json", None, &["not UTF-8", "byte 9"]));
    let lines = hub.app.post("/api/broadcast", LINES, r#"{"type":"notice","data":1}"#).await;
    refused(&lines, (415, "unsupported_media_type", None, &["'application/x-ndjson'", "expected application/json"]));
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn broadcast_of_up_to_publish_message_bytes_is_accepted() {
    let mut hub = Hub::with(|config| config.publish_message_bytes = 1024).await;
    let frame = r#"{"type":"notice","data":[ 1.50,""]}"#.len();
    let body = |length: usize| format!(r#"{{"type":"notice","data":[ 1.50,"{}"]}}"#, "x".repeat(length - frame));
    let answer = hub.app.post("/api/broadcast", JSON, body(1024)).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"connections":1}"#));
    let data = format!(r#","data":[ 1.50,"{}"]}}"#, "x".repeat(1024 - frame));
    assert!(hub.subscriber.text().await.ends_with(&data));
    let over = hub.app.post("/api/broadcast", JSON, body(1025)).await;
    refused(&over, (413, "body_too_large", None, &["longer than 1024 bytes", "publish-message-bytes"]));
    hub.subscriber.nothing_came().await;
}
