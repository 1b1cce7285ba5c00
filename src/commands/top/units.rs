//! Numbers as short texts: counts, rates, sizes and durations.

use crate::commands::grouped;

/// A count that fits into a narrow column: `999,999`, then `1.0M`.
pub(super) fn short(count: u64) -> String {
    const MILLION: u64 = 1_000_000;
    match count {
        ..MILLION => grouped(count),
        _ => format!("{}.{}M", grouped(count / MILLION), count % MILLION / 100_000),
    }
}

/// The value of a gauge or counter, which is a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

/// A rate: with a decimal if it is small; a dash if it is unknown.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "–".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => short(whole(rate.round())),
    }
}

/// Formats a size in bytes as a short text with a suitable unit.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Formats a duration in seconds as a short text with a suitable unit.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        ..0.01 => format!("{:.1} ms", seconds * 1000.0),
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..60.0 => format!("{seconds:.0} s"),
        ..3_600.0 => format!("{}m {:02}s", (seconds / 60.0).floor(), (seconds % 60.0).floor()),
        ..86_400.0 => format!("{}h {:02}m", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor()),
        ..8_640_000.0 => format!("{}d {:02}h", (seconds / 86_400.0).floor(), (seconds % 86_400.0 / 3600.0).floor()),
        _ => format!("{}d", (seconds / 86_400.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fit_seven_columns() {
        for (seconds, text) in [
            (0.000_25, "0.2 ms"),
            (0.123, "123 ms"),
            (5.2, "5 s"),
            (61.0, "1m 01s"),
            (3_660.0, "1h 01m"),
            (90_000.0, "1d 01h"),
            (8_639_999.0, "99d 23h"),
            (31_536_000.0, "365d"),
        ] {
            assert_eq!(duration(seconds), text);
            assert!(text.len() <= 7, "{text}");
        }
    }

    #[test]
    fn sizes_fit_eight_columns() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (1_023.0, "1023 B"),
            (1_536.0, "1.5 KiB"),
            (1e9, "954 MiB"),
            (1e12, "931 GiB"),
            (1e13, "9.1 TiB"),
        ] {
            assert_eq!(size(bytes), text);
            assert!(text.len() <= 8, "{text}");
        }
    }

    #[test]
    fn large_counts_are_in_millions() {
        let counts = [0, 999_999, 1_000_000, 12_345_678].map(short);
        assert_eq!(counts, ["0", "999,999", "1.0M", "12.3M"]);
        assert_eq!([None, Some(0.0), Some(1.25), Some(2e6)].map(rate), ["–", "0", "1.2", "2.0M"]);
    }
}
