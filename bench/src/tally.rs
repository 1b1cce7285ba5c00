//! What the subscribers received.

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::message::{self, Clock};

/// Latencies beyond this are counted as this much.
const MAX_LATENCY_NS: u64 = 600_000_000_000;

/// Three digits: a latency is known to one part in a thousand.
const DIGITS: u8 = 3;

/// Counts for all subscribers of a phase together.
pub struct Tally {
    clock: Clock,
    /// Messages published before this moment belong to an earlier phase.
    since: u64,
    /// All messages, whatever they are.
    pub messages: u64,
    /// Those published in this phase.
    pub delivered: u64,
    pub latency: Histogram<u64>,
    /// When the last message of this phase came.
    pub last: u64,
    /// Bytes read from the sockets, whatever they were.
    pub bytes: u64,
    pub catch_ups: u64,
    pub caught_up: u64,
    /// Messages that the server said it skipped.
    pub skipped: u64,
    /// Connections without a reader that had ended by the time they were looked at.
    pub ended: u64,
}

impl Tally {
    /// Starts to count now.
    pub fn new(clock: Clock) -> Result<Self> {
        Ok(Self {
            clock,
            since: clock.now(),
            messages: 0,
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

    /// Counts one message. The time is taken for each, because handling a turn's messages takes time, too.
    pub fn message(&mut self, text: &[u8]) {
        self.messages += 1;
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

    /// A latency in microseconds.
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
    fn what_a_catch_up_skipped_is_added_up() -> Result<()> {
        let mut tally = Tally::new(Clock::start())?;
        tally.message(br#"{"type":"catch_up","data":{"topics":{"a":{"mode":"gap","skipped":7}}}}"#);
        tally.message(br#"{"type":"catch_up","data":{"topics":{"a":{"mode":"gap","skipped":null}}}}"#);
        tally.message(br#"{"type":"caught_up","data":{"position":"1-1"}}"#);
        assert_eq!((tally.catch_ups, tally.caught_up, tally.skipped), (2, 1, 7));
        Ok(())
    }
}
