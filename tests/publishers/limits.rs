//! The limits of a publish request and of a topic's state.

use futures_util::stream;
use serde_json::{Value, json};

use crate::harness::hub::{GOOD, Hub, JSON, LINES, Refusal, message_of, refused};
use crate::harness::raw::Raw;
use crate::harness::{App, TOKEN};

#[tokio::test]
async fn body_of_up_to_publish_body_bytes_is_accepted() {
    let mut hub = Hub::with(|config| (config.publish_body_bytes, config.publish_message_bytes) = (2048, 1024)).await;
    let body = |length: usize| format!("[{GOOD}{}]", " ".repeat(length - GOOD.len() - 2));
    let chunked = |body: String| {
        let chunks: Vec<_> = body.into_bytes().chunks(500).map(|chunk| Ok::<_, String>(chunk.to_vec())).collect();
        reqwest::Body::wrap_stream(stream::iter(chunks))
    };
    assert_eq!(hub.takes(JSON, body(2048)).await.len(), 1);
    assert_eq!(hub.takes(JSON, chunked(body(2048))).await.len(), 1);
    let refusal: Refusal = (413, "body_too_large", None, &["longer than 2048 bytes", "publish-body-bytes"]);
    hub.refuses(JSON, body(2049), refusal).await;
    hub.refuses(JSON, chunked(body(2049)), refusal).await;
    hub.refuses(JSON, chunked(body(100_000)), refusal).await;
}

#[tokio::test]
async fn content_length_over_the_limit_is_refused_before_the_body() {
    let app = App::start().await;
    let head =
        format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let head = format!("{head}Content-Type: {JSON}\r\nExpect: 100-continue\r\n");
    for (length, answer) in
        [((8 << 20) + 1, "HTTP/1.1 413 "), (8 << 20, "HTTP/1.1 100 "), (usize::MAX >> 1, "HTTP/1.1 413 ")]
    {
        let mut publisher = Raw::connect(app.address).await;
        publisher.send(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).await;
        let head = publisher.head().await;
        assert!(head.starts_with(answer), "{length}: {head}");
    }
}

