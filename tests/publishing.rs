//! What publishers send: three formats, one set of rules; taken whole or not at all, in one order for everybody.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use futures_util::stream;
use oddswire::config::Config;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::raw::Raw;
use crate::harness::{Answer, App, TOKEN, within, ws};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const GOOD: &str = r#"{"topic":"odds_updates","data":"good"}"#;

/// What a refusal has to say: status, code, index of the message, and parts of the detail.
pub type Refusal<'a> = (u16, &'a str, Option<usize>, &'a [&'a str]);

/// Asserts that an answer is a refusal in the contract's form.
#[track_caller]
pub fn refused(answer: &Answer, (status, code, index, says): Refusal<'_>) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
    assert_eq!(answer.header("content-type"), JSON, "{}", answer.text);
    let fields = answer.body["error"].as_object().expect("an error object");
    assert_eq!(fields.get("index"), index.map(Value::from).as_ref(), "{}", answer.text);
    for part in says {
        assert!(answer.detail().contains(part), "the detail does not say {part:?}: {}", answer.text);
    }
}

/// A server, and a subscriber that sees whatever is taken.
struct Hub {
    app: App,
    subscriber: ws::Client,
}

impl Hub {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let app = App::with(change).await;
        let subscriber = app.ws("").await;
        Self { app, subscriber }
    }

    fn offset(&self) -> u64 {
        self.app.manager.position().offset
    }

    /// Posts what has to be refused: nothing of it is taken or delivered.
    async fn refuses(&mut self, content_type: &str, body: impl Into<reqwest::Body>, refusal: Refusal<'_>) {
        let before = self.offset();
        let answer = self.app.post("/api/publish", content_type, body).await;
        refused(&answer, refusal);
        assert_eq!(self.offset(), before, "{}", answer.text);
        self.subscriber.nothing_came().await;
    }

    /// Sends what has to be taken, and reads what comes of it.
    async fn takes(&mut self, content_type: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
        let before = self.offset();
        let answer = self.app.post("/api/publish", content_type, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let mut messages = Vec::new();
        for _ in before..self.offset() {
            messages.push(self.subscriber.next().await);
        }
        self.subscriber.nothing_came().await;
        messages
    }
}

