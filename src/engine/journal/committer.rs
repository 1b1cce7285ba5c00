//! The committer collects waiting publishes into a group, gives their messages positions, and writes the group in one
//! transaction. Then it delivers the messages and answers the publishers.
//!
//! Invariant: while the disk thread writes a group, no other message enters the log. Publishes that arrive meanwhile
//! form the next group, so that many publishes share one sync.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use slog::{Logger, error, info};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::disk::{Disk, WriteFailure};
use super::store::Changes;
use super::{JournalState, QUEUE, image_of};
use crate::config::SyncWhen;
use crate::engine::idempotency::FirstAnswer;
use crate::engine::{EXPIRED_AT_ONCE, EXPIRY_RESOLUTION, IdempotencyKey, PublishError, Readiness};
use crate::log::{LogEntry, Staging};
use crate::manager::{ConnectionManager, Counts, Published};
use crate::message::{Draft, Timestamp};
use crate::topic::Topic;

/// A group that has this many bytes of data takes no further publish. A disk of 100 MB/s writes that much in 80 ms.
const GROUP_BYTES: usize = 8 << 20;
/// The time between a failed write and the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// The interval at which outdated messages are deleted from the file while no publishes arrive.
const TIDY: Duration = Duration::from_secs(10);
/// With `sync=interval`, the maximum number of entries that wait for the disk. When more entries, or more bytes than
/// [`GROUP_BYTES`], are waiting, the committer writes them before the interval ends.
const UNSYNCED: usize = 65_536;

type PublishOutcome = Result<Published, PublishError>;

/// A batch to publish.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) batch: Vec<Draft>,
    pub(super) key: Option<IdempotencyKey>,
    /// `None` for the deletion of expired keys, because no publisher waits for it.
    pub(super) answer: Option<oneshot::Sender<PublishOutcome>>,
}

/// A request whose messages have their positions.
#[derive(Debug)]
struct Staged {
    request: Request,
    published: Published,
    by_topic: BTreeMap<Topic, Counts>,
    /// The index in the group's entries after the last entry of this request.
    end: usize,
}

/// Requests that are written in one transaction.
struct Group {
    staging: Staging,
    staged: Vec<Staged>,
    answers: BTreeMap<String, FirstAnswer>,
    /// Retries of a request in the same group, each with the index of that request in `staged`.
    repeated: Vec<(Request, usize)>,
    /// Refused requests, each with its error. If the group cannot be written, they get the write error instead, because
    /// a request of the same group may have caused the refusal.
    refused: Vec<(Request, PublishError)>,
    by_key: HashMap<String, usize>,
    now: Timestamp,
}

/// Processes all requests, one group after another.
#[derive(Debug)]
pub(super) struct Committer {
    manager: ConnectionManager,
    shared: Arc<JournalState>,
    queue: mpsc::Receiver<Request>,
    disk: Disk,
    sync: SyncWhen,
    /// The maximum number of publishes in a group.
    group: usize,
    logger: Logger,
    /// Changes that the next transaction writes together with its group: deletions and, with `sync=interval`,
    /// everything confirmed since the last transaction.
    waiting: Changes,
    /// The file holds all runs (`OffsetRun`) up to this offset.
    runs_written: u64,
    /// The newest offset that was sent to the disk thread. It is above the log's last offset from the write of a group
    /// until the group is delivered.
    told: u64,
    /// With `sync=interval`, the bytes of data that wait for the disk.
    unsynced: usize,
    /// `Some` while the file cannot be written: the time of the next attempt, and the number of bytes for which the
    /// disk must have room.
    broken: Option<(Instant, usize)>,
}

impl Committer {
    pub(super) fn new(
        manager: ConnectionManager,
        shared: Arc<JournalState>,
        queue: mpsc::Receiver<Request>,
        disk: Disk,
        sync: SyncWhen,
        logger: Logger,
    ) -> Self {
        let offset = manager.position().offset;
        Self {
            manager,
            shared,
            queue,
            disk,
            sync,
            group: QUEUE,
            logger,
            waiting: Changes::default(),
            runs_written: offset,
            told: offset,
            unsynced: 0,
            broken: None,
        }
    }

    #[cfg(feature = "internals")]
    pub(super) fn limit_groups(&mut self, most: usize) {
        self.group = most.min(QUEUE);
    }

    /// Starts with a file that can be read but not written. Clients get the messages of the file, and the committer
    /// tries to write again as after any other failed write.
    pub(super) fn begin_broken(&mut self, failure: &WriteFailure, file: &Path) {
        error!(self.logger, "journal.failed"; "error" => failure.cause(), "file" => %file.display(),
            "what" => "the file cannot be written; clients get its messages, publishers get 503; is the disk full?");
        self.manager.metrics().engine_lost();
        self.breaks(failure.cause(), 0);
    }