#[tokio::test]
async fn error_reaches_a_publisher_that_sends_its_whole_body_first() {
    // The body is larger than the socket buffers of client and server together.
    let body = vec![b' '; 16 << 20];
    let app = App::start().await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let cases = [
        ("POST /api/publish", format!("{token}Content-Type: {JSON}\r\n"), "413"),
        ("POST /api/publish", format!("{token}Content-Type: text/plain\r\n"), "415"),
        ("POST /api/publish", format!("Authorization: Bearer wrong\r\nContent-Type: {JSON}\r\n"), "401"),
        ("POST /api/broadcast", format!("{token}Content-Type: {JSON}\r\n"), "413"),
        ("PUT /api/publish", token.clone(), "405"),
        ("POST /api/publications", token.clone(), "404"),
    ];
    for (request, headers, status) in cases {
        let mut publisher = Raw::connect(app.address).await;
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        publisher.send(head.as_bytes()).await;
        publisher.send(&body).await;
        let answer = publisher.head().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
}

#[tokio::test]
async fn message_of_up_to_publish_message_bytes_is_accepted() {
    let mut hub = Hub::with(|config| config.publish_message_bytes = 1024).await;
    let [exact, over] = [1024, 1025].map(message_of);
    assert_eq!((exact.len(), over.len()), (1024, 1025));
    assert_eq!(hub.takes(JSON, format!("  {exact}\n")).await.len(), 1, "white space around a message does not count");
    assert_eq!(hub.takes(JSON, format!("[{exact}, {exact}]")).await.len(), 2);
    assert_eq!(hub.takes(LINES, format!("{exact}\r\n{exact}\n")).await.len(), 2);
    let says = ["has 1025 bytes", "limit is 1024", "publish-message-bytes"];
    hub.refuses(JSON, over.clone(), (413, "message_too_large", Some(0), &says)).await;
    hub.refuses(JSON, format!("[{exact},{over}]"), (413, "message_too_large", Some(1), &says)).await;
    hub.refuses(LINES, format!("{exact}\n\n{exact}\n{over}\n"), (413, "message_too_large", Some(2), &says)).await;
}

#[tokio::test]
async fn batch_of_up_to_publish_batch_messages_is_accepted() {
    let mut hub = Hub::with(|config| config.publish_batch_messages = 3).await;
    let batch = |count: usize, between: &str| vec![message_of(100); count].join(between);
    assert_eq!(hub.takes(JSON, format!("[{}]", batch(3, ","))).await.len(), 3);
    assert_eq!(hub.takes(LINES, batch(3, "\n\n") + "\n").await.len(), 3);
    let says = ["has 4 messages", "limit is 3", "publish-batch-messages", "several requests"];
    hub.refuses(JSON, format!("[{}]", batch(4, ",")), (413, "batch_too_large", None, &says)).await;
    hub.refuses(LINES, batch(4, "\n"), (413, "batch_too_large", None, &says)).await;
}

#[tokio::test]
async fn topic_holds_up_to_state_keys_keys() {
    let mut hub = Hub::with(|config| config.state_keys = 2).await;
    let set = |key: &str, data: Value| json!({"topic": "odds_updates", "key": key, "data": data});
    let full = |index| {
        (400, "state_full", Some(index), &["'odds_updates' would hold more than 2 keys", "state-keys", "delete"][..])
    };
    hub.takes(JSON, json!([set("a", json!(1)), set("b", json!(1))]).to_string()).await;
    hub.refuses(JSON, set("c", json!(1)).to_string(), full(0)).await;
    hub.refuses(JSON, json!([set("a", json!(2)), set("b", json!(2)), set("c", json!(1))]).to_string(), full(2)).await;
    let late = json!([set("a", Value::Null), set("c", json!(1)), set("d", json!(1)), set("b", Value::Null)]);
    hub.refuses(JSON, late.to_string(), full(2)).await;

    assert_eq!(hub.takes(JSON, set("a", json!(3)).to_string()).await.len(), 1, "an existing key needs no more room");
    assert_eq!(hub.takes(JSON, GOOD).await.len(), 1, "a message without a key needs no room");
    let elsewhere = json!({"topic": "scrape_progress", "key": "c", "data": 1});
    assert_eq!(hub.takes(JSON, elsewhere.to_string()).await.len(), 1, "each topic has its own limit");
    let moved = json!([set("a", Value::Null), set("c", json!(1))]);
    assert_eq!(hub.takes(JSON, moved.to_string()).await.len(), 2, "a deletion earlier in the batch makes room");
    hub.refuses(JSON, set("a", json!(1)).to_string(), full(0)).await;
}

/// A number inside this many arrays, and a number inside this many objects.
fn nested(levels: usize) -> [String; 2] {
    [("[", "]"), (r#"{"a":"#, "}")].map(|(open, close)| open.repeat(levels) + "1" + &close.repeat(levels))
}

#[tokio::test]
async fn data_of_128_levels_is_accepted_and_of_129_is_refused() {
    let app = App::start().await;
    let says = ["'data' is nested 129 levels deep", "at most 128"];
    for (content_type, before, after, index) in
        [(JSON, "", "", 0), (JSON, "[", "]", 0), (JSON, "[GOOD,", "]", 1), (LINES, "GOOD\n", "\n", 1)]
    {
        let body =
            |data: &str| format!(r#"{before}{{"topic":"odds_updates","data":{data}}}{after}"#).replace("GOOD", GOOD);
        for data in nested(128) {
            let answer = app.post("/api/publish", content_type, body(&data)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        for data in nested(129) {
            let answer = app.post("/api/publish", content_type, body(&data)).await;
            refused(&answer, (400, "invalid_message", Some(index), &says));
        }
    }
    let broadcast = |data: &str| format!(r#"{{"type":"notice","data":{data}}}"#);
    for data in nested(128) {
        assert_eq!(app.post("/api/broadcast", JSON, broadcast(&data)).await.status, 200);
    }
    for data in nested(129) {
        let answer = app.post("/api/broadcast", JSON, broadcast(&data)).await;
        refused(&answer, (400, "invalid_message", None, &says));
    }
}

#[tokio::test]
async fn data_of_5000_levels_is_refused_as_nested_too_deeply() {
    let app = App::start().await;
    for data in nested(5000) {
        let answer = app.post("/api/publish", JSON, format!(r#"{{"topic":"odds_updates","data":{data}}}"#)).await;
        refused(&answer, (400, "invalid_message", Some(0), &["5000 levels", "128"]));
    }
}
