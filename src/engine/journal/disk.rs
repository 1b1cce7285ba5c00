//! The thread that waits for the disk, so that no task has to.
//!
//! After a sync that failed nothing is added to the file any more: what the log holds is written into a new one.
//!
//! Invariant: it is the only one that has the file open, it answers every order, also one in which the store panics, and
//! whoever drops the handle waits until the last order is carried out and the file is closed, or the disk is given up.

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

/// How long the end waits for the disk. One that hangs would otherwise keep the process for ever.
const LAST_ORDERS: Duration = Duration::from_secs(30);

/// What became of a transaction that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of it is in the file.
    Absent(String),
    /// Some of it may be in the file.
    Uncertain(String),
}

impl Failure {
    /// What went wrong.
    pub(super) fn cause(&self) -> &str {
        match self {
            Self::Absent(cause) | Self::Uncertain(cause) => cause,
        }
    }
}

#[derive(Debug)]
enum Order {
    Write(Arc<Changes>, oneshot::Sender<Result<(), Failure>>),
    Mend(Box<Image>, oneshot::Sender<Result<(), Failure>>),
}

/// What is in the file beside the image.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Transactions that succeeded.
    pub(super) transactions: u64,
    /// Whether it holds anything of topics that are not configured.
    pub(super) unknown: bool,
}

/// The handle.
#[derive(Debug)]
pub(super) struct Disk {
    orders: Option<Sender<Order>>,
    /// Says nothing and ends with the thread.
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
    logger: Logger,
}

impl Disk {
    /// Makes the file hold exactly this, and starts the thread. A disk that does not take it, as when it is full, may take it
    /// later: then it is said what became of it.
    pub(super) fn start(
        place: Place,
        found: Found,
        image: &Image,
        logger: Logger,
    ) -> io::Result<(Self, Option<Failure>)> {
        let (orders, incoming) = channel();
        let mut file = OpenFile { place, database: None, found, loose: false, logger };
        let failed = file.try_to(|file| file.mend(image)).err();
        let (end, ended) = channel();
        let ours = file.logger.clone();
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || {
            file.work(&incoming);
            drop(end);
        });
        let disk = Self { orders: Some(orders), ended: Mutex::new(ended), thread: Some(thread?), logger: ours };
        Ok((disk, failed))
    }

    /// Writes down what is new.
    pub(super) async fn write(&self, changes: Arc<Changes>) -> Result<(), Failure> {
        let (done, outcome) = oneshot::channel();
        self.order(Order::Write(changes, done));
        outcome.await.unwrap_or_else(|_| Err(Failure::Uncertain("the journal has ended".to_owned())))
    }

    /// Writes down what is new, and does not wait for it.
    pub(super) fn write_last(&self, changes: Changes) {
        self.order(Order::Write(Arc::new(changes), oneshot::channel().0));
    }

    /// Opens the file anew, and makes it hold exactly this.
    pub(super) async fn mend(&self, image: Image) -> Result<(), Failure> {
        let (done, outcome) = oneshot::channel();
        self.order(Order::Mend(Box::new(image), done));
        outcome.await.unwrap_or_else(|_| Err(Failure::Uncertain("the journal has ended".to_owned())))
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that is gone drops the order, and with it who would have answered: that is the answer.
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
            // What panics in it is caught there.
            let _ended = thread.join();
        }
    }
}

/// The file as the thread has it.
struct OpenFile {
    place: Place,
    /// `None` while it is broken.
    database: Option<Database>,
    found: Found,
    /// Whether the file says that what was answered may not be in it yet.
    loose: bool,
    logger: Logger,
}

impl OpenFile {
    fn work(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            // Who asked may have gone.
            let _gone = match order {
                Order::Write(changes, done) => done.send(self.try_to(|file| file.write(&changes))),
                Order::Mend(image, done) => done.send(self.try_to(|file| file.mend(&image))),
            };
        }
        if self.loose
            && let Some(database) = &self.database
            && let Err(error) = store::settle(database)
        {
            error!(self.logger, "journal.not_closed"; "error" => %error);
        }
    }

    /// One change more, or a broken file.
    fn try_to(&mut self, change: impl FnOnce(&mut Self) -> Result<(), WriteError>) -> Result<(), Failure> {
        let changed = catch_unwind(AssertUnwindSafe(|| change(self)));
        let changed = changed.unwrap_or_else(|_| Err(WriteError("the store panicked".to_owned())));
        let Err(WriteError(cause)) = changed else { return Ok(()) };
        // The store takes nothing more after an error of the disk: what the file has now shows when it is read anew.
        self.database = None;
        if self.found.transactions == 0 {
            // There is no file yet: one is put into its place whole.
            return Err(Failure::Absent(cause));
        }
        let found = catch_unwind(AssertUnwindSafe(|| store::transactions(&self.place.look().map_err(WriteError)?)));
        Err(match found {
            // What shows after a sync that failed is not what a power loss would leave.
            Ok(Ok(found)) if found == self.found.transactions && !self.place.is_unsynced() => Failure::Absent(cause),
            _ => Failure::Uncertain(cause),
        })
    }

    fn write(&mut self, changes: &Changes) -> Result<(), WriteError> {
        let database = self.database.as_ref().ok_or_else(|| WriteError("it is not open".to_owned()))?;
        store::write(database, changes, self.found.transactions + 1)?;
        self.found.transactions += 1;
        Ok(())
    }

    /// Writes a file that stands on nothing of the one that is there, and puts it in its place.
    fn write_anew(&mut self, image: &Image) -> Result<(), WriteError> {
        let new = self.place.open_new().map_err(WriteError)?;
        if self.found.unknown {
            // Nothing may be added to it, not even what brings an older version up to date.
            store::copy_unknown(&self.place.look().map_err(WriteError)?, &new, image)?;
        }
        store::mend(&new, image, self.found.transactions + 1)?;
        drop(new);
        self.place.replace().map_err(|error| WriteError(error.to_string()))?;
        self.found.transactions += 1;
        Ok(())
    }

    fn mend(&mut self, image: &Image) -> Result<(), WriteError> {
        self.database = None;
        // A file that was only begun is none to the store, which makes it longer before it writes down what it is: on a full
        // disk, or when the process ends in between, it stays so. Hence a first file is put into its place whole, too.
        let anew = self.place.is_unsynced() || self.found.transactions == 0;
        if anew {
            self.write_anew(image)?;
        }
        let database = self.place.open().map_err(WriteError)?;
        if !anew {
            store::mend(&database, image, self.found.transactions + 1)?;
            self.found.transactions += 1;
            self.place.settle_name().map_err(|error| WriteError(error.to_string()))?;
        }
        store::try_room(&database, image.room)?;
        self.database = Some(database);
        self.loose = image.loose;
        Ok(())
    }
}
