//! The subscribers of one server. One thread with one epoll instance handles all of them.

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

/// The number of connections from each source address. An address has about 28,000 ephemeral ports, and the kernel
/// finds a free port quickly while most ports are free.
const PER_SOURCE: usize = 5_000;

/// The maximum number of unfinished handshakes while the swarm opens its connections. It is below 128, a common length
/// of a listener's queue.
pub const CONCURRENT: u32 = 100;

const EVENTS_PER_POLL: usize = 1_024;

const SCRATCH_BYTES: usize = 64 * 1024;

/// The server that the subscribers connect to, and the paths of their requests.
pub struct Target {
    /// The addresses of all nodes. The slots are spread over the nodes.
    pub addresses: Vec<SocketAddr>,
    /// Whether a connection is established only after the server's first message.
    pub greets: bool,
    /// The request path of the subscriber in a slot.
    pub path: Box<dyn Fn(usize) -> String>,
    /// Clients in this slot and all later slots read nothing after the handshake.
    pub stalled_from: usize,
}

impl Target {
    /// The target of clients that subscribe to every message of a server.
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

/// The handshakes to complete.
pub struct Plan {
    pub total: u32,
    pub concurrent: u32,
    pub afterwards: Afterwards,
}

/// A connection, and its state in the swarm.
struct Subscriber {
    connection: Connection,
    established: bool,
    /// Whether the list `Swarm::unfinished` contains the slot of this connection.
    unfinished: bool,
}

/// The connections of the subscribers. The index of a connection's slot is also its epoll token.
pub struct Swarm {
    poll: Poll,
    events: Events,
    target: Target,
    scratch: Vec<u8>,
    slots: Vec<Option<Subscriber>>,
    free: Vec<usize>,
    /// The slots whose handshake completed in the last turn.
    completed: Vec<usize>,
    /// The slots whose connections had more bytes than one turn reads. Epoll does not report these bytes again.
    unfinished: Vec<usize>,
    /// The slots of a turn, and whether the server has closed its side. All turns use the same memory.
    ready: Vec<(usize, bool)>,
    /// If true, the end of a connection does not fail the measurement.
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

    /// Completes the planned handshakes. Fails at the first failed handshake, because rates with and without failures
    /// are not comparable.
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

    /// Receives messages for a time.
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

    /// Waits at most `timeout` for epoll events, and handles them.
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

    /// Lets the stalled clients read, and returns the number of these clients. From now on, the end of a connection is
    /// counted and is not an error, because the server may have closed slow connections.
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

    /// Closes the connection in a slot and frees the slot. The kernel removes a closed socket from the epoll instance,
    /// so the slot's next connection gets none of its events.
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

/// The source address of a slot. One address does not have enough ports for all slots.
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
