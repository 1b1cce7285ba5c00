//! The subscribers of one server, driven by one thread with one epoll instance.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use mio::{Events, Interest, Poll, Token};

use crate::connection::{self, Connection, Ear, Progress};
use crate::deadline::Deadline;
use crate::dialect::Transport;
use crate::tally::Tally;

/// The first address to connect from. It differs from the address of the server so that no socket can ever connect to
/// itself.
pub const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How many connections share a source address. An address has about 28,000 ephemeral ports, and finding a free one
/// stays quick while most are free.
const PER_SOURCE: usize = 5_000;

/// How many handshakes to keep in flight while opening the connections. It is less than 128, the length of the queue of
/// a listener unless set otherwise.
pub const CONCURRENT: u32 = 100;

const EVENTS_PER_POLL: usize = 1_024;

const SCRATCH_BYTES: usize = 64 * 1024;

/// Where and how to subscribe.
pub struct Target {
    /// The nodes, over which the slots are spread.
    pub addresses: Vec<SocketAddr>,
    pub transport: Transport,
    /// Whether a connection counts as established only after a first message.
    pub greets: bool,
    /// The request path of the subscriber in a slot.
    pub path: Box<dyn Fn(usize) -> String>,
    /// The slots from this one on read nothing once they are established.
    pub deaf_from: usize,
}

/// What becomes of a connection once it is established.
#[derive(Clone, Copy, PartialEq)]
pub enum Afterwards {
    Keep,
    Close,
}

/// A number of handshakes to complete.
pub struct Plan {
    pub total: u32,
    pub concurrent: u32,
    pub afterwards: Afterwards,
}

/// A connection in its slot.
struct Subscriber {
    connection: Connection,
    established: bool,
    /// Whether it is in the list of those that have more to read.
    unfinished: bool,
}

/// The connections, each in a slot whose index is its token.
pub struct Swarm {
    poll: Poll,
    events: Events,
    target: Target,
    scratch: Vec<u8>,
    slots: Vec<Option<Subscriber>>,
    free: Vec<usize>,
    /// The slots whose handshake was completed by the last turn.
    completed: Vec<usize>,
    /// The slots that had more to read than fits into a turn; no event comes for them again.
    unfinished: Vec<usize>,
    /// The slots that a turn looks at, and whether the peer has closed its side; kept to reuse the memory.
    ready: Vec<(usize, bool)>,
    /// Whether connections may end.
    tolerant: bool,
}

impl Swarm {
    /// Prepares for at most `capacity` connections at a time.
    pub fn new(target: Target, capacity: u32) -> Result<Self> {
        let capacity = usize::try_from(capacity)?;
        Ok(Self {
            poll: Poll::new().context("could not create an epoll instance")?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            target,
            scratch: vec![0; SCRATCH_BYTES],
            slots: (0..capacity).map(|_| None).collect(),
            free: (0..capacity).rev().collect(),
            completed: Vec::new(),
            unfinished: Vec::new(),
            ready: Vec::new(),
            tolerant: false,
        })
    }

    /// Completes the planned handshakes. The first one that fails ends it all, because a rate with failures left out
    /// would not be comparable.
    pub fn complete(&mut self, plan: &Plan, limit: Duration, progress: &ProgressBar, tally: &mut Tally) -> Result<()> {
        let deadline = Deadline::after(limit, "completing handshakes");
        let mut started = 0;
        let mut done = 0;
        while done < plan.total {
            while started < plan.total && started - done < plan.concurrent {
                self.open()?;
                started += 1;
            }
            let counted = || format!("{done} of {} handshakes were complete", plan.total);
            self.turn(deadline.remaining().with_context(counted)?, tally).with_context(counted)?;
            while let Some(slot) = self.completed.pop() {
                done += 1;
                if plan.afterwards == Afterwards::Close {
                    self.close(slot);
                }
            }
            progress.set_position(u64::from(done));
        }
        Ok(())
    }

