//! The log: recent history and latest state of every topic.
//!
//! It is pure: no locks, no async and no clock. Callers pass the current time. All topics share one sequence of
//! positions, without gaps.
//!
//! - `topic_log`: history, state and tombstones of one topic, each bounded.
//! - `staging`: batches that have positions but are not in the log yet, for engines that write them to disk first.
//! - `catch_up`: brings a client from a cursor to the present, in bounded steps.

mod catch_up;
#[cfg(test)]
mod model;
mod staging;
mod topic_log;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use self::catch_up::{Announcement, CatchUp, Mode, Since, SinceError, Step, StepLimits, Style};
pub use self::staging::{LogEntry, Staging};
use self::topic_log::TopicLog;
pub use self::topic_log::{Change, OffsetRun, TopicFacts, TopicStats};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Key, Subscription, Topic, Topics};

/// How much the log keeps of each topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLimits {
    /// The maximum number of messages in a topic's history.
    pub history_messages: usize,
    /// The maximum number of encoded bytes in a topic's history.
    pub history_bytes: usize,
    /// The maximum age of a message in a topic's history.
    pub history_age: Duration,
    /// The maximum number of keys in a topic's state. The log keeps up to as many tombstones in addition, or more while
    /// the history has their deletions.
    pub state_keys: usize,
    /// The maximum age of a tombstone whose deletion has left the history.
    pub tombstone_age: Duration,
    /// Whether a message is confirmed but not delivered if its key already holds the same data.
    pub suppress_unchanged: bool,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            history_messages: 1000,
            history_bytes: 8 << 20,
            history_age: Duration::from_hours(1),
            state_keys: 100_000,
            tombstone_age: Duration::from_hours(1),
            suppress_unchanged: true,
        }
    }
}

/// A batch would add too many keys to a topic. No message of the batch was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "topic '{topic}' would hold more than {state_keys} keys, the limit (state-keys): delete keys, let them expire, or \
     raise the limit"
)]
pub struct StateFull {
    /// The index in the batch of the first message without room. Indexes begin at 0.
    pub index: usize,
    /// The topic of that message.
    pub topic: Topic,
    /// The maximum number of keys in the topic.
    pub state_keys: usize,
}

/// History and state of all topics.
#[derive(Debug)]
pub struct Log {
    epoch: u64,
    last: u64,
    limits: LogLimits,
    topics: BTreeMap<Topic, TopicLog>,
}

impl Log {
    /// An empty log. Its first message gets offset 1.
    #[must_use]
    pub fn new(epoch: u64, topics: &Topics, limits: LogLimits) -> Self {
        let topics = topics.iter().map(|topic| (topic.clone(), TopicLog::default())).collect();
        Self { epoch, last: 0, limits, topics }
    }

    /// Restores a log from the facts about each topic and the messages that were kept, in order. Leaves out messages of
    /// topics that are not configured.
    #[must_use]
    pub fn restore(
        last: Position,
        topics: &Topics,
        limits: LogLimits,
        mut facts: BTreeMap<Topic, TopicFacts>,
        messages: impl IntoIterator<Item = Change>,
        now: Timestamp,
    ) -> Self {
        let mut log = Self::new(last.epoch, topics, limits);
        log.last = last.offset;
        let mut counted_to = BTreeMap::new();
        for (topic, kept) in &mut log.topics {
            let facts = facts.remove(topic).unwrap_or_default();
            counted_to.insert(topic.clone(), facts.counted_to);
            *kept = TopicLog::restore(facts);
        }
        for change in messages {
            let topic = change.message.topic();
            let (Some(kept), Some(counted_to)) = (log.topics.get_mut(topic), counted_to.get(topic)) else { continue };
            if change.message.offset() <= *counted_to {
                kept.put_back(change);
            } else {
                // The message is newer than the facts: insert it as if it had just been published.
                let then = change.message.timestamp();
                kept.insert(change, &log.limits, then);
            }
        }
        for kept in log.topics.values_mut() {
            kept.restored();
            kept.prune(&log.limits, now);
        }
        log
    }

    /// Starts to record the messages that leave the log, for [`Self::take_dropped`].
    pub(crate) fn note_dropped(&mut self) {
        self.topics.values_mut().for_each(TopicLog::note_dropped);
    }

