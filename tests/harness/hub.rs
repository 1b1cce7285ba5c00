//! A server with one subscriber: tests check which publishes the server refuses, and what the subscriber receives.

use oddswire::config::Config;
use serde_json::Value;

use super::{Answer, App, ws};

pub const JSON: &str = "application/json";
pub const LINES: &str = "application/x-ndjson";
pub const GOOD: &str = r#"{"topic":"odds_updates","data":"good"}"#;

/// The expected parts of an error response: status, code, index of the message, and parts of the detail.
pub type Refusal<'a> = (u16, &'a str, Option<usize>, &'a [&'a str]);

/// Asserts that an answer is an error in the contract's format and has these parts.
#[track_caller]
pub fn refused(answer: &Answer, (status, code, index, says): Refusal<'_>) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
    assert_eq!(answer.header("content-type"), JSON, "{}", answer.text);
    let fields = answer.body["error"].as_object().expect("an error object");
    assert_eq!(fields.get("index"), index.map(Value::from).as_ref(), "{}", answer.text);
    for part in says {
        assert!(answer.detail().contains(part), "the detail does not contain {part:?}: {}", answer.text);
    }
}

/// A server, and a subscriber to all topics.
pub struct Hub {
    pub app: App,
    pub subscriber: ws::Client,
}

impl Hub {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let app = App::with(change).await;
        let subscriber = app.ws("").await;
        Self { app, subscriber }
    }

    pub fn offset(&self) -> u64 {
        self.app.manager.position().offset
    }

    /// Posts a body that the server must refuse. Checks that the server stores and delivers no message of the body.
    pub async fn refuses(&mut self, content_type: &str, body: impl Into<reqwest::Body>, refusal: Refusal<'_>) {
        let before = self.offset();
        let answer = self.app.post("/api/publish", content_type, body).await;
        refused(&answer, refusal);
        assert_eq!(self.offset(), before, "{}", answer.text);
        self.subscriber.nothing_came().await;
    }

    /// Posts a body that the server must accept, and returns the messages that the subscriber receives.
    pub async fn takes(&mut self, content_type: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
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

/// The JSON text of a message with `topic`, `data`, and these further fields.
pub fn message(fields: &str) -> String {
    format!(r#"{{"topic":"odds_updates","data":1,{fields}}}"#)
}

/// A message whose JSON text has this many bytes.
pub fn message_of(length: usize) -> String {
    let frame = r#"{"topic":"odds_updates","data":""}"#.len();
    format!(r#"{{"topic":"odds_updates","data":"{}"}}"#, "x".repeat(length - frame))
}
