//! Answers questions about connections, queued bytes, topics and state.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::registry::ConnectionEntry;
use super::reports::{ConnectionFacts, Load, Overview, TopicCount};
use super::{ConnectionId, ConnectionManager};
use crate::message::{Message, Position};
use crate::topic::{Subscription, Topic};

impl ConnectionManager {
    /// All connections. The connection with the most queued bytes comes first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionFacts> {
        let state = self.state();
        let last = state.log.position().offset;
        let facts = |(id, entry): (&ConnectionId, &ConnectionEntry)| ConnectionFacts {
            id: id.to_string(),
            peer: entry.peer.as_deref().map(str::to_owned),
            subscriptions: entry.subscriptions.clone(),
            age_ms: u64::try_from(entry.connected.elapsed().as_millis()).unwrap_or(u64::MAX),
            outbox_bytes: entry.outbox.queued(),
            behind: entry.cursor().map_or(0, |cursor| last - cursor),
            bytes_sent: entry.outbox.sent(),
        };
        let mut connections: Vec<ConnectionFacts> = state.connections.iter().map(facts).collect();
        drop(state);
        connections.sort_by_key(|facts| Reverse((facts.outbox_bytes, facts.behind)));
        connections
    }

    /// The number of connections.
    #[must_use]
    pub fn active_count(&self) -> usize {
        self.state().connections.len()
    }

    /// The number of subscribers of each topic, and the size of its log.
    #[must_use]
    pub fn topic_counts(&self) -> BTreeMap<Topic, TopicCount> {
        self.overview().topics
    }

    /// Connections, topics and position, all at the same moment.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let state = self.state();
        let count =
            |topic: &Topic| TopicCount { subscribers: state.index.subscribers(topic), kept: state.log.stats(topic) };
        Overview {
            connections: state.connections.len(),
            topics: self.topics().iter().map(|topic| (topic.clone(), count(topic))).collect(),
            position: state.log.position(),
        }
    }

    /// How many bytes are on their way to clients. This reads the account of every outbox.
    #[must_use]
    pub fn load(&self) -> Load {
        let state = self.state();
        let queued = || state.connections.values().map(|entry| entry.outbox.queued());
        Load {
            outbox_bytes: self.shared.budget.used(),
            memory_budget: self.shared.budget.limit(),
            outbox_bytes_max: queued().max().unwrap_or(0),
            behind: state.connections.values().filter(|entry| !entry.conflate && !entry.outbox.is_fed()).count(),
        }
    }

    /// Whether neither the registry nor the index holds a connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.connections.is_empty() && state.index.is_empty()
    }

    /// The position of the newest message.
    #[must_use]
    pub fn position(&self) -> Position {
        self.state().log.position()
    }

    /// The latest message of each key within the subscription, in order, and the position of that state.
    #[must_use]
    pub fn snapshot(&self, subscription: &Subscription) -> (Position, Vec<Arc<Message>>) {
        let state = self.state();
        (state.log.position(), state.log.state(subscription))
    }
}
