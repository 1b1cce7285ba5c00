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
    /// Accepted messages whose key already held the same data. The server confirms them, but does not deliver them.
    pub unchanged: usize,
}

/// The answer to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The numbers of accepted and unchanged messages.
    #[serde(flatten)]
    pub counts: Counts,
    /// The position of the newest message after the batch.
    pub position: Position,
}

/// The number of subscribers of a topic, and the size of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCount {
    /// The number of connections with at least one subscription to the topic.
    pub subscribers: usize,
    /// The numbers of keys, messages in the history, and tombstones.
    pub kept: TopicStats,
}

/// Connections, topics and position at the same moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The number of connections.
    pub connections: usize,
    /// The subscribers and the log's size of each topic.
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
    /// The number of bytes on their way to the client for which most are queued.
    pub outbox_bytes_max: usize,
    /// The number of clients that are catching up. Clients that asked for conflation do not count.
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
    /// Milliseconds since the client connected.
    pub age_ms: u64,
    /// Bytes on their way to the client.
    pub outbox_bytes: usize,
    /// The number of messages, of all topics, after the cursor of the connection's catch-up. 0 for a live connection.
    pub behind: u64,
    /// Bytes written to the client.
    pub bytes_sent: u64,
}
