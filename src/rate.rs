//! A token bucket: limits events to a rate, and allows bursts.

use std::time::{Duration, Instant};

/// Gains `per_second` tokens each second, up to `burst` tokens. Each event takes one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    filled: f64,
    at: Instant,
}

impl Bucket {
    /// Creates a full bucket.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, filled: burst, at: now }
    }

    /// Takes one token. If the bucket has none, returns the time until it has one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.filled = (self.filled + since * self.per_second).min(self.burst);
        self.at = now;
        if self.filled >= 1.0 {
            self.filled -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.filled) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_applies() {
        let start = Instant::now();
        let mut bucket = Bucket::new(20, 40, start);
        for _ in 0..40 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let wait = bucket.take(start).unwrap_err();
        assert!((49..=50).contains(&wait.as_millis()), "{wait:?}");
        assert!(bucket.take(start + Duration::from_millis(40)).is_err());
        assert_eq!(bucket.take(start + Duration::from_millis(51)), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(51)).is_err());
    }

    #[test]
    fn a_long_silence_fills_no_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(20, 40, start);
        let later = start + Duration::from_hours(1);
        let through = (0..100).filter(|_| bucket.take(later).is_ok()).count();
        assert_eq!(through, 40);
    }
}
