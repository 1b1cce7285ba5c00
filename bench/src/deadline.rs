//! Deadlines, so that no measurement waits forever.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The time that a phase may take in addition to its planned duration. Phases are: starting a server, opening the
/// connections, waiting for the last messages, and waiting until the memory has settled.
pub const LIMIT: Duration = Duration::from_mins(2);

/// The latest time at which a phase must end.
pub struct Deadline {
    end: Instant,
    limit: Duration,
    phase: &'static str,
}

impl Deadline {
    /// Starts the time limit now. The error text ends with "while" and `phase`.
    pub fn after(limit: Duration, phase: &'static str) -> Self {
        Self { end: Instant::now() + limit, limit, phase }
    }

    /// Returns the time left, or an error when the deadline has passed.
    pub fn remaining(&self) -> Result<Duration> {
        let remaining = self.end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            bail!("the deadline of {} s passed while {}", self.limit.as_secs(), self.phase);
        }
        Ok(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_deadline_is_an_error_with_the_phase() {
        let deadline = Deadline::after(Duration::ZERO, "testing");
        let error = deadline.remaining().expect_err("the limit is zero");
        assert!(error.to_string().ends_with("while testing"));
        let deadline = Deadline::after(Duration::from_mins(1), "testing");
        assert!(deadline.remaining().is_ok());
    }
}
