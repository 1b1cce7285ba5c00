//! Batches that have their places in the sequence and are not in the log yet: what an engine writes down before anybody
//! sees it.
//!
//! Invariant: staged behind each other and then applied in that order, batches leave the log as if each had been appended
//! at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::topic_log::{Change, TopicLog};
use super::{Log, StateFull};
use crate::message::{Draft, Message, Position, Timestamp};
use crate::topic::{Key, Topic};

/// One step of the sequence.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A message at its place.
    Message(Change),
    /// A key's value is good until another moment: its message is the one that it was.
    Renewed {
        /// The key's topic.
        topic: Topic,
        /// The key.
        key: Key,
        /// The offset of its message.
        offset: u64,
        /// Until when its value is good.
        expires_at: Option<Timestamp>,
    },
    /// An offset that holds nothing for this log.
    Passed(u64),
}

/// Batches on their way into a log.
#[derive(Debug)]
pub struct Staging {
    position: Position,
    entries: Vec<Entry>,
    /// Where in `entries` the latest message of a key is; without one, where its value was renewed.
    latest: HashMap<Topic, HashMap<Key, usize>>,
    /// Keys that the batches add, less those that they delete.
    added: BTreeMap<Topic, isize>,
}

impl Staging {
    /// The position of the newest message, staged ones included.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// What is staged, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was staged, to be applied.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    fn latest(&self, topic: &Topic, key: &Key) -> Option<usize> {
        self.latest.get(topic)?.get(key).copied()
    }

    /// The latest message of a key, a deletion too: staged, or in the log.
    fn held<'a>(&'a self, topic: &Topic, key: &Key, log: &'a TopicLog) -> Option<&'a Change> {
        match self.latest(topic, key).map(|at| &self.entries[at]) {
            Some(Entry::Message(change)) => Some(change),
            _ => log.held(key),
        }
    }

    /// Whether a key has a value.
    pub(super) fn holds(&self, topic: &Topic, key: &Key, log: &TopicLog) -> bool {
        self.held(topic, key, log).is_some_and(|change| !change.message.is_deletion())
    }

    /// Keys of a topic that have a value.
    pub(super) fn live_keys(&self, topic: &Topic, log: &TopicLog) -> usize {
        log.live_keys().saturating_add_signed(self.added.get(topic).copied().unwrap_or(0))
    }

    fn renew(&mut self, topic: &Topic, key: &Key, expires_at: Option<Timestamp>, log: &TopicLog) {
        if let Some(at) = self.latest(topic, key) {
            match &mut self.entries[at] {
                Entry::Message(change) if change.message.is_deletion() => {}
                Entry::Message(Change { expires_at: renewed, .. }) | Entry::Renewed { expires_at: renewed, .. } => {
                    *renewed = expires_at;
                }
                Entry::Passed(_) => {}
            }
            return;
        }
        if let Some(held) = log.held(key)
            && held.expires_at != expires_at
            && !held.message.is_deletion()
        {
            let (topic, key, offset) = (topic.clone(), key.clone(), held.message.offset());
            self.latest.entry(topic.clone()).or_default().insert(key.clone(), self.entries.len());
            self.entries.push(Entry::Renewed { topic, key, offset, expires_at });
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
        self.entries.push(Entry::Message(change));
    }
}

impl Log {
    /// An empty staging behind the newest message.
    #[must_use]
    pub fn staging(&self) -> Staging {
        Staging { position: self.position(), entries: Vec::new(), latest: HashMap::new(), added: BTreeMap::new() }
    }

    /// Gives a batch its places behind what is staged already: all of it or nothing. Returns for each message whether it
    /// says what its key holds already, and got no place therefore.
    ///
    /// Nothing else may get into the log between this and [`Self::apply`].
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

    /// Takes what has its place already, in order; returns the message that is to be delivered.
    ///
    /// A message of a topic that is not configured here only passes.
    pub fn apply(&mut self, entry: Entry, now: Timestamp) -> Option<Arc<Message>> {
        match entry {
            Entry::Message(change) => {
                self.last = change.message.offset();
                let topic = self.topics.get_mut(change.message.topic())?;
                let message = Arc::clone(&change.message);
                topic.insert(change, &self.limits, now);
                Some(message)
            }
            Entry::Renewed { topic, key, expires_at, .. } => {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.renew(&key, expires_at);
                }
                None
            }
            Entry::Passed(offset) => {
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
    use crate::log::Limits;
    use crate::message::Payload;

    fn price(expires_at: Option<i64>) -> Draft {
        let mut payload = Payload::new(RawValue::from_string("1".to_owned()).unwrap());
        payload.key = Some("a".parse().unwrap());
        payload.expires_at = expires_at.map(Timestamp::from_millis);
        Draft { topic: "odds".parse().unwrap(), payload }
    }

    /// Until when the key's value is good after the batch, which says nothing else that is new.
    fn renewed_by(batch: &[Draft]) -> Option<Timestamp> {
        let now = Timestamp::from_millis(0);
        let mut log = Log::new(1, &"odds".parse().unwrap(), Limits::default());
        log.append(&price(Some(10)), now);
        let mut staging = log.staging();
        assert_eq!(log.stage(&mut staging, batch, now), Ok(vec![true; batch.len()]));
        for entry in staging.into_entries() {
            assert!(log.apply(entry, now).is_none());
        }
        log.kept()[&1].expires_at
    }

    #[test]
    fn the_last_of_several_renewals_counts_even_where_it_takes_the_first_one_back() {
        assert_eq!(renewed_by(&[price(None), price(Some(10))]), Some(Timestamp::from_millis(10)));
        assert_eq!(renewed_by(&[price(Some(20)), price(Some(10)), price(Some(30))]), Some(Timestamp::from_millis(30)));
        assert_eq!(renewed_by(&[price(Some(20)), price(None)]), None);
    }
}
