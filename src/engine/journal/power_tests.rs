//! Tests that the file is usable after a power loss, and after the process has ended while it wrote a group.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;
use tokio::task::JoinSet;

use super::disk_tests::{Scratch, history, open, publish, publish_until_accepted, quiet, running};
use super::*;

/// The number of bytes that the disk writes atomically.
const SECTOR: u64 = 512;

/// The bytes of a file that are on the disk, without those that are only in the page cache. After a failed sync, Linux
/// treats the pages as written, so later syncs do not write them.
#[derive(Debug, Default)]
struct Platter {
    disk: Vec<u8>,
    dirty: BTreeSet<u64>,
}

/// Whether the next sync of any file fails.
type Fails = Arc<Mutex<bool>>;

#[derive(Debug)]
struct CachedDisk {
    file: FileBackend,
    platter: Arc<Mutex<Platter>>,
    fails: Fails,
}

impl StorageBackend for CachedDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        let dirty = std::mem::take(&mut platter.dirty);
        if std::mem::take(&mut *self.fails.lock().unwrap()) {
            return Err(io::Error::other("the sync failed"));
        }
        platter.disk.resize(usize::try_from(self.file.len()?).unwrap(), 0);
        for sector in dirty {
            let at = usize::try_from(sector * SECTOR).unwrap();
            let end = (at + usize::try_from(SECTOR).unwrap()).min(platter.disk.len());
            if at < end {
                self.file.read(sector * SECTOR, &mut platter.disk[at..end])?;
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let sectors = offset / SECTOR..(offset + data.len() as u64).div_ceil(SECTOR);
        self.platter.lock().unwrap().dirty.extend(sectors);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// The disk contents of the file that was opened last. After a repair, this is the new file.
#[derive(Clone, Default)]
struct Machine {
    platter: Arc<Mutex<Arc<Mutex<Platter>>>>,
    fails: Fails,
}

impl Machine {
    /// Opens files whose writes reach the disk only with a sync. An empty file is new, so the disk has no data of it.
    fn medium(&self) -> Medium {
        let machine = self.clone();
        Arc::new(move |file: File| {
            if file.metadata()?.len() == 0 {
                *machine.platter.lock().unwrap() = Arc::default();
            }
            let file = FileBackend::new(file).map_err(io::Error::other)?;
            let platter = Arc::clone(&machine.platter.lock().unwrap());
            Ok(Box::new(CachedDisk { file, platter, fails: Arc::clone(&machine.fails) }))
        })
    }

    /// The offsets of the messages that a server finds after a power loss.
    fn after_power_loss(&self, config: &Config) -> Vec<u64> {
        let scratch = Scratch::new();
        let disk = self.platter.lock().unwrap().lock().unwrap().disk.clone();
        std::fs::write(scratch.0.join("oddswire.redb"), disk).unwrap();
        let config = Config { data_dir: Some(scratch.0.clone()), ..config.clone() };
        let manager =
            |log| ConnectionManager::new(config.topics.clone(), log, crate::manager::ManagerLimits::default(), quiet());
        let (_journal, manager) = Journal::open_through(file::plain(), &config, &quiet(), manager).unwrap();
        kept(&manager)
    }
}

fn kept(manager: &ConnectionManager) -> Vec<u64> {
    manager.read_log(|log| log.kept().into_keys().collect())
}

#[tokio::test(start_paused = true)]
async fn confirmed_publishes_survive_power_loss_after_failed_sync() {
    let mut refusals = 0;
    for before in 20..40 {
        let (scratch, machine) = (Scratch::new(), Machine::default());
        let config = Config { history_messages: 437, ..scratch.config() };
        let (journal, manager) = open(&config, machine.medium());
        let journal = Arc::new(journal);
        let mut upkeep = running(&journal);
        for number in 0..before {
            publish(&journal, &config, number * 100, 50).await.unwrap();
        }
        *machine.fails.lock().unwrap() = true;
        let refused = publish(&journal, &config, 90_000, 50).await;
        // The failed sync may have belonged to an earlier deletion. Then the publish succeeds.
        assert!(matches!(refused, Ok(_) | Err(PublishError::Unavailable(_))), "{refused:?}");
        refusals += usize::from(refused.is_err());
        assert!(!*machine.fails.lock().unwrap(), "a sync failed");
        for number in 0..3 {
            publish_until_accepted(&journal, &config, 100_000 + number * 100, 2).await;
            let (found, there) = (machine.after_power_loss(&config), kept(&manager));
            // The disk may also have messages whose deletion is still waiting.
            assert!(there.iter().all(|offset| found.contains(offset)), "{before}/{number}");
            assert_eq!(found.last(), there.last(), "{before}/{number}");
        }
        upkeep.shutdown().await;
    }
    assert!(refusals > 0, "no publish met the failed sync");
}

#[tokio::test(start_paused = true)]
async fn next_process_after_failed_sync_writes_a_new_file() {
    let (scratch, machine) = (Scratch::new(), Machine::default());
    let config = scratch.config();
    let mut taken = 0;
    for round in 0..20 {
        let (journal, manager) = open(&config, machine.medium());
        let journal = Arc::new(journal);
        let mut upkeep = running(&journal);
        assert_eq!(kept(&manager).len(), taken);
        publish(&journal, &config, round * 100, 3).await.unwrap();
        taken += 3;
        assert_eq!(machine.after_power_loss(&config).len(), taken, "round {round}");
        // Simulates a process that ends after a failed sync, before it can repair the file.
        upkeep.shutdown().await;
        drop(journal);
        let place = Place::take(&scratch.0, machine.medium()).unwrap();
        let database = place.open().unwrap();
        *machine.fails.lock().unwrap() = true;
        assert!(store::settle(&database).is_err());
        assert!(place.is_unsynced());
    }
}

#[tokio::test]
async fn failed_sync_keeps_unknown_topics_and_the_old_file() {
    let (scratch, next) = (Scratch::new(), Scratch::new());
    let config = scratch.config();
    let (journal, _) = open(&config, file::plain());
    let journal = Arc::new(journal);
    let mut upkeep = running(&journal);
    publish(&journal, &config, 0, 3).await.unwrap();
    // Simulates a process that is killed after a failed sync.
    let (file, kept_file) = (next.0.join("oddswire.redb"), next.0.join("kept"));
    std::fs::copy(scratch.0.join("oddswire.redb"), &file).unwrap();
    upkeep.shutdown().await;
    std::fs::write(next.0.join("oddswire.unsynced"), "").unwrap();
    std::fs::hard_link(&file, &kept_file).unwrap();
    let before = std::fs::read(&file).unwrap();

    let without = Config { topics: "odds_updates".parse().unwrap(), ..next.config() };
    let (journal, _) = open(&without, file::plain());
    assert_eq!(journal.readiness(), Readiness::Ready);
    assert!(std::fs::read(&kept_file).unwrap() == before, "the old file is unchanged");
    drop(journal);
    let (_journal, manager) = open(&next.config(), file::plain());
    assert_eq!(history(&manager), [0, 1, 2], "the new file has the messages of the unknown topic");
}

/// A gate that makes syncs wait while it is closed.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    waiting: bool,
}

impl Gate {
    fn set(&self, closed: bool) {
        self.state.lock().unwrap().closed = closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting = state.closed;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.closed).unwrap());
    }

    /// Blocks until a sync waits at the gate.
    fn until_reached(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| !state.waiting).unwrap());
    }
}

