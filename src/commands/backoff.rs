//! Computes how long to wait before a retry.

use std::time::Duration;

/// The maximum of the first random wait. This maximum doubles with each further wait.
const FIRST: Duration = Duration::from_millis(500);
/// The maximum of any random wait. The server's `Retry-After` is added to the random wait.
const LONGEST: Duration = Duration::from_secs(30);
/// The maximum `Retry-After` that the client respects. A longer one counts as this duration.
const MOST_ASKED: Duration = Duration::from_mins(1);

/// Exponential backoff with full jitter: each wait is random between zero and a maximum, so that many clients do not
/// retry at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: a random duration plus `asked`, the server's `Retry-After`.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(fastrand::f64()) + asked.unwrap_or_default().min(MOST_ASKED)
    }

    /// Makes the next wait short again, after a success.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_a_reset() {
        let mut backoff = Backoff::default();
        for attempt in 0..100 {
            let bound = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
            assert!(backoff.next(None) <= bound, "attempt {attempt}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn retry_after_is_respected_up_to_a_minute() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.next(Some(Duration::from_hours(24))) <= MOST_ASKED + LONGEST);
    }
}