    /// Runs until this future or the engine is dropped.
    pub(super) async fn run(mut self) {
        let mut expiries = ticks(EXPIRY_RESOLUTION);
        let mut tidying = ticks(TIDY);
        let mut syncs = ticks(match self.sync {
            SyncWhen::Always => TIDY,
            SyncWhen::Interval(interval) => interval,
        });
        loop {
            tokio::select! {
                request = self.queue.recv() => match request {
                    Some(request) => self.commit(request).await,
                    // The engine was dropped, so no more publishes arrive.
                    None => return,
                },
                _ = expiries.tick() => self.expire().await,
                _ = syncs.tick() => self.flush(false).await,
                _ = tidying.tick() => self.flush(true).await,
            }
        }
    }

    /// Writes and delivers a group: this request and the requests that wait behind it in the queue.
    async fn commit(&mut self, first: Request) {
        let mut group = self.manager.read_log(|log| Group::behind(log.staging()));
        let mut bytes = 0;
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(request) = next {
            bytes += request.batch.iter().map(|draft| draft.payload.data.get().len()).sum::<usize>();
            taken += 1;
            self.stage(&mut group, request);
            next = if bytes < GROUP_BYTES && taken < self.group { self.queue.try_recv().ok() } else { None };
        }
        if group.staging.entries().is_empty() && group.answers.is_empty() {
            // No request adds a message or an answer, so there is nothing to write.
            return self.deliver(group).await;
        }
        if let Err(error) = self.ensure_writable().await {
            return group.refuse(&error);
        }
        match self.sync {
            SyncWhen::Always => self.commit_now(group, bytes).await,
            SyncWhen::Interval(_) => self.commit_later(group, bytes).await,
        }
    }

    /// Writes the group, then delivers it.
    async fn commit_now(&mut self, group: Group, bytes: usize) {
        let mut changes = self.changes();
        changes.last = group.staging.position().offset;
        changes.entries = group.staging.entries().to_vec();
        changes.answers.clone_from(&group.answers);
        match self.write(changes, bytes).await {
            Ok(()) => self.deliver(group).await,
            Err(error) => group.refuse(&error),
        }
    }

    /// Delivers the group now. The next flush writes it.
    async fn commit_later(&mut self, group: Group, bytes: usize) {
        self.waiting.entries.extend_from_slice(group.staging.entries());
        self.waiting.answers.extend(group.answers.clone());
        self.deliver(group).await;
        self.unsynced += bytes;
        if self.waiting.entries.len() > UNSYNCED || self.unsynced > GROUP_BYTES {
            self.flush(false).await;
        }
    }

