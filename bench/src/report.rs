//! The table of results.

use crate::cli::ServerSpec;

const HEADINGS: [&str; 4] = ["server", "median", "min..max", "ratio"];

/// The figures measured for one server, one for each run.
pub struct Series {
    name: String,
    pub values: Vec<f64>,
}

impl Series {
    /// Makes an empty series for each server.
    pub fn for_servers(servers: &[ServerSpec]) -> Vec<Self> {
        let empty = |spec: &ServerSpec| Self { name: spec.name.clone(), values: Vec::new() };
        servers.iter().map(empty).collect()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Of an even number of figures it is the mean of the middle two.
    fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.get(middle.saturating_sub(1)..=middle) {
            Some(&[lower, upper]) if sorted.len().is_multiple_of(2) => f64::midpoint(lower, upper),
            _ => sorted.get(middle).copied().unwrap_or(f64::NAN),
        }
    }

    fn range(&self) -> String {
        match self.sorted().as_slice() {
            [only] => format!("{only:.0}..{only:.0}"),
            [least, .., most] => format!("{least:.0}..{most:.0}"),
            [] => "-".to_owned(),
        }
    }
}

/// Prints one row for each server, with its ratio to the first one.
pub fn print(series: &[Series]) {
    for line in table(series) {
        println!("{line}");
    }
}

fn table(series: &[Series]) -> Vec<String> {
    let reference = series.first().map_or(f64::NAN, Series::median);
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(series.iter().map(|series| {
        [series.name.clone(), format!("{:.0}", series.median()), series.range(), ratio(series.median(), reference)]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = std::array::from_fn::<_, 4, _>(|column| width(column).unwrap_or(0));
    rows.iter().map(|row| align(row, widths)).collect()
}

/// Names are aligned to the left, figures to the right.
fn align([name, median, range, ratio]: &[String; 4], widths: [usize; 4]) -> String {
    let [first, second, third, fourth] = widths;
    format!("{name:<first$}  {median:>second$}  {range:>third$}  {ratio:>fourth$}")
}

/// A reference that is not positive, which happens if the memory of a server
/// did not grow, allows no ratio.
fn ratio(value: f64, reference: f64) -> String {
    if reference > 0.0 { format!("{:.2}", value / reference) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series { name: name.to_owned(), values: values.to_vec() }
    }

    #[test]
    fn the_table_is_aligned_and_relates_to_the_first_server() {
        let lines = table(&[series("base", &[300.0, 100.0, 200.0]), series("x", &[50.0, 30.0])]);
        assert_eq!(
            lines,
            ["server  median  min..max  ratio", "base       200  100..300   1.00", "x           40    30..50   0.20",]
        );
    }

    #[test]
    fn a_single_run_is_its_own_range_and_no_growth_has_no_ratio() {
        let lines = table(&[series("base", &[0.0])]);
        assert_eq!(lines[1], "base         0      0..0      -");
    }
}