/// One message, with fields beside `topic` and `data`.
fn message(fields: &str) -> String {
    format!(r#"{{"topic":"odds_updates","data":1,{fields}}}"#)
}

/// A message that is this long as it stands in a body.
fn message_of(length: usize) -> String {
    let frame = r#"{"topic":"odds_updates","data":""}"#.len();
    format!(r#"{{"topic":"odds_updates","data":"{}"}}"#, "x".repeat(length - frame))
}

// Formats.

#[tokio::test]
async fn an_object_an_array_and_lines_are_taken() {
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
async fn the_answer_counts_the_messages_and_says_the_position_in_this_order() {
    let app = App::start().await;
    let twice = r#"[{"topic":"odds_updates","key":"a","data":1},{"topic":"odds_updates","key":"a","data":1}]"#;
    let answer = app.post("/api/publish", JSON, twice).await;
    let position = app.manager.position();
    assert_eq!(position.offset, 1);
    assert_eq!(answer.text, format!(r#"{{"accepted":2,"unchanged":1,"position":"{position}"}}"#));
    assert_eq!(answer.header("content-type"), JSON);
}

#[tokio::test]
async fn the_content_type_decides_the_format_and_another_one_is_refused() {
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
async fn a_body_without_a_message_is_refused() {
    let mut hub = Hub::start().await;
    let cases = [(JSON, ""), (JSON, " \n"), (JSON, "[]"), (JSON, " [ ] "), (LINES, ""), (LINES, "\n \r\n\n")];
    for (content_type, body) in cases {
        let says = ["no message", "an object, a non-empty array of objects, or one object a line"];
        hub.refuses(content_type, body, (400, "empty", None, &says)).await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_refused_with_the_place() {
    let mut hub = Hub::start().await;
    let body = b"{\"topic\":\"odds_updates\",\"data\":\"\xff\"}";
    for content_type in [JSON, LINES] {
        hub.refuses(content_type, &body[..], (400, "invalid_json", None, &["not UTF-8", "byte 32"])).await;
    }
}

#[tokio::test]
async fn lines_sent_as_json_and_an_array_sent_as_lines_are_refused() {
    let mut hub = Hub::start().await;
    hub.refuses(JSON, format!("{GOOD}\n{GOOD}\n"), (400, "invalid_json", Some(0), &["trailing characters"])).await;
    hub.refuses(LINES, format!("[{GOOD}]"), (400, "invalid_message", Some(0), &["object"])).await;
}

// All or nothing.

/// Each message is refused with its index, wherever it stands, and takes its whole batch with it.
async fn refused_with_their_batch(cases: &[(&str, &str, &[&str])]) {
    let mut hub = Hub::start().await;
    for (bad, code, says) in cases {
        hub.refuses(JSON, format!("[{GOOD},{GOOD},{bad},{GOOD}]"), (400, code, Some(2), says)).await;
        hub.refuses(JSON, format!("[{GOOD},{bad}]"), (400, code, Some(1), says)).await;
        hub.refuses(LINES, format!("{GOOD}\n\n{bad}\r\n{GOOD}\n"), (400, code, Some(1), says)).await;
        hub.refuses(LINES, (*bad).to_owned(), (400, code, Some(0), says)).await;
    }
    assert_eq!(hub.offset(), 0);
}

#[tokio::test]
async fn a_message_that_is_not_json_is_refused_with_its_batch() {
    let not_json = ["nonsense", "{", r#"{"topic":"odds_updates","data":}"#, r#"{"topic":"odds_updates","data":01}"#];
    refused_with_their_batch(&not_json.map(|bad| (bad, "invalid_json", &["not JSON", "line 1 column"][..]))).await;
}

#[tokio::test]
async fn a_message_that_is_no_object_is_refused_with_its_batch() {
    let others = ["1", "null", "true", r#""text""#, "[]", "{}", r#"["odds_updates",null,null,1,null]"#];
    let says = |other: &str| if other == "{}" { &["missing field `topic`"][..] } else { &["object"] };
    refused_with_their_batch(&others.map(|other| (other, "invalid_message", says(other)))).await;
}

#[tokio::test]
async fn a_message_with_missing_wrong_or_unknown_fields_is_refused_with_its_batch() {
    let expected = "expected one of `topic`, `key`, `type`, `data`, `expires_at`";
    let cases: [(&str, &[&str]); 10] = [
        (r#"{"data":1}"#, &["missing field `topic`"]),
        (r#"{"topic":"odds_updates"}"#, &["missing field `data`"]),
        (r#"{"topic":"odds_updates","data":1,"colour":"red"}"#, &["unknown field `colour`", expected]),
        (r#"{"topic":"odds_updates","data":1,"Key":"a"}"#, &["unknown field `Key`", expected]),
        (r#"{"topic":"odds_updates","data":1,"topic":"odds_updates"}"#, &["duplicate field `topic`"]),
        (r#"{"topic":"odds_updates","data":1,"data":2}"#, &["duplicate field `data`"]),
        (r#"{"topic":7,"data":1}"#, &["integer `7`", "expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"key":8301}"#, &["integer `8301`", "expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"type":{}}"#, &["invalid type: map", "expected a string"]),
        (r#"{"topic":"odds_updates","data":1,"key":"a","expires_at":5}"#, &["integer `5`", "expected a string"]),
    ];
    refused_with_their_batch(&cases.map(|(bad, says)| (bad, "invalid_message", says))).await;
}

#[tokio::test]
async fn a_message_to_an_unknown_topic_is_refused_with_its_batch() {
    let known = "the topics are: scrape_progress, odds_updates";
    refused_with_their_batch(&[
        (r#"{"topic":"foo","data":1}"#, "unknown_topic", &["'foo'", known]),
        (r#"{"topic":"","data":1}"#, "unknown_topic", &["''", known]),
        (r#"{"topic":"Odds_Updates","data":1}"#, "unknown_topic", &["'Odds_Updates'", known]),
        (r#"{"topic":"odds_updates/8301","data":1}"#, "unknown_topic", &["'odds_updates/8301'", known]),
    ])
    .await;
}

#[tokio::test]
async fn of_several_bad_messages_the_first_one_is_named() {
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
async fn an_array_that_does_not_end_is_refused_with_the_index_where_it_breaks() {
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
async fn a_refusal_is_never_as_long_as_what_caused_it() {
    let mut hub = Hub::start().await;
    let long = "x".repeat(10_000);
    let cases = [
        ("topic", format!(r#"{{"topic":"{long}","data":1}}"#)),
        ("key", message(&format!(r#""key":"{long}""#))),
        ("type", message(&format!(r#""type":"{long}""#))),
        ("expires_at", message(&format!(r#""key":"a","expires_at":"{long}""#))),
        ("a field's name", message(&format!(r#""{long}":1"#))),
        ("a string for a message", format!(r#""{long}""#)),
    ];
    let mut echoed = Vec::new();
    for (what, body) in cases {
        let answer = hub.app.post("/api/publish", JSON, body).await;
        assert_eq!(answer.status, 400, "{what}");
        if answer.text.len() > 1000 {
            echoed.push(what);
        }
    }
    assert_eq!(echoed, [""; 0], "echoed whole");
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_a_body_changes_nothing() {
    let mut hub = Hub::start().await;
    let line = format!("{GOOD}\n");
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    for (framing, part) in [("Content-Length: 1000", &line), ("Transfer-Encoding: chunked", &chunk)] {
        let mut publisher = Raw::connect(hub.app.address).await;
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n");
        publisher.send(format!("{head}Content-Type: {LINES}\r\n{framing}\r\n\r\n{part}").as_bytes()).await;
        within(publisher.socket.shutdown()).await.expect("the connection is open");
        // Once the server has ended the connection it has done all that it will do.
        let answer = String::from_utf8(publisher.rest().await).unwrap();
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(hub.offset(), 0, "{framing}");
    }
    hub.subscriber.nothing_came().await;
}

// What a message says.

#[tokio::test]
async fn data_reaches_websocket_clients_byte_for_byte_and_event_streams_in_value() {
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
        assert!(text.ends_with(&format!(r#","data":{data}}}"#)), "{data:?} came as {text:?}");
        let event = stream.text().await;
        let [sent, came] = [text.as_str(), &event].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(sent, came);
        assert!(data.contains(['\r', '\n']) || text.as_str() == event, "{event:?}");
    }
}

#[tokio::test]
async fn a_key_of_256_bytes_is_taken_and_one_that_breaks_a_rule_is_not() {
    let mut hub = Hub::start().await;
    for key in ["a".to_owned(), "8301/1x2/betpawa".to_owned(), "k".repeat(256), "é".repeat(128)] {
        let messages = hub.takes(JSON, message(&format!(r#""key":"{key}""#))).await;
        assert_eq!(messages[0]["key"], key);
    }
    let cases = [
        ("k".repeat(257), "too long"),
        (format!("{}k", "é".repeat(128)), "too long"),
        (String::new(), "it is empty"),
        ("/8301".to_owned(), "'/8301' is not valid: it has an empty segment"),
        ("8301/".to_owned(), "empty segment"),
        ("8301//1x2".to_owned(), "empty segment"),
        (r"a\u0000b".to_owned(), "control character"),
        (r"a\nb".to_owned(), "control character"),
    ];
    for (key, rule) in cases {
        let says = [rule, "a key is 1 to 256 bytes, segments joined by '/'"];
        hub.refuses(JSON, message(&format!(r#""key":"{key}""#)), (400, "invalid_message", Some(0), &says)).await;
    }
}

#[tokio::test]
async fn a_type_of_64_bytes_is_taken_and_one_that_breaks_a_rule_is_not() {
    let mut hub = Hub::start().await;
    for kind in ["t".to_owned(), "t".repeat(64), "é".repeat(32), "odds update".to_owned(), "Pong".to_owned()] {
        let messages = hub.takes(JSON, message(&format!(r#""type":"{kind}""#))).await;
        assert_eq!(messages[0]["type"], kind);
    }
    for kind in ["", &"t".repeat(65), &format!("{}t", "é".repeat(32)), r"a\tb", r"\u007f"] {
        let says = ["type '", "is not valid", "1 to 64 bytes without control characters"];
        hub.refuses(JSON, message(&format!(r#""type":"{kind}""#)), (400, "invalid_message", Some(0), &says)).await;
    }
}

#[tokio::test]
async fn a_type_that_the_server_uses_itself_is_refused() {
    let mut hub = Hub::start().await;
    let reserved =
        ["connection_ack", "subscription_update", "ping", "pong", "error", "catch_up", "caught_up", "reconnect"];
    for kind in reserved {
        let named = format!("type '{kind}' is the server's own");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "use another one"]);
        hub.refuses(JSON, message(&format!(r#""type":"{kind}""#)), refusal).await;
        // A name stays the same however it is escaped.
        let escaped = kind.replacen('e', r"\u0065", 1).replacen('p', r"\u0070", 1);
        hub.refuses(JSON, message(&format!(r#""type":"{escaped}""#)), refusal).await;
    }
}

#[tokio::test]
async fn an_expiry_is_in_the_future_well_formed_and_of_a_key() {
    let mut hub = Hub::start().await;
    for moment in ["2999-02-06T19:00:00Z", "2999-02-06T19:00:00.123456+02:00"] {
        assert_eq!(hub.takes(JSON, message(&format!(r#""key":"{moment}","expires_at":"{moment}""#))).await.len(), 1);
    }
    for past in ["2020-02-06T19:00:00Z", "1969-12-31T23:59:59Z", "2020-02-06T23:59:59-02:00"] {
        let named = format!("expires_at '{past}' is in the past");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "Z now"]);
        hub.refuses(JSON, message(&format!(r#""key":"a","expires_at":"{past}""#)), refusal).await;
    }
    for malformed in ["", "tomorrow", "2999-02-06", "2999-02-06T19:00:00", "2999-02-30T19:00:00Z", "32472147600"] {
        let named = format!("expires_at '{malformed}' is no RFC 3339 time");
        let refusal: Refusal = (400, "invalid_message", Some(0), &[&named, "2026-02-06T19:00:00Z"]);
        hub.refuses(JSON, message(&format!(r#""key":"a","expires_at":"{malformed}""#)), refusal).await;
    }
    let keyless = message(r#""expires_at":"2999-02-06T19:00:00Z""#);
    hub.refuses(JSON, keyless, (400, "invalid_message", Some(0), &["'expires_at' without a 'key'"])).await;
}

#[tokio::test]
async fn null_deletes_a_key_and_needs_one() {
    let mut hub = Hub::start().await;
    let keyless = json!({"topic": "odds_updates", "data": null}).to_string();
    hub.refuses(JSON, keyless, (400, "invalid_message", Some(0), &["null without a 'key'", "name the key"])).await;

    let [set, delete] = [json!(1), Value::Null].map(|data| json!({"topic": "odds_updates", "key": "a", "data": data}));
    hub.takes(JSON, set.to_string()).await;
    let messages = hub.takes(JSON, delete.to_string()).await;
    assert_eq!((&messages[0]["key"], &messages[0]["data"]), (&json!("a"), &Value::Null));
    assert!(messages[0].as_object().unwrap().contains_key("data"));
    assert_eq!(hub.app.publish(&delete).await["unchanged"], 1, "there is nothing left to delete");
    hub.subscriber.nothing_came().await;
    assert_eq!(hub.takes(JSON, set.to_string()).await.len(), 1, "the same value after a deletion is a change");
}

#[tokio::test]
async fn an_unchanged_keyed_message_is_confirmed_and_not_delivered() {
    let mut hub = Hub::start().await;
    let batch = |data: &[&str]| {
        let message = |data: &&str| format!(r#"{{"topic":"odds_updates","key":"a","data":{data}}}"#);
        format!("[{}]", data.iter().map(message).collect::<Vec<_>>().join(","))
    };
    // Bytes are compared, not values: a publisher that writes a number anew has something to say.
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
async fn keyless_messages_and_those_with_another_type_of_a_key_are_told_apart() {
    let mut hub = Hub::start().await;
    for _ in 0..2 {
        assert_eq!(hub.takes(JSON, GOOD).await.len(), 1, "a keyless message is never unchanged");
    }
    for key in ["a", "a/b"] {
        assert_eq!(hub.takes(JSON, message(&format!(r#""key":"{key}""#))).await.len(), 1, "keys have their own data");
    }
    let elsewhere = r#"{"topic":"scrape_progress","key":"a","data":1}"#;
    assert_eq!(hub.takes(JSON, elsewhere).await.len(), 1, "so have topics");
}

#[tokio::test]
async fn without_suppress_unchanged_an_unchanged_message_is_delivered() {
    let mut hub = Hub::with(|config| config.suppress_unchanged = false).await;
    for offset in 1..=3 {
        let answer = hub.app.odds("a", 1).await;
        assert_eq!(answer["unchanged"], 0);
        assert_eq!(hub.offset(), offset);
        assert_eq!(hub.subscriber.next().await["id"], answer["position"]);
    }
}

// Who may publish.

#[tokio::test]
async fn publishing_takes_the_token_and_nothing_else() {
    let app = App::start().await;
    let needed = "'Authorization: Bearer <token>'";
    let cases = [
        (None, 401, needed),
        (Some("Basic dXNlcjpwYXNz"), 401, needed),
        (Some("test-token"), 401, needed),
        (Some("Bearertest-token"), 401, needed),
        (Some("Bearer wrong"), 401, "that of no publisher"),
        (Some("Bearer test-toke"), 401, "that of no publisher"),
        (Some("Bearer test-tokens"), 401, "that of no publisher"),
        (Some("Bearer Test-Token"), 401, "that of no publisher"),
        (Some("Bearer test-token"), 200, ""),
        (Some("bearer test-token"), 200, ""),
        (Some("BEARER  test-token"), 200, ""),
    ];
    for (path, body) in [("/api/publish", GOOD), ("/api/broadcast", r#"{"type":"notice","data":1}"#)] {
        for (authorization, status, says) in cases {
            let mut request = app.request(Method::POST, path).header("content-type", JSON).body(body);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, status, "{authorization:?} at {path}");
            if status == 401 {
                refused(&answer, (401, "unauthorized", None, &[says]));
                assert_eq!(answer.header("www-authenticate"), "Bearer");
                assert!(!answer.text.contains("test-token"), "{}", answer.text);
            }
        }
    }
    assert_eq!(app.manager.position().offset, 3);
}

#[tokio::test]
async fn without_a_token_publishing_is_off_and_says_which_setting_enables_it() {
    let app = App::with(|config| config.publish_token = None).await;
    for path in ["/api/publish", "/api/broadcast"] {
        let says = ["publish-token", "ODDSWIRE_PUBLISH_TOKEN", "publish-token-file"];
        refused(&app.post(path, JSON, GOOD).await, (403, "publishing_disabled", None, &says));
    }
    assert_eq!(app.manager.position().offset, 0);
}

#[tokio::test]
async fn another_method_gets_a_405_that_says_which_is_possible() {
    let app = App::start().await;
    for path in ["/api/publish", "/api/broadcast"] {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = Answer::of(app.request(method.clone(), path).bearer_auth(TOKEN)).await;
            refused(&answer, (405, "method_not_allowed", None, &[method.as_str(), "use POST"]));
            assert_eq!(answer.header("allow"), "POST");
        }
    }
}

// Limits.

#[tokio::test]
async fn a_body_of_publish_body_bytes_is_taken_and_one_byte_more_is_not() {
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
async fn a_body_that_announces_itself_as_too_long_is_refused_before_it_is_sent() {
    let app = App::start().await;
    let head =
        format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let head = format!("{head}Content-Type: {JSON}\r\nExpect: 100-continue\r\n");
    for (length, answer) in
        [((8 << 20) + 1, "HTTP/1.1 413 "), (8 << 20, "HTTP/1.1 100 "), (usize::MAX >> 1, "HTTP/1.1 413 ")]
    {
        let mut publisher = Raw::connect(app.address).await;
        publisher.send(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).await;
        let came = publisher.head().await;
        assert!(came.starts_with(answer), "{length}: {came}");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_publisher_that_sends_its_whole_body_before_it_reads() {
    // More than the socket buffers of both sides hold.
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
async fn a_message_of_publish_message_bytes_is_taken_and_one_byte_more_is_not() {
    let mut hub = Hub::with(|config| config.publish_message_bytes = 1024).await;
    let [exact, over] = [1024, 1025].map(message_of);
    assert_eq!((exact.len(), over.len()), (1024, 1025));
    assert_eq!(hub.takes(JSON, format!("  {exact}\n")).await.len(), 1, "white space around a message is none of it");
    assert_eq!(hub.takes(JSON, format!("[{exact}, {exact}]")).await.len(), 2);
    assert_eq!(hub.takes(LINES, format!("{exact}\r\n{exact}\n")).await.len(), 2);
    let says = ["has 1025 bytes", "limit is 1024", "publish-message-bytes"];
    hub.refuses(JSON, over.clone(), (413, "message_too_large", Some(0), &says)).await;
    hub.refuses(JSON, format!("[{exact},{over}]"), (413, "message_too_large", Some(1), &says)).await;
    hub.refuses(LINES, format!("{exact}\n\n{exact}\n{over}\n"), (413, "message_too_large", Some(2), &says)).await;
}

#[tokio::test]
async fn a_request_of_publish_batch_messages_is_taken_and_one_message_more_is_not() {
    let mut hub = Hub::with(|config| config.publish_batch_messages = 3).await;
    let batch = |count: usize, between: &str| vec![message_of(100); count].join(between);
    assert_eq!(hub.takes(JSON, format!("[{}]", batch(3, ","))).await.len(), 3);
    assert_eq!(hub.takes(LINES, batch(3, "\n\n") + "\n").await.len(), 3);
    let says = ["has 4 messages", "limit is 3", "publish-batch-messages", "several requests"];
    hub.refuses(JSON, format!("[{}]", batch(4, ",")), (413, "batch_too_large", None, &says)).await;
    hub.refuses(LINES, batch(4, "\n"), (413, "batch_too_large", None, &says)).await;
}

#[tokio::test]
async fn a_topic_takes_keys_up_to_state_keys_and_refuses_the_batch_with_one_more() {
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

    assert_eq!(hub.takes(JSON, set("a", json!(3)).to_string()).await.len(), 1, "a known key has its place");
    assert_eq!(hub.takes(JSON, GOOD).await.len(), 1, "a keyless message needs none");
    let elsewhere = json!({"topic": "scrape_progress", "key": "c", "data": 1});
    assert_eq!(hub.takes(JSON, elsewhere.to_string()).await.len(), 1, "each topic has its own room");
    let moved = json!([set("a", Value::Null), set("c", json!(1))]);
    assert_eq!(hub.takes(JSON, moved.to_string()).await.len(), 2, "a deletion makes room within the batch");
    hub.refuses(JSON, set("a", json!(1)).to_string(), full(0)).await;
}

// Retries.

fn retry(app: &App, key: impl AsRef<[u8]>, body: &str) -> reqwest::RequestBuilder {
    let key = HeaderValue::from_bytes(key.as_ref()).unwrap();
    let request = app.request(Method::POST, "/api/publish").bearer_auth(TOKEN).header("idempotency-key", key);
    request.header("content-type", JSON).body(body.to_owned())
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_delivers_nothing() {
    let mut hub = Hub::start().await;
    let body = format!("[{GOOD},{GOOD}]");
    let first = Answer::of(retry(&hub.app, "run-1", &body)).await;
    assert_eq!(first.body["accepted"], 2);
    hub.app.publish(&json!({"topic": "odds_updates", "data": "between"})).await;
    for _ in 0..3 {
        let again = Answer::of(retry(&hub.app, "run-1", &body)).await;
        assert_eq!((again.status, &again.text), (200, &first.text));
    }
    let other = Answer::of(retry(&hub.app, "run-2", &body)).await;
    assert_ne!(other.body["position"], first.body["position"], "another key is another request");
    for data in ["good", "good", "between", "good", "good"] {
        assert_eq!(hub.subscriber.next().await["data"], data);
    }
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn an_idempotency_key_is_good_for_one_body() {
    let mut hub = Hub::start().await;
    let refusal: Refusal = (409, "idempotency_key_reused", None, &["another body", "use a new key"]);
    let bad = Answer::of(retry(&hub.app, "k", r#"{"topic":"foo","data":1}"#)).await;
    assert_eq!(bad.code(), "unknown_topic");
    assert_eq!(Answer::of(retry(&hub.app, "k", GOOD)).await.status, 200, "a refused request does not use its key up");
    refused(&Answer::of(retry(&hub.app, "k", &format!("{GOOD} "))).await, refusal);
    refused(&Answer::of(retry(&hub.app, "k", &GOOD.replace("good", "bad"))).await, refusal);
    assert_eq!(hub.offset(), 1);
    assert_eq!(hub.subscriber.next().await["data"], "good");
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn an_idempotency_key_has_1_to_255_ascii_characters() {
    let app = App::start().await;
    let [longest, too_long] = [255, 256].map(|length| "k".repeat(length).into_bytes());
    for good in [&b"k"[..], b"8301 a/b", &longest] {
        assert_eq!(Answer::of(retry(&app, good, GOOD)).await.status, 200, "{}", good.len());
    }
    for bad in [&b""[..], &too_long, "clé".as_bytes()] {
        let says = ["Idempotency-Key", "1 to 255 visible ASCII characters"];
        refused(&Answer::of(retry(&app, bad, GOOD)).await, (400, "bad_request", None, &says));
    }
    assert_eq!(app.manager.position().offset, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_retries_are_taken_once() {
    let mut hub = Hub::start().await;
    let body = format!("[{GOOD},{GOOD},{GOOD}]");
    let answers = join_all((0..20).map(|_| Answer::of(retry(&hub.app, "run-1", &body)))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (200, &answers[0].text));
    }
    assert_eq!(hub.offset(), 3);
    for _ in 0..3 {
        hub.subscriber.expect("odds_updates").await;
    }
    hub.subscriber.nothing_came().await;
}

// Broadcast. That it reaches everybody is shown in `websocket.rs` and `sse.rs`.

#[tokio::test]
async fn a_broadcast_that_breaks_a_rule_is_refused_and_reaches_nobody() {
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
        (r#"{"type":7,"data":1}"#, "invalid_message", &["integer `7`", "expected a string"]),
        (r#"{"type":"","data":1}"#, "invalid_message", &["type '' is not valid", "1 to 64 bytes"]),
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
async fn a_broadcast_of_publish_message_bytes_is_sent_byte_for_byte_and_one_byte_more_is_not() {
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

// Order.

/// What a subscriber saw of the publishers' batches: position, topic, publisher, batch and place in it.
fn seen(message: &Value) -> (u64, Value, u64, u64, u64) {
    let id = message["id"].as_str().expect("a position");
    let [publisher, batch, place] = [0, 1, 2].map(|at| message["data"][at].as_u64().unwrap());
    (id.rsplit_once('-').unwrap().1.parse().unwrap(), message["topic"].clone(), publisher, batch, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_subscriber_sees_the_same_dense_order_whoever_publishes() {
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
    assert!(orders[0].iter().map(|seen| seen.0).eq(1..=TOTAL), "positions are dense");
    let mut next = BTreeMap::new();
    for batch in orders[0].chunks(3) {
        let (_, _, publisher, number, _) = batch[0];
        assert!(batch.iter().map(|seen| (seen.2, seen.3, seen.4)).eq((0..3).map(|place| (publisher, number, place))));
        assert_eq!(next.insert(publisher, number + 1).unwrap_or(0), number, "a publisher's own order");
    }
}
