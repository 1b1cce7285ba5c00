//! Tests the journal against a model. A log that is written to a file and restored from it must give the same answers
//! as a log that stays in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use redb::Database;
use redb::backends::InMemoryBackend;
use serde_json::value::RawValue;

use super::image_of;
use super::store::{self, Changes, FileContents};
use crate::engine::idempotency::Answers;
use crate::log::{CatchUp, Log, LogEntry, LogLimits, Since, StepLimits, Style};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Subscription, Topics};

const EPOCH: u64 = 1_763_849_000_000;

#[derive(Debug, Clone)]
enum JournalEvent {
    Publish(Vec<(usize, Option<usize>, u8, Option<u8>)>),
    Tick(u8),
    /// The journal deletes dropped messages from the file.
    Tidy,
    Restart,
}

fn event() -> impl Strategy<Value = JournalEvent> {
    let message = (0..2usize, prop::option::weighted(0.7, 0..6usize), 0..4u8, prop::option::weighted(0.2, 1..40u8));
    prop_oneof![
        8 => vec(message, 1..6).prop_map(JournalEvent::Publish),
        2 => (0..60u8).prop_map(JournalEvent::Tick),
        1 => Just(JournalEvent::Tidy),
        2 => Just(JournalEvent::Restart),
    ]
}

