//! Tests the journal on a disk that fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::*;
use crate::config::EngineKind;
use crate::message::Payload;

/// A fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A sync fails. The written data may be on the disk or not.
    Sync,
    /// Only the first half of the data is written.
    ShortWrite,
    /// There is no room, neither for a longer file nor for data.
    NoSpace,
    /// The file can be extended, but there is no room for data. File systems allocate blocks only when they are
    /// written.
    NoBlocks,
}

/// The next fault, the number of operations before it occurs, and how many times it occurs.
#[derive(Debug, Default)]
struct Faults(Mutex<Option<(Fault, usize, usize)>>);

impl Faults {
    fn set(&self, fault: Fault, after: usize, times: usize) {
        *self.0.lock().unwrap() = Some((fault, after, times));
    }

    fn clear(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// The fault of this operation, or `None` if the operation succeeds.
    fn next(&self, of: &[Fault]) -> Option<Fault> {
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
struct FaultyDisk {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.faults.next(&[Fault::NoSpace]) {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.file.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.faults.next(&[Fault::Sync]) {
            Some(_) => Err(io::Error::other("the sync failed")),
            None => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.faults.next(&[Fault::ShortWrite, Fault::NoSpace, Fault::NoBlocks]) {
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
        Ok(Box::new(FaultyDisk { file, faults: Arc::clone(&faults) }))
    })
}

/// A temporary directory. Dropping this value removes the directory.
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
    let manager =
        |log| ConnectionManager::new(config.topics.clone(), log, crate::manager::ManagerLimits::default(), quiet());
    Journal::open_through(medium, config, &quiet(), manager).unwrap()
}

/// The data of all messages in order of their offsets, which must have no gaps.
pub(super) fn history(manager: &ConnectionManager) -> Vec<u64> {
    manager.read_log(|log| {
        let kept: BTreeMap<u64, _> = log.kept();
        assert!(kept.keys().copied().eq(1..=kept.len() as u64), "the offsets have no gaps");
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

/// Sends the same request again and again until the journal accepts it.
pub(super) async fn publish_until_accepted(journal: &Journal, config: &Config, number: u64, count: u64) {
    while publish(journal, config, number, count).await.is_err() {
        tokio::time::advance(Duration::from_millis(300)).await;
    }
}

/// The messages that a new process would find if this process were killed now.
fn as_found(scratch: &Scratch) -> Vec<u64> {
    let copy = Scratch::new();
    std::fs::copy(scratch.0.join("oddswire.redb"), copy.0.join("oddswire.redb")).unwrap();
    let (journal, manager) = open(&copy.config(), file::plain());
    drop(journal);
    history(&manager)
}

/// Runs the engine until the returned set is dropped.
pub(super) fn running(journal: &Arc<Journal>) -> JoinSet<()> {
    let mut upkeep = JoinSet::new();
    let journal = Arc::clone(journal);
    upkeep.spawn(async move { journal.run().await });
    upkeep
}

#[tokio::test(start_paused = true)]
async fn disk_failing_at_start_loses_nothing_and_is_retried() {
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
        publish_until_accepted(&journal, &config, 100, 3).await;
        taken.extend(100..103);
        assert_eq!((history(&manager), as_found(&scratch)), (taken.clone(), taken), "{fault:?} in {round}");
        assert_eq!(journal.readiness(), Readiness::Ready);
        upkeep.shutdown().await;
    }
    assert!(felt > 18, "only {felt} faults had an effect");
}

#[tokio::test(start_paused = true)]
async fn full_disk_delays_a_new_file_until_there_is_room() {
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
        // After a failure, the journal tries to write again once a second.
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
    assert!(felt > 20, "only {felt} faults had an effect");
}

#[tokio::test]
async fn waiting_publishes_share_a_sync_up_to_the_group_limit() {
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
        // Start the engine only when all publishes are in the queue.
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
async fn disk_fault_keeps_confirmed_and_drops_refused_publishes() {
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
        // The batch with an unknown result, if there is one. The journal writes no other batch until the file is
        // repaired.
        let mut doubtful: Option<u64> = None;
        // The fault occurs during one of these publishes, or never if they need too few operations.
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
            assert_eq!(history(&manager), taken, "the log has the confirmed messages");
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
        // A retry of a confirmed request adds nothing, and a retry of a refused request is accepted.
        publish_until_accepted(&journal, &config, number, 50).await;
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
    assert!(refusals > 50 && unknown > 0, "too few faults had an effect: {refusals} refused, {unknown} unknown");
}
