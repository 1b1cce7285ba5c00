//! The types of the manager's answers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::log::TopicStats;
use crate::message::Position;
use crate::topic::{Subscription, Topic};

/// How many messages of a batch were accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Accepted messages, unchanged ones included.
    pub accepted: usize,
    /// Accepted messages whose data their key held already. They are confirmed but not delivered.
    pub unchanged: usize,
}

/// The answer to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// The position of the newest message after the batch.
    pub position: Position,
}

/// The subscribers of a topic, and the size of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCount {
    /// Connections with at least one subscription to it.
    pub subscribers: usize,
    /// Keys, history and tombstones.
    pub kept: TopicStats,
}

/// Connections, topics and position at the same moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The number of connections.
    pub connections: usize,
    /// Each topic.
    pub topics: BTreeMap<Topic, TopicCount>,
    /// The position of the newest message.
    pub position: Position,
}

/// How many bytes are on their way to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes on their way to all clients.
    pub outbox_bytes: usize,
    /// The limit of `outbox_bytes`.
    pub memory_budget: usize,
    /// Bytes on their way to the client that has the most.
    pub outbox_bytes_max: usize,
    /// Clients that are catching up, without those that asked for conflation.
    pub behind: usize,
}

/// A connection, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionFacts {
    /// The connection's id, as in the log.
    pub id: String,
    /// The client's address.
    pub peer: Option<String>,
    /// The subscriptions, sorted.
    pub subscriptions: Vec<Subscription>,
    /// Milliseconds since it connected.
    pub age_ms: u64,
    /// Bytes on their way to the client.
    pub outbox_bytes: usize,
    /// Messages of all topics published since the cursor of its catch-up; 0 for a live connection.
    pub behind: u64,
    /// Bytes written to the client.
    pub bytes_sent: u64,
}
