//! The engine of one process that outlives it: what was answered is in a file first, then it is delivered.
//!
//! Invariants: publishes get their places in the order in which they came; nothing is delivered or answered before it is on
//! the disk (with `sync=interval`: before it is in line for it); a publish that is refused leaves nothing behind; the file
//! and the log never differ but by what is in the committer's hands.
//!
//! - `committer`: takes what waits, writes it down together, then delivers and answers it.
//! - `disk`: the thread that waits for the disk.
//! - `format`: the version of the file, and what brings an older one up to date.
//! - `store`: the tables, and what a transaction changes in them.
//! - `file`: the place on the disk: a look before it is touched, the lock, putting aside.

mod committer;
mod disk;
mod file;
mod format;
#[cfg(test)]
mod power_tests;
mod store;
#[cfg(test)]
mod tests;

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
use self::store::{Image, Kept};
use super::idempotency::Answers;
use super::{Broadcast, Engine, EngineError, IdempotencyKey, PublishError, Readiness, log_limits, new_epoch};
use crate::config::{Config, SyncWhen};
use crate::log::Log;
use crate::manager::{ConnectionManager, Published};
use crate::message::{Draft, Timestamp};

/// Publishes that wait for the disk; further ones wait for a place in this line.
const QUEUE: usize = 1024;

/// A disk that has not answered for so long is said to hang.
const HANGS: Duration = Duration::from_secs(5);

/// What the engine and its committer share.
#[derive(Debug)]
struct Shared {
    /// Those that are in the file.
    answers: Mutex<Answers>,
    readiness: Mutex<Readiness>,
    /// Since when the disk is waited for, while it is.
    waiting: Mutex<Option<Instant>>,
}

impl Shared {
    /// Notes for how long the disk is waited for.
    fn wait(&self) -> impl Drop + '_ {
        struct Waiting<'a>(&'a Shared);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Waiting(self)
    }
}

/// Keeps everything in a file.
#[derive(Debug)]
pub struct Journal {
    manager: ConnectionManager,
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    /// Until [`Engine::run`] takes it.
    committer: Mutex<Option<Committer>>,
}

impl Journal {
    /// Opens the file in `data-dir`, and makes the manager of what it holds.
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
            .map_err(|error| EngineError(format!("the journal's thread cannot be started: {error}")))?;
        info!(logger, "journal.opened"; "file" => %path.display(), "messages" => messages, "bytes" => bytes,
            "position" => %position, "duration_ms" => u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));

        let manager = manager(log);
        let shared = Arc::new(Shared {
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

    /// The same, with at most so many publishes to a sync. As it comes, all that wait share one; with 1 each has its own,
    /// which is what sharing is measured against.
    #[must_use]
    pub fn with_groups_of(self, most: usize) -> Self {
        if let Some(committer) = self.committer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            committer.limit_groups(most);
        }
        self
    }
}

/// What is there, in a new epoch where a crash may have taken some of it that clients know of.
fn continued(mut kept: Kept, logger: &Logger) -> Kept {
    if !kept.foreign.is_empty() {
        warn!(logger, "journal.unknown_topics"; "messages" => kept.foreign.values().sum::<usize>(),
            "topics" => kept.foreign.keys().cloned().collect::<Vec<_>>().join(","),
            "what" => "they stay in the file until the topics are configured again");
    }
    if kept.loose {
        let before = kept.position;
        kept.begin_epoch(new_epoch().max(before.epoch + 1));
        warn!(logger, "journal.new_epoch"; "from" => %before, "to" => %kept.position,
            "what" => "with sync=interval a crash takes what was answered last, so clients are given the state anew");
    }
    kept
}

/// The log and the answers as they were, and what else the file has.
fn restore(kept: Option<Kept>, config: &Config) -> (Log, Answers, Found) {
    let (limits, now) = (log_limits(config), Timestamp::now());
    let Some(kept) = kept else {
        return (Log::new(new_epoch(), &config.topics, limits), Answers::default(), Found::default());
    };
    let log = Log::restore(kept.position, &config.topics, limits, kept.facts, kept.messages, now);
    let found = Found { transactions: kept.transactions, unknown: kept.unknown };
    (log, Answers::restore(kept.answers, now), found)
}

/// What the file has to hold.
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
                return Err(PublishError::Unavailable("the journal has ended".to_owned()));
            }
            answered.await.unwrap_or_else(|_| Err(PublishError::Unknown("the journal has ended".to_owned())))
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
                // It runs elsewhere.
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
