//! Moments, in Unix milliseconds.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// A moment in milliseconds since the Unix epoch. The timestamps in the protocol also have milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The present time of the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The moment that is this many milliseconds after the Unix epoch.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The time from this moment until now. Zero for a moment in the future.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        let millis = Self::now().0.saturating_sub(self.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// The moment that is `duration` later than this one, or the latest representable moment.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// The first millisecond (year 0000) and the last (year 9999) that RFC 3339 can express, in Unix milliseconds.
const RFC_3339_MILLIS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with milliseconds and `Z`, such as `2026-02-06T12:00:00.123Z`.
    ///
    /// A moment outside the range of RFC 3339 is shown as the nearest moment inside the range. An example is the expiry
    /// of a token that is meant to be valid for ever.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &[BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let shown = self.0.clamp(RFC_3339_MILLIS.0, RFC_3339_MILLIS.1);
        let moment =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(shown) * 1_000_000).map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_outside_rfc_3339_show_the_nearest_moment_inside() {
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
    }
}
