//! Generates random events for a log, and keeps a list of all published messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::log::{Log, LogLimits};
use crate::message::{Draft, Message, Payload, Timestamp};
use crate::topic::{Key, Topic, Topics};

pub(super) const EPOCH: u64 = 1_763_849_000_000;

/// An event that a log can meet.
#[derive(Debug, Clone)]
pub(super) enum LogEvent {
    Publish { topic: usize, key: Option<usize>, data: u8, lives: Option<u8> },
    Delete { topic: usize, key: usize },
    Tick { millis: u8 },
}

pub(super) fn event() -> impl Strategy<Value = LogEvent> {
    let publish = (0..2usize, prop::option::weighted(0.8, 0..6usize), 0..3u8, prop::option::weighted(0.2, 1..40u8));
    prop_oneof![
        8 => publish.prop_map(|(topic, key, data, lives)| {
            // Only a message with a key can expire.
            LogEvent::Publish { topic, key, data, lives: lives.filter(|_| key.is_some()) }
        }),
        2 => (0..2usize, 0..6usize).prop_map(|(topic, key)| LogEvent::Delete { topic, key }),
        1 => (0..60u8).prop_map(|millis| LogEvent::Tick { millis }),
    ]
}

pub(super) fn limits() -> impl Strategy<Value = LogLimits> {
    (0..12usize, 200..3000usize, 10..200u64, 2..8usize, 10..100u64, any::<bool>()).prop_map(
        |(history_messages, history_bytes, history_age, state_keys, tombstone_age, suppress_unchanged)| LogLimits {
            history_messages,
            history_bytes,
            history_age: Duration::from_millis(history_age),
            state_keys,
            tombstone_age: Duration::from_millis(tombstone_age),
            suppress_unchanged,
        },
    )
}

pub(super) fn topics() -> Topics {
    "odds,runs".parse().unwrap()
}

fn topic(at: usize) -> Topic {
    topics().iter().nth(at).unwrap().clone()
}

fn key(at: usize) -> Key {
    ["1", "1/a", "1/b", "2/a", "2/b/c", "10"][at].parse().unwrap()
}

/// A log under test, with all messages that were ever published and the clock of the test.
pub(super) struct World {
    pub(super) log: Log,
    limits: LogLimits,
    now: i64,
    pub(super) all: Vec<Arc<Message>>,
    /// The expiry that the publisher set last for each key.
    expiries: BTreeMap<(Topic, Key), i64>,
}

impl World {
    pub(super) fn new(limits: LogLimits) -> Self {
        let log = Log::new(EPOCH, &topics(), limits.clone());
        Self { log, limits, now: 1000, all: Vec::new(), expiries: BTreeMap::new() }
    }

    pub(super) fn after(limits: LogLimits, events: &[LogEvent]) -> Self {
        let mut world = Self::new(limits);
        for event in events {
            world.apply(event);
        }
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    pub(super) fn apply(&mut self, event: &LogEvent) {
        match event {
            LogEvent::Tick { millis } => {
                self.now += i64::from(*millis);
                let expired = self.log.tick(self.now(), usize::MAX);
                let due = self.expiries.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| id.clone());
                let due: BTreeSet<(Topic, Key)> = due.collect();
                let told = expired.iter().map(|draft| (draft.topic.clone(), draft.payload.key.clone().unwrap()));
                assert_eq!(told.collect::<BTreeSet<_>>(), due);
                for draft in &expired {
                    self.publish(draft);
                }
            }
            LogEvent::Publish { topic: at, key: of, data, lives } => {
                let payload = Payload {
                    key: of.map(key),
                    kind: None,
                    data: RawValue::from_string(data.to_string()).unwrap(),
                    expires_at: lives.map(|millis| Timestamp::from_millis(self.now + i64::from(millis))),
                };
                self.publish(&Draft { topic: topic(*at), payload });
            }
            LogEvent::Delete { topic: at, key: of } => {
                self.publish(&Draft { topic: topic(*at), payload: Payload::deletion(key(*of)) });
            }
        }
    }

    fn publish(&mut self, draft: &Draft) {
        let held = self.state(&draft.topic);
        let adds = draft.payload.key.as_ref().is_some_and(|key| !held.contains_key(key));
        let full = adds && !draft.payload.is_deletion() && held.len() >= self.limits.state_keys;
        assert_eq!(self.log.check(std::slice::from_ref(draft)).is_err(), full);
        if full {
            return;
        }
        let before = draft.payload.key.as_ref().map(|key| held.get(key).map(|message| message.data().to_vec()));
        // The deletion of a missing key changes nothing, even if the log still has a tombstone for the key.
        let says = (!draft.payload.is_deletion()).then(|| draft.payload.data.get().as_bytes().to_vec());
        let unchanged = self.limits.suppress_unchanged && before == Some(says);
        let appended = self.log.append(draft, self.now());
        assert_eq!(appended.is_none(), unchanged);
        if let Some(key) = draft.payload.key.clone() {
            let id = (draft.topic.clone(), key);
            match draft.payload.expires_at {
                Some(at) => self.expiries.insert(id, at.as_millis()),
                None => self.expiries.remove(&id),
            };
        }
        if let Some(message) = appended {
            assert_eq!(message.offset(), self.all.len() as u64 + 1, "offsets have no gaps");
            self.all.push(message);
        }
    }

    pub(super) fn of(&self, topic: &Topic) -> impl DoubleEndedIterator<Item = &Arc<Message>> {
        self.all.iter().filter(move |message| message.topic() == topic)
    }

    /// The newest message of each key, found by replaying all messages.
    pub(super) fn state(&self, topic: &Topic) -> BTreeMap<Key, Arc<Message>> {
        let mut state = BTreeMap::new();
        for message in self.of(topic) {
            match message.key() {
                Some(key) if message.is_deletion() => drop(state.remove(key)),
                Some(key) => drop(state.insert(key.clone(), Arc::clone(message))),
                None => {}
            }
        }
        state
    }
}
