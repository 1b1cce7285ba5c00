//! Checks bodies of publish requests. The server must accept all messages of a body or none of them. Subscribers must
//! get the publisher's data unchanged.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::Full;
use oddswire::manager::{Connect, Connection};
use oddswire::outbox::{Outgoing, Receiver};
use oddswire::routes::App;
use serde_json::value::RawValue;

use super::service::{Answer, PUBLISH_TOKEN, app, block_on, call, drain};

/// Publishes the input as JSON and as lines of JSON (NDJSON), and sends it as a broadcast.
pub fn check(input: &[u8]) {
    for format in ["application/json", "application/x-ndjson"] {
        published(input, format);
    }
    broadcast(input);
}

fn post(app: &App, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let request = Request::post(path)
        .header(AUTHORIZATION, format!("Bearer {PUBLISH_TOKEN}"))
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::copy_from_slice(body)))
        .expect("the request is valid");
    block_on(call(app, request))
}

/// Connects a client to all topics and reads its `connection_ack`.
fn client(app: &App) -> (Connection, Receiver) {
    let (connection, mut receiver) = app.manager.connect(Connect::all());
    assert_eq!(drain(&connection, &mut receiver).len(), 1);
    (connection, receiver)
}

fn published(input: &[u8], format: &str) {
    let app = app();
    let (connection, mut receiver) = client(&app);
    let answer = post(&app, "/api/publish", format, input);
    let sent = drain(&connection, &mut receiver);
    let offset = app.manager.position().offset;
    if answer.status != StatusCode::OK {
        assert_eq!((offset, sent.len()), (0, 0), "a rejected body has no effect");
        return rejected(&answer, input);
    }
    let count = |name: &str| answer.json()[name].as_u64().expect("a number of messages");
    let messages = messages(input, format);
    let changed = count("accepted") - count("unchanged");
    assert_eq!(count("accepted"), messages.len() as u64, "the server accepts the whole body");
    assert_eq!(offset, changed, "each message that changes its key has a position");
    assert_eq!(answer.json()["position"], app.manager.position().to_string());
    delivered(&sent, &messages, changed);
    kept(&app);
    again(&app, input, format);
}

/// Splits a body into its messages, without the server's parser.
fn messages<'a>(input: &'a [u8], format: &str) -> Vec<&'a str> {
    let text = std::str::from_utf8(input).expect("an accepted body is UTF-8");
    if format == "application/x-ndjson" {
        return text.lines().filter(|line| !line.trim().is_empty()).collect();
    }
    let list = serde_json::from_str::<Vec<&RawValue>>(text).map(|list| list.into_iter().map(RawValue::get).collect());
    list.unwrap_or_else(|_| vec![text])
}

/// Checks that a subscriber got every message, except unchanged ones: once, in order, with the publisher's bytes.
fn delivered(sent: &[Outgoing], messages: &[&str], changed: u64) {
    let mut rest = messages.iter();
    let mut last = 0;
    for item in sent {
        let Outgoing::Message(message) = item else { panic!("a caught-up client gets only messages: {item:?}") };
        assert_eq!(message.position().offset, last + 1, "messages arrive in order, without gaps");
        last += 1;
        let data = std::str::from_utf8(message.data()).expect("data is UTF-8");
        assert!(rest.any(|given| given.contains(data)), "the data differs from the publisher's: {data}");
    }
    assert_eq!(last, changed);
}

/// Checks that the server returns valid JSON for the state of each topic.
fn kept(app: &App) {
    for topic in app.manager.topics().iter() {
        let request = Request::get(format!("/api/topics/{topic}/state")).body(Full::default()).expect("a request");
        let answer = block_on(call(app, request));
        assert_eq!(answer.status, StatusCode::OK);
        serde_json::from_slice::<&RawValue>(&answer.body).expect("the state is JSON");
    }
}

/// Publishes an accepted body again.
fn again(app: &App, input: &[u8], format: &str) {
    let before = app.manager.position().offset;
    let answer = post(app, "/api/publish", format, input);
    // The server rejects the body only if a time in `expires_at` has passed since the first publish.
    if answer.status == StatusCode::OK {
        let count = |name: &str| answer.json()[name].as_u64().expect("a number of messages");
        assert_eq!(app.manager.position().offset - before, count("accepted") - count("unchanged"));
    }
}

fn broadcast(input: &[u8]) {
    let app = app();
    let (connection, mut receiver) = client(&app);
    let answer = post(&app, "/api/broadcast", "application/json", input);
    let sent = drain(&connection, &mut receiver);
    assert_eq!(app.manager.position().offset, 0, "a broadcast is not stored");
    if answer.status == StatusCode::OK {
        assert_eq!(answer.json()["connections"], 1);
        assert!(matches!(&sent[..], [Outgoing::Control(_)]));
    } else {
        assert_eq!(sent.len(), 0);
        rejected(&answer, input);
    }
}

fn rejected(answer: &Answer, input: &[u8]) {
    let error = &answer.json()["error"];
    let expected = match error["code"].as_str().expect("an error has a code") {
        "message_too_large" | "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_json" | "invalid_message" | "unknown_topic" | "empty" | "state_full" => StatusCode::BAD_REQUEST,
        // The body begins with the first bytes of gzip.
        "unsupported_media_type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        code => panic!("unexpected code '{code}' for a body"),
    };
    assert_eq!(answer.status, expected);
    if let Some(index) = error.get("index") {
        let index = index.as_u64().expect("an index is a number");
        // A message and a separator have at least one byte each, which limits the index.
        assert!(index <= input.len() as u64 / 2, "the body has no message {index}");
    }
}
