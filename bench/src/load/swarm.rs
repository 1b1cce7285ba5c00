//! The subscribers of one server, driven by one thread with one epoll instance.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use mio::{Events, Interest, Poll, Token};

use crate::deadline::{Deadline, LIMIT};
use crate::load::connection::{self, Connection, Progress, Reading};
use crate::load::tally::Tally;
use crate::server::dialect::subscribe_path;
use crate::server::{FIRST_SOURCE, Server};

/// How many connections share a source address. An address has about 28,000 ephemeral ports. The kernel finds a free
/// one quickly while most are free.
const PER_SOURCE: usize = 5_000;

/// How many handshakes are in flight while the connections are opened. It is below 128, a common length of a listener's
/// queue.
pub const CONCURRENT: u32 = 100;

const EVENTS_PER_POLL: usize = 1_024;

const SCRATCH_BYTES: usize = 64 * 1024;

/// The servers' addresses, and how to subscribe.
pub struct Target {
    /// The nodes. The slots are spread over them.
    pub addresses: Vec<SocketAddr>,
    /// Whether a connection is established only after the first message.
    pub greets: bool,
    /// The request path of the subscriber in a slot.
    pub path: Box<dyn Fn(usize) -> String>,
    /// The first slot whose client reads nothing after the handshake.
    pub stalled_from: usize,
}

impl Target {
    /// Subscribers to every message of a server.
    pub fn everything(server: &Server) -> Self {
        Self {
            addresses: server.addresses().to_vec(),
            greets: server.dialect.greets(),
            path: Box::new(|_| subscribe_path(None)),
            stalled_from: usize::MAX,
        }
    }
}

/// What to do with an established connection.
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
    /// Whether the slot is in the list `unfinished`.
    unfinished: bool,
}

/// The connections. Each is in a slot whose index is its epoll token.
pub struct Swarm {
    poll: Poll,
    events: Events,
    target: Target,
    scratch: Vec<u8>,
    slots: Vec<Option<Subscriber>>,
    free: Vec<usize>,
    /// The slots whose handshake completed in the last turn.
    completed: Vec<usize>,
    /// The slots with more bytes to read than fit into a turn. Epoll reports them only once.
    unfinished: Vec<usize>,
    /// The slots of a turn, and whether the peer has closed its side. Kept to reuse the memory.
    ready: Vec<(usize, bool)>,
    /// Whether a connection may end without failing the measurement.
    tolerant: bool,
}

impl Swarm {
    /// Prepares slots for `capacity` simultaneous connections.
    pub fn new(target: Target, capacity: u32) -> Result<Self> {
        let capacity = usize::try_from(capacity)?;
        Ok(Self {
            poll: Poll::new().context("cannot create an epoll instance")?,
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

    /// Completes the planned handshakes. Fails at the first failed handshake, because a rate without the failures would
    /// not be comparable.
    pub fn complete(&mut self, plan: &Plan, progress: &ProgressBar, tally: &mut Tally) -> Result<()> {
        let deadline = Deadline::after(LIMIT, "completing handshakes");
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

    /// Receives for a time.
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

    /// Waits for events, at most for `timeout`, and handles them.
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

    /// Lets the stalled clients read, and returns their number. From now on, an ended connection is counted and is not
    /// an error, because the server may have closed it.
    pub fn resume_stalled(&mut self) -> Result<usize> {
        let stalled = self.target.stalled_from..self.slots.len();
        let count = stalled.len();
        self.target.stalled_from = self.slots.len();
        self.tolerant = true;
        for slot in stalled {
            self.register(slot)?;
        }
        Ok(count)
    }

    fn open(&mut self) -> Result<()> {
        let slot = self.free.pop().context("all slots are in use")?;
        let Target { addresses, path, stalled_from, .. } = &self.target;
        let address = addresses[slot % addresses.len()];
        let request = connection::request(address, &path(slot));
        let reading = if slot >= *stalled_from { Reading::Stalled } else { Reading::Always };
        let connection = Connection::start(source_address(slot)?, address, request, reading)?;
        self.slots[slot] = Some(Subscriber { connection, established: false, unfinished: false });
        self.register(slot)
    }

    fn register(&mut self, slot: usize) -> Result<()> {
        let subscriber = self.slots[slot].as_mut().context("the slot is empty")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut subscriber.connection.stream, Token(slot), interest)?;
        Ok(())
    }

    /// Frees a slot. Closing the socket removes it from the epoll instance, so the next user of the slot gets none of
    /// its events.
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
            if slot >= self.target.stalled_from {
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

/// Spreads the slots over source addresses so that the ports of one address suffice.
fn source_address(slot: usize) -> Result<Ipv4Addr> {
    let offset = u32::try_from(slot / PER_SOURCE)?;
    ensure!(offset < 250, "{slot} slots are too many: expected fewer than {}", 250 * PER_SOURCE);
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
