//! The engine `journal`, for a single process. It writes messages to a file before it delivers and confirms them.
//!
//! Invariants:
//! - Messages get their positions in the order in which the publishes arrive.
//! - A message is on the disk before it is delivered or confirmed. With `sync=interval`, the disk gets it later: at the
//!   end of the interval at the latest.
//! - A refused publish changes neither the log nor the file.
//! - The file and the log differ only by changes that the committer still has to write or to deliver.
//!
//! Modules:
//! - `committer`: collects waiting publishes, writes them together, then delivers and answers them.
//! - `disk`: the thread that waits for the disk.
//! - `format`: the version of the file, and upgrades from older versions.
//! - `store`: the tables, and the changes of one transaction.
//! - `file`: the directory: its lock, and opening, checking and renaming the file.

mod committer;
mod disk;
#[cfg(test)]
mod disk_tests;
mod file;
mod format;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power_tests;
mod store;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use slog::{Logger, info, warn};
use tokio::sync::{mpsc, oneshot};

use self::committer::{Committer, Request};
use self::disk::{Disk, Found};
use self::file::{Medium, Place};
use self::store::{FileContents, Image};
use super::idempotency::Answers;
use super::{Broadcast, Engine, EngineError, IdempotencyKey, PublishError, Readiness, log_limits, new_epoch};
use crate::config::{Config, SyncWhen};
use crate::log::Log;
use crate::manager::{ConnectionManager, Published};
use crate::message::{Draft, Timestamp};

/// The maximum number of publishes that wait for the disk. Further publishes wait until the queue has room.
const QUEUE: usize = 1024;

/// If the disk has not answered for this time, readiness reports that the disk hangs.
const HANGS: Duration = Duration::from_secs(5);

/// The state that the engine and its committer share.
#[derive(Debug)]
struct JournalState {
    /// The answers to delivered batches that had an `Idempotency-Key`.
    answers: Mutex<Answers>,
    readiness: Mutex<Readiness>,
    /// The time at which the committer began to wait for the disk. `None` while it does not wait.
    waiting: Mutex<Option<Instant>>,
}

impl JournalState {
    /// Marks the committer as waiting for the disk until the returned guard is dropped.
    fn wait(&self) -> impl Drop + '_ {
        struct DiskWait<'a>(&'a JournalState);
        impl Drop for DiskWait<'_> {
            fn drop(&mut self) {
                *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        DiskWait(self)
    }
}

/// Keeps all messages in a file.
#[derive(Debug)]
pub struct Journal {
    manager: ConnectionManager,
    shared: Arc<JournalState>,
    requests: mpsc::Sender<Request>,
    /// `None` after the first call of [`Engine::run`], which takes the committer and runs it.
    committer: Mutex<Option<Committer>>,
}

impl Journal {
    /// Opens the file in `data-dir`, and creates the manager with the log from the file.
    pub fn open(
        config: &Config,
        logger: &Logger,
        manager: impl FnOnce(Log) -> ConnectionManager,
    ) -> Result<(Self, ConnectionManager), EngineError> {
        Self::open_through(file::plain(), config, logger, manager)
    }

    fn open_through(
        medium: Medium,
        config: &Config,
        logger: &Logger,
        manager: impl FnOnce(Log) -> ConnectionManager,
    ) -> Result<(Self, ConnectionManager), EngineError> {
        let began = Instant::now();
        let directory = config.data_dir.as_deref().unwrap_or(Path::new("."));
        let place = Place::take(directory, medium)?;
        let path = place.path().to_owned();
        if config.reset_data
            && let Some(copy) = place.set_aside(Timestamp::now().as_millis())?
        {
            warn!(logger, "journal.reset"; "copy" => %copy.display());
        }
        let kept = place.read(&config.topics)?.map(|kept| continued(kept, logger));
        let bytes = place.bytes();
        let (mut log, answers, found) = restore(kept, config);
        log.note_dropped();
        let loose = config.sync != SyncWhen::Always;
        let image = image_of(&log, &answers, loose);
        let (position, messages) = (image.position, image.messages.len());
        let (disk, failed) = Disk::start(place, found, &image, logger.clone())
            .map_err(|error| EngineError(format!("the journal thread cannot be started: {error}")))?;
        info!(logger, "journal.opened"; "file" => %path.display(), "messages" => messages, "bytes" => bytes,
            "position" => %position, "duration_ms" => u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));

