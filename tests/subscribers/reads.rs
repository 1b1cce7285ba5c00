//! Plain reads: topics, state and health; and the answers for unknown paths and methods.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::hub::refused;
use crate::harness::raw::Raw;
use crate::harness::{Answer, App, TOKEN, within};

const STATE: &str = "/api/topics/odds_updates/state";

/// The keys of a state, in the order of its items.
fn keys(state: &Answer) -> Vec<&str> {
    assert_eq!(state.status, 200, "{}", state.text);
    let items = state.body["items"].as_array().expect("items");
    items.iter().map(|item| item["key"].as_str().unwrap_or("(keyless)")).collect()
}

async fn none_match(app: &App, listed: &str) -> Answer {
    Answer::of(app.request(Method::GET, STATE).header("if-none-match", listed)).await
}

// Topics.

#[tokio::test]
async fn topics_of_a_new_server_are_empty() {
    let app = App::start().await;
    let answer = app.get("/api/topics").await;
    let entry = |name: &str| {
        let position = app.manager.position();
        format!(r#"{{"name":"{name}","subscribers":0,"keys":0,"history":0,"position":"{position}"}}"#)
    };
    let entries = [entry("odds_updates"), entry("scrape_progress")].join(",");
    assert_eq!(answer.text, format!(r#"{{"connections":0,"topics":[{entries}]}}"#));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
}

#[tokio::test]
async fn topics_count_connections_subscribers_keys_and_history() {
    let app = App::with(|config| config.history_messages = 3).await;
    let narrowed = app.ws("topics=odds_updates/1,odds_updates/2").await;
    let _all = (app.sse("").await, app.ws("topics=scrape_progress").await, app.ws("topics=foo").await);
    for (key, data) in [("a", json!(1)), ("b", json!(1)), ("a", json!(2)), ("c", json!(1)), ("c", Value::Null)] {
        app.odds(key, data).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": 1})).await;

    let body = app.get("/api/topics").await.body;
    let counts = |body: &Value, at: usize| {
        let topic = &body["topics"][at];
        assert_eq!(topic["position"], app.manager.position().to_string(), "one sequence for all topics");
        ["subscribers", "keys", "history"].map(|name| topic[name].as_u64().unwrap())
    };
    assert_eq!(body["connections"], 4);
    assert_eq!(
        counts(&body, 0),
        [2, 2, 3],
        "a connection counts once, a deleted key does not count, the history is bounded"
    );
    assert_eq!(counts(&body, 1), [2, 0, 1]);
    narrowed.close().await;
    app.connections(3).await;
    assert_eq!(counts(&app.get("/api/topics").await.body, 0)[0], 1);
}

// State.

#[tokio::test]
async fn state_has_the_latest_message_of_every_key_in_order() {
    let app = App::start().await;
    let body = r#"[{"topic":"odds_updates","key":"a","data":1},
        {"topic":"odds_updates","key":"b/\"c\"","data":{ "p" : 1.50,"p":[ ]}},
        {"topic":"scrape_progress","key":"a","data":"another topic"},
        {"topic":"odds_updates","key":"a","data":2e0}]"#;
    app.post("/api/publish", "application/json", body).await;
    let answer = app.get(STATE).await;
    let position = app.manager.position();
    let timestamp = answer.body["items"][0]["timestamp"].as_str().expect("a timestamp");
    assert_eq!(timestamp.len(), "2026-02-06T12:00:00.123Z".len());
    let item = |key: &str, offset: u64, data: &str| {
        let id = format!("{}-{offset}", position.epoch);
        format!(r#"{{"key":"{key}","id":"{id}","timestamp":"{timestamp}","data":{data}}}"#)
    };
    let items = [item(r#"b/\"c\""#, 2, r#"{ "p" : 1.50,"p":[ ]}"#), item("a", 4, "2e0")].join(",");
    assert_eq!(answer.text, format!(r#"{{"topic":"odds_updates","position":"{position}","items":[{items}]}}"#));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
}

#[tokio::test]
async fn empty_state_is_an_empty_list() {
    let app = App::start().await;
    let position = app.manager.position();
    let empty = format!(r#"{{"topic":"odds_updates","position":"{position}","items":[]}}"#);
    assert_eq!(app.get(STATE).await.text, empty);
    assert_eq!(app.get(&format!("{STATE}?key=8301")).await.text, empty);
}

#[tokio::test]
async fn key_narrows_the_state_at_whole_segments() {
    let app = App::start().await;
    // In ASCII, `-` comes before `/`, and `0` after it.
    let others = ["83/1x2", "83011/1x2", "83010", "8301-a/1x2", "x/8301"];
    for key in ["8301/1x2/b", "8301", "8301/1x2", "8301/ou/a", "8301/1x2/a"].into_iter().chain(others) {
        app.odds(key, key).await;
    }
    let cases: [(&str, &[&str]); 6] = [
        ("8301", &["8301/1x2/b", "8301", "8301/1x2", "8301/ou/a", "8301/1x2/a"]),
        ("8301/1x2", &["8301/1x2/b", "8301/1x2", "8301/1x2/a"]),
        ("8301%2F1x2", &["8301/1x2/b", "8301/1x2", "8301/1x2/a"]),
        ("8301/1x2/a", &["8301/1x2/a"]),
        ("830", &[]),
        ("8301/1", &[]),
    ];
    for (key, expected) in cases {
        let state = app.get(&format!("{STATE}?key={key}")).await;
        assert_eq!(keys(&state), expected, "{key}");
        assert_eq!(state.body["position"], app.manager.position().to_string());
    }
    assert_eq!(keys(&app.get(STATE).await).len(), 10);
}

#[tokio::test]
async fn latest_keyless_message_is_only_in_the_whole_state() {
    let app = App::start().await;
    app.odds("a", 1).await;
    for data in ["first", "second"] {
        app.publish(&json!({"topic": "odds_updates", "data": data})).await;
    }
    app.odds("b", 1).await;
    let state = app.get(STATE).await;
    assert_eq!(keys(&state), ["a", "(keyless)", "b"]);
    assert_eq!(state.body["items"][1]["data"], "second");
    assert!(state.body["items"][1].get("key").is_none(), "{}", state.text);
    assert_eq!(keys(&app.get(&format!("{STATE}?key=a")).await), ["a"]);
}

#[tokio::test]
async fn deleted_key_is_not_in_the_state() {
    let app = App::start().await;
    app.odds("a", 1).await;
    app.odds("b", 1).await;
    app.odds("a", Value::Null).await;
    assert_eq!(keys(&app.get(STATE).await), ["b"]);
    app.odds("a", 2).await;
    assert_eq!(keys(&app.get(STATE).await), ["b", "a"]);
}

/// A message whose key expires at this time.
fn expiring(key: &str, at: &str) -> Value {
    json!({"topic": "odds_updates", "key": key, "data": 1, "expires_at": at})
}

#[tokio::test]
async fn expired_key_leaves_the_state_and_subscribers_get_null() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    app.odds("stays", 1).await;
    let (soon, _) = app.publish_expiring(|soon| expiring("goes", soon)).await;
    client.next().await;
    assert_eq!(client.next().await["key"], "goes");

    let deletion = client.next().await;
    assert_eq!((&deletion["key"], &deletion["data"]), (&json!("goes"), &Value::Null));
    assert!(deletion["timestamp"].as_str().unwrap() >= soon.as_str(), "the key does not expire too early: {deletion}");
    assert_eq!(deletion["id"], app.manager.position().to_string());
    assert_eq!(keys(&app.get(STATE).await), ["stays"]);
    assert_eq!(app.get("/api/topics").await.body["topics"][0]["keys"], 1);
}

#[tokio::test]
async fn unchanged_message_still_moves_the_expiry_of_its_key() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    let batch = |soon: &str| {
        let lasting = |key, data| json!({"topic": "odds_updates", "key": key, "data": data});
        let mut batch = ["later", "never", "new", "goes"].map(|key| expiring(key, soon)).to_vec();
        batch.extend([expiring("later", "2999-02-06T19:00:00Z"), lasting("never", 1), lasting("new", 2)]);
        json!(batch)
    };
    let (_, answer) = app.publish_expiring(batch).await;
    assert_eq!((&answer["accepted"], &answer["unchanged"]), (&json!(7), &json!(2)));
    for key in ["later", "never", "new", "goes", "new"] {
        assert_eq!(client.next().await["key"], key);
    }
    // When several keys expire at the same time, the server deletes all of them before it handles anything else.
    let deletion = client.next().await;
    assert_eq!((&deletion["key"], &deletion["data"]), (&json!("goes"), &Value::Null));
    client.nothing_came().await;
    assert_eq!(keys(&app.get(STATE).await), ["later", "never", "new"]);
}

#[tokio::test]
async fn states_with_the_same_etag_are_equal_while_a_key_expires() {
    let app = App::start().await;
    app.publish_expiring(|soon| expiring("goes", soon)).await;
    within(async {
        let mut last = app.get(STATE).await;
        while !keys(&last).is_empty() {
            let next = app.get(STATE).await;
            if next.header("etag") == last.header("etag") {
                assert_eq!(next.text, last.text);
            }
            last = next;
        }
    })
    .await;
}

#[tokio::test]
async fn etag_is_the_position_and_an_unchanged_state_gets_304() {
    let app = App::start().await;
    app.odds("a", 1).await;
    let first = app.get(STATE).await;
    let etag = first.header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", app.manager.position()));
    for listed in [etag.clone(), format!("W/{etag}"), format!("\"1-1\", {etag}"), "*".to_owned()] {
        let again = none_match(&app, &listed).await;
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", etag.as_str()), "{listed}");
    }
    for other in ["\"1-1\"", &etag.replace('"', ""), ""] {
        assert_eq!(none_match(&app, other).await.status, 200, "{other}");
    }
    app.odds("a", 2).await;
    let changed = none_match(&app, &etag).await;
    assert_eq!((changed.status, &changed.body["items"][0]["data"]), (200, &json!(2)));
    assert_ne!(changed.header("etag"), etag);
    assert_eq!(changed.header("cache-control"), "no-cache", "a cache must revalidate each time");
}

#[tokio::test]
async fn unknown_topic_is_not_found_and_invalid_key_is_refused() {
    let app = App::start().await;
    let topics = "the topics are: scrape_progress, odds_updates";
    for topic in ["foo", "Odds_Updates"] {
        let answer = app.get(&format!("/api/topics/{topic}/state")).await;
        refused(&answer, (404, "unknown_topic", None, &[&format!("'{topic}'"), topics]));
    }
    let too_long = "k".repeat(257);
    let cases = [
        ("", "key: invalid key '': it is empty"),
        ("8301/", "'8301/': it has an empty segment"),
        ("%2F", "empty segment"),
        ("a%0Ab", "control character"),
        (&too_long, "too long"),
    ];
    for (key, rule) in cases {
        let answer = app.get(&format!("{STATE}?key={key}")).await;
        refused(&answer, (400, "bad_request", None, &[rule, "expected 1 to 256 bytes"]));
    }
    assert_eq!(app.get(&format!("{STATE}?key={}", "k".repeat(256))).await.status, 200);
}

#[tokio::test]
async fn state_of_20_000_keys_is_streamed_completely_in_order() {
    const KEYS: usize = 20_000;
    let app = App::with(|config| config.publish_batch_messages = KEYS).await;
    let line = |at: usize| format!(r#"{{"topic":"odds_updates","key":"{at}/1x2","data":{{"at":{at}}}}}"#) + "\n";
    let lines: String = (0..KEYS).map(line).collect();
    let answer = app.post("/api/publish", "application/x-ndjson", lines).await;
    assert_eq!(answer.body["accepted"], KEYS);
    // Publish two keys again, so that these two come last.
    app.publish(&json!([
        {"topic": "odds_updates", "key": "7/1x2", "data": {"at": 20_000}},
        {"topic": "odds_updates", "key": "3/1x2", "data": {"at": 20_001}},
    ]))
    .await;

    let state = app.get(STATE).await;
    assert_eq!((state.header("content-length"), state.header("transfer-encoding")), ("", "chunked"));
    let items = state.body["items"].as_array().expect("items");
    let expected = (0..KEYS).filter(|at| ![3, 7].contains(at)).chain([20_000, 20_001]);
    assert_eq!(items.len(), KEYS);
    for (item, at) in items.iter().zip(expected) {
        let epoch = app.manager.position().epoch;
        assert_eq!((&item["data"]["at"], &item["id"]), (&json!(at), &json!(format!("{epoch}-{}", at + 1))));
    }
}

// Health.

#[tokio::test]
async fn running_server_is_alive_and_ready() {
    let app = App::start().await;
    let health = app.get("/healthz").await;
    assert_eq!((health.status, health.text.as_str()), (200, r#"{"status":"ok"}"#));
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status, &ready.body), (200, &json!({"ready": true, "draining": false, "engine": "ok"})));
    for answer in [health, ready] {
        assert_eq!(answer.header("content-type"), "application/json");
    }
}

// Paths and methods.

#[tokio::test]
async fn unknown_path_gets_404_with_a_list_of_the_known_paths() {
    let app = App::start().await;
    let paths = [
        "/console",
        "/api",
        "/api/topic",
        "/api/topics/odds_updates",
        "/api/topics/odds_updates/state/x",
        "/healthz/x",
    ];
    for path in paths {
        let says = ["/api/ws", "/api/sse", "/api/publish", "/api/broadcast", "/api/topics", "/healthz", "/readyz"];
        refused(&app.get(path).await, (404, "not_found", None, &says));
        let posted = app.post(path, "application/json", "{}").await;
        refused(&posted, (404, "not_found", None, &says));
    }
}

#[tokio::test]
async fn other_methods_get_405_with_the_allowed_methods() {
    let app = App::start().await;
    for path in ["/api/topics", STATE, "/healthz", "/readyz"] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = Answer::of(app.request(method.clone(), path).bearer_auth(TOKEN)).await;
            refused(&answer, (405, "method_not_allowed", None, &[method.as_str(), "use GET, HEAD"]));
            assert_eq!(answer.header("allow"), "GET, HEAD", "{path}");
        }
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let app = App::start().await;
    app.odds("a", 1).await;
    let unknown = "/api/topics/foo/state";
    for (path, status) in
        [("/api/topics", 200), (STATE, 200), ("/healthz", 200), ("/readyz", 200), ("/console", 404), (unknown, 404)]
    {
        let mut raw = Raw::connect(app.address).await;
        raw.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
        assert!(head.contains("content-type: application/json\r\n"), "{path}: {head}");
        assert_eq!(raw.rest().await, b"", "{path}");
    }
}
