//! How long to wait before trying again.

use std::time::Duration;

/// The first wait is at most this long, and each further one at most twice as long as the one before.
const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer, unless the server asks for it.
const LONGEST: Duration = Duration::from_secs(30);
/// A server's `Retry-After` counts up to here.
const MOST_ASKED: Duration = Duration::from_mins(1);

/// Exponential waits with full jitter: each is drawn from nothing to its bound, so that a crowd spreads out.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: not shorter than what the server asks for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(fastrand::f64()) + asked.unwrap_or_default().min(MOST_ASKED)
    }

    /// What was tried has worked: the next wait is a first one again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_again_after_a_reset() {
        let mut backoff = Backoff::default();
        for attempt in 0..100 {
            let bound = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
            assert!(backoff.next(None) <= bound, "attempt {attempt}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_the_least_up_to_a_minute() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.next(Some(Duration::from_hours(24))) <= MOST_ASKED + LONGEST);
    }
}
