//! Batches that have their positions but are not in the log yet, because an engine writes them to disk first.
//!
//! Invariant: staging batches one after the other and applying them in that order has the same result as appending each
//! message with [`Log::append`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::topic_log::{Change, TopicLog};
use super::{Log, StateFull};
use crate::message::{Draft, Message, Position, Timestamp};
use crate::topic::{Key, Topic};

/// One entry of the sequence.
#[derive(Debug, Clone)]
pub enum LogEntry {
    /// A message with its position.
    Message(Change),
    /// A key gets another expiry. The key's message stays the same.
    Renewed {
        /// The key's topic.
        topic: Topic,
        /// The key.
        key: Key,
        /// The offset of the key's latest message.
        offset: u64,
        /// The new expiry.
        expires_at: Option<Timestamp>,
    },
    /// An offset whose message is not for this log, for example because its topic is not configured.
    Passed(u64),
}

/// Batches that have positions but are not in the log yet.
#[derive(Debug)]
pub struct Staging {
    position: Position,
    entries: Vec<LogEntry>,
    /// For each key, the index in `entries` of its latest message. If the key has only a renewal, the index of the
    /// renewal.
    latest: HashMap<Topic, HashMap<Key, usize>>,
    /// For each topic, the number of keys that the staged batches add, minus the number of keys that they delete.
    added: BTreeMap<Topic, isize>,
}

impl Staging {
    /// The position of the newest message, staged messages included.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The staged entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// The staged entries, for [`Log::apply`].
    #[must_use]
    pub(crate) fn into_entries(self) -> Vec<LogEntry> {
        self.entries
    }

    fn latest(&self, topic: &Topic, key: &Key) -> Option<usize> {
        self.latest.get(topic)?.get(key).copied()
    }

    /// The latest message of a key: the staged one or, if there is none, the one in the log. It may be a deletion.
    fn held<'a>(&'a self, topic: &Topic, key: &Key, log: &'a TopicLog) -> Option<&'a Change> {
        match self.latest(topic, key).map(|at| &self.entries[at]) {
            Some(LogEntry::Message(change)) => Some(change),
            _ => log.held(key),
        }
    }

    /// Whether a key has a value after the staged batches.
    pub(super) fn holds(&self, topic: &Topic, key: &Key, log: &TopicLog) -> bool {
        self.held(topic, key, log).is_some_and(|change| !change.message.is_deletion())
    }

    /// The number of keys with a value after the staged batches.
    pub(super) fn live_keys(&self, topic: &Topic, log: &TopicLog) -> usize {
        log.live_keys().saturating_add_signed(self.added.get(topic).copied().unwrap_or(0))
    }

    fn renew(&mut self, topic: &Topic, key: &Key, expires_at: Option<Timestamp>, log: &TopicLog) {
        if let Some(at) = self.latest(topic, key) {
            match &mut self.entries[at] {
                LogEntry::Message(change) if change.message.is_deletion() => {}
                LogEntry::Message(Change { expires_at: renewed, .. })
                | LogEntry::Renewed { expires_at: renewed, .. } => {
                    *renewed = expires_at;
                }
                LogEntry::Passed(_) => {}
            }
            return;
        }
        if let Some(held) = log.held(key)
            && held.expires_at != expires_at
            && !held.message.is_deletion()
        {
            let (topic, key, offset) = (topic.clone(), key.clone(), held.message.offset());
            self.latest.entry(topic.clone()).or_default().insert(key.clone(), self.entries.len());
            self.entries.push(LogEntry::Renewed { topic, key, offset, expires_at });
        }
    }

    fn push(&mut self, change: Change, log: &TopicLog) {
        let message = Arc::clone(&change.message);
        if let Some(key) = message.key() {
            let topic = message.topic();
            let more = isize::from(!message.is_deletion()) - isize::from(self.holds(topic, key, log));
            if more != 0 {
                *self.added.entry(topic.clone()).or_default() += more;
            }
            self.latest.entry(topic.clone()).or_default().insert(key.clone(), self.entries.len());
        }
        self.position = message.position();
        self.entries.push(LogEntry::Message(change));
    }
}

