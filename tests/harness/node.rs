//! The program, run as a node on a Redis broker.

use std::time::Duration;

use oddswire::message::Timestamp;
use serde_json::{Value, json};

use super::process::{Environment, Process, TOKEN};
use super::{Answer, PATIENCE, within};

/// Starts a node with the Redis engine and these settings. The node may not be ready yet.
pub async fn node(settings: Environment<'_>) -> Process {
    Process::serve(&[&[("ODDSWIRE_ENGINE", "redis")], settings].concat()).await
}

impl Process {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Answer {
        within(Answer::of(reqwest::Client::new().get(self.url(path)))).await
    }

    /// Waits until the response of `/readyz` satisfies `holds`, and returns that response.
    pub async fn becomes(&self, what: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            let answer = self.get("/readyz").await;
            if holds(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "the node is not {what} in time: {}", answer.text);
            looks.tick().await;
        }
    }

    /// Waits until the node is ready and its engine accepts publishes.
    pub async fn ready(&self) {
        self.becomes("ready", |answer| answer.status == 200 && answer.body["engine"] == "ok").await;
    }

    /// Waits until the node reports that it is not ready, with a reason that contains `says` (ignoring case). Returns
    /// the reason.
    pub async fn starting(&self, says: &str) -> String {
        let says = |answer: &Answer| {
            let detail = answer.body["detail"].as_str().unwrap_or_default();
            answer.status == 503 && answer.body["engine"] == "starting" && detail.to_lowercase().contains(says)
        };
        let answer = self.becomes("without its broker", says).await;
        answer.body["detail"].as_str().expect("a reason").to_owned()
    }

    /// Publishes messages, which the node must accept.
    pub async fn take(&self, messages: &Value) -> Value {
        let answer = within(self.post("/api/publish", TOKEN, &messages.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }

    /// Publishes a keyed message that expires soon. On a busy machine the expiry can pass before the node reads the
    /// message. This function then tries again with a later expiry.
    pub async fn take_expiring(&self, key: &str) {
        for millis in [20, 1_000, 30_000] {
            let soon = Timestamp::now().plus(Duration::from_millis(millis)).to_string();
            let message = json!({"topic": "odds_updates", "key": key, "data": 1, "expires_at": soon});
            if within(self.post("/api/publish", TOKEN, &message.to_string())).await.status == 200 {
                return;
            }
        }
        panic!("the node took more than 30 seconds to read the message");
    }

    /// Publishes one keyed message, which the node must accept.
    pub async fn odds(&self, key: &str, data: impl Into<Value>) -> Value {
        self.take(&json!({"topic": "odds_updates", "key": key, "data": data.into()})).await
    }

    /// The keys of `odds_updates` and their data, as the node serves them.
    pub async fn state(&self) -> std::collections::BTreeMap<String, String> {
        let answer = self.get("/api/topics/odds_updates/state").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let items = answer.body["items"].as_array().expect("items").iter();
        items.map(|item| (item["key"].as_str().expect("a key").to_owned(), item["data"].to_string())).collect()
    }

    /// Stops the node with SIGTERM, checks that it exits with 0, and returns its log.
    pub async fn stop(self) -> String {
        self.signal("TERM");
        let ended = self.end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stderr
    }
}
