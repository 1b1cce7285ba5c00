//! The log of one topic: its recent messages, the latest message of each key, and its tombstones.
//!
//! Invariants:
//! - `by_offset` holds exactly the messages of `by_key` and the newest keyless message.
//! - `tombstones` holds the offsets of the deletions in `by_offset`. A tombstone stays while the history has its
//!   deletion.
//! - A message is encoded once. Both maps and the history share it.
//! - After a call of `note_dropped`, `dropped` records each message that has left both maps and the history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::LogLimits;
use crate::message::{Message, Payload, Timestamp};
use crate::topic::{Key, Subscription};

/// The maximum number of runs that are kept to count a topic's messages, at 24 bytes each. If messages of several
/// topics alternate, each message is a run. For a cursor before the oldest run, the number of skipped messages is
/// unknown.
const MAX_RUNS: usize = 16_384;

/// If a subscription to a part of a topic covers fewer keys than this, its messages are looked up by key. Otherwise
/// they are looked up by offset, so that a step of its catch-up does not visit all of its keys.
const FEW_KEYS: usize = 1024;

/// The numbers of keys, messages and tombstones that the log keeps of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicStats {
    /// The number of keys in the state.
    pub keys: usize,
    /// The number of messages in the history.
    pub history: usize,
    /// The number of tombstones, the deletions that the log remembers.
    pub tombstones: usize,
}

/// A message and the expiry of its key.
#[derive(Debug, Clone)]
pub struct Change {
    /// The message.
    pub message: Arc<Message>,
    /// The time at which the message's key expires. `None` means never.
    pub expires_at: Option<Timestamp>,
}

/// A run: consecutive offsets of one topic, `start..=end`. `before` is the number of the topic's earlier messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRun {
    /// The first offset.
    pub start: u64,
    /// The last offset.
    pub end: u64,
    /// The number of the topic's messages before `start`.
    pub before: u64,
}

/// Facts about a topic that cannot be derived from its kept messages, such as which messages are gone. Facts and kept
/// messages together restore the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicFacts {
    /// Offset of the newest message that left the history.
    pub evicted: u64,
    /// Offset of the newest keyless message that left both history and state.
    pub lost_keyless: u64,
    /// Offset of the newest deletion whose tombstone was dropped.
    pub forgotten: u64,
    /// The log can count the topic's messages after this offset.
    pub counted_from: u64,
    /// The number of messages up to `counted_from`. If it is unknown, any number works, because only differences are
    /// used.
    pub counted_before: u64,
    /// The messages up to this offset are in `runs`.
    pub counted_to: u64,
    /// The offsets of the topic's messages, the oldest run first.
    pub runs: Vec<OffsetRun>,
}

#[derive(Debug, Default)]
pub(super) struct TopicLog {
    history: VecDeque<Arc<Message>>,
    history_bytes: usize,
    /// The number of keyless messages in the history.
    history_keyless: usize,
    /// Offset of the newest message that left the history. The history has every later message.
    evicted: u64,
    by_key: BTreeMap<Key, Change>,
    by_offset: BTreeMap<u64, Arc<Message>>,
    newest_keyless: Option<u64>,
    /// Offset of the newest keyless message that left both history and state.
    lost_keyless: u64,
    tombstones: BTreeSet<u64>,
    /// Offset of the newest deletion whose tombstone was dropped. The state has every later deletion.
    forgotten: u64,
    expiries: BTreeSet<(Timestamp, Key)>,
    runs: VecDeque<OffsetRun>,
    /// The log can count the topic's messages after this offset. There are `counted_before` messages up to this offset.
    counted_from: u64,
    counted_before: u64,
    /// Offsets of messages that left both history and state. `None` before a call of `note_dropped`.
    dropped: Option<Vec<u64>>,
}

impl TopicLog {
    /// The log of a topic without its messages. The caller then adds the kept messages in order.
    pub(super) fn restore(facts: TopicFacts) -> Self {
        Self {
            evicted: facts.evicted,
            lost_keyless: facts.lost_keyless,
            // A deletion in the history gets its tombstone back, even if the tombstone was dropped.
            forgotten: facts.forgotten.min(facts.evicted),
            counted_from: facts.counted_from,
            counted_before: facts.counted_before,
            runs: facts.runs.into(),
            ..Self::default()
        }
    }

    /// Adds a kept message that the facts already include.
    pub(super) fn put_back(&mut self, change: Change) {
        let message = &change.message;
        if message.offset() > self.evicted {
            self.remember(Arc::clone(message));
        }
        match message.key() {
            Some(key) => self.set(key.clone(), change),
            None => self.set_keyless(message),
        }
    }

