//! Medians with their spread, and the text form of a figure.

/// The median of a set of values, with the least and the greatest of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub runs: usize,
}

impl Summary {
    /// Summarizes the values; `None` if there are no values. If the number of values is even, the median is the mean of
    /// the middle two.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, least, most, runs: sorted.len() })
    }
}

/// Converts a count to `f64`, the type of all figures.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Writes a figure with about three significant digits.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 10_000_000.0 {
        format!("{:.1}M", value / 1e6)
    } else if size >= 100_000.0 {
        format!("{:.0}k", value / 1e3)
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else if size > 0.0 {
        format!("{value:.3}")
    } else {
        "0".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_median_least_and_most() {
        let odd = Summary { median: 2.0, least: 1.0, most: 9.0, runs: 3 };
        assert_eq!(Summary::of([9.0, 1.0, 2.0]), Some(odd));
        assert_eq!(Summary::of([4.0, 1.0]).map(|summary| summary.median), Some(2.5));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn figures_have_about_three_digits() {
        let shown = [0.0, 0.0379, 1.126, 12.34, 1234.5, 123_456.0, 12_345_678.0].map(short);
        assert_eq!(shown, ["0", "0.038", "1.13", "12.3", "1234", "123k", "12.3M"]);
    }
}
