//! The scripts that run in the broker, and what they are given and answer. Each is atomic: a batch and the state that it
//! makes are there together, or neither is.

use std::collections::HashMap;
use std::fmt;

use redis::{Cmd, RedisError, Value};
use thiserror::Error;

use super::broker::Link;
use crate::engine::Broadcast;
use crate::engine::idempotency::{IdempotencyKey, KEPT_FOR};
use crate::log::Limits;
use crate::message::{Draft, Position};
use crate::topic::{Topic, Topics};

/// Broadcasts that are kept, about, for nodes that come a little late.
const MAX_BROADCASTS: usize = 1000;

/// The names of everything in a namespace. The braces keep it in one slot of a cluster.
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

/// How far a node has come, and which batch wrote what it saw last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) position: Position,
    pub(super) nonce: String,
}

impl Seen {
    pub(super) fn nothing() -> Self {
        Self { position: Position { epoch: 0, offset: 0 }, nonce: String::new() }
    }
}

/// What a node says of itself with each call.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) seen: Seen,
    /// The broker's process in which it saw that; empty before there was one.
    pub(super) process: String,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It has its places; the numbers are those of the messages that said nothing new.
    Now { position: Position, unchanged: Vec<usize> },
    /// It was taken before: this is what was answered.
    Before(Answer),
    /// Another request had this key.
    KeyReused,
    /// The broker's process is a new one: it takes nothing for so many milliseconds.
    Settling(u64),
    /// The message with this number has no room in its topic.
    Full(usize),
}

/// What was answered to a request with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) accepted: usize,
    pub(super) unchanged: usize,
    pub(super) position: Position,
}

impl Answer {
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

/// What tending found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tended {
    pub(super) position: Position,
    /// The most keys of one topic that expired.
    pub(super) expired: u64,
    /// The broker's process.
    pub(super) process: String,
}

/// What the script is asked for beside the node's limits.
pub(super) struct Tending {
    /// The node has just connected.
    pub(super) joins: bool,
    /// For how long nothing is taken after the broker's process was another one.
    pub(super) settle_ms: u64,
    /// For how long it is waited then for a node that finds what it has seen.
    pub(super) proof_ms: u64,
    /// Keys of a topic that may expire at once.
    pub(super) at_once: usize,
    /// The oldest offset that nodes need.
    pub(super) needed: u64,
}

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The broker refused it, or could not be reached.
    #[error("{0}")]
    Broker(#[from] RedisError),
    /// It answered what no script of this version answers.
    #[error("the broker answered what was not asked for: {0}")]
    Odd(String),
}

/// A script, and the hash by which the broker knows it.
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

/// The scripts, and what every call of them has in common.
pub(super) struct Scripts {
    publish: Script,
    tend: Script,
    names: Names,
    topics: Topics,
    limits: Limits,
}

impl Scripts {
    pub(super) fn new(names: Names, topics: Topics, limits: Limits) -> Self {
        let (publish, tend) = (Script::new(include_str!("publish.lua")), Script::new(include_str!("tend.lua")));
        Self { publish, tend, names, topics, limits }
    }

    /// Makes the scripts known to the broker's process. A process that does not know them is another one than that which
    /// the node has joined. In a cluster that is the one which has the namespace: others may be away.
    pub(super) async fn load(&self, link: &mut Link) -> Result<(), RedisError> {
        let mut calls = redis::pipe();
        for script in [&self.publish, &self.tend] {
            calls.cmd("SCRIPT").arg("LOAD").arg(&script.code).ignore();
        }
        // All go where the key is.
        calls.cmd("EXISTS").arg(self.names.facts()).ignore();
        calls.exec_async(link).await
    }

    /// Calls a script by its hash alone, since not to know it means something.
    fn call(&self, script: &Script, answer: &str, Standing { seen, process }: &Standing) -> Cmd {
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

    /// Offers a batch. With a key, it is taken once.
    pub(super) async fn publish(
        &self,
        link: &mut Link,
        standing: &Standing,
        batch: &[Draft],
        key: Option<&IdempotencyKey>,
    ) -> Result<Taken, CallError> {
        let mut call = self.call(&self.publish, key.map_or("-", IdempotencyKey::name), standing);
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
        Taken::read(&call.query_async(link).await?)
    }

    /// Sends a message to every node, which knows it by its nonce.
    pub(super) async fn broadcast(&self, link: &mut Link, nonce: &str, broadcast: &Broadcast) -> Result<(), CallError> {
        let mut call = redis::cmd("XADD");
        call.arg(self.names.broadcasts()).arg(&["MAXLEN", "~"]).arg(MAX_BROADCASTS).arg("*");
        call.arg(&["n", nonce, "b", &broadcast.kind, "d", broadcast.data.get()]);
        let _id: String = call.query_async(link).await?;
        Ok(())
    }

    /// Looks after the namespace, and tells where it stands.
    pub(super) async fn tend(
        &self,
        link: &mut Link,
        standing: &Standing,
        tending: &Tending,
    ) -> Result<Tended, CallError> {
        let mut call = self.call(&self.tend, "-", standing);
        let age = u64::try_from(self.limits.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        call.arg(nonce()).arg(age).arg(tending.at_once).arg(u8::from(tending.joins)).arg(tending.settle_ms);
        call.arg(tending.proof_ms).arg(tending.needed);
        self.add_topics(&mut call);
        let (epoch, offset, expired, process): (u64, u64, u64, String) = call.query_async(link).await?;
        Ok(Tended { position: Position { epoch, offset }, expired, process })
    }

    /// What was answered to a request with this key.
    pub(super) async fn answered(&self, link: &mut Link, key: &IdempotencyKey) -> Result<Option<Taken>, CallError> {
        let given: Option<String> = redis::cmd("GET").arg(self.names.answer(key.name())).query_async(link).await?;
        let Some(given) = given else { return Ok(None) };
        let (fingerprint, answer) = given.split_once(' ').unwrap_or_default();
        if fingerprint != key.fingerprint() {
            return Ok(Some(Taken::KeyReused));
        }
        let answer = Answer::parse(answer).ok_or_else(|| CallError::Odd(shown(&given)))?;
        Ok(Some(Taken::Before(answer)))
    }
}

/// Tells batches apart: two have the same with a chance of one in 2^64.
pub(super) fn nonce() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl Taken {
    fn read(answer: &Value) -> Result<Self, CallError> {
        Self::parse(answer).ok_or_else(|| CallError::Odd(shown(answer)))
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
                Some(Self::Now { position, unchanged: unchanged.iter().map(number).collect::<Option<_>>()? })
            }
            "first" => Some(Self::Before(Answer::parse(text(1)?)?)),
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