    fn stage(&self, group: &mut Group, request: Request) {
        if let Some(key) = &request.key {
            let first = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner).find(key, group.now);
            match first {
                Ok(None) => {}
                Ok(Some(published)) => return request.done(Ok(published)),
                Err(error) => return request.done(Err(error)),
            }
            if let Some(&at) = group.by_key.get(key.name()) {
                if group.staged[at].request.key == request.key {
                    group.repeated.push((request, at));
                } else {
                    group.refused.push((request, PublishError::KeyReused));
                }
                return;
            }
        }
        let staging = &mut group.staging;
        match self.manager.read_log(|log| log.stage(staging, &request.batch, group.now)) {
            Ok(unchanged) => group.push(request, &unchanged),
            Err(full) => group.refused.push((request, full.into())),
        }
    }

    /// Adds a group to the log, delivers its messages to the clients, and answers its requests.
    async fn deliver(&mut self, group: Group) {
        let Group { staging, staged, repeated, refused, now, .. } = group;
        let mut outcomes = Vec::with_capacity(staged.len());
        let mut entries = staging.into_entries().into_iter();
        let mut begin = 0;
        for Staged { request, published, by_topic, end } in staged {
            self.apply(entries.by_ref().take(end - begin).collect());
            begin = end;
            for (topic, counts) in &by_topic {
                self.manager.metrics().published(topic, counts.accepted, counts.unchanged);
            }
            if let Some(key) = &request.key {
                let mut answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
                self.waiting.forgotten.extend(answers.keep(key.clone(), published, now));
            }
            outcomes.push(published);
            request.done(Ok(published));
            // Let the writers of the connections run after each request, even if many requests wait.
            tokio::task::yield_now().await;
        }
        for (request, at) in repeated {
            request.done(Ok(outcomes[at]));
        }
        for (request, error) in refused {
            request.done(Err(error));
        }
    }

    /// Adds entries to the log and delivers them. If the delivery of an entry panics, the log already has that entry.
    /// The manager then closes all connections, so that the clients reconnect and get the entry. The remaining entries
    /// are delivered as usual.
    fn apply(&self, mut entries: Vec<LogEntry>) {
        while !entries.is_empty() {
            if catch_unwind(AssertUnwindSafe(|| self.manager.apply(entries.iter().cloned()))).is_ok() {
                return;
            }
            let position = self.manager.position().offset;
            error!(self.logger, "journal.panicked"; "position" => position);
            let before = entries.len();
            entries.retain(|entry| match entry {
                LogEntry::Message(change) => change.message.offset() > position,
                LogEntry::Passed(offset) => *offset > position,
                LogEntry::Renewed { .. } => false,
            });
            if entries.len() == before {
                return;
            }
        }
    }

    /// Deletes expired keys.
    async fn expire(&mut self) {
        loop {
            // This call also drops messages of the log that have become too old.
            let expired = self.manager.expired(Timestamp::now(), EXPIRED_AT_ONCE);
            if self.ensure_writable().await.is_err() || expired.is_empty() {
                return;
            }
            let more = expired.len() == EXPIRED_AT_ONCE;
            self.commit(Request { batch: expired, key: None, answer: None }).await;
            if !more {
                return;
            }
        }
    }

    /// Writes all waiting changes. Without `tidy`, does nothing if only deletions wait.
    async fn flush(&mut self, tidy: bool) {
        if !tidy && self.waiting.entries.is_empty() && self.waiting.answers.is_empty() {
            return;
        }
        // If this repairs the file, the repair writes all waiting changes, and nothing is left to write below.
        if self.ensure_writable().await.is_err() {
            return;
        }
        let mut changes = self.changes();
        if changes.is_empty() {
            return;
        }
        changes.last = self.manager.position().offset;
        let bytes = changes.entries.iter().map(size_of).sum();
        // After a failure the changes stay in `waiting`, and the next flush or repair writes them.
        let _refused: Result<(), PublishError> = self.write(changes, bytes).await;
    }

    /// The changes for the next transaction, except the messages and answers of its group.
    fn changes(&mut self) -> Changes {
        let (dropped, facts) = self.manager.tend_log(|log| (log.take_dropped(), log.facts(self.runs_written)));
        self.waiting.dropped.extend(dropped);
        let answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.forgotten.retain(|key| !answers.has(key));
        Changes {
            last: 0,
            entries: self.waiting.entries.clone(),
            dropped: self.waiting.dropped.clone(),
            facts,
            answers: self.waiting.answers.clone(),
            forgotten: self.waiting.forgotten.clone(),
        }
    }

    /// Writes one transaction. After the error `Unavailable`, the file has no part of the transaction. After `Unknown`,
    /// it may have a part.
    async fn write(&mut self, changes: Changes, bytes: usize) -> Result<(), PublishError> {
        let counted_to = self.manager.position().offset;
        self.told = self.told.max(changes.last);
        let shared = Arc::clone(&self.shared);
        let waiting = shared.wait();
        let written = self.disk.write(Arc::new(changes)).await;
        drop(waiting);
        let Err(failure) = written else {
            (self.waiting, self.unsynced) = (Changes::default(), 0);
            self.runs_written = counted_to;
            return Ok(());
        };
        let cause = failure.cause().to_owned();
        error!(self.logger, "journal.failed"; "error" => &cause);
        self.manager.metrics().engine_lost();
        self.breaks(&cause, bytes);
        let refused = PublishError::Unavailable(format!("the journal cannot be written ({cause})"));
        match failure {
            WriteFailure::Absent(_) => Err(refused),
            WriteFailure::Uncertain(_) => match self.repair(bytes).await {
                Ok(()) | Err(WriteFailure::Absent(_)) => Err(refused),
                Err(WriteFailure::Uncertain(cause)) => {
                    Err(PublishError::Unknown(format!("the journal can be neither written nor repaired ({cause})")))
                }
            },
        }
    }

    /// Returns an error if the file cannot be written. When the time of the next attempt has come, tries to repair the
    /// file first.
    async fn ensure_writable(&mut self) -> Result<(), PublishError> {
        let Some((again, room)) = self.broken else { return Ok(()) };
        if Instant::now() >= again && self.repair(room).await.is_ok() {
            return Ok(());
        }
        Err(PublishError::Unavailable("the journal cannot be written".to_owned()))
    }

    /// Reopens the file, and makes its contents equal to those of the log.
    async fn repair(&mut self, room: usize) -> Result<(), WriteFailure> {
        let answers = &self.shared.answers;
        let loose = self.sync != SyncWhen::Always;
        let mut image = self.manager.tend_log(|log| {
            // Discard the list of dropped messages. The image lacks them, so the repair deletes them from the file
            // anyway.
            drop(log.take_dropped());
            image_of(log, &answers.lock().unwrap_or_else(PoisonError::into_inner), loose)
        });
        image.room = room;
        let counted_to = image.position.offset;
        let shared = Arc::clone(&self.shared);
        let waiting = shared.wait();
        let repaired = self.disk.repair(image).await;
        drop(waiting);
        if let Err(failure) = repaired {
            self.breaks(failure.cause(), room);
            return Err(failure);
        }
        (self.waiting, self.unsynced) = (Changes::default(), 0);
        (self.runs_written, self.told) = (counted_to, counted_to);
        self.broken = None;
        *self.shared.readiness.lock().unwrap_or_else(PoisonError::into_inner) = Readiness::Ready;
        info!(self.logger, "journal.recovered"; "position" => counted_to);
        Ok(())
    }

    fn breaks(&mut self, cause: &str, room: usize) {
        self.broken = Some((Instant::now() + RETRY, room));
        let why = format!("the journal cannot be written: {cause}");
        *self.shared.readiness.lock().unwrap_or_else(PoisonError::into_inner) = Readiness::Degraded(why);
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let mut changes = self.changes();
        if self.broken.is_none() && !changes.is_empty() {
            // The committer may be dropped while the disk thread writes a group that is not in the log yet. `last` must
            // cover the offsets of that group.
            let waiting = changes.entries.iter().map(offset_of).max().unwrap_or(0);
            changes.last = self.manager.position().offset.max(self.told).max(waiting);
            // `Disk::drop` waits for this write.
            self.disk.write_last(changes);
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.answers.is_empty() && self.dropped.is_empty() && self.forgotten.is_empty()
    }
}