    /// Holds the connections for a time, while taking what they receive.
    pub fn hold(&mut self, period: Duration, tally: &mut Tally) -> Result<()> {
        let end = Instant::now() + period;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left, tally)?;
        }
    }

    /// Waits for events at most for `timeout` and handles them.
    pub fn turn(&mut self, timeout: Duration, tally: &mut Tally) -> Result<()> {
        let timeout = if self.unfinished.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => bail!("waiting for events failed: {error}"),
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        ready.extend(self.unfinished.drain(..).map(|slot| (slot, false)));
        for &(slot, _) in &ready {
            if let Some(subscriber) = self.slots.get_mut(slot).and_then(Option::as_mut) {
                subscriber.unfinished = false;
            }
        }
        ready.extend(self.events.iter().map(|event| (event.token().0, event.is_read_closed())));
        let result = ready.iter().try_for_each(|&(slot, read_closed)| self.advance(slot, read_closed, tally));
        self.ready = ready;
        result
    }

    /// Lets those that read nothing begin to read, and returns how many there are. From here on a connection that ends
    /// is counted and no error, because the server may have given up on them.
    pub fn open_ears(&mut self) -> Result<usize> {
        let deaf = self.target.deaf_from..self.slots.len();
        let count = deaf.len();
        self.target.deaf_from = self.slots.len();
        self.tolerant = true;
        for slot in deaf {
            self.register(slot)?;
        }
        Ok(count)
    }

    fn open(&mut self) -> Result<()> {
        let slot = self.free.pop().context("all slots are in use")?;
        let Target { addresses, transport, path, deaf_from, .. } = &self.target;
        let address = addresses[slot % addresses.len()];
        let request = connection::request(address, *transport, &path(slot));
        let ear = if slot >= *deaf_from { Ear::Deaf } else { Ear::Open };
        let connection = Connection::start(source_address(slot)?, address, request, ear)?;
        self.slots[slot] = Some(Subscriber { connection, established: false, unfinished: false });
        self.register(slot)
    }

    fn register(&mut self, slot: usize) -> Result<()> {
        let subscriber = self.slots[slot].as_mut().context("the slot is empty")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut subscriber.connection.stream, Token(slot), interest)?;
        Ok(())
    }

    /// Frees a slot. Closing the socket also takes it out of the epoll instance, so no event of it can reach the next
    /// user of the slot.
    fn close(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }

    fn advance(&mut self, slot: usize, read_closed: bool, tally: &mut Tally) -> Result<()> {
        let Some(subscriber) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        let Subscriber { connection, established, unfinished } = subscriber;
        let progress = match connection.advance(read_closed, &mut self.scratch, tally) {
            Ok(progress) => progress,
            Err(_) if self.tolerant => {
                tally.ended += 1;
                self.close(slot);
                return Ok(());
            }
            Err(error) if *established => return Err(error.context("an established connection ended")),
            Err(error) => return Err(error.context("a handshake failed")),
        };
        if !*established && connection.is_established(self.target.greets) {
            *established = true;
            self.completed.push(slot);
            if slot >= self.target.deaf_from {
                self.poll.registry().deregister(&mut connection.stream)?;
                return Ok(());
            }
        }
        if progress == Progress::Unfinished && !*unfinished {
            *unfinished = true;
            self.unfinished.push(slot);
        }
        Ok(())
    }
}

/// Spreads the slots over addresses so that ports do not run out.
fn source_address(slot: usize) -> Result<Ipv4Addr> {
    let offset = u32::try_from(slot / PER_SOURCE)?;
    ensure!(offset < 250, "the slots do not fit into the source addresses");
    Ok(Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_spread_over_source_addresses() -> Result<()> {
        assert_eq!(source_address(0)?, FIRST_SOURCE);
        assert_eq!(source_address(PER_SOURCE - 1)?, FIRST_SOURCE);
        assert_eq!(source_address(PER_SOURCE)?, Ipv4Addr::new(127, 0, 0, 3));
        Ok(())
    }
}