    /// Ends the restoring. Drops the tombstones up to `forgotten`, which had been dropped before.
    pub(super) fn restored(&mut self) {
        while let Some(&oldest) = self.tombstones.first()
            && oldest <= self.forgotten
        {
            self.forget_tombstone(oldest);
        }
    }

    /// Starts to record the messages that leave the log.
    pub(super) fn note_dropped(&mut self) {
        self.dropped.get_or_insert_default();
    }

    /// The offsets of messages that have left the log since the last call.
    pub(super) fn take_dropped(&mut self) -> Vec<u64> {
        self.dropped.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The facts about the topic, with the runs that end after the offset.
    pub(super) fn facts(&self, runs_after: u64, last: u64) -> TopicFacts {
        let runs = self.runs.range(self.runs.partition_point(|run| run.end <= runs_after)..);
        TopicFacts {
            evicted: self.evicted,
            lost_keyless: self.lost_keyless,
            forgotten: self.forgotten,
            counted_from: self.counted_from,
            counted_before: self.counted_before,
            counted_to: last,
            runs: runs.copied().collect(),
        }
    }

    /// Every message of history and state. A message of the state comes with the expiry of its key.
    pub(super) fn kept(&self) -> BTreeMap<u64, Change> {
        let plain = |message: &Arc<Message>| Change { message: Arc::clone(message), expires_at: None };
        let all = self.history.iter().chain(self.by_offset.values()).map(plain);
        all.chain(self.by_key.values().cloned()).map(|change| (change.message.offset(), change)).collect()
    }

    /// Notes a message that left the state. The message is dropped only if the history does not have it, either.
    fn left_state(&mut self, offset: u64) {
        if offset <= self.evicted {
            self.drop_message(offset);
        }
    }

    fn drop_message(&mut self, offset: u64) {
        if let Some(dropped) = &mut self.dropped {
            dropped.push(offset);
        }
    }

    pub(super) fn stats(&self) -> TopicStats {
        TopicStats { keys: self.live_keys(), history: self.history.len(), tombstones: self.tombstones.len() }
    }

    /// The number of keys with a value.
    pub(super) fn live_keys(&self) -> usize {
        self.by_key.len() - self.tombstones.len()
    }

    /// Whether the key already holds the same data. Deleting a key without a value changes nothing, either.
    pub(super) fn is_unchanged(&self, payload: &Payload) -> bool {
        let Some(key) = &payload.key else { return false };
        match self.by_key.get(key) {
            Some(change) => change.message.data() == payload.data.get().as_bytes(),
            None => payload.is_deletion(),
        }
    }

    /// Changes the expiry of a key, because a message with unchanged data may have a new expiry.
    pub(super) fn renew(&mut self, key: &Key, expires_at: Option<Timestamp>) {
        let Some((key, change)) = self.by_key.get_key_value(key) else { return };
        if change.expires_at == expires_at || change.message.is_deletion() {
            return;
        }
        let renewed = Change { message: Arc::clone(&change.message), expires_at };
        let key = key.clone();
        self.forget_expiry(&key);
        self.note_expiry(&key, expires_at);
        self.by_key.insert(key, renewed);
    }

    /// Offset of the oldest message in the history.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.history.front().map(|message| message.offset())
    }

    /// The key's latest message, which may be a deletion, and its expiry.
    pub(super) fn held(&self, key: &Key) -> Option<&Change> {
        self.by_key.get(key)
    }

    pub(super) fn insert(&mut self, change: Change, limits: &LogLimits, now: Timestamp) {
        let message = &change.message;
        self.note_run(message.offset());
        self.remember(Arc::clone(message));
        match message.key() {
            Some(key) => self.set(key.clone(), change),
            None => self.set_keyless(message),
        }
        self.prune(limits, now);
    }

    fn remember(&mut self, message: Arc<Message>) {
        self.history_bytes += message.frames().size();
        self.history_keyless += usize::from(message.key().is_none());
        self.history.push_back(message);
    }

    fn set(&mut self, key: Key, change: Change) {
        let (offset, deletion) = (change.message.offset(), change.message.is_deletion());
        self.forget_expiry(&key);
        if let Some(old) = self.by_key.get(&key) {
            let old = old.message.offset();
            self.by_offset.remove(&old);
            self.tombstones.remove(&old);
            self.left_state(old);
        }
        self.by_offset.insert(offset, Arc::clone(&change.message));
        if deletion {
            self.tombstones.insert(offset);
        } else {
            self.note_expiry(&key, change.expires_at);
        }
        self.by_key.insert(key, change);
    }

