//! Subscribers over server-sent events: the format of the stream, delivery, and resuming after a reconnect.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::hub::refused;
use crate::harness::raw::Raw;
use crate::harness::sse::Client;
use crate::harness::{Answer, App, TOKEN, within};

/// A stream read as plain bytes, because a parser would hide comments and `retry`.
struct Bytes {
    response: reqwest::Response,
    pending: String,
}

impl Bytes {
    async fn open(app: &App, query: &str, last_id: Option<&str>) -> Self {
        let mut request = reqwest::Client::new().get(app.url(&format!("/api/sse?{query}")));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = within(request.send()).await.expect("the server answers");
        assert_eq!(response.status(), 200);
        Self { response, pending: String::new() }
    }

    /// Returns everything up to the next blank line.
    async fn block(&mut self) -> String {
        loop {
            if let Some(at) = self.pending.find("\n\n") {
                let rest = self.pending.split_off(at + 2);
                return std::mem::replace(&mut self.pending, rest);
            }
            let chunk = within(self.response.chunk()).await.expect("no error").expect("the stream has more data");
            self.pending.push_str(std::str::from_utf8(&chunk).expect("the test's messages are ASCII"));
        }
    }

    /// The lines of the next block.
    async fn lines(&mut self) -> Vec<String> {
        self.block().await.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

async fn get(app: &App, query: &str, last_id: &str) -> Answer {
    Answer::of(app.request(Method::GET, &format!("/api/sse?{query}")).header("last-event-id", last_id)).await
}

// The format of the stream.

#[tokio::test]
async fn headers_prevent_buffering_and_caching_of_the_stream() {
    let app = App::start().await;
    let stream = app.sse("").await;
    let header = |name: &str| stream.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(stream.status, 200);
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
    assert_eq!((header("content-length"), header("content-encoding")), (None, None));
}

#[tokio::test]
async fn stream_begins_with_retry_and_the_acknowledgement() {
    let app = App::start().await;
    app.odds("8301/1x2/a", 1).await;
    let mut stream = Bytes::open(&app, "topics=scrape_progress,odds_updates/8301", None).await;
    let [retry, id, data] = stream.lines().await.try_into().expect("three lines");
    assert!(retry.starts_with("retry: "), "{retry}");
    assert_eq!(id, format!("id: {}", app.manager.position()));
    let ack: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    let topics = json!(["odds_updates/8301", "scrape_progress"]);
    assert_eq!(ack["type"], "connection_ack");
    assert_eq!((&ack["topics"], &ack["data"]["topics"]), (&topics, &topics));
    assert_eq!(ack["data"]["position"], app.manager.position().to_string());
    assert!(ack["data"]["connection"].as_str().unwrap().starts_with('c'));
    assert_eq!(ack["data"]["conflate_ms"], 0);
}

#[tokio::test]
async fn event_has_an_id_and_the_same_text_as_over_websocket() {
    let app = App::start().await;
    let mut stream = Bytes::open(&app, "", None).await;
    let mut socket = app.ws("").await;
    stream.block().await;
    let body = r#"{"topic":"odds_updates","key":"8301/1x2/a","type":"odds_update","data":{ "b":1.50,"a":[ ]}}"#;
    let answer = app.post("/api/publish", "application/json", body).await;
    let position = answer.body["position"].as_str().unwrap();
    let text = socket.text().await;
    assert_eq!(stream.block().await, format!("id: {position}\ndata: {text}\n\n"));
}

#[tokio::test]
async fn retry_comes_once_and_differs_between_connections() {
    let app = App::start().await;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let mut stream = Bytes::open(&app, "", None).await;
        let first = stream.lines().await;
        delays.push(first[0].strip_prefix("retry: ").expect("retry first").parse::<u64>().unwrap());
        app.publish(&json!({"topic": "scrape_progress", "data": 1})).await;
        let second = stream.block().await;
        assert!(!second.contains("retry:") && !first[1..].iter().any(|line| line.contains("retry:")), "{second}");
    }
    assert!(delays.iter().all(|delay| (1000..4000).contains(delay)), "{delays:?}");
    delays.dedup();
    assert!(delays.len() > 1, "equal delays would make all clients reconnect at once: {delays:?}");
}

#[tokio::test]
async fn comment_is_sent_after_each_interval_without_data() {
    let app = App::with(|config| config.sse_comment_interval = Duration::from_millis(100)).await;
    let mut stream = Bytes::open(&app, "", None).await;
    assert!(stream.block().await.contains("connection_ack"));
    for _ in 0..2 {
        assert_eq!(stream.block().await, ":\n\n");
    }
    let mut parsed = app.sse("").await;
    app.odds("a", 1).await;
    let message = loop {
        let block = stream.block().await;
        if block != ":\n\n" {
            break block;
        }
    };
    assert!(message.starts_with("id: ") && message.contains(r#""data":1}"#), "{message}");
    assert_eq!(parsed.next().await["data"], 1, "the parser ignores comments");
    assert_eq!(stream.block().await, ":\n\n", "comments continue after a message");
}

#[tokio::test]
async fn burst_larger_than_a_chunk_is_complete_and_in_order() {
    let app = App::start().await;
    let mut stream = app.sse("").await;
    let filler = "x".repeat(1000);
    let batch: Vec<Value> = (0..500).map(|at| json!({"topic": "odds_updates", "data": [at, filler]})).collect();
    app.publish(&json!(batch)).await;
    for at in 0..500 {
        let message = stream.next().await;
        assert_eq!(message["data"], json!([at, filler]));
        assert_eq!(message["id"], stream.last_id);
    }
}

// Requests for a stream.

#[tokio::test]
async fn stream_without_topics_has_all_topics() {
    let app = App::start().await;
    for query in ["", "topics=", "topics=%20,"] {
        let stream = app.sse(query).await;
        assert_eq!(stream.ack["topics"], json!(["odds_updates", "scrape_progress"]), "{query}");
    }
}

#[tokio::test]
async fn narrowed_stream_gets_only_its_keys() {
    let app = App::start().await;
    let mut stream = app.sse("topics=odds_updates/8301").await;
    for key in ["83011/1x2/a", "83/1x2/a", "8301/1x2/a", "8301"] {
        app.odds(key, key).await;
    }
    app.publish(&json!([
        {"topic": "odds_updates", "data": "keyless"},
        {"topic": "scrape_progress", "key": "8301", "data": "another topic"},
        {"topic": "odds_updates", "key": "8301/last", "data": "last"},
    ]))
    .await;
    for data in ["8301/1x2/a", "8301", "last"] {
        assert_eq!(stream.next().await["data"], data);
    }
}

#[tokio::test]
async fn unknown_topics_are_an_error_after_the_acknowledgement() {
    let app = App::start().await;
    let mut stream = app.sse("topics=foo,odds_updates,bar/1").await;
    assert_eq!(stream.ack["topics"], json!(["odds_updates"]));
    let error = stream.expect("error").await;
    assert_eq!(error["data"]["code"], "unknown_topic");
    assert_eq!(error["data"]["topics"], json!(["foo", "bar/1"]));
    assert!(error["data"]["detail"].as_str().unwrap().contains("scrape_progress, odds_updates"), "{error}");
    app.odds("a", 1).await;
    assert_eq!(stream.next().await["data"], 1, "the known topic is in effect");
}

#[tokio::test]
async fn invalid_query_is_refused_with_the_broken_rule() {
    let app = App::start().await;
    let cases: [(&str, &[&str]); 9] = [
        ("topics=Odds", &["topics: invalid topic 'Odds'", "1 to 64 bytes of a-z, 0-9 and _"]),
        ("topics=odds_updates//1", &["topics: invalid key '/1'", "empty segment"]),
        ("since=yesterday", &["since: invalid position 'yesterday'", "<epoch>-<offset>", "'now' or 'snapshot'"]),
        ("since=", &["since: invalid position ''", "<epoch>-<offset>"]),
        ("since=1-2-3", &["since: invalid position '1-2-3'", "<epoch>-<offset>"]),
        ("conflate_ms=60001", &["conflate_ms is '60001'", "from 0 to 60000"]),
        ("conflate_ms=-1", &["conflate_ms is '-1'", "from 0 to 60000"]),
        ("conflate_ms=1.5", &["conflate_ms is '1.5'", "from 0 to 60000"]),
        ("conflate_ms=", &["conflate_ms is ''", "from 0 to 60000"]),
    ];
    for (query, says) in cases {
        refused(&app.get(&format!("/api/sse?{query}")).await, (400, "bad_request", None, says));
    }
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn other_methods_get_405_with_the_allowed_methods() {
    let app = App::start().await;
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = Answer::of(app.request(method.clone(), "/api/sse").bearer_auth(TOKEN)).await;
        refused(&answer, (405, "method_not_allowed", None, &[method.as_str(), "use GET, HEAD"]));
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn head_gets_the_headers_and_leaves_no_connection() {
    let app = App::start().await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(b"HEAD /api/sse HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream\r\n"), "{head}");
    assert_eq!(raw.rest().await, b"");
    app.connections(0).await;
}

#[tokio::test]
async fn broadcast_has_no_id_so_a_reconnect_misses_nothing() {
    let app = App::start().await;
    let mut stream = Bytes::open(&app, "topics=scrape_progress", None).await;
    stream.block().await;
    let answer = app.post("/api/broadcast", "application/json", r#"{"type":"notice","data":{"a":1}}"#).await;
    assert_eq!(answer.body["connections"], 1);
    let [data] = stream.lines().await.try_into().expect("a data line and nothing else");
    let message: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&message["type"], &message["data"]), (&json!("notice"), &json!({"a": 1})));
    assert!(message.get("id").is_none() && message.get("topic").is_none(), "{message}");
}

#[tokio::test]
async fn disconnected_client_is_removed_and_others_stay() {
    let app = App::start().await;
    let (gone, mut stays) = (app.sse("topics=odds_updates/8301").await, app.sse("").await);
    app.connections(2).await;
    drop(gone);
    app.connections(1).await;
    app.odds("8301", 1).await;
    assert_eq!(stays.next().await["data"], 1);
    drop(stays);
    app.connections(0).await;
    assert!(app.manager.is_empty(), "no index has an entry left");
}

// Resuming.

/// Reads a catch-up of `odds_updates`. Returns the announced mode and the data of the messages.
async fn catch_up(stream: &mut Client) -> (Value, Vec<Value>) {
    let mode = stream.expect("catch_up").await["data"]["topics"]["odds_updates"].clone();
    let mut data = Vec::new();
    loop {
        let message = stream.next().await;
        if message["type"] == "caught_up" {
            assert_eq!(message["data"]["position"], stream.last_id, "a reconnect resumes after the catch-up");
            return (mode, data);
        }
        assert_eq!(message["id"], stream.last_id);
        data.push(message["data"].clone());
    }
}

#[tokio::test]
async fn reconnect_with_last_event_id_gets_missed_messages() {
    let app = App::start().await;
    let mut stream = app.sse("topics=odds_updates").await;
    app.odds("8301", 1).await;
    assert_eq!(stream.next().await["data"], 1);
    let last_id = stream.last_id.clone();
    drop(stream);
    app.connections(0).await;
    for data in [2, 3] {
        app.odds("8301", data).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": "another topic"})).await;

    let mut again = Client::connect(&app, "topics=odds_updates", Some(&last_id)).await;
    assert_eq!(
        again.last_id, "",
        "the acknowledgement of a resume has no id, so a client cut off here would miss nothing"
    );
    assert_eq!(again.ack["data"]["position"], app.manager.position().to_string());
    let (mode, data) = catch_up(&mut again).await;
    assert_eq!((mode, data), (json!({"mode": "replayed", "skipped": 0}), vec![json!(2), json!(3)]));
    app.odds("8301", 4).await;
    assert_eq!(again.next().await["data"], 4);
}

#[tokio::test]
async fn client_can_resume_from_the_id_of_the_acknowledgement() {
    let app = App::start().await;
    app.odds("8301", "before").await;
    let stream = app.sse("topics=odds_updates").await;
    let last_id = stream.last_id.clone();
    drop(stream);
    app.odds("8301", "meanwhile").await;
    let mut again = Client::connect(&app, "topics=odds_updates", Some(&last_id)).await;
    assert_eq!(catch_up(&mut again).await.1, [json!("meanwhile")]);
}

#[tokio::test]
async fn client_cut_off_before_snapshot_gets_a_new_snapshot() {
    let app = App::start().await;
    app.odds("1", 1).await;
    app.odds("2", 2).await;
    let ahead = format!("{}-3", app.manager.position().epoch);
    let mut stream = Client::connect(&app, "topics=odds_updates", Some(&ahead)).await;
    assert_eq!(stream.expect("catch_up").await["data"]["topics"]["odds_updates"]["mode"], "snapshot");
    let last_id = stream.last_id.clone();
    drop(stream);
    app.odds("3", 3).await;
    assert_eq!(app.manager.position().to_string(), ahead, "the client's old position exists now");
    let mut again = Client::connect(&app, "topics=odds_updates", Some(&last_id)).await;
    assert_eq!(again.expect("catch_up").await["data"]["topics"]["odds_updates"]["mode"], "snapshot");
    for data in 1..=3 {
        assert_eq!(again.next().await["data"], data);
        assert_eq!(
            again.last_id,
            format!("{}-{data}", app.manager.position().epoch),
            "the client can resume from here"
        );
    }
}

#[tokio::test]
async fn last_event_id_overrides_since() {
    let app = App::start().await;
    app.odds("a", 1).await;
    let last_id = app.manager.position().to_string();
    app.odds("b", 2).await;
    for since in ["now", "snapshot", "1-7"] {
        let query = format!("topics=odds_updates&since={since}");
        let mut stream = Client::connect(&app, &query, Some(&last_id)).await;
        let (mode, data) = catch_up(&mut stream).await;
        assert_eq!((mode, data), (json!({"mode": "replayed", "skipped": 0}), vec![json!(2)]), "{since}");
    }
    let mut stream = Client::connect(&app, "topics=odds_updates&since=snapshot", Some("")).await;
    assert_eq!(catch_up(&mut stream).await.1, [json!(1), json!(2)], "an empty Last-Event-ID is ignored");
}

#[tokio::test]
async fn invalid_last_event_id_is_a_bad_request() {
    let app = App::start().await;
    let past_u64 = format!("1-{}0", u64::MAX);
    for bad in ["x", "1", "-", "1-", "-1", "1-2-3", "1.5-2", "+1-2", "1-+2", "0x1-2", "now", "snapshot", &past_u64] {
        let named = format!("Last-Event-ID: invalid position '{bad}'");
        refused(&get(&app, "", bad).await, (400, "bad_request", None, &[&named, "<epoch>-<offset>"]));
    }
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn stream_since_snapshot_begins_with_the_state() {
    let app = App::start().await;
    for (key, data) in [("a", 1), ("b", 2), ("a", 3)] {
        app.odds(key, data).await;
    }
    let mut stream = app.sse("topics=odds_updates&since=snapshot").await;
    let (mode, data) = catch_up(&mut stream).await;
    assert_eq!((&mode["mode"], data), (&json!("snapshot"), vec![json!(2), json!(3)]));
}

#[tokio::test]
async fn position_of_another_epoch_or_the_future_gets_a_snapshot() {
    let app = App::start().await;
    app.odds("a", 1).await;
    let epoch = app.manager.position().epoch;
    for foreign in ["1-1".to_owned(), format!("{epoch}-2"), format!("{}-0", epoch + 1)] {
        let mut stream = Client::connect(&app, "topics=odds_updates", Some(&foreign)).await;
        let (mode, data) = catch_up(&mut stream).await;
        assert_eq!((mode, data), (json!({"mode": "snapshot", "skipped": null}), vec![json!(1)]), "{foreign}");
    }
}
