//! Counts the messages that the subscribers of a phase received.

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::load::message::{self, Clock};

/// The greatest recorded latency, in nanoseconds. Longer latencies count as this value.
const MAX_LATENCY_NS: u64 = 600_000_000_000;

/// The number of significant decimal digits that the histogram keeps of a latency.
const DIGITS: u8 = 3;

/// The counts of all subscribers together.
pub struct Tally {
    clock: Clock,
    /// The start of the phase, by `clock`. Messages with an earlier time belong to an earlier phase.
    since: u64,
    /// The number of received messages that were published in this phase.
    pub delivered: u64,
    pub latency: Histogram<u64>,
    /// The arrival time of the last message of this phase, by `clock`.
    pub last: u64,
    /// The number of bytes from all sockets, including control messages.
    pub bytes: u64,
    /// The number of `catch_up` messages.
    pub catch_ups: u64,
    /// The number of `caught_up` messages.
    pub caught_up: u64,
    /// The number of messages that the server reported as skipped.
    pub skipped: u64,
    /// The number of connections whose end the swarm noticed after the stalled clients had resumed reading.
    pub ended: u64,
}

impl Tally {
    /// Creates the tally of a phase that starts now.
    pub fn new(clock: Clock) -> Result<Self> {
        Ok(Self {
            clock,
            since: clock.now(),
            delivered: 0,
            latency: Histogram::new_with_max(MAX_LATENCY_NS, DIGITS)?,
            last: 0,
            bytes: 0,
            catch_ups: 0,
            caught_up: 0,
            skipped: 0,
            ended: 0,
        })
    }

    /// Counts one message. Reads the clock for each message, because one turn handles many messages and takes time.
    pub fn message(&mut self, text: &[u8]) {
        if let Some(stamp) = message::stamp(text) {
            if stamp >= self.since {
                let now = self.clock.now();
                self.latency.saturating_record(now.saturating_sub(stamp));
                self.delivered += 1;
                self.last = now;
            }
        } else if text.starts_with(br#"{"type":"caught_up""#) {
            self.caught_up += 1;
        } else if text.starts_with(br#"{"type":"catch_up""#) {
            self.catch_ups += 1;
            self.skipped += message::skipped(text);
        }
    }

    /// The latency at a quantile, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 nanoseconds")]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_the_phase_count_as_delivered() -> Result<()> {
        let clock = Clock::start();
        let early = message::data(clock.now(), 100);
        let mut tally = Tally::new(clock)?;
        tally.message(early.as_bytes());
        assert_eq!(tally.delivered, 0);
        tally.message(message::data(clock.now(), 100).as_bytes());
        tally.message(br#"{"type":"connection_ack"}"#);
        assert_eq!((tally.delivered, tally.latency.len()), (1, 1));
        Ok(())
    }

    #[test]
    fn skipped_messages_of_catch_ups_are_added() -> Result<()> {
        let mut tally = Tally::new(Clock::start())?;
        tally.message(br#"{"type":"catch_up","data":{"topics":{"a":{"mode":"gap","skipped":7}}}}"#);
        tally.message(br#"{"type":"catch_up","data":{"topics":{"a":{"mode":"gap","skipped":null}}}}"#);
        tally.message(br#"{"type":"caught_up","data":{"position":"1-1"}}"#);
        assert_eq!((tally.catch_ups, tally.caught_up, tally.skipped), (2, 1, 7));
        Ok(())
    }
}
