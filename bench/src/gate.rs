//! Has oddswire become more expensive than the baseline?
//!
//! Compares only figures that hardly depend on the machine and on other programs. These are counts of instructions and
//! allocations, sizes in memory, and ratios to a peer that ran under the same load. Takes the best of several runs,
//! because other programs seldom improve a figure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::figures::record::{self, Record};
use crate::figures::statistics::short;
use crate::instructions;

const SUBJECT: &str = "oddswire";

/// The tolerance for counts. Counts of one build differ by less than 1 % between runs. Between builds, one count was 14
/// % higher because the compiler inlined differently after a change of unrelated code.
const COUNT_TOLERANCE: f64 = 1.25;

/// The tolerance for sizes in memory. The kernel counts the resident size in pages, and the allocator keeps some free
/// pages.
const MEMORY_TOLERANCE: f64 = 1.2;

/// The tolerance for ratios. While two compilers ran on two cores, the ratio to stock-warp was up to 1.4 times as high.
/// The ratio shows costs in the kernel that instruction counts do not show, such as another system call for each
/// delivery.
const RATIO_TOLERANCE: f64 = 1.5;

/// The value that divides a figure before the comparison with the baseline.
#[derive(Clone, Copy)]
enum Against {
    Nothing,
    /// The figure of another server in the same case.
    Server(&'static str),
}

/// A figure that must not grow by more than a factor, `tolerance`.
struct Check {
    case: &'static str,
    figure: &'static str,
    against: Against,
    tolerance: f64,
}

const fn check(case: &'static str, figure: &'static str, against: Against, tolerance: f64) -> Check {
    Check { case, figure, against, tolerance }
}

use Against::{Nothing, Server};

const CHECKS: &[Check] = &[
    check("idle", "bytes_per_connection", Nothing, MEMORY_TOLERANCE),
    check("retained", "bytes_per_key", Nothing, MEMORY_TOLERANCE),
    check("light", "cpu_us_per_delivery", Server("stock-warp"), RATIO_TOLERANCE),
];

/// A measured figure, and the factor by which it may grow.
#[derive(Debug, PartialEq)]
struct Measured {
    name: String,
    value: f64,
    tolerance: f64,
}

/// Compares the measured figures with the baseline, or replaces the baseline with them.
pub fn compare(from: &Path, baseline: &Path, update: bool) -> Result<()> {
    let measured = measured(&record::read(from)?);
    ensure!(!measured.is_empty(), "{} has no figure of the gate: expected counts, sizes or ratios", from.display());
    if update {
        let kept: BTreeMap<&str, f64> = measured.iter().map(|one| (one.name.as_str(), one.value)).collect();
        let text = serde_json::to_string_pretty(&kept)? + "\n";
        fs::write(baseline, text).with_context(|| format!("cannot write {}", baseline.display()))?;
        return Ok(());
    }
    let text = fs::read_to_string(baseline).with_context(|| format!("cannot read {}", baseline.display()))?;
    let stored: BTreeMap<String, f64> =
        serde_json::from_str(&text).with_context(|| format!("{}", baseline.display()))?;
    let verdicts: Vec<Verdict> = measured.iter().map(|one| Verdict::of(one, &stored)).collect();
    for (one, verdict) in measured.iter().zip(&verdicts) {
        println!("{}: {}", one.name, verdict.text(one.value));
    }
    let worse = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Worse { .. })).count();
    ensure!(worse == 0, "{worse} figures exceed the baseline's tolerance; see bench/README.md");
    let absent: Vec<&str> = stored.keys().map(String::as_str).filter(|name| is_absent(name, &measured)).collect();
    ensure!(absent.is_empty(), "figures of the baseline were not measured: {}", absent.join("; "));
    Ok(())
}

fn is_absent(name: &str, measured: &[Measured]) -> bool {
    !measured.iter().any(|one| one.name == name)
}

/// The result of comparing a figure with the baseline.
enum Verdict {
    New,
    Fine { before: f64 },
    Worse { before: f64, tolerance: f64 },
}

