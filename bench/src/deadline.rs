//! An end for everything that waits.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The moment by which a phase of a run has to be over.
pub struct Deadline {
    end: Instant,
    limit: Duration,
    phase: &'static str,
}

impl Deadline {
    /// Allows `limit` from now on; `phase` completes "… while" in the error.
    pub fn after(limit: Duration, phase: &'static str) -> Self {
        Self { end: Instant::now() + limit, limit, phase }
    }

    /// Returns the time left, or an error once there is none.
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
    fn a_passed_deadline_is_an_error_that_names_the_phase() {
        let deadline = Deadline::after(Duration::ZERO, "testing");
        let error = deadline.remaining().expect_err("no time was allowed");
        assert!(error.to_string().ends_with("while testing"));
        let deadline = Deadline::after(Duration::from_mins(1), "testing");
        assert!(deadline.remaining().is_ok());
    }
}