    fn set_keyless(&mut self, message: &Arc<Message>) {
        if let Some(old) = self.newest_keyless.replace(message.offset()) {
            self.by_offset.remove(&old);
            if old <= self.evicted {
                self.lost_keyless = self.lost_keyless.max(old);
            }
            self.left_state(old);
        }
        self.by_offset.insert(message.offset(), Arc::clone(message));
    }

    fn note_expiry(&mut self, key: &Key, expires_at: Option<Timestamp>) {
        if let Some(at) = expires_at {
            self.expiries.insert((at, key.clone()));
        }
    }

    fn forget_expiry(&mut self, key: &Key) {
        if let Some(at) = self.by_key.get(key).and_then(|change| change.expires_at) {
            self.expiries.remove(&(at, key.clone()));
        }
    }

    /// Drops messages of the history, and tombstones, that exceed the limits.
    pub(super) fn prune(&mut self, limits: &LogLimits, now: Timestamp) {
        let too_old = |message: &Message, age| message.timestamp().plus(age) < now;
        while let Some(oldest) = self.history.front() {
            let over = self.history.len() > limits.history_messages || self.history_bytes > limits.history_bytes;
            if !over && !too_old(oldest, limits.history_age) {
                break;
            }
            self.evict_oldest();
        }
        // Keep tombstones that the history still covers. Otherwise a client cut off right after `snapshot` would resume
        // as `replayed`, with no state.
        while let Some(&oldest) = self.tombstones.first()
            && oldest <= self.evicted
        {
            let message = &self.by_offset[&oldest];
            if self.tombstones.len() <= limits.state_keys && !too_old(message, limits.tombstone_age) {
                break;
            }
            self.forget_tombstone(oldest);
        }
    }

    fn evict_oldest(&mut self) {
        let Some(message) = self.history.pop_front() else { return };
        self.history_bytes -= message.frames().size();
        self.evicted = message.offset();
        if message.key().is_none() {
            self.history_keyless -= 1;
            if self.newest_keyless != Some(message.offset()) {
                self.lost_keyless = message.offset();
            }
        }
        if !self.by_offset.contains_key(&message.offset()) {
            self.drop_message(message.offset());
        }
    }

    fn forget_tombstone(&mut self, offset: u64) {
        self.tombstones.remove(&offset);
        let message = self.by_offset.remove(&offset);
        if let Some(key) = message.as_ref().and_then(|message| message.key()) {
            self.by_key.remove(key);
        }
        self.forgotten = self.forgotten.max(offset);
        self.left_state(offset);
    }

