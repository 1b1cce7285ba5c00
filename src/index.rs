//! Finds the outboxes that a message goes to.
//!
//! A narrowed subscription covers a key and the keys below it. It is looked up by each prefix of the message's key. So
//! the cost of a delivery depends on the depth of the key and the number of matching connections. It does not depend on
//! the number of narrowed subscriptions.

use std::collections::{BTreeSet, HashMap};

use crate::message::Message;
use crate::outbox::Outbox;
use crate::topic::{Key, Subscription, Topic};

/// A connection's id. It is random, so that the ids of different nodes and of earlier processes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u64(..))
    }
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{:016x}", self.0)
    }
}

type Members = HashMap<ConnectionId, Outbox>;

#[derive(Debug, Default)]
struct TopicIndex {
    whole: Members,
    narrowed: HashMap<Key, Members>,
    /// The number of connections with at least one subscription to the topic.
    subscribers: usize,
}

/// Maps subscriptions to connections.
#[derive(Debug, Default)]
pub(crate) struct Index {
    topics: HashMap<Topic, TopicIndex>,
}

impl Index {
    pub(crate) fn add(&mut self, id: ConnectionId, outbox: &Outbox, subscription: &Subscription) {
        let topic = self.topics.entry(subscription.topic().clone()).or_default();
        let members = match subscription.key() {
            None => &mut topic.whole,
            Some(key) => topic.narrowed.entry(key.clone()).or_default(),
        };
        members.insert(id, outbox.clone());
    }

    pub(crate) fn remove(&mut self, id: ConnectionId, subscription: &Subscription) {
        let Some(topic) = self.topics.get_mut(subscription.topic()) else { return };
        match subscription.key() {
            None => {
                topic.whole.remove(&id);
            }
            Some(key) => {
                let Some(members) = topic.narrowed.get_mut(key) else { return };
                members.remove(&id);
                if members.is_empty() {
                    topic.narrowed.remove(key);
                }
            }
        }
        if topic.whole.is_empty() && topic.narrowed.is_empty() {
            self.topics.remove(subscription.topic());
        }
    }

    /// Counts a connection that adds its first subscription to a topic.
    pub(crate) fn first(&mut self, topic: &Topic) {
        self.topics.entry(topic.clone()).or_default().subscribers += 1;
    }

    /// Stops counting a connection that removes its last subscription to a topic. Call it before [`Self::remove`],
    /// which removes empty topics.
    pub(crate) fn last(&mut self, topic: &Topic) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.subscribers -= 1;
        }
    }

    /// The number of connections with at least one subscription to the topic.
    pub(crate) fn subscribers(&self, topic: &Topic) -> usize {
        self.topics.get(topic).map_or(0, |topic| topic.subscribers)
    }

    /// Whether there are no subscriptions.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Calls `each` once for every connection that has a subscription which covers the message.
    pub(crate) fn matching(&self, message: &Message, mut each: impl FnMut(ConnectionId, &Outbox)) {
        let Some(topic) = self.topics.get(message.topic()) else { return };
        let prefixes = message.key().into_iter().flat_map(Key::prefixes);
        let narrowed = prefixes.filter_map(|prefix| topic.narrowed.get(prefix));
        // Go from the widest subscriptions to the narrowest. Skip a connection that also has a wider one, because
        // `each` was already called for it.
        let mut wider: Vec<&Members> = Vec::new();
        for members in std::iter::once(&topic.whole).chain(narrowed) {
            for (id, outbox) in members {
                if !wider.iter().any(|set| set.contains_key(id)) {
                    each(*id, outbox);
                }
            }
            if !members.is_empty() {
                wider.push(members);
            }
        }
    }
}

impl slog::Value for ConnectionId {
    fn serialize(&self, _: &slog::Record<'_>, key: slog::Key, serializer: &mut dyn slog::Serializer) -> slog::Result {
        serializer.emit_arguments(key, &format_args!("{self}"))
    }
}

/// The distinct topics of a set of subscriptions.
pub(crate) fn topics_of(subscriptions: &[Subscription]) -> BTreeSet<&Topic> {
    subscriptions.iter().map(Subscription::topic).collect()
}