fn limits() -> impl Strategy<Value = LogLimits> {
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

fn topics() -> Topics {
    "odds,runs".parse().unwrap()
}

fn draft((topic, key, data, lives): &(usize, Option<usize>, u8, Option<u8>), now: i64) -> Draft {
    let key = key.map(|at| ["1", "1/a", "1/b", "2/a", "2/b/c", "\u{e4}\"\\"][at].parse().unwrap());
    let data = if *data == 3 { "null".to_owned() } else { format!("{{ \"price\" : {data} }}") };
    let payload = Payload {
        expires_at: lives
            .filter(|_| key.is_some() && data != "null")
            .map(|lives| Timestamp::from_millis(now + i64::from(lives))),
        kind: key.is_none().then(|| "a \"kind\"".to_owned()),
        key,
        data: RawValue::from_string(data).unwrap(),
    };
    Draft { topic: topics().iter().nth(*topic).unwrap().clone(), payload }
}

/// Two logs that get the same messages: `kept` is written to a file and restored from it, and `plain` stays in memory.
struct Pair {
    plain: Log,
    kept: Log,
    database: Database,
    limits: LogLimits,
    waiting: BTreeSet<u64>,
    runs_written: u64,
    transactions: u64,
    now: i64,
}

impl Pair {
    fn new(limits: &LogLimits) -> Self {
        let new = || Log::new(EPOCH, &topics(), limits.clone());
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut pair = Self {
            plain: new(),
            kept: new(),
            database,
            waiting: BTreeSet::new(),
            runs_written: 0,
            transactions: 0,
            now: 1000,
            limits: limits.clone(),
        };
        pair.kept.note_dropped();
        pair.repair();
        pair
    }

    fn repair(&mut self) {
        self.transactions += 1;
        let image = image_of(&self.kept, &Answers::default(), false);
        store::repair(&self.database, &image, self.transactions).unwrap();
        self.waiting.clear();
        self.runs_written = self.kept.position().offset;
    }

    fn happens(&mut self, event: &JournalEvent) {
        let now = Timestamp::from_millis(self.now);
        match event {
            JournalEvent::Publish(messages) => {
                let batch: Vec<Draft> = messages.iter().map(|message| draft(message, self.now)).collect();
                self.publish(&batch);
            }
            JournalEvent::Tick(millis) => {
                self.now += i64::from(*millis);
                let now = Timestamp::from_millis(self.now);
                let expired = self.plain.tick(now, usize::MAX);
                let also = self.kept.tick(now, usize::MAX);
                assert_eq!(format!("{expired:?}"), format!("{also:?}"));
                self.publish(&expired);
            }
            JournalEvent::Tidy => self.write(Vec::new(), self.kept.position().offset),
            JournalEvent::Restart => {
                let kept = FileContents::read(&self.database, &topics()).unwrap().unwrap();
                assert_eq!(kept.transactions, self.transactions);
                self.kept = Log::restore(kept.position, &topics(), self.limits.clone(), kept.facts, kept.messages, now);
                // The restart dropped messages of `kept` that had become too old, so drop them from `plain`, too.
                self.plain.prune(now);
                self.kept.note_dropped();
                self.repair();
            }
        }
    }

    fn publish(&mut self, batch: &[Draft]) {
        let now = Timestamp::from_millis(self.now);
        let mut staging = self.kept.staging();
        let staged = self.kept.stage(&mut staging, batch, now);
        if self.plain.check(batch).is_err() {
            assert!(staged.is_err());
            return;
        }
        let unchanged: Vec<bool> = batch.iter().map(|draft| self.plain.append(draft, now).is_none()).collect();
        assert_eq!(staged.unwrap(), unchanged);
        let last = staging.position().offset;
        let entries = staging.into_entries();
        if !entries.is_empty() {
            self.write(entries.clone(), last);
        }
        for entry in entries {
            self.kept.apply(entry, now);
        }
    }

    fn write(&mut self, entries: Vec<LogEntry>, last: u64) {
        self.waiting.extend(self.kept.take_dropped());
        let facts = self.kept.facts(self.runs_written);
        let changes =
            Changes { last, entries, dropped: std::mem::take(&mut self.waiting), facts, ..Changes::default() };
        self.transactions += 1;
        store::write(&self.database, &changes, self.transactions).unwrap();
        self.runs_written = self.kept.position().offset;
    }

    /// Asserts that both logs give the same answers.
    fn assert_alike(&self) {
        assert_eq!(self.plain.position(), self.kept.position());
        for text in ["odds", "runs", "odds/1", "odds/2"] {
            let subscription: Subscription = text.parse().unwrap();
            let state =
                |log: &Log| log.state(&subscription).iter().map(|m| m.frames().text().to_vec()).collect::<Vec<_>>();
            assert_eq!(state(&self.plain), state(&self.kept));
            for offset in 0..=self.plain.position().offset {
                for style in [Style::Resume, Style::Slow] {
                    let told = |log: &Log| caught_up(log, &subscription, Position { epoch: EPOCH, offset }, style);
                    assert_eq!(told(&self.plain), told(&self.kept), "{text} from {offset}");
                }
            }
        }
    }
}

/// The announcements and messages of a whole catch-up after the position `since`.
fn caught_up(log: &Log, subscription: &Subscription, since: Position, style: Style) -> (String, Vec<String>) {
    let mut catch_up = CatchUp::new(style);
    catch_up.add(subscription.clone(), Since::Position(since), log);
    let step = log.step(&mut catch_up, StepLimits { messages: usize::MAX, bytes: usize::MAX });
    assert!(step.done);
    let text = |message: &Arc<Message>| String::from_utf8(message.frames().text().to_vec()).unwrap();
    (format!("{:?}", step.announcements), step.messages.iter().map(text).collect())
}

proptest! {
    #[test]
    fn restored_log_answers_like_one_that_stays_in_memory(
        limits in limits(),
        events in vec(event(), 0..40),
    ) {
        let mut pair = Pair::new(&limits);
        for event in &events {
            pair.happens(event);
            if matches!(event, JournalEvent::Restart) {
                pair.assert_alike();
            }
        }
        pair.happens(&JournalEvent::Restart);
        pair.assert_alike();
        // The file holds the messages of the log, and no others.
        let kept = FileContents::read(&pair.database, &topics()).unwrap().unwrap();
        let offsets: Vec<u64> = kept.messages.iter().map(|change| change.message.offset()).collect();
        prop_assert_eq!(offsets, pair.kept.kept().into_keys().collect::<Vec<_>>());
    }
}
