//! Retried publish requests: the server publishes their messages once.

use futures_util::future::join_all;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::json;

use crate::harness::hub::{GOOD, Hub, JSON, Refusal, refused};
use crate::harness::{Answer, App, TOKEN};

fn retry(app: &App, key: impl AsRef<[u8]>, body: &str) -> reqwest::RequestBuilder {
    let key = HeaderValue::from_bytes(key.as_ref()).unwrap();
    let request = app.request(Method::POST, "/api/publish").bearer_auth(TOKEN).header("idempotency-key", key);
    request.header("content-type", JSON).body(body.to_owned())
}

#[tokio::test]
async fn retry_gets_the_first_answer_and_delivers_nothing() {
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
    assert_ne!(other.body["position"], first.body["position"], "a request with another key is a new request");
    for data in ["good", "good", "between", "good", "good"] {
        assert_eq!(hub.subscriber.next().await["data"], data);
    }
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn idempotency_key_is_valid_for_only_one_body() {
    let mut hub = Hub::start().await;
    let refusal: Refusal = (409, "idempotency_key_reused", None, &["another body", "use a new key"]);
    let bad = Answer::of(retry(&hub.app, "k", r#"{"topic":"foo","data":1}"#)).await;
    assert_eq!(bad.code(), "unknown_topic");
    assert_eq!(Answer::of(retry(&hub.app, "k", GOOD)).await.status, 200, "a refused request does not use up its key");
    refused(&Answer::of(retry(&hub.app, "k", &format!("{GOOD} "))).await, refusal);
    refused(&Answer::of(retry(&hub.app, "k", &GOOD.replace("good", "bad"))).await, refusal);
    assert_eq!(hub.offset(), 1);
    assert_eq!(hub.subscriber.next().await["data"], "good");
    hub.subscriber.nothing_came().await;
}

#[tokio::test]
async fn idempotency_key_has_1_to_255_ascii_characters() {
    let app = App::start().await;
    let [longest, too_long] = [255, 256].map(|length| "k".repeat(length).into_bytes());
    for good in [&b"k"[..], b"8301 a/b", &longest] {
        assert_eq!(Answer::of(retry(&app, good, GOOD)).await.status, 200, "{}", good.len());
    }
    for bad in [&b""[..], &too_long, "clé".as_bytes(), b"a\tb"] {
        let says = ["Idempotency-Key", "1 to 255 visible ASCII characters"];
        refused(&Answer::of(retry(&app, bad, GOOD)).await, (400, "bad_request", None, &says));
    }
    assert_eq!(app.manager.position().offset, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_retries_are_published_once() {
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