impl Log {
    /// A staging without batches. Its positions continue after the newest message of the log.
    #[must_use]
    pub fn staging(&self) -> Staging {
        Staging { position: self.position(), entries: Vec::new(), latest: HashMap::new(), added: BTreeMap::new() }
    }

    /// Gives the messages of a batch positions after the staged messages. On an error, no message of the batch is
    /// staged. Returns for each message whether its key already holds the same data. Such a message gets no position.
    ///
    /// Nothing else may change the log between this call and [`Self::apply`].
    pub fn stage(&self, staging: &mut Staging, batch: &[Draft], now: Timestamp) -> Result<Vec<bool>, StateFull> {
        self.check_behind(staging, batch)?;
        Ok(batch.iter().map(|draft| self.stage_one(staging, draft, now)).collect())
    }

    fn stage_one(&self, staging: &mut Staging, draft: &Draft, now: Timestamp) -> bool {
        let Draft { topic, payload } = draft;
        let Some(log) = self.topics.get(topic) else { return true };
        if let Some(key) = &payload.key
            && self.limits.suppress_unchanged
        {
            let held = staging.held(topic, key, log);
            let data = payload.data.get().as_bytes();
            let unchanged = held.map_or(payload.is_deletion(), |change| change.message.data() == data);
            if unchanged {
                staging.renew(topic, key, payload.expires_at, log);
                return true;
            }
        }
        let position = Position { epoch: self.epoch, offset: staging.position.offset + 1 };
        let change = Change { message: Message::new(draft, position, now), expires_at: payload.expires_at };
        staging.push(change, log);
        false
    }

    /// Applies the next entry of the sequence, which already has its position. Returns the message to deliver, if there
    /// is one.
    ///
    /// A message of a topic that is not configured only moves the position.
    pub fn apply(&mut self, entry: LogEntry, now: Timestamp) -> Option<Arc<Message>> {
        match entry {
            LogEntry::Message(change) => {
                self.last = change.message.offset();
                let topic = self.topics.get_mut(change.message.topic())?;
                let message = Arc::clone(&change.message);
                topic.insert(change, &self.limits, now);
                Some(message)
            }
            LogEntry::Renewed { topic, key, expires_at, .. } => {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.renew(&key, expires_at);
                }
                None
            }
            LogEntry::Passed(offset) => {
                self.last = offset;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::log::LogLimits;
    use crate::message::Payload;

    fn price(expires_at: Option<i64>) -> Draft {
        let mut payload = Payload::new(RawValue::from_string("1".to_owned()).unwrap());
        payload.key = Some("a".parse().unwrap());
        payload.expires_at = expires_at.map(Timestamp::from_millis);
        Draft { topic: "odds".parse().unwrap(), payload }
    }

    /// The expiry of the key after a batch that changes nothing else.
    fn renewed_by(batch: &[Draft]) -> Option<Timestamp> {
        let now = Timestamp::from_millis(0);
        let mut log = Log::new(1, &"odds".parse().unwrap(), LogLimits::default());
        log.append(&price(Some(10)), now);
        let mut staging = log.staging();
        assert_eq!(log.stage(&mut staging, batch, now), Ok(vec![true; batch.len()]));
        for entry in staging.into_entries() {
            assert!(log.apply(entry, now).is_none());
        }
        log.kept()[&1].expires_at
    }

    #[test]
    fn last_of_several_renewals_sets_the_expiry() {
        assert_eq!(renewed_by(&[price(None), price(Some(10))]), Some(Timestamp::from_millis(10)));
        assert_eq!(renewed_by(&[price(Some(20)), price(Some(10)), price(Some(30))]), Some(Timestamp::from_millis(30)));
        assert_eq!(renewed_by(&[price(Some(20)), price(None)]), None);
    }
}
