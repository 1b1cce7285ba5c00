//! Publish requests: their three formats, the rules for messages, all-or-nothing batches, and the common order.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::hub::{GOOD, Hub, JSON, LINES, message, refused};
use crate::harness::raw::Raw;
use crate::harness::{Answer, App, TOKEN, within};

// Formats.

#[tokio::test]
async fn object_array_and_lines_are_accepted() {
    let mut hub = Hub::start().await;
    let [a, b] = ["a", "b"].map(|data| format!(r#"{{"topic":"odds_updates","data":"{data}"}}"#));
    let cases = [
        (JSON, a.clone(), "a"),
        (JSON, format!("\r\n\t {b} \n"), "b"),
        (JSON, format!("[{a}]"), "a"),
        (JSON, format!(" [ {a} ,\n{b}\n]\n"), "ab"),
        (LINES, format!("{a}\n{b}\n"), "ab"),
        (LINES, format!("{b}\n{a}"), "ba"),
        (LINES, format!("{a}\r\n{b}\r\n"), "ab"),
        (LINES, format!("\n\r\n{a}\n \t\n\n{b}\n\n"), "ab"),
        (LINES, b.clone(), "b"),
    ];
    for (content_type, body, expected) in cases {
        let messages = hub.takes(content_type, body.clone()).await;
        let data: String = messages.iter().map(|message| message["data"].as_str().unwrap()).collect();
        assert_eq!(data, expected, "{content_type} {body:?}");
    }
}

#[tokio::test]
async fn answer_has_accepted_unchanged_and_position_in_this_order() {
    let app = App::start().await;
    let twice = r#"[{"topic":"odds_updates","key":"a","data":1},{"topic":"odds_updates","key":"a","data":1}]"#;
    let answer = app.post("/api/publish", JSON, twice).await;
    let position = app.manager.position();
    assert_eq!(position.offset, 1);
    assert_eq!(answer.text, format!(r#"{{"accepted":2,"unchanged":1,"position":"{position}"}}"#));
    assert_eq!(answer.header("content-type"), JSON);
}

#[tokio::test]
async fn content_type_selects_the_format_and_others_are_refused() {
    let mut hub = Hub::start().await;
    for known in ["application/json; charset=utf-8", "Application/JSON", "application/x-ndjson ;charset=UTF-8"] {
        assert_eq!(hub.takes(known, GOOD).await.len(), 1, "{known}");
    }
    for other in ["text/plain", "application/jsonp", "application/x-www-form-urlencoded", "json"] {
        let named = format!("'{other}'");
        let says = [&named, "application/json or application/x-ndjson"];
        hub.refuses(other, GOOD, (415, "unsupported_media_type", None, &says)).await;
    }
    let missing = hub.app.request(Method::POST, "/api/publish").bearer_auth(TOKEN).body(GOOD);
    let says = ["Content-Type", "application/json or application/x-ndjson"];
    refused(&Answer::of(missing).await, (415, "unsupported_media_type", None, &says));
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn body_without_a_message_is_refused() {
    let mut hub = Hub::start().await;
    let cases = [(JSON, ""), (JSON, " \n"), (JSON, "[]"), (JSON, " [ ] "), (LINES, ""), (LINES, "\n \r\n\n")];
    for (content_type, body) in cases {
        let says = ["no message", "an object, a non-empty array of objects, or one object a line"];
        hub.refuses(content_type, body, (400, "empty", None, &says)).await;
    }
}

#[tokio::test]
async fn body_that_is_not_utf_8_is_refused_with_the_byte_offset() {
    let mut hub = Hub::start().await;
    let body = b"{\"topic\":\"odds_updates\",\"data\":\"\xff\"}";
    for content_type in [JSON, LINES] {
        hub.refuses(content_type, &body[..], (400, "invalid_json", None, &["not UTF-8", "byte 32"])).await;
    }
}

#[tokio::test]
async fn lines_sent_as_json_and_arrays_sent_as_lines_are_refused() {
    let mut hub = Hub::start().await;
    let several = ["the body holds several JSON values: send it as application/x-ndjson"];
    hub.refuses(JSON, format!("{GOOD}\n{GOOD}\n"), (400, "invalid_json", Some(0), &several)).await;
    hub.refuses(JSON, format!("{GOOD}\n{{\"topic\": broken"), (400, "invalid_json", Some(0), &several)).await;
    // A large body also exceeds the limit of a message, but the error must name the several values.
    let large = format!("{GOOD}\n").repeat(3000);
    hub.refuses(JSON, large, (400, "invalid_json", Some(0), &several)).await;
    hub.refuses(JSON, format!("{GOOD} nonsense"), (400, "invalid_json", Some(0), &["trailing characters"])).await;
    hub.refuses(LINES, format!("[{GOOD}]"), (400, "invalid_message", Some(0), &["object"])).await;
}

#[tokio::test]
async fn other_methods_get_405_with_the_allowed_method() {
    let app = App::start().await;
    for path in ["/api/publish", "/api/broadcast"] {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = Answer::of(app.request(method.clone(), path).bearer_auth(TOKEN)).await;
            refused(&answer, (405, "method_not_allowed", None, &[method.as_str(), "use POST"]));
            assert_eq!(answer.header("allow"), "POST");
        }
    }
}

// All or nothing.

/// Checks that each invalid message is refused with its index, and that its whole batch is refused with it.
async fn check_refused_with_batch(cases: &[(&str, &str, &[&str])]) {
    let mut hub = Hub::start().await;
    for (bad, code, says) in cases {
        hub.refuses(JSON, format!("[{GOOD},{GOOD},{bad},{GOOD}]"), (400, code, Some(2), says)).await;
        hub.refuses(JSON, format!("[{GOOD},{bad}]"), (400, code, Some(1), says)).await;
        let lines = format!("{GOOD}\n\n \n{bad}\r\n{GOOD}\n");
        hub.refuses(LINES, lines, (400, code, Some(1), says)).await;
        hub.refuses(LINES, (*bad).to_owned(), (400, code, Some(0), says)).await;
    }
    assert_eq!(hub.offset(), 0);
}

#[tokio::test]
async fn message_that_is_not_json_is_refused_with_its_batch() {
    let not_json = ["nonsense", "{", r#"{"topic":"odds_updates","data":}"#, r#"{"topic":"odds_updates","data":01}"#];
    check_refused_with_batch(&not_json.map(|bad| (bad, "invalid_json", &["not JSON", " column "][..]))).await;
}

#[tokio::test]
async fn message_that_is_not_an_object_is_refused_with_its_batch() {
    let others = ["1", "null", "true", r#""text""#, "[]", "{}", r#"["odds_updates",null,null,1,null]"#];
    let says = |other: &str| if other == "{}" { &["missing field `topic`"][..] } else { &["object"] };
    check_refused_with_batch(&others.map(|other| (other, "invalid_message", says(other)))).await;
}

#[tokio::test]
async fn missing_wrong_or_unknown_field_is_refused_with_its_batch() {
    let expected = "expected one of `topic`, `key`, `type`, `data`, `expires_at`";
    let cases: [(&str, &[&str]); 11] = [
        (r#"{"data":1}"#, &["missing field `topic`"]),
        (r#"{"topic":"odds_updates"}"#, &["missing field `data`"]),
        (r#"{"topic":"odds_updates","data":1,"colour":"red"}"#, &["unknown field `colour`", expected]),
        (r#"{"topic":"odds_updates","data":1,"Key":"a"}"#, &["unknown field `Key`", expected]),
        (r#"{"topic":"odds_updates","data":1,"topic":"odds_updates"}"#, &["duplicate field `topic`"]),
        (r#"{"topic":"odds_updates","data":1,"data":2}"#, &["duplicate field `data`"]),
        (r#"{"topic":null,"data":1}"#, &["'topic' is null: expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"key":8301}"#, &["'key' is a number: expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"type":{}}"#, &["'type' is an object: expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"key":["a"]}"#, &["'key' is an array: expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"expires_at":false}"#, &["'expires_at' is a boolean: expected a string"]),
    ];
    check_refused_with_batch(&cases.map(|(bad, says)| (bad, "invalid_message", says))).await;
}

#[tokio::test]
async fn error_names_its_place_in_the_body() {
    let mut hub = Hub::start().await;
    let (broken, unknown) = (r#"{"topic":"odds_updates","data":}"#, r#"{"topic":"foo","data":1}"#);
    let missing = "{\"data\":\n1}";
    let cases = [
        (LINES, format!("\n\n{GOOD}\r\n\n  {broken}"), 1, "not JSON: expected value at line 5 column 34"),
        (LINES, format!("\n{GOOD}\n\n{unknown}\n"), 1, "odds_updates (line 4 of the body)"),
        (LINES, "\n{\"data\":1}\n".to_owned(), 0, "missing field `topic` at line 2 column 10"),
        (JSON, format!("[\n  {GOOD},\n  {missing}\n]"), 1, "missing field `topic` at line 4 column 2"),
        (JSON, format!("\n[{GOOD},\n {broken}]"), 1, "not JSON: expected value at line 3 column 33"),
        (JSON, "[{\"data\":1}]".to_owned(), 0, "missing field `topic` at line 1 column 11"),
    ];
    for (content_type, body, index, place) in cases {
        let code = match place {
            _ if place.starts_with("not JSON") => "invalid_json",
            _ if place.starts_with("missing") => "invalid_message",
            _ => "unknown_topic",
        };
        hub.refuses(content_type, body, (400, code, Some(index), &[place])).await;
    }
}

#[tokio::test]
async fn compressed_body_is_refused_with_the_coding_to_use() {
    let mut hub = Hub::start().await;
    let gzip = [&[0x1f, 0x8b, 8][..], GOOD.as_bytes()].concat();
    let post = |path: &str, coding: &'static str, body: Vec<u8>| {
        let request = hub.app.request(Method::POST, path).bearer_auth(TOKEN).header("content-type", JSON);
        Answer::of(request.header("content-encoding", coding).body(body))
    };
    for path in ["/api/publish", "/api/broadcast"] {
        for coding in ["gzip", "br", "identity, gzip"] {
            let says = [&format!("Content-Encoding is '{coding}'"), "send the body uncompressed"];
            let answer = post(path, coding, gzip.clone()).await;
            refused(&answer, (415, "unsupported_media_type", None, &says));
            assert_eq!(answer.header("accept-encoding"), "identity");
        }
        let answer = post(path, "identity", gzip.clone()).await;
        refused(&answer, (415, "unsupported_media_type", None, &["the body is gzip: send it uncompressed"]));
        assert_eq!(answer.header("accept-encoding"), "identity");
    }
    assert_eq!(post("/api/publish", "Identity", GOOD.into()).await.status, 200);
    hub.subscriber.next().await;
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn message_to_an_unknown_topic_is_refused_with_its_batch() {
    let known = "the topics are: scrape_progress, odds_updates";
    check_refused_with_batch(&[
        (r#"{"topic":"foo","data":1}"#, "unknown_topic", &["'foo'", known]),
        (r#"{"topic":"","data":1}"#, "unknown_topic", &["''", known]),
        (r#"{"topic":"Odds_Updates","data":1}"#, "unknown_topic", &["'Odds_Updates'", known]),
        (r#"{"topic":"odds_updates/8301","data":1}"#, "unknown_topic", &["'odds_updates/8301'", known]),
    ])
    .await;
}

#[tokio::test]
async fn error_names_the_first_of_several_invalid_messages() {
    let mut hub = Hub::start().await;
    let [unknown, broken] = [r#"{"topic":"foo","data":1}"#, r#"{"topic":"odds_updates","data":}"#];
    let cases = [([unknown, broken], "unknown_topic"), ([broken, unknown], "invalid_json")];
    for ([first, second], code) in cases {
        hub.refuses(LINES, format!("{GOOD}\n{first}\n{GOOD}\n{second}"), (400, code, Some(1), &[])).await;
        hub.refuses(JSON, format!("[{GOOD},{first},{GOOD},{second}]"), (400, code, Some(1), &[])).await;
    }
    hub.refuses(JSON, format!("[{GOOD},{unknown},{GOOD}"), (400, "unknown_topic", Some(1), &[])).await;
}

#[tokio::test]
async fn broken_array_is_refused_with_the_index_of_the_break() {
    let mut hub = Hub::start().await;
    let cases = [
        (format!("[{GOOD},{GOOD}"), 2),
        (format!("[{GOOD},"), 1),
        (format!("[{GOOD},]"), 1),
        (format!("[{GOOD} {GOOD}]"), 1),
        ("[".to_owned(), 0),
        (format!("[{GOOD}]]"), 1),
    ];
    for (body, index) in cases {
        hub.refuses(JSON, body, (400, "invalid_json", Some(index), &["not JSON", "line 1 column"])).await;
    }
}

#[tokio::test]
async fn error_never_repeats_a_long_value_in_full() {
    let mut hub = Hub::start().await;
    let long = "x".repeat(10_000);
    let cases = [
        ("topic", format!(r#"{{"topic":"{long}","data":1}}"#)),
        ("key", message(&format!(r#""key":"{long}""#))),
        ("type", message(&format!(r#""type":"{long}""#))),
        ("expires_at", message(&format!(r#""key":"a","expires_at":"{long}""#))),
        ("a field's name", message(&format!(r#""{long}":1"#))),
        ("a string instead of a message", format!(r#""{long}""#)),
    ];
    let mut echoed = Vec::new();
    for (what, body) in cases {
        let answer = hub.app.post("/api/publish", JSON, body).await;
        assert_eq!(answer.status, 400, "{what}");
        if answer.text.len() > 1000 {
            echoed.push(what);
        }
    }
    assert_eq!(echoed, [""; 0], "errors that repeat the long value");
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn client_that_disconnects_inside_a_body_changes_nothing() {
    let mut hub = Hub::start().await;
    let line = format!("{GOOD}\n");
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    for (framing, part) in [("Content-Length: 1000", &line), ("Transfer-Encoding: chunked", &chunk)] {
        let mut publisher = Raw::connect(hub.app.address).await;
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n");
        publisher.send(format!("{head}Content-Type: {LINES}\r\n{framing}\r\n\r\n{part}").as_bytes()).await;
        within(publisher.socket.shutdown()).await.expect("the connection is open");
        // When the server has ended the connection, it has finished handling the request.
        let answer = String::from_utf8(publisher.rest().await).unwrap();
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(hub.offset(), 0, "{framing}");
    }
    hub.subscriber.nothing_came().await;
}

// Order.

/// The parts of a received message: offset, topic, publisher, batch, and place in the batch.
fn seen(message: &Value) -> (u64, Value, u64, u64, u64) {
    let id = message["id"].as_str().expect("a position");
    let [publisher, batch, place] = [0, 1, 2].map(|at| message["data"][at].as_u64().unwrap());
    (id.rsplit_once('-').unwrap().1.parse().unwrap(), message["topic"].clone(), publisher, batch, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_subscribers_see_the_same_order_without_gaps() {
    const PUBLISHERS: u64 = 16;
    const BATCHES: u64 = 10;
    const TOTAL: u64 = PUBLISHERS * BATCHES * 3;
    let app = App::start().await;
    let mut sockets = join_all((0..4).map(|_| app.ws(""))).await;
    let mut streams = join_all((0..4).map(|_| app.sse(""))).await;
    let topic = |publisher: u64| if publisher.is_multiple_of(2) { "odds_updates" } else { "scrape_progress" };
    join_all((0..PUBLISHERS).map(async |publisher| {
        for batch in 0..BATCHES {
            let message = |place| json!({"topic": topic(publisher), "data": [publisher, batch, place]});
            app.publish(&json!([message(0), message(1), message(2)])).await;
        }
    }))
    .await;

    let mut orders = vec![Vec::new(); 8];
    for _ in 0..TOTAL {
        for (at, socket) in sockets.iter_mut().enumerate() {
            orders[at].push(seen(&socket.next().await));
        }
        for (at, stream) in streams.iter_mut().enumerate() {
            orders[4 + at].push(seen(&stream.next().await));
        }
    }
    assert!(orders.iter().all(|order| *order == orders[0]));
    assert!(orders[0].iter().map(|seen| seen.0).eq(1..=TOTAL), "the offsets have no gap");
    let mut next = BTreeMap::new();
    for batch in orders[0].chunks(3) {
        let (_, _, publisher, number, _) = batch[0];
        assert!(batch.iter().map(|seen| (seen.2, seen.3, seen.4)).eq((0..3).map(|place| (publisher, number, place))));
        assert_eq!(next.insert(publisher, number + 1).unwrap_or(0), number, "batches keep their order");
    }
}
