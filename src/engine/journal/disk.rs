//! The thread that waits for the disk, so that no task has to.
//!
//! Invariant: it is the only one that has the file open, it answers every order, also one in which the store panics, and
//! whoever drops the handle waits until the last order is carried out and the file is closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use redb::Database;
use slog::{Logger, error};
use tokio::sync::oneshot;

use super::file::Place;
use super::store::{self, Changes, Image, WriteError};

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

/// The handle.
#[derive(Debug)]
pub(super) struct Disk {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Makes the file, which had so many transactions, hold exactly this, and starts the thread.
    pub(super) fn start(place: Place, transactions: u64, image: &Image, logger: Logger) -> Result<Self, String> {
        let (orders, incoming) = channel();
        let mut file = OpenFile { place, database: None, transactions, loose: false, logger };
        file.try_to(|file| file.mend(image)).map_err(|failure| failure.cause().to_owned())?;
        file.place.settle_name().map_err(|error| error.to_string())?;
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || file.work(&incoming));
        Ok(Self { orders: Some(orders), thread: Some(thread.map_err(|error| error.to_string())?) })
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
    /// Transactions that succeeded.
    transactions: u64,
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
        // The store takes nothing more after an error of the disk: what the file has now shows when it is opened again.
        self.database = None;
        let found = catch_unwind(AssertUnwindSafe(|| store::transactions(&self.place.open().map_err(WriteError)?)));
        Err(match found {
            Ok(Ok(found)) if found == self.transactions => Failure::Absent(cause),
            _ => Failure::Uncertain(cause),
        })
    }

    fn write(&mut self, changes: &Changes) -> Result<(), WriteError> {
        let database = self.database.as_ref().ok_or_else(|| WriteError("it is not open".to_owned()))?;
        store::write(database, changes, self.transactions + 1)?;
        self.transactions += 1;
        Ok(())
    }

    fn mend(&mut self, image: &Image) -> Result<(), WriteError> {
        self.database = None;
        let database = self.place.open().map_err(WriteError)?;
        store::mend(&database, image, self.transactions + 1)?;
        self.transactions += 1;
        store::try_room(&database, image.room)?;
        self.database = Some(database);
        self.loose = image.loose;
        Ok(())
    }
}
