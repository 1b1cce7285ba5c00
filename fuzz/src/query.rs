//! Checks query strings of event streams and of a topic's state. The server parses query strings of WebSockets with the
//! same code.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use oddswire::log::Since;
use oddswire::routes::App;
use oddswire::topic::{Key, Subscription};
use serde_json::{Value, json};
use warp::reply::Response;

use super::service::{app, block_on, call, open, read};

/// Reads the input as the query string of an event stream and of a topic's state.
pub fn check(input: &[u8]) {
    let Ok(query) = std::str::from_utf8(input) else { return };
    let Some(request) = get("/api/sse", query) else { return };
    let app = app();
    block_on(async {
        events(&app, request, &Asked::of(query)).await;
        state(&app, query).await;
    });
    assert_eq!(app.manager.active_count(), 0, "a client that has disconnected is not registered");
}

/// Builds a request; `None` for a query that hyper rejects.
fn get(path: &str, query: &str) -> Option<Request<Full<Bytes>>> {
    Request::get(format!("{path}?{query}")).body(Full::default()).ok()
}

/// The meaning of a query string according to docs/protocol.md.
struct Asked {
    topics: BTreeSet<String>,
    conflate: u64,
    valid: bool,
}

impl Asked {
    fn of(query: &str) -> Self {
        let mut asked = Self { topics: BTreeSet::new(), conflate: 0, valid: true };
        // The query ends at `#`, where the fragment of the URL begins.
        let query = query.split('#').next().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "topics" => {
                    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                    asked.topics.extend(entries.map(str::to_owned));
                }
                "since" => asked.valid &= value.parse::<Since>().is_ok(),
                "conflate_ms" => match value.parse() {
                    Ok(millis @ 0..=60_000) => asked.conflate = millis,
                    _ => asked.valid = false,
                },
                _ => {}
            }
        }
        asked.valid &= asked.topics.iter().all(|topic| topic.parse::<Subscription>().is_ok());
        asked
    }
}

async fn events(app: &App, request: Request<Full<Bytes>>, asked: &Asked) {
    let response = open(app, request).await;
    if response.status() != StatusCode::OK {
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let code = read(response).await.json()["error"]["code"].clone();
        assert!(!asked.valid || code == "too_many_subscriptions", "a valid query was rejected with {code}");
        return;
    }
    assert!(asked.valid, "an invalid query was accepted");
    assert_eq!(app.manager.active_count(), 1);
    let ack = first_event(response).await;
    assert_eq!(ack["type"], "connection_ack");
    assert_eq!(ack["data"]["conflate_ms"], asked.conflate);
    let is_known = |topic: &&String| matches!(topic.split('/').next(), Some("odds_updates" | "scrape_progress"));
    let known: BTreeSet<&String> = asked.topics.iter().filter(is_known).collect();
    let all = json!(["odds_updates", "scrape_progress"]);
    assert_eq!(ack["topics"], if asked.topics.is_empty() { all } else { json!(known) });
    assert_eq!(ack["topics"], ack["data"]["topics"]);
}

/// Reads the JSON of the first event. Then drops the response body, which disconnects the client.
async fn first_event(response: Response) -> Value {
    let mut body = response.into_body();
    let frame = body.frame().await.expect("a stream begins with an event").expect("a body in memory has no errors");
    let chunk = frame.into_data().expect("an event is data");
    let text = std::str::from_utf8(&chunk).expect("an event is UTF-8");
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an event has data");
    serde_json::from_str(data).expect("the data is JSON")
}

async fn state(app: &App, query: &str) {
    let request = get("/api/topics/odds_updates/state", query).expect("the query is valid for another path");
    let query = query.split('#').next().unwrap_or_default();
    let key = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "key").map(|(_, key)| key);
    let valid = key.is_none_or(|key| key.parse::<Key>().is_ok());
    let answer = call(app, request).await;
    assert_eq!(answer.status, if valid { StatusCode::OK } else { StatusCode::BAD_REQUEST });
    if valid {
        assert_eq!(answer.json()["items"], json!([]));
    }
}
