//! The thread that reads and writes the file, so that no async task waits for the disk.
//!
//! After a failed sync, the thread writes nothing more to that file. Instead it writes the contents of the log to a new
//! file.
//!
//! Invariants: only this thread has the file open. The thread answers every order, even if redb panics. Dropping the
//! handle of the thread waits until the last order is done and the file is closed, but not longer than [`LAST_ORDERS`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redb::Database;
use slog::{Logger, error};
use tokio::sync::oneshot;

use super::file::Place;
use super::store::{self, Changes, Image, WriteError};

/// The maximum time that a shutdown waits for the disk. Without this limit, a hanging disk would keep the process
/// running.
const LAST_ORDERS: Duration = Duration::from_secs(30);

/// How a transaction failed.
#[derive(Debug)]
pub(super) enum WriteFailure {
    /// The file has no part of the transaction.
    Absent(String),
    /// The file may have the transaction or a part of it.
    Uncertain(String),
}

impl WriteFailure {
    /// The error message.
    pub(super) fn cause(&self) -> &str {
        match self {
            Self::Absent(cause) | Self::Uncertain(cause) => cause,
        }
    }
}

#[derive(Debug)]
enum Order {
    Write(Arc<Changes>, oneshot::Sender<Result<(), WriteFailure>>),
    Repair(Box<Image>, oneshot::Sender<Result<(), WriteFailure>>),
}

/// Facts about the file that the image does not contain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// The number of successful transactions.
    pub(super) transactions: u64,
    /// Whether the file holds messages or facts of topics that are not configured.
    pub(super) unknown: bool,
}

/// A handle to the thread. Dropping the handle ends the thread.
#[derive(Debug)]
pub(super) struct Disk {
    orders: Option<Sender<Order>>,
    /// A channel without messages. It disconnects when the thread ends.
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
    logger: Logger,
}

impl Disk {
    /// Makes the file hold exactly this image, and starts the thread. If the write fails, for example because the disk
    /// is full, the thread starts anyway, because a later write may succeed. The failure is then returned with the
    /// handle.
    pub(super) fn start(
        place: Place,
        found: Found,
        image: &Image,
        logger: Logger,
    ) -> io::Result<(Self, Option<WriteFailure>)> {
        let (orders, incoming) = channel();
        let mut file = OpenFile { place, database: None, found, loose: false, logger };
        let failed = file.try_to(|file| file.repair(image)).err();
        let (end, ended) = channel();
        let ours = file.logger.clone();
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || {
            file.work(&incoming);
            drop(end);
        });
        let disk = Self { orders: Some(orders), ended: Mutex::new(ended), thread: Some(thread?), logger: ours };
        Ok((disk, failed))
    }

    /// Writes the changes.
    pub(super) async fn write(&self, changes: Arc<Changes>) -> Result<(), WriteFailure> {
        let (done, outcome) = oneshot::channel();
        self.order(Order::Write(changes, done));
        outcome.await.unwrap_or_else(|_| Err(WriteFailure::Uncertain("the journal thread has stopped".to_owned())))
    }

    /// Writes the changes without waiting for the result.
    pub(super) fn write_last(&self, changes: Changes) {
        self.order(Order::Write(Arc::new(changes), oneshot::channel().0));
    }

    /// Reopens the file, and makes it hold exactly this image.
    pub(super) async fn repair(&self, image: Image) -> Result<(), WriteFailure> {
        let (done, outcome) = oneshot::channel();
        self.order(Order::Repair(Box::new(image), done));
        outcome.await.unwrap_or_else(|_| Err(WriteFailure::Uncertain("the journal thread has stopped".to_owned())))
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // If the thread has ended, this drops the order with its answer channel, and the caller gets an error.
            let _gone = orders.send(order);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.orders = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LAST_ORDERS) {
            error!(self.logger, "journal.not_closed"; "error" => "the disk does not answer");
            return;
        }
        if let Some(thread) = self.thread.take() {
            // Ignore the result, because the thread catches its own panics.
            let _ended = thread.join();
        }
    }
}