impl Verdict {
    fn of(one: &Measured, stored: &BTreeMap<String, f64>) -> Self {
        let Some(&before) = stored.get(&one.name) else { return Self::New };
        let tolerance = one.tolerance;
        if one.value > before * tolerance { Self::Worse { before, tolerance } } else { Self::Fine { before } }
    }

    fn text(&self, value: f64) -> String {
        let now = short(value);
        match *self {
            Self::New => format!("{now}, not in the baseline"),
            Self::Fine { before } => format!("{now}, was {}", short(before)),
            Self::Worse { before, tolerance } => {
                format!("{now}, was {}: MORE THAN {tolerance} TIMES AS MUCH", short(before))
            }
        }
    }
}

fn measured(records: &[Record]) -> Vec<Measured> {
    let operations = records.iter().filter(|record| record.case.starts_with(instructions::PREFIX));
    let counts = operations.flat_map(|record| {
        ["instructions", "allocations"].into_iter().filter_map(|figure| {
            let value = rounded(record.figures.get(figure)?);
            Some(Measured { name: format!("{}: {figure}", record.case), value, tolerance: COUNT_TOLERANCE })
        })
    });
    counts.chain(CHECKS.iter().filter_map(|check| check.measured(records))).collect()
}

impl Check {
    fn measured(&self, records: &[Record]) -> Option<Measured> {
        let Self { case, figure, against, tolerance } = *self;
        let ours = best(records, case, SUBJECT, figure)?;
        let (value, suffix) = match against {
            Nothing => (ours, String::new()),
            Server(peer) => (ours / best(records, case, peer, figure)?, format!(" against {peer}")),
        };
        let name = format!("{case}: {figure}{suffix}");
        value.is_finite().then(|| Measured { name, value: rounded(value), tolerance })
    }
}

/// The least value of a figure over all runs.
fn best(records: &[Record], case: &str, server: &str, figure: &str) -> Option<f64> {
    let of_server = records.iter().filter(|record| record.case == case && record.server == server);
    of_server.filter_map(|record| record.figures.get(figure)).reduce(f64::min)
}

/// Keeps three decimals, so that the baseline file stays readable.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::Figures;

    fn record(case: &str, server: &str, figure: &str, value: f64) -> Record {
        let mut figures = Figures::default();
        figures.set(figure, value);
        Record { case: case.to_owned(), server: server.to_owned(), run: 1, figures }
    }

    /// Records of a count, a size and a ratio. Multiplies the first three figures, which are oddswire's, by a factor.
    fn records(factor: f64) -> Vec<Record> {
        vec![
            record("operation-encode-200", SUBJECT, "instructions", 1_000.0 * factor),
            record("idle", SUBJECT, "bytes_per_connection", 4_000.0 * factor),
            record("light", SUBJECT, "cpu_us_per_delivery", 5.0 * factor),
            record("light", SUBJECT, "cpu_us_per_delivery", 50.0),
            record("light", "stock-warp", "cpu_us_per_delivery", 10.0),
        ]
    }

    /// Compares records with a baseline that was made with the factor 1.
    fn outcome(records: &[Record]) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let baseline = directory.path().join("baseline.json");
        let write = |name: &str, records: &[Record]| {
            let path = directory.path().join(name);
            records.iter().try_for_each(|record| record::append(&path, record)).map(|()| path)
        };
        compare(&write("first", &self::records(1.0))?, &baseline, true)?;
        compare(&write("second", records)?, &baseline, false)
    }

    #[test]
    fn figures_that_are_a_tenth_worse_pass() {
        assert!(outcome(&records(1.1)).is_ok());
    }

    #[test]
    fn each_much_worse_figure_fails() {
        for (index, factor) in [(0, 1.5), (1, 1.5), (2, 2.0)] {
            let mut changed = records(1.0);
            changed[index] = records(factor).swap_remove(index);
            let error = outcome(&changed).expect_err("one figure is worse").to_string();
            assert!(error.starts_with("1 figures exceed"), "{index}: {error}");
        }
    }

    #[test]
    fn every_figure_of_the_baseline_must_be_measured() {
        let error = outcome(&records(1.0)[1..]).expect_err("the count is missing").to_string();
        assert!(error.ends_with("operation-encode-200: instructions"), "{error}");
    }
}
