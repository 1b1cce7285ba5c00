//! The journal against a plain log, and on a disk that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, StorageBackend};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::store::{self, Changes, Kept};
use super::*;
use crate::config::EngineKind;
use crate::log::{CatchUp, Limits, Since, StepLimits, Style};
use crate::message::{Payload, Position};
use crate::topic::{Subscription, Topics};

// Against a plain log.

const EPOCH: u64 = 1_763_849_000_000;

#[derive(Debug, Clone)]
enum Event {
    Publish(Vec<(usize, Option<usize>, u8, Option<u8>)>),
    Tick(u8),
    /// What is only to be deleted is written.
    Tidy,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let message = (0..2usize, prop::option::weighted(0.7, 0..6usize), 0..4u8, prop::option::weighted(0.2, 1..40u8));
    prop_oneof![
        8 => vec(message, 1..6).prop_map(Event::Publish),
        2 => (0..60u8).prop_map(Event::Tick),
        1 => Just(Event::Tidy),
        2 => Just(Event::Restart),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..12usize, 200..3000usize, 10..200u64, 2..8usize, 10..100u64, any::<bool>()).prop_map(
        |(history_messages, history_bytes, history_age, state_keys, tombstone_age, suppress_unchanged)| Limits {
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

/// A log that is written down, beside one that is not.
struct Pair {
    plain: Log,
    kept: Log,
    database: Database,
    limits: Limits,
    waiting: BTreeSet<u64>,
    runs_written: u64,
    transactions: u64,
    now: i64,
}

impl Pair {
    fn new(limits: &Limits) -> Self {
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
        pair.mend();
        pair
    }

    fn mend(&mut self) {
        self.transactions += 1;
        let image = image_of(&self.kept, &Answers::default(), false);
        store::mend(&self.database, &image, self.transactions).unwrap();
        self.waiting.clear();
        self.runs_written = self.kept.position().offset;
    }

    fn happens(&mut self, event: &Event) {
        let now = Timestamp::from_millis(self.now);
        match event {
            Event::Publish(messages) => {
                let batch: Vec<Draft> = messages.iter().map(|message| draft(message, self.now)).collect();
                self.publish(&batch);
            }
            Event::Tick(millis) => {
                self.now += i64::from(*millis);
                let now = Timestamp::from_millis(self.now);
                let expired = self.plain.tick(now, usize::MAX);
                let also = self.kept.tick(now, usize::MAX);
                assert_eq!(format!("{expired:?}"), format!("{also:?}"));
                self.publish(&expired);
            }
            Event::Tidy => self.write(Vec::new(), self.kept.position().offset),
            Event::Restart => {
                let kept = Kept::read(&self.database, &topics()).unwrap().unwrap();
                assert_eq!(kept.transactions, self.transactions);
                self.kept = Log::restore(kept.position, &topics(), self.limits.clone(), kept.facts, kept.messages, now);
                // The other one is pruned by a restart as well: only what is too old by now.
                self.plain.prune(now);
                self.kept.note_dropped();
                self.mend();
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

    fn write(&mut self, entries: Vec<crate::log::Entry>, last: u64) {
        self.waiting.extend(self.kept.take_dropped());
        let facts = self.kept.facts(self.runs_written);
        let changes =
            Changes { last, entries, dropped: std::mem::take(&mut self.waiting), facts, ..Changes::default() };
        self.transactions += 1;
        store::write(&self.database, &changes, self.transactions).unwrap();
        self.runs_written = self.kept.position().offset;
    }

    /// Both answer everything alike.
    fn is_alike(&self) {
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

/// What a catch-up tells and brings.
fn caught_up(log: &Log, subscription: &Subscription, since: Position, style: Style) -> (String, Vec<String>) {
    let mut catch_up = CatchUp::new(style);
    catch_up.add(subscription.clone(), Since::Position(since), log);
    let step = log.step(&mut catch_up, StepLimits { messages: usize::MAX, bytes: usize::MAX });
    assert!(step.done);
    let text = |message: &Arc<crate::message::Message>| String::from_utf8(message.frames().text().to_vec()).unwrap();
    (format!("{:?}", step.announcements), step.messages.iter().map(text).collect())
}

proptest! {
    #[test]
    fn a_log_that_is_written_down_and_read_back_answers_like_one_that_never_ended(
        limits in limits(),
        events in vec(event(), 0..40),
    ) {
        let mut pair = Pair::new(&limits);
        for event in &events {
            pair.happens(event);
            if matches!(event, Event::Restart) {
                pair.is_alike();
            }
        }
        pair.happens(&Event::Restart);
        pair.is_alike();
        // The file holds what the log holds, and nothing else.
        let kept = Kept::read(&pair.database, &topics()).unwrap().unwrap();
        let offsets: Vec<u64> = kept.messages.iter().map(|change| change.message.offset()).collect();
        prop_assert_eq!(offsets, pair.kept.kept().into_keys().collect::<Vec<_>>());
    }
}

// On a disk that fails.

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A sync fails; what was written may be there or not.
    Sync,
    /// Half of what is written arrives.
    ShortWrite,
    /// No room for anything.
    NoSpace,
    /// No room for what is written, though the file may be made longer: its blocks are only taken when they are written to.
    NoBlocks,
}

/// The faults of a disk: what comes after so many operations, and how often.
#[derive(Debug, Default)]
struct Faults(Mutex<Option<(Fault, usize, usize)>>);

impl Faults {
    fn set(&self, fault: Fault, after: usize, times: usize) {
        *self.0.lock().unwrap() = Some((fault, after, times));
    }

    fn clear(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// Whether this operation fails.
    fn strike(&self, of: &[Fault]) -> Option<Fault> {
        let mut set = self.0.lock().unwrap();
        let (fault, after, times) = set.as_mut().filter(|(fault, _, _)| of.contains(fault))?;
        if *after > 0 {
            *after -= 1;
            return None;
        }
        let fault = *fault;
        *times = times.saturating_sub(1);
        if *times == 0 {
            *set = None;
        }
        Some(fault)
    }
}

#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.faults.strike(&[Fault::NoSpace]) {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.file.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.faults.strike(&[Fault::Sync]) {
            Some(_) => Err(io::Error::other("the sync failed")),
            None => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.faults.strike(&[Fault::ShortWrite, Fault::NoSpace, Fault::NoBlocks]) {
            Some(Fault::ShortWrite) => {
                self.file.write(offset, &data[..data.len() / 2])?;
                Err(io::Error::other("the write was short"))
            }
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.file.write(offset, data),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

fn faulty(faults: &Arc<Faults>) -> Medium {
    let faults = Arc::clone(faults);
    Arc::new(move |file: File| {
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(Faulty { file, faults: Arc::clone(&faults) }))
    })
}

/// A directory that is removed with it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("oddswire-journal-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn config(&self) -> Config {
        let mut config = Config::default();
        config.engine = EngineKind::Journal;
        config.data_dir = Some(self.0.clone());
        config.history_messages = 1_000_000;
        config
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn quiet() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

pub(super) fn open(config: &Config, medium: Medium) -> (Journal, ConnectionManager) {
    let manager = |log| ConnectionManager::new(config.topics.clone(), log, crate::manager::Limits::default(), quiet());
    Journal::open_through(medium, config, &quiet(), manager).unwrap()
}

/// The data of all messages of the keyless topic, in order of their offsets, which are dense.
pub(super) fn history(manager: &ConnectionManager) -> Vec<u64> {
    manager.read_log(|log| {
        let kept: BTreeMap<u64, _> = log.kept();
        assert!(kept.keys().copied().eq(1..=kept.len() as u64), "no hole, nothing beyond");
        kept.values().map(|change| std::str::from_utf8(change.message.data()).unwrap().parse().unwrap()).collect()
    })
}

pub(super) async fn publish(
    journal: &Journal,
    config: &Config,
    number: u64,
    count: u64,
) -> Result<Published, PublishError> {
    let topic = config.topics.get("scrape_progress").unwrap();
    let one = |number: u64| Draft {
        topic: topic.clone(),
        payload: Payload::new(RawValue::from_string(number.to_string()).unwrap()),
    };
    let key = IdempotencyKey::new(number.to_string(), b"");
    journal.publish((number..number + count).map(one).collect(), Some(key)).await
}

/// A copy of the directory's file as it is now: what a process would find that starts after this one was killed.
fn as_found(scratch: &Scratch) -> Vec<u64> {
    let copy = Scratch::new();
    std::fs::copy(scratch.0.join("oddswire.redb"), copy.0.join("oddswire.redb")).unwrap();
    let (journal, manager) = open(&copy.config(), file::plain());
    drop(journal);
    history(&manager)
}

/// Runs the engine for as long as this is kept.
pub(super) fn running(journal: &Arc<Journal>) -> JoinSet<()> {
    let mut upkeep = JoinSet::new();
    let journal = Arc::clone(journal);
    upkeep.spawn(async move { journal.run().await });
    upkeep
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_at_the_start_takes_nothing_from_the_file_and_is_tried_again() {
    let mut felt = 0;
    for (round, fault) in [Fault::Sync, Fault::ShortWrite, Fault::NoSpace].into_iter().cycle().take(36).enumerate() {
        let (scratch, faults) = (Scratch::new(), Arc::new(Faults::default()));
        let config = scratch.config();
        let (journal, _) = open(&config, file::plain());
        let journal = Arc::new(journal);
        let mut upkeep = running(&journal);
        publish(&journal, &config, 0, 50).await.unwrap();
        upkeep.shutdown().await;
        drop(journal);

        faults.set(fault, round / 3 % 6, [1, usize::MAX][round / 18]);
        let (journal, manager) = open(&config, faulty(&faults));
        let mut taken: Vec<u64> = (0..50).collect();
        assert_eq!((history(&manager), as_found(&scratch)), (taken.clone(), taken.clone()), "{fault:?} in {round}");
        let journal = Arc::new(journal);
        let mut upkeep = running(&journal);
        if journal.readiness() != Readiness::Ready {
            felt += 1;
            let refused = publish(&journal, &config, 100, 3).await;
            assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
        }
        faults.clear();
        while publish(&journal, &config, 100, 3).await.is_err() {
            tokio::time::advance(Duration::from_millis(300)).await;
        }
        taken.extend(100..103);
        assert_eq!((history(&manager), as_found(&scratch)), (taken.clone(), taken), "{fault:?} in {round}");
        assert_eq!(journal.readiness(), Readiness::Ready);
        upkeep.shutdown().await;
    }
    assert!(felt > 18, "the faults were felt: {felt} times");
}

#[tokio::test(start_paused = true)]
async fn a_new_file_that_the_disk_has_no_room_for_is_made_once_there_is_room_also_by_another_process() {
    let mut felt = 0;
    for (round, fault) in [Fault::NoBlocks, Fault::ShortWrite, Fault::NoSpace].into_iter().cycle().take(60).enumerate()
    {
        let (scratch, faults) = (Scratch::new(), Arc::new(Faults::default()));
        let config = scratch.config();
        faults.set(fault, round / 6, usize::MAX);
        let (journal, manager) = open(&config, faulty(&faults));
        let (mut journal, mut manager) = (Arc::new(journal), manager);
        let mut upkeep = running(&journal);
        if journal.readiness() != Readiness::Ready {
            felt += 1;
            let refused = publish(&journal, &config, 100, 3).await;
            assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
        }
        faults.clear();
        if round % 2 == 1 {
            upkeep.shutdown().await;
            drop((journal, manager));
            let (next, of_next) = open(&config, file::plain());
            (journal, manager) = (Arc::new(next), of_next);
            upkeep = running(&journal);
        }
        // The disk is tried again each second.
        let mut taken = publish(&journal, &config, 100, 3).await;
        for _ in 0..10 {
            if taken.is_ok() {
                break;
            }
            tokio::time::advance(Duration::from_millis(300)).await;
            taken = publish(&journal, &config, 100, 3).await;
        }
        assert!(taken.is_ok(), "{fault:?} in {round}: {taken:?}");
        assert_eq!((history(&manager), as_found(&scratch)), (vec![100, 101, 102], vec![100, 101, 102]));
        upkeep.shutdown().await;
        drop((journal, manager));
        let (_journal, manager) = open(&config, file::plain());
        assert_eq!(history(&manager), [100, 101, 102], "{fault:?} in {round}");
    }
    assert!(felt > 20, "the faults were felt: {felt} times");
}

#[tokio::test]
async fn publishes_that_wait_together_share_a_sync_unless_each_is_to_have_its_own() {
    for (most, expected) in [(usize::MAX, 1), (4, 3), (1, 12)] {
        let scratch = Scratch::new();
        let config = scratch.config();
        let (journal, manager) = open(&config, file::plain());
        let journal = Arc::new(journal.with_groups_of(most));
        let mut publishing = JoinSet::new();
        for number in 0..12 {
            let (journal, config) = (Arc::clone(&journal), config.clone());
            publishing.spawn(async move { publish(&journal, &config, number, 1).await });
        }
        // All of them are in line before it begins.
        while journal.requests.capacity() > QUEUE - 12 {
            tokio::task::yield_now().await;
        }
        let mut upkeep = running(&journal);
        publishing.join_all().await.into_iter().for_each(|published| assert!(published.is_ok()));
        upkeep.shutdown().await;
        drop((journal, manager));
        let kept = Place::take(&scratch.0, file::plain()).unwrap().read(&config.topics).unwrap().unwrap();
        assert_eq!(kept.transactions, 1 + expected, "one at the start, and {expected} for groups of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_any_fault_of_the_disk_what_was_answered_is_there_and_what_was_refused_is_not() {
    let mut refusals = 0;
    let mut unknown = 0;
    for (round, fault) in [Fault::Sync, Fault::ShortWrite, Fault::NoSpace].into_iter().cycle().take(63).enumerate() {
        let (scratch, faults) = (Scratch::new(), Arc::new(Faults::default()));
        let config = scratch.config();
        let (journal, manager) = open(&config, faulty(&faults));
        let journal = Arc::new(journal);
        let mut upkeep = running(&journal);
        let mut taken = Vec::new();
        for number in 0..5 {
            publish(&journal, &config, number * 100, 3).await.unwrap();
            taken.extend(number * 100..number * 100 + 3);
        }
        faults.set(fault, round / 3 % 7, [1, 2, usize::MAX][round / 21 % 3]);
        let mut number = 1000;
        // A batch of which it is not known whether it was taken; nothing else is written before that is settled.
        let mut doubtful: Option<u64> = None;
        // It strikes within a few publishes, or not at all where there were too few operations.
        for _ in 0..6 {
            number += 100;
            match publish(&journal, &config, number, 50).await {
                Ok(_) => {
                    taken.extend(number..number + 50);
                    doubtful = None;
                }
                Err(PublishError::Unavailable(_)) => refusals += 1,
                Err(PublishError::Unknown(_)) => {
                    unknown += 1;
                    assert_eq!(doubtful.replace(number), None);
                }
                Err(other) => panic!("{other}"),
            }
            assert_eq!(history(&manager), taken, "the log has what was answered");
            if taken.last() == Some(&(number + 49)) {
                continue;
            }
            let found = as_found(&scratch);
            let with_doubtful = || {
                let doubtful = doubtful.into_iter().flat_map(|number| number..number + 50);
                taken.iter().copied().chain(doubtful).collect::<Vec<_>>()
            };
            assert!(found == taken || found == with_doubtful(), "{fault:?} in round {round}: {found:?} for {taken:?}");
        }
        faults.clear();
        loop {
            // The retry of a request that was answered is not taken twice, that of a refused one is taken.
            match publish(&journal, &config, number, 50).await {
                Ok(_) => break,
                Err(_) => tokio::time::advance(Duration::from_millis(300)).await,
            }
        }
        if taken.last() != Some(&(number + 49)) {
            taken.extend(number..number + 50);
        }
        assert_eq!(journal.readiness(), Readiness::Ready);
        assert_eq!(as_found(&scratch), taken, "after {fault:?} in round {round}");
        upkeep.shutdown().await;
        drop(journal);
        let (_journal, manager) = open(&config, file::plain());
        assert_eq!(history(&manager), taken);
    }
    assert!(refusals > 50 && unknown > 0, "the faults were felt: {refusals} refused, {unknown} unknown");
}
