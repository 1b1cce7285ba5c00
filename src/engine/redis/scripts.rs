//! The scripts that run in the broker, their arguments and their answers. Each script is atomic: it stores a batch
//! together with the new state, or nothing.

use std::collections::HashMap;
use std::fmt;

use redis::{Cmd, RedisError, Value};
use thiserror::Error;

use super::broker::Link;
use crate::engine::Broadcast;
use crate::engine::idempotency::{IdempotencyKey, KEPT_FOR};
use crate::log::LogLimits;
use crate::message::{Draft, Position};
use crate::topic::{Topic, Topics};

/// The approximate number of broadcasts that are kept for nodes that are behind.
const MAX_BROADCASTS: usize = 1000;

/// The names of all keys in a namespace. The braces in the names put all keys into one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Names {
    namespace: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(super) fn log(&self) -> String {
        format!("{{{}}}:log", self.namespace)
    }

    pub(super) fn broadcasts(&self) -> String {
        format!("{{{}}}:broadcasts", self.namespace)
    }

    pub(super) fn facts(&self) -> String {
        format!("{{{}}}:facts", self.namespace)
    }

    pub(super) fn answer(&self, key: &str) -> String {
        format!("{{{}}}:answer:{key}", self.namespace)
    }

    pub(super) fn state(&self, topic: &Topic) -> String {
        format!("{{{}}}:state:{topic}", self.namespace)
    }

    fn deletions(&self, topic: &Topic) -> String {
        format!("{{{}}}:deletions:{topic}", self.namespace)
    }

    fn expiries(&self, topic: &Topic) -> String {
        format!("{{{}}}:expiries:{topic}", self.namespace)
    }
}

/// The last entry that a node has seen: its position, and the nonce of the batch that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastSeen {
    pub(super) position: Position,
    pub(super) nonce: String,
}

impl LastSeen {
    pub(super) fn nothing() -> Self {
        Self { position: Position { epoch: 0, offset: 0 }, nonce: String::new() }
    }
}

/// What a node reports about itself with each call.
#[derive(Debug, Clone)]
pub(super) struct NodeState {
    pub(super) seen: LastSeen,
    /// The broker's process (`run_id`) in which the node saw that entry. Empty before the node has joined one.
    pub(super) process: String,
}

/// The result of offering a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OfferOutcome {
    /// The broker accepted the batch. Holds the indexes of the unchanged messages.
    Accepted { position: Position, unchanged: Vec<usize> },
    /// The broker accepted this batch in an earlier request. Holds the answer to that request.
    Repeated(StoredAnswer),
    /// A different request has used this `Idempotency-Key`.
    KeyReused,
    /// The broker was restarted or another server took its place. It accepts no batches for this many milliseconds.
    Settling(u64),
    /// The topic of the message with this index has no room for another key.
    Full(usize),
}

/// The stored answer to a request with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredAnswer {
    pub(super) accepted: usize,
    pub(super) unchanged: usize,
    pub(super) position: Position,
}

impl StoredAnswer {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let answer = Self {
            accepted: parts.next()?.parse().ok()?,
            unchanged: parts.next()?.parse().ok()?,
            position: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(answer)
    }
}

/// The result of maintaining the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tended {
    pub(super) position: Position,
    /// The number of expired keys that the call found in the topic with the most of them.
    pub(super) expired: u64,
    /// The broker's present process (`run_id`).
    pub(super) process: String,
}

/// The arguments of the script `tend`, except the limits of the node.
pub(super) struct Tending {
    /// Whether the node has just connected.
    pub(super) joins: bool,
    /// How long the broker accepts no batches after its process has changed, in milliseconds.
    pub(super) settle_ms: u64,
    /// How long the broker waits after `settle_ms` for a node whose last read entry is still in the stream, in
    /// milliseconds.
    pub(super) proof_ms: u64,
    /// The maximum number of keys of a topic that expire in one call.
    pub(super) at_once: usize,
    /// The oldest offset that nodes need.
    pub(super) needed: u64,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The broker refused the call, or could not be reached.
    #[error("{0}")]
    Broker(#[from] RedisError),
    /// The broker gave an answer that no script of this version gives.
    #[error("unexpected answer of the broker: {0}")]
    Unexpected(String),
}

/// A script, and the SHA-1 hash by which the broker identifies the script.
struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(body: &str) -> Self {
        let code = format!("{}\n{body}", include_str!("common.lua"));
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

/// The scripts and their common arguments.
pub(super) struct Scripts {
    publish: Script,
    tend: Script,
    names: Names,
    topics: Topics,
    limits: LogLimits,
}

impl Scripts {
    pub(super) fn new(names: Names, topics: Topics, limits: LogLimits) -> Self {
        let (publish, tend) = (Script::new(include_str!("publish.lua")), Script::new(include_str!("tend.lua")));
        Self { publish, tend, names, topics, limits }
    }

    /// Loads the scripts into the Redis server. If the error `NOSCRIPT` comes later, the server was restarted or
    /// another one took its place. In a cluster, only the server that has the namespace needs the scripts, because
    /// other servers may be down.
    pub(super) async fn load(&self, link: &mut Link) -> Result<(), RedisError> {
        let mut calls = redis::pipe();
        for script in [&self.publish, &self.tend] {
            calls.cmd("SCRIPT").arg("LOAD").arg(&script.code).ignore();
        }
        // This key routes the whole pipeline to the server that has the namespace.
        calls.cmd("EXISTS").arg(self.names.facts()).ignore();
        calls.exec_async(link).await
    }

    /// Calls a script by its hash, without its code. So the error `NOSCRIPT` shows that the server was restarted or
    /// replaced.
    fn call(&self, script: &Script, answer: &str, NodeState { seen, process }: &NodeState) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&script.hash).arg(3 + 3 * self.topics.iter().count());
        call.arg(self.names.log()).arg(self.names.facts()).arg(self.names.answer(answer));
        for topic in self.topics.iter() {
            call.arg(self.names.state(topic)).arg(self.names.deletions(topic)).arg(self.names.expiries(topic));
        }
        call.arg(seen.position.epoch).arg(seen.position.offset).arg(&seen.nonce).arg(process);
        call.arg(self.limits.state_keys).arg(u8::from(self.limits.suppress_unchanged));
        call
    }

