//! The set of client connections to one server, driven by one epoll instance.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use mio::{Events, Interest, Poll, Token};

use crate::connection::Connection;
use crate::deadline::Deadline;

/// The first address to connect from. It differs from the address of the
/// server so that no socket can ever connect to itself.
pub const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How many connections share a source address. An address has about 28,000
/// ephemeral ports, and finding a free one stays quick while most are free.
const PER_SOURCE: usize = 5_000;

const EVENTS_PER_POLL: usize = 1_024;

const SCRATCH_BYTES: usize = 16 * 1024;

/// What becomes of a connection after its first text message.
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

/// The connections, each in a slot whose index is its token.
pub struct Load {
    poll: Poll,
    events: Events,
    target: SocketAddr,
    request: Vec<u8>,
    scratch: Vec<u8>,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// The slots whose handshake was completed by the last turn.
    completed: Vec<usize>,
}

impl Load {
    /// Prepares for at most `capacity` connections at a time to `target`.
    pub fn new(target: SocketAddr, capacity: u32) -> Result<Self> {
        let capacity = usize::try_from(capacity)?;
        Ok(Self {
            poll: Poll::new().context("could not create an epoll instance")?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            target,
            request: upgrade_request(target).into_bytes(),
            scratch: vec![0; SCRATCH_BYTES],
            slots: (0..capacity).map(|_| None).collect(),
            free: (0..capacity).rev().collect(),
            completed: Vec::new(),
        })
    }

    /// Completes the planned handshakes. The first one that fails ends it all,
    /// because a rate with failures left out would not be comparable.
    pub fn complete(&mut self, plan: &Plan, limit: Duration, progress: &ProgressBar) -> Result<()> {
        let deadline = Deadline::after(limit, "completing handshakes");
        let mut started = 0;
        let mut done = 0;
        while done < plan.total {
            while started < plan.total && started - done < plan.concurrent {
                self.open()?;
                started += 1;
            }
            let counted = || format!("{done} of {} handshakes were complete", plan.total);
            self.turn(deadline.remaining().with_context(counted)?).with_context(counted)?;
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

    /// Holds the connections for a time, while dropping what they receive.
    pub fn hold(&mut self, period: Duration) -> Result<()> {
        let end = Instant::now() + period;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left)?;
        }
    }

    fn open(&mut self) -> Result<()> {
        let slot = self.free.pop().context("all slots are in use")?;
        let mut connection = Connection::start(source_address(slot)?, self.target)?;
        self.poll.registry().register(&mut connection.stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        self.slots[slot] = Some(connection);
        Ok(())
    }

    /// Frees a slot. Closing the socket also takes it out of the epoll
    /// instance, so no event of it can reach the next user of the slot.
    fn close(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }

    /// Waits for events at most for `timeout` and handles them.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => bail!("waiting for events failed: {error}"),
        }
        for event in &self.events {
            let Token(slot) = event.token();
            let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
                continue;
            };
            if connection.advance(&self.request, &mut self.scratch)? {
                self.completed.push(slot);
            }
        }
        Ok(())
    }
}

/// Spreads the slots over addresses so that ports do not run out.
fn source_address(slot: usize) -> Result<Ipv4Addr> {
    let offset = u32::try_from(slot / PER_SOURCE)?;
    Ok(Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + offset))
}

/// The key is the example of RFC 6455; nothing depends on its being random
/// where no intermediary could cache a response.
fn upgrade_request(target: SocketAddr) -> String {
    format!(
        "GET /api/ws HTTP/1.1\r\n\
         Host: {target}\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         \r\n"
    )
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