    /// The expired keys, the oldest expiry first.
    pub(super) fn expired(&self, now: Timestamp) -> impl Iterator<Item = &Key> {
        self.expiries.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| key)
    }

    pub(super) fn state(&self, subscription: &Subscription) -> Vec<Arc<Message>> {
        let latest = self.latest(subscription, 0, u64::MAX, usize::MAX);
        latest.into_iter().filter(|message| !message.is_deletion()).cloned().collect()
    }

    // Queries for catch-ups.

    /// Whether the history holds every message after the cursor.
    pub(super) fn history_reaches(&self, cursor: u64) -> bool {
        cursor >= self.evicted
    }

    /// Whether the log still has the tombstones of all deletions after the cursor.
    pub(super) fn tombstones_reach(&self, cursor: u64) -> bool {
        cursor >= self.forgotten
    }

    /// Whether the log still has every keyless message after the cursor.
    pub(super) fn keyless_reach(&self, cursor: u64) -> bool {
        cursor >= self.lost_keyless
    }

    /// Whether the topic has had keyless messages only. Then a snapshot cannot replace the missed messages.
    pub(super) fn is_keyless(&self) -> bool {
        self.newest_keyless.is_some() && self.by_key.is_empty() && self.forgotten == 0
    }

    /// The messages of the history after the cursor that belong to the subscription, in order.
    pub(super) fn replay<'a>(
        &'a self,
        subscription: &'a Subscription,
        cursor: u64,
    ) -> impl Iterator<Item = &'a Arc<Message>> {
        let from = self.history.partition_point(|message| message.offset() <= cursor);
        self.history.range(from..).filter(move |message| subscription.covers(message.key()))
    }

    /// The messages after the cursor that bring a subscription up to date, in order, at most `count`. These are the
    /// latest message of every key, deletions included; the newest keyless message; and the keyless messages of the
    /// history after `keyless_from`.
    pub(super) fn latest<'a>(
        &'a self,
        subscription: &'a Subscription,
        cursor: u64,
        keyless_from: u64,
        count: usize,
    ) -> Vec<&'a Arc<Message>> {
        let few = subscription.key().map(|key| self.within(key).take(FEW_KEYS).collect::<Vec<_>>());
        let (mut messages, mut sorted) = match few {
            Some(few) if few.len() < FEW_KEYS => {
                (few.into_iter().filter(|message| message.offset() > cursor).collect::<Vec<_>>(), false)
            }
            _ => (self.changed(subscription, cursor).take(count).collect(), true),
        };
        let older = self.older_keyless(subscription, cursor.max(keyless_from)).take(count);
        let before = messages.len();
        messages.extend(older);
        sorted &= messages.len() == before;
        if !sorted {
            messages.sort_unstable_by_key(|message| message.offset());
        }
        messages.truncate(count);
        messages
    }

    /// The number of messages of [`Self::latest`], without collecting them. Messages of the state count only if they
    /// are `wanted`.
    pub(super) fn count_latest(
        &self,
        subscription: &Subscription,
        cursor: u64,
        keyless_from: u64,
        wanted: impl Fn(&Message) -> bool,
    ) -> u64 {
        let older = self.older_keyless(subscription, cursor.max(keyless_from)).count();
        let state = match subscription.key() {
            Some(key) => self.within(key).filter(|m| m.offset() > cursor && wanted(m)).count(),
            None => self.changed(subscription, cursor).filter(|message| wanted(message)).count(),
        };
        (state + older) as u64
    }

    /// The messages of the state after the cursor, in order.
    fn changed<'a>(&'a self, subscription: &'a Subscription, cursor: u64) -> impl Iterator<Item = &'a Arc<Message>> {
        let changed = self.by_offset.range((Bound::Excluded(cursor), Bound::Unbounded)).map(|(_, message)| message);
        changed.filter(|message| subscription.covers(message.key()))
    }

    /// The keyless messages of the history after the cursor, without the newest keyless message, which belongs to the
    /// state.
    fn older_keyless<'a>(
        &'a self,
        subscription: &'a Subscription,
        cursor: u64,
    ) -> impl Iterator<Item = &'a Arc<Message>> {
        let any = subscription.key().is_none() && self.history_keyless > 0;
        let history = any.then(|| self.replay(subscription, cursor)).into_iter().flatten();
        history.filter(|message| message.key().is_none() && Some(message.offset()) != self.newest_keyless)
    }

    /// The latest messages of a key and of all keys below it.
    fn within<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Arc<Message>> {
        // Keys below the key begin with the key and `/`. In ASCII, `0` follows `/`.
        let (first, end) = (format!("{key}/"), format!("{key}0"));
        let below = self.by_key.range::<str, _>((Bound::Included(first.as_str()), Bound::Excluded(end.as_str())));
        self.by_key.get(key).into_iter().chain(below.map(|(_, change)| change)).map(|change| &change.message)
    }

    /// The number of the subscription's messages in `after + 1..=until`; `None` if the number is no longer known.
    pub(super) fn count(&self, subscription: &Subscription, after: u64, until: u64) -> Option<u64> {
        if subscription.key().is_none() {
            return self.rank(until)?.checked_sub(self.rank(after)?);
        }
        self.history_reaches(after)
            .then(|| self.replay(subscription, after).take_while(|message| message.offset() <= until).count() as u64)
    }

    /// The number of the topic's messages up to the offset; `None` if the number is no longer known.
    fn rank(&self, offset: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.start <= offset);
        match after.checked_sub(1).map(|at| self.runs[at]) {
            Some(run) => Some(run.before + offset.min(run.end) - run.start + 1),
            None => (offset >= self.counted_from).then_some(self.counted_before),
        }
    }

    fn note_run(&mut self, offset: u64) {
        match self.runs.back_mut() {
            Some(run) if run.end + 1 == offset => run.end = offset,
            last => {
                let before = last.map_or(self.counted_before, |run| run.before + run.end - run.start + 1);
                self.runs.push_back(OffsetRun { start: offset, end: offset, before });
            }
        }
        if self.runs.len() > MAX_RUNS
            && let Some(oldest) = self.runs.pop_front()
        {
            self.counted_from = oldest.end;
            self.counted_before = oldest.before + oldest.end - oldest.start + 1;
        }
    }
}
