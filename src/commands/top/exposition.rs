//! Parses the `OpenMetrics` text of `/metrics`, as far as the screen needs it.

use std::collections::HashMap;

/// The metrics of a server: for each metric name, its series.
#[derive(Debug, Default)]
pub(super) struct Exposition(HashMap<String, Vec<Series>>);

/// The value of one series, with its labels.
#[derive(Debug)]
struct Series {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

impl Exposition {
    /// Parses the text; ignores lines that are not series.
    pub(super) fn read(text: &str) -> Self {
        let mut all: HashMap<String, Vec<Series>> = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, series)) = series(line) {
                all.entry(name.to_owned()).or_default().push(series);
            }
        }
        Self(all)
    }

    fn series(&self, name: &str) -> impl Iterator<Item = &Series> {
        self.0.get(name).into_iter().flatten()
    }

    /// The sum of all series of a metric.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.series(name).map(|series| series.value).sum()
    }

    /// The sum of those series of a metric that have this label.
    pub(super) fn of(&self, name: &str, label: (&str, &str)) -> f64 {
        self.series(name).filter(|series| series.label(label.0) == Some(label.1)).map(|series| series.value).sum()
    }

    /// The values of a label, in all series of a metric.
    pub(super) fn values(&self, name: &str, label: &str) -> Vec<&str> {
        self.series(name).filter_map(|series| series.label(label)).collect()
    }

    /// The buckets of a histogram, in order: upper bound and cumulative count.
    pub(super) fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bound = |series: &Series| Some((series.label("le")?.replace("+Inf", "inf").parse().ok()?, series.value));
        let mut buckets: Vec<(f64, f64)> = self.series(&format!("{name}_bucket")).filter_map(bound).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }
}

fn series(line: &str) -> Option<(&str, Series)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = quoted(behind)?;
            labels.push((label.to_owned(), value));
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, Series { labels, value }))
}

/// Reads a label's value up to the closing quote. Returns the value and the rest of the text. A backslash escapes a
/// quote, a backslash and a line feed.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_label() {
        let exposition = Exposition::read(
            "# HELP x_total What.\n# TYPE x counter\nx_total{topic=\"a\"} 1\nx_total{topic=\"b\",more=\"}\\\"\\n\"} 2\ny 3.5\n# EOF\n",
        );
        assert!((exposition.sum("x_total") - 3.0).abs() < 1e-9);
        assert!((exposition.of("x_total", ("topic", "b")) - 2.0).abs() < 1e-9);
        assert!((exposition.sum("y") - 3.5).abs() < 1e-9);
        assert_eq!(exposition.values("x_total", "more"), ["}\"\n"]);
    }

    #[test]
    fn buckets_are_sorted_by_bound() {
        let exposition = Exposition::read("h_bucket{le=\"+Inf\"} 5\nh_bucket{le=\"0.5\"} 2\nh_bucket{le=\"1.0\"} 4\n");
        assert_eq!(exposition.buckets("h"), [(0.5, 2.0), (1.0, 4.0), (f64::INFINITY, 5.0)]);
    }

    #[test]
    fn invalid_lines_are_ignored() {
        for text in ["", "x", "x{", "x{a=\"b", "x{a=\"b\"}", "x y", "{\"a\":1}"] {
            assert!(Exposition::read(text).0.is_empty(), "{text}");
        }
    }
}