#[derive(Debug)]
struct GatedDisk {
    file: FileBackend,
    gate: Arc<Gate>,
}

impl StorageBackend for GatedDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// Opens files whose syncs wait while the gate is closed.
fn gated(gate: &Arc<Gate>) -> Medium {
    let gate = Arc::clone(gate);
    Arc::new(move |file: File| {
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(GatedDisk { file, gate: Arc::clone(&gate) }))
    })
}

#[tokio::test]
async fn hanging_disk_shows_in_readiness_and_publish_succeeds_later() {
    let (scratch, gate) = (Scratch::new(), Arc::new(Gate::default()));
    let config = scratch.config();
    let (journal, _manager) = open(&config, gated(&gate));
    let journal = Arc::new(journal);
    let mut upkeep = running(&journal);
    gate.set(true);
    let mut publishing = JoinSet::new();
    let (theirs, of) = (Arc::clone(&journal), config.clone());
    publishing.spawn(async move { publish(&theirs, &of, 0, 1).await });
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let begun = Instant::now();
    while journal.readiness() == Readiness::Ready {
        assert!(begun.elapsed() < HANGS * 6, "readiness never reported the hanging disk");
        looks.tick().await;
    }
    assert!(matches!(journal.readiness(), Readiness::Degraded(why) if why.contains("has not answered for 5 s")));
    gate.set(false);
    assert_eq!(publishing.join_next().await.unwrap().unwrap().unwrap().counts.accepted, 1);
    assert_eq!(journal.readiness(), Readiness::Ready);
    upkeep.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stop_while_a_group_is_written_leaves_a_usable_file() {
    let (scratch, gate) = (Scratch::new(), Arc::new(Gate::default()));
    // With a history of only 3 messages, each group and the last transaction also delete messages.
    let config = Config { history_messages: 3, ..scratch.config() };
    let (journal, manager) = open(&config, gated(&gate));
    let journal = Arc::new(journal);
    let mut upkeep = running(&journal);
    for number in 0..5 {
        publish(&journal, &config, number * 100, 2).await.unwrap();
    }
    gate.set(true);
    let mut publishing = JoinSet::new();
    let (theirs, of) = (Arc::clone(&journal), config.clone());
    publishing.spawn(async move { publish(&theirs, &of, 900, 50).await });
    let reached = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || reached.until_reached()).await.unwrap();
    upkeep.abort_all();
    gate.set(false);
    while upkeep.join_next().await.is_some() {}
    let outcome = publishing.join_next().await.unwrap().unwrap();
    assert!(matches!(outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    drop((journal, manager));
    let (_journal, manager) = open(&config, file::plain());
    assert_eq!(manager.position().offset, 60, "the group reached the file");
}
