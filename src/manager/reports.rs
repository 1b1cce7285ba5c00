//! What the manager tells of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::log::TopicStats;
use crate::message::Position;
use crate::topic::{Subscription, Topic};

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages that were taken, unchanged ones included.
    pub accepted: usize,
    /// Messages among them that said what their key held already: confirmed, not delivered.
    pub unchanged: usize,
}

/// A batch that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Published {
    /// How many.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the log stands after it.
    pub position: Position,
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCount {
    /// Connections with at least one subscription to it.
    pub subscribers: usize,
    /// What the log keeps.
    pub kept: TopicStats,
}

/// Connections, topics and position at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Connections.
    pub connections: usize,
    /// What is known of each topic.
    pub topics: BTreeMap<Topic, TopicCount>,
    /// The position of the newest message.
    pub position: Position,
}

/// How much is on its way to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes on their way to all clients.
    pub outbox_bytes: usize,
    /// What that should be at most.
    pub memory_budget: usize,
    /// Bytes on their way to the slowest.
    pub outbox_bytes_max: usize,
    /// Clients that are catching up.
    pub behind: usize,
}

/// What an operator asks about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionFacts {
    /// Its name in logs.
    pub id: String,
    /// Where it is from.
    pub peer: Option<String>,
    /// What it is subscribed to.
    pub subscriptions: Vec<Subscription>,
    /// How long it has been connected.
    pub age_ms: u64,
    /// Bytes on their way to it.
    pub outbox_bytes: usize,
    /// Messages of all topics that were published since its cursor, where it is catching up.
    pub behind: u64,
    /// Bytes that were written to it.
    pub bytes_sent: u64,
}