    fn add_topics(&self, call: &mut Cmd) {
        call.arg(self.topics.iter().count());
        for topic in self.topics.iter() {
            call.arg(topic.as_str());
        }
    }

    /// Offers a batch to the broker. With a key, the broker accepts it only once.
    pub(super) async fn publish(
        &self,
        link: &mut Link,
        node: &NodeState,
        batch: &[Draft],
        key: Option<&IdempotencyKey>,
    ) -> Result<OfferOutcome, CallError> {
        let mut call = self.call(&self.publish, key.map_or("-", IdempotencyKey::name), node);
        call.arg(nonce()).arg(key.map(IdempotencyKey::fingerprint).unwrap_or_default());
        call.arg(u64::try_from(KEPT_FOR.as_millis()).unwrap_or(u64::MAX));
        self.add_topics(&mut call);
        let numbers: HashMap<&Topic, usize> = self.topics.iter().zip(1..).collect();
        for Draft { topic, payload } in batch {
            let number = numbers.get(topic).copied().unwrap_or_default();
            let expiry = payload.expires_at.map_or(0, |at| at.as_millis().max(1));
            call.arg(number).arg(payload.key.as_ref().map_or("", |key| key.as_str()));
            call.arg(payload.kind.as_deref().unwrap_or_default()).arg(expiry).arg(payload.data.get());
        }
        OfferOutcome::read(&call.query_async(link).await?)
    }

    /// Sends a broadcast to every node. The nonce identifies it.
    pub(super) async fn broadcast(&self, link: &mut Link, nonce: &str, broadcast: &Broadcast) -> Result<(), CallError> {
        let mut call = redis::cmd("XADD");
        call.arg(self.names.broadcasts()).arg(&["MAXLEN", "~"]).arg(MAX_BROADCASTS).arg("*");
        call.arg(&["n", nonce, "b", &broadcast.kind, "d", broadcast.data.get()]);
        let _id: String = call.query_async(link).await?;
        Ok(())
    }

    /// Maintains the namespace, and returns the end of the sequence.
    pub(super) async fn tend(&self, link: &mut Link, node: &NodeState, tending: &Tending) -> Result<Tended, CallError> {
        let mut call = self.call(&self.tend, "-", node);
        let age = u64::try_from(self.limits.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        call.arg(nonce()).arg(age).arg(tending.at_once).arg(u8::from(tending.joins)).arg(tending.settle_ms);
        call.arg(tending.proof_ms).arg(tending.needed);
        self.add_topics(&mut call);
        let (epoch, offset, expired, process): (u64, u64, u64, String) = call.query_async(link).await?;
        Ok(Tended { position: Position { epoch, offset }, expired, process })
    }

    /// The stored answer to a request with this key.
    pub(super) async fn answered(
        &self,
        link: &mut Link,
        key: &IdempotencyKey,
    ) -> Result<Option<OfferOutcome>, CallError> {
        let given: Option<String> = redis::cmd("GET").arg(self.names.answer(key.name())).query_async(link).await?;
        let Some(given) = given else { return Ok(None) };
        let (fingerprint, answer) = given.split_once(' ').unwrap_or_default();
        if fingerprint != key.fingerprint() {
            return Ok(Some(OfferOutcome::KeyReused));
        }
        let answer = StoredAnswer::parse(answer).ok_or_else(|| CallError::Unexpected(shown(&given)))?;
        Ok(Some(OfferOutcome::Repeated(answer)))
    }
}

/// A random text that identifies a batch. Two batches have the same one with a probability of 2^-64.
pub(super) fn nonce() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl OfferOutcome {
    fn read(answer: &Value) -> Result<Self, CallError> {
        Self::parse(answer).ok_or_else(|| CallError::Unexpected(shown(answer)))
    }

    fn parse(answer: &Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let text = |at: usize| match parts.get(at) {
            Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        let number = |value: &Value| match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        match text(0)? {
            "ok" => {
                let position = Position { epoch: text(1)?.parse().ok()?, offset: text(2)?.parse().ok()? };
                let Value::Array(unchanged) = parts.get(3)? else { return None };
                Some(Self::Accepted { position, unchanged: unchanged.iter().map(number).collect::<Option<_>>()? })
            }
            "first" => Some(Self::Repeated(StoredAnswer::parse(text(1)?)?)),
            "reused" => Some(Self::KeyReused),
            "settling" => Some(Self::Settling(number(parts.get(1)?)? as u64)),
            "full" => Some(Self::Full(number(parts.get(1)?)?)),
            _ => None,
        }
    }
}

fn shown(answer: &impl fmt::Debug) -> String {
    format!("{answer:?}").chars().take(200).collect()
}