        let manager = manager(log);
        let shared = Arc::new(JournalState {
            answers: Mutex::new(answers),
            readiness: Mutex::new(Readiness::Ready),
            waiting: Mutex::default(),
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut committer =
            Committer::new(manager.clone(), Arc::clone(&shared), queue, disk, config.sync, logger.clone());
        if let Some(failure) = failed {
            committer.begin_broken(&failure, &path);
        }
        let journal = Self { manager: manager.clone(), shared, requests, committer: Mutex::new(Some(committer)) };
        Ok((journal, manager))
    }

    /// Limits the number of publishes per sync. Without this limit, all waiting publishes share one sync. The benchmark
    /// uses a limit of 1 to measure the effect of sharing.
    #[must_use]
    #[cfg(feature = "internals")]
    pub fn with_groups_of(self, most: usize) -> Self {
        if let Some(committer) = self.committer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            committer.limit_groups(most);
        }
        self
    }
}

/// Returns the contents of the file. They get a new epoch if a crash may have lost messages that clients have received.
fn continued(mut kept: FileContents, logger: &Logger) -> FileContents {
    if !kept.foreign.is_empty() {
        warn!(logger, "journal.unknown_topics"; "messages" => kept.foreign.values().sum::<usize>(),
            "topics" => kept.foreign.keys().cloned().collect::<Vec<_>>().join(","),
            "what" => "the messages stay in the file; configure the topics again to serve them");
    }
    if kept.loose {
        let before = kept.position;
        kept.begin_epoch(new_epoch().max(before.epoch + 1));
        warn!(logger, "journal.new_epoch"; "from" => %before, "to" => %kept.position,
            "what" => "with sync=interval a crash can lose confirmed messages, so clients get the whole state again");
    }
    kept
}

/// Restores the log and the answers from the contents of the file. Also returns the facts about the file that a repair
/// needs.
fn restore(kept: Option<FileContents>, config: &Config) -> (Log, Answers, Found) {
    let (limits, now) = (log_limits(config), Timestamp::now());
    let Some(kept) = kept else {
        return (Log::new(new_epoch(), &config.topics, limits), Answers::default(), Found::default());
    };
    let log = Log::restore(kept.position, &config.topics, limits, kept.facts, kept.messages, now);
    let found = Found { transactions: kept.transactions, unknown: kept.unknown };
    (log, Answers::restore(kept.answers, now), found)
}

/// The contents that the file must have, so that it restores this log and these answers.
fn image_of(log: &Log, answers: &Answers, loose: bool) -> Image {
    Image {
        position: log.position(),
        messages: log.kept(),
        facts: log.facts(0),
        answers: answers.all(),
        loose,
        room: 0,
    }
}

impl Engine for Journal {
    fn answered(&self, key: &IdempotencyKey) -> BoxFuture<'_, Result<Option<Published>, PublishError>> {
        let answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(answers.find(key, Timestamp::now())).boxed()
    }

    fn publish(
        &self,
        batch: Vec<Draft>,
        key: Option<IdempotencyKey>,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        let (answer, answered) = oneshot::channel();
        let request = Request { batch, key, answer: Some(answer) };
        async {
            if self.requests.send(request).await.is_err() {
                return Err(PublishError::Unavailable("the journal has stopped".to_owned()));
            }
            answered.await.unwrap_or_else(|_| Err(PublishError::Unknown("the journal has stopped".to_owned())))
        }
        .boxed()
    }

    fn broadcast(&self, broadcast: Broadcast) -> BoxFuture<'_, Result<usize, PublishError>> {
        std::future::ready(Ok(self.manager.broadcast_all(broadcast.frames()))).boxed()
    }

    fn run(&self) -> BoxFuture<'_, ()> {
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        async {
            match committer {
                Some(committer) => committer.run().await,
                // An earlier call of `run` has taken the committer and runs it.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn readiness(&self) -> Readiness {
        let since = *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waited) = since.map(|since| since.elapsed()).filter(|waited| *waited >= HANGS) {
            return Readiness::Degraded(format!("the disk has not answered for {} s", waited.as_secs()));
        }
        self.shared.readiness.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