/// The file, and the facts that the thread knows about it.
struct OpenFile {
    place: Place,
    /// `None` after a failure, until a repair succeeds.
    database: Option<Database>,
    found: Found,
    /// Whether the file is marked as one that may lack confirmed messages.
    loose: bool,
    logger: Logger,
}

impl OpenFile {
    fn work(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            // The committer may have been dropped, so that no task waits for the answer.
            let _gone = match order {
                Order::Write(changes, done) => done.send(self.try_to(|file| file.write(&changes))),
                Order::Repair(image, done) => done.send(self.try_to(|file| file.repair(&image))),
            };
        }
        if self.loose
            && let Some(database) = &self.database
            && let Err(error) = store::settle(database)
        {
            error!(self.logger, "journal.not_closed"; "error" => %error);
        }
    }

    /// Applies a change to the file. After a failure, closes the file and finds out if the file has a part of the
    /// change.
    fn try_to(&mut self, change: impl FnOnce(&mut Self) -> Result<(), WriteError>) -> Result<(), WriteFailure> {
        let changed = catch_unwind(AssertUnwindSafe(|| change(self)));
        let changed = changed.unwrap_or_else(|_| Err(WriteError("redb panicked".to_owned())));
        let Err(WriteError(cause)) = changed else { return Ok(()) };
        // After an I/O error, redb refuses every call. Only a reopened file shows what the disk contains now.
        self.database = None;
        if self.found.transactions == 0 {
            // The file does not exist yet, because `write_new_file` renames it to its name only when it is complete.
            return Err(WriteFailure::Absent(cause));
        }
        let found = catch_unwind(AssertUnwindSafe(|| store::transactions(&self.place.look().map_err(WriteError)?)));
        Err(match found {
            // After a failed sync, the kernel may show data that is not on the disk, so the result is uncertain.
            Ok(Ok(found)) if found == self.found.transactions && !self.place.is_unsynced() => {
                WriteFailure::Absent(cause)
            }
            _ => WriteFailure::Uncertain(cause),
        })
    }

    fn write(&mut self, changes: &Changes) -> Result<(), WriteError> {
        let database = self.database.as_ref().ok_or_else(|| WriteError("the file is not open".to_owned()))?;
        store::write(database, changes, self.found.transactions + 1)?;
        self.found.transactions += 1;
        Ok(())
    }

    /// Writes a complete new file, which uses no page of the present file. Then replaces the present file with the new
    /// one.
    fn write_new_file(&mut self, image: &Image) -> Result<(), WriteError> {
        let new = self.place.open_new().map_err(WriteError)?;
        if self.found.unknown {
            // Read the present file through an overlay. Nothing may write to the present file, not even an upgrade of
            // its format.
            store::copy_unknown(&self.place.look().map_err(WriteError)?, &new, image)?;
        }
        store::repair(&new, image, self.found.transactions + 1)?;
        drop(new);
        self.place.replace().map_err(|error| WriteError(error.to_string()))?;
        self.found.transactions += 1;
        Ok(())
    }

    fn repair(&mut self, image: &Image) -> Result<(), WriteError> {
        self.database = None;
        // redb extends a file before it writes the header, so a crash or a full disk can leave the file unreadable. So
        // the first file, too, is written under another name and then renamed.
        let replace = self.place.is_unsynced() || self.found.transactions == 0;
        if replace {
            self.write_new_file(image)?;
        }
        let database = self.place.open().map_err(WriteError)?;
        if !replace {
            store::repair(&database, image, self.found.transactions + 1)?;
            self.found.transactions += 1;
            self.place.settle_name().map_err(|error| WriteError(error.to_string()))?;
        }
        store::try_room(&database, image.room)?;
        self.database = Some(database);
        self.loose = image.loose;
        Ok(())
    }
}