    /// The offsets of messages that have left both history and state since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<u64> {
        self.topics.values_mut().flat_map(TopicLog::take_dropped).collect()
    }

    /// The facts about each topic, with the runs of offsets that end after this offset.
    #[must_use]
    pub fn facts(&self, runs_after: u64) -> BTreeMap<Topic, TopicFacts> {
        self.topics.iter().map(|(name, topic)| (name.clone(), topic.facts(runs_after, self.last))).collect()
    }

    /// Every message of history and state with the expiry of its key, by offset.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<u64, Change> {
        self.topics.values().flat_map(TopicLog::kept).collect()
    }

    /// The offset before the oldest message in any history. If all histories are empty, the newest offset.
    #[must_use]
    pub(crate) fn history_from(&self) -> u64 {
        self.topics.values().filter_map(TopicLog::oldest).min().map_or(self.last, |oldest| oldest - 1)
    }

    /// Drops messages that are too old.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        self.topics.values_mut().for_each(|topic| topic.prune(&self.limits, now));
    }

    /// The position of the newest message.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.last }
    }

    /// Checks whether the state of each topic has room for the whole batch. The error names the first message without
    /// room.
    pub fn check(&self, drafts: &[Draft]) -> Result<(), StateFull> {
        let roomy = |topic: &TopicLog| topic.live_keys() + drafts.len() <= self.limits.state_keys;
        if self.topics.values().all(roomy) {
            return Ok(());
        }
        self.check_each(&self.staging(), drafts)
    }

    /// Like [`Self::check`], but for a batch that follows the staged batches.
    fn check_behind(&self, staging: &Staging, drafts: &[Draft]) -> Result<(), StateFull> {
        let roomy = |(name, topic): (&Topic, &TopicLog)| {
            staging.live_keys(name, topic) + drafts.len() <= self.limits.state_keys
        };
        if self.topics.iter().all(roomy) {
            return Ok(());
        }
        self.check_each(staging, drafts)
    }

    /// The exact check, for a topic near its limit: counts the keys after each message.
    fn check_each(&self, staging: &Staging, drafts: &[Draft]) -> Result<(), StateFull> {
        let mut live: BTreeMap<&Topic, usize> = BTreeMap::new();
        let mut added: HashSet<(&Topic, &Key)> = HashSet::new();
        let mut deleted: HashSet<(&Topic, &Key)> = HashSet::new();
        for (index, Draft { topic, payload }) in drafts.iter().enumerate() {
            let (Some(key), Some(log)) = (&payload.key, self.topics.get(topic)) else { continue };
            let count = live.entry(topic).or_insert_with(|| staging.live_keys(topic, log));
            let id = (topic, key);
            let held = added.contains(&id) || (staging.holds(topic, key, log) && !deleted.contains(&id));
            match (payload.is_deletion(), held) {
                (true, true) => {
                    *count -= 1;
                    added.remove(&id);
                    deleted.insert(id);
                }
                (false, false) => {
                    *count += 1;
                    deleted.remove(&id);
                    added.insert(id);
                    if *count > self.limits.state_keys {
                        return Err(StateFull { index, topic: topic.clone(), state_keys: self.limits.state_keys });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends a message at the next position. Returns `None` if the message's key already holds the same data.
    ///
    /// The topic must be configured. The HTTP routes check this for publishers.
    pub fn append(&mut self, draft: &Draft, now: Timestamp) -> Option<Arc<Message>> {
        let topic = self.topics.get_mut(&draft.topic)?;
        if self.limits.suppress_unchanged && topic.is_unchanged(&draft.payload) {
            if let Some(key) = &draft.payload.key {
                topic.renew(key, draft.payload.expires_at);
            }
            return None;
        }
        self.last += 1;
        let message = Message::new(draft, Position { epoch: self.epoch, offset: self.last }, now);
        let change = Change { message: Arc::clone(&message), expires_at: draft.payload.expires_at };
        topic.insert(change, &self.limits, now);
        Some(message)
    }

    /// Drops messages that are too old. Returns at most `limit` deletions of expired keys, which the caller publishes.
    /// If it returns `limit` deletions, more keys may have expired.
    pub fn tick(&mut self, now: Timestamp, limit: usize) -> Vec<Draft> {
        let mut expired = Vec::new();
        for (topic, log) in &mut self.topics {
            log.prune(&self.limits, now);
            let keys = log.expired(now).take(limit - expired.len());
            expired.extend(keys.map(|key| Draft { topic: topic.clone(), payload: Payload::deletion(key.clone()) }));
        }
        expired
    }

    /// The state of a subscription at [`Self::position`], in order of offset. It has the latest message of each key
    /// and, for a whole topic, the newest keyless message. An expired key is part of the state until its deletion is
    /// published.
    #[must_use]
    pub fn state(&self, subscription: &Subscription) -> Vec<Arc<Message>> {
        self.topics.get(subscription.topic()).map(|topic| topic.state(subscription)).unwrap_or_default()
    }

    /// The numbers of keys, messages and tombstones that the log keeps of a topic.
    #[must_use]
    pub fn stats(&self, topic: &Topic) -> TopicStats {
        self.topics.get(topic).map(TopicLog::stats).unwrap_or_default()
    }
}