impl Group {
    fn behind(staging: Staging) -> Self {
        Self {
            staging,
            staged: Vec::new(),
            answers: BTreeMap::new(),
            repeated: Vec::new(),
            refused: Vec::new(),
            by_key: HashMap::new(),
            now: Timestamp::now(),
        }
    }

    fn push(&mut self, request: Request, unchanged: &[bool]) {
        let mut by_topic: BTreeMap<Topic, Counts> = BTreeMap::new();
        for (draft, unchanged) in request.batch.iter().zip(unchanged) {
            let counts = by_topic.entry(draft.topic.clone()).or_default();
            counts.accepted += 1;
            counts.unchanged += usize::from(*unchanged);
        }
        let unchanged = by_topic.values().map(|counts| counts.unchanged).sum();
        let counts = Counts { accepted: request.batch.len(), unchanged };
        let published = Published { counts, position: self.staging.position() };
        if let Some(key) = &request.key {
            let (name, answer) = key.with(published, self.now);
            self.by_key.insert(name.clone(), self.staged.len());
            self.answers.insert(name, answer);
        }
        let by_topic = if request.answer.is_some() { by_topic } else { BTreeMap::new() };
        self.staged.push(Staged { request, published, by_topic, end: self.staging.entries().len() });
    }

    fn refuse(self, error: &PublishError) {
        for request in self.staged.into_iter().map(|staged| staged.request) {
            request.done(Err(error.clone()));
        }
        for request in self.repeated.into_iter().map(|(request, _)| request) {
            request.done(Err(error.clone()));
        }
        for (request, _) in self.refused {
            request.done(Err(error.clone()));
        }
    }
}

impl Request {
    fn done(self, outcome: PublishOutcome) {
        if let Some(answer) = self.answer {
            // The publisher may have disconnected, so that no task waits for the answer.
            let _gone = answer.send(outcome);
        }
    }
}

fn size_of(entry: &LogEntry) -> usize {
    match entry {
        LogEntry::Message(change) => change.message.frames().size(),
        LogEntry::Renewed { .. } | LogEntry::Passed(_) => 0,
    }
}

/// The offset of an entry, or 0 for a renewal, because a renewal takes no offset.
fn offset_of(entry: &LogEntry) -> u64 {
    match entry {
        LogEntry::Message(change) => change.message.offset(),
        LogEntry::Passed(offset) => *offset,
        LogEntry::Renewed { .. } => 0,
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
