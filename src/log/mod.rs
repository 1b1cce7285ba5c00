//! The log: recent history and latest state of every topic, and what a cursor that is behind has to be sent.
//!
//! Pure: no locks, no async, no clock of its own; whoever owns it says what time it is. Positions are dense: one
//! sequence for all topics.
//!
//! - `topic_log`: one topic's history, state and tombstones, each bounded.
//! - `staging`: batches on their way into the log, for engines that write them down first.
//! - `catch_up`: from a cursor to the present, in bounded steps.

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
pub use self::staging::{Entry, Staging};
use self::topic_log::TopicLog;
pub use self::topic_log::{Change, Run, TopicFacts, TopicStats};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Key, Subscription, Topic, Topics};

/// What the log keeps of each topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages in a topic's history.
    pub history_messages: usize,
    /// Bytes of a topic's history, counted as encoded.
    pub history_bytes: usize,
    /// Age of the oldest message in a topic's history.
    pub history_age: Duration,
    /// Keys in a topic's state; as many deletions are remembered beside them, or as many as the history has.
    pub state_keys: usize,
    /// How long a deletion is remembered that has left the history.
    pub tombstone_age: Duration,
    /// Whether a keyed message whose data is that of its key already is confirmed only, and not delivered again.
    pub suppress_unchanged: bool,
}

impl Default for Limits {
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

/// A batch would bring a topic over its number of keys. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "topic '{topic}' would hold more than {state_keys} keys, which is the limit (state-keys): delete or expire keys \
     first, or raise it"
)]
pub struct StateFull {
    /// The first message, from 0, that has no room.
    pub index: usize,
    /// Its topic.
    pub topic: Topic,
    /// The limit.
    pub state_keys: usize,
}

/// History and state of all topics of one deployment.
#[derive(Debug)]
pub struct Log {
    epoch: u64,
    last: u64,
    limits: Limits,
    topics: BTreeMap<Topic, TopicLog>,
}

impl Log {
    /// An empty log whose first message will get offset 1.
    #[must_use]
    pub fn new(epoch: u64, topics: &Topics, limits: Limits) -> Self {
        let topics = topics.iter().map(|topic| (topic.clone(), TopicLog::default())).collect();
        Self { epoch, last: 0, limits, topics }
    }

    /// The log that was kept: what is known of each topic, and the messages that are left, in order. Messages of topics
    /// that are not configured are left out.
    #[must_use]
    pub fn restore(
        last: Position,
        topics: &Topics,
        limits: Limits,
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
                // What was not known yet when the facts were noted happens again.
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

    /// From here on, messages that are kept nowhere any more are noted for [`Self::take_dropped`].
    pub fn note_dropped(&mut self) {
        self.topics.values_mut().for_each(TopicLog::note_dropped);
    }

    /// The offsets of messages that neither history nor state has any more, since this was last asked.
    pub fn take_dropped(&mut self) -> Vec<u64> {
        self.topics.values_mut().flat_map(TopicLog::take_dropped).collect()
    }

    /// What is known of each topic beside its messages; of the runs, those that reach beyond the offset.
    #[must_use]
    pub fn facts(&self, runs_after: u64) -> BTreeMap<Topic, TopicFacts> {
        self.topics.iter().map(|(name, topic)| (name.clone(), topic.facts(runs_after, self.last))).collect()
    }

    /// Every message that history or state has, and until when its key is good, in order.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<u64, Change> {
        self.topics.values().flat_map(TopicLog::kept).collect()
    }

    /// The offset before the oldest message that any history has; that of the newest one where there is none.
    #[must_use]
    pub fn history_from(&self) -> u64 {
        self.topics.values().filter_map(TopicLog::oldest).min().map_or(self.last, |oldest| oldest - 1)
    }

    /// Drops what is too old.
    pub fn prune(&mut self, now: Timestamp) {
        self.topics.values_mut().for_each(|topic| topic.prune(&self.limits, now));
    }

    /// The position of the newest message.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.last }
    }

    /// Whether the whole batch fits the state; says which message does not.
    pub fn check(&self, drafts: &[Draft]) -> Result<(), StateFull> {
        let roomy = |topic: &TopicLog| topic.live_keys() + drafts.len() <= self.limits.state_keys;
        if self.topics.values().all(roomy) {
            return Ok(());
        }
        self.check_each(&self.staging(), drafts)
    }

    /// The same, behind batches that are staged.
    fn check_behind(&self, staging: &Staging, drafts: &[Draft]) -> Result<(), StateFull> {
        let roomy = |(name, topic): (&Topic, &TopicLog)| {
            staging.live_keys(name, topic) + drafts.len() <= self.limits.state_keys
        };
        if self.topics.iter().all(roomy) {
            return Ok(());
        }
        self.check_each(staging, drafts)
    }

    /// Near the limit: follows the number of keys from message to message.
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

    /// Appends a message at the next position; `None` where it says what its key holds already.
    ///
    /// The topic must be one of the log's: publishers' topics are checked at the edge.
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

    /// Drops what is too old, and returns the deletions of keys whose time has come, to be published: at most `limit` of
    /// them, so call it again after as many.
    pub fn tick(&mut self, now: Timestamp, limit: usize) -> Vec<Draft> {
        let mut expired = Vec::new();
        for (topic, log) in &mut self.topics {
            log.prune(&self.limits, now);
            let keys = log.expired(now).take(limit - expired.len());
            expired.extend(keys.map(|key| Draft { topic: topic.clone(), payload: Payload::deletion(key.clone()) }));
        }
        expired
    }

    /// The latest message of each key within the subscription, in order of offset, with the newest keyless one where
    /// the subscription is to the whole topic: the state at [`Self::position`]. A key whose time has come belongs to it
    /// until its deletion is published.
    #[must_use]
    pub fn state(&self, subscription: &Subscription) -> Vec<Arc<Message>> {
        self.topics.get(subscription.topic()).map(|topic| topic.state(subscription)).unwrap_or_default()
    }

    /// How much is kept of a topic.
    #[must_use]
    pub fn stats(&self, topic: &Topic) -> TopicStats {
        self.topics.get(topic).map(TopicLog::stats).unwrap_or_default()
    }
}
