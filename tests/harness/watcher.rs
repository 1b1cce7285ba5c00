//! A client of a node that reads up to a position, and a publish that is repeated until the node accepts it.

use oddswire::message::Position;
use serde_json::Value;

use super::follower::Follower;
use super::process::{Process, TOKEN};
use super::{Answer, PATIENCE, within, ws};

/// A client of all topics of a node. It reads until it reaches a position.
pub struct Watcher {
    pub client: ws::Client,
    pub follower: Follower,
}

impl Watcher {
    pub async fn of(node: &Process) -> Self {
        let client = ws::Client::connect(node.address, "").await;
        let mut follower = Follower::default();
        follower.take(&client.ack.to_string());
        Self { client, follower }
    }

    pub async fn read(&mut self) {
        let text = self.client.text().await;
        self.follower.take(&text);
    }

    pub async fn reaches(&mut self, position: Position) {
        while !self.follower.is_live() || self.follower.cursor != Some(position) {
            self.read().await;
        }
    }
}

/// The position in the answer to a publish.
pub fn position(published: &Value) -> Position {
    published["position"].as_str().expect("a position").parse().expect("a position")
}

/// Repeats a publish, with the same idempotency key, until the node accepts it.
pub async fn publish_until_accepted(node: &Process, key: &str, messages: &Value) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut tries = tokio::time::interval(std::time::Duration::from_millis(10));
    loop {
        let request = reqwest::Client::new().post(node.url("/api/publish")).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").header("idempotency-key", key);
        let answer = within(Answer::of(request.body(messages.to_string()))).await;
        if answer.status == 200 {
            return answer.body;
        }
        assert!(
            answer.status == 503 && ["engine_unavailable", "outcome_unknown"].contains(&answer.code()),
            "{}",
            answer.text
        );
        assert!(tokio::time::Instant::now() < deadline, "the publish is not accepted in time: {}", answer.text);
        tries.tick().await;
    }
}
