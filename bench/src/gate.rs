//! The regression gate: what oddswire costs as a ratio to stock-warp, compared with the same ratio when it was stored.
//!
//! A ratio of two servers that were measured in turn says much the same on any machine, which a time does not.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::record::{self, Record};
use crate::statistics::{Summary, short};

const SUBJECT: &str = "oddswire";
const REFERENCE: &str = "stock-warp";

/// What is compared. Of these figures less is better, so that a ratio that grows is a loss.
const COMPARED: &[(&str, &str)] = &[
    ("idle-ws", "bytes_per_connection"),
    ("connect-ws", "cpu_us_per_handshake"),
    ("light-ws", "cpu_us_per_delivery"),
    ("hot-ws", "cpu_us_per_delivery"),
];

/// By how much a ratio may have grown. Short runs on a busy machine differ by up to a quarter.
const TOLERANCE: f64 = 1.3;

/// A ratio and where it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ratio {
    case: String,
    figure: String,
    value: f64,
}

/// Compares what was measured with the baseline, or makes it the baseline.
pub fn check(from: &Path, baseline: &Path, update: bool) -> Result<()> {
    let measured = ratios(&record::read(from)?);
    ensure!(!measured.is_empty(), "{} has nothing to compare", from.display());
    if update {
        fs::write(baseline, serde_json::to_string_pretty(&measured)? + "\n")?;
        return Ok(());
    }
    let text = fs::read_to_string(baseline).with_context(|| format!("could not read {}", baseline.display()))?;
    let stored: Vec<Ratio> = serde_json::from_str(&text).with_context(|| format!("{}", baseline.display()))?;
    let mut lost = 0;
    for ratio in &measured {
        let Some(before) = stored.iter().find(|other| other.case == ratio.case && other.figure == ratio.figure) else {
            println!("{}: {} is not in the baseline", ratio.case, ratio.figure);
            continue;
        };
        let worse = ratio.value > before.value * TOLERANCE;
        lost += u32::from(worse);
        println!(
            "{}: {} is {} of {REFERENCE}'s, was {}{}",
            ratio.case,
            ratio.figure,
            short(ratio.value),
            short(before.value),
            if worse { ": TOO MUCH" } else { "" }
        );
    }
    ensure!(lost == 0, "{lost} ratios are more than {TOLERANCE} times what they were");
    Ok(())
}

fn ratios(records: &[Record]) -> Vec<Ratio> {
    let median = |case: &str, server: &str, figure: &str| {
        let of_server = records.iter().filter(|record| record.case == case && record.server == server);
        Summary::of(of_server.filter_map(|record| record.figures.get(figure))).map(|summary| summary.median)
    };
    let ratio = |&(case, figure): &(&str, &str)| {
        let value = median(case, SUBJECT, figure)? / median(case, REFERENCE, figure)?;
        // Three digits tell enough, and keep the file readable.
        let value = (value * 1e3).round() / 1e3;
        value.is_finite().then(|| Ratio { case: case.to_owned(), figure: figure.to_owned(), value })
    };
    COMPARED.iter().filter_map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    fn measured(directory: &Path, name: &str, ours: f64) -> Result<std::path::PathBuf> {
        let path = directory.join(name);
        for (server, value) in [(SUBJECT, ours), (REFERENCE, 100.0)] {
            let mut figures = Figures::default();
            figures.set("cpu_us_per_delivery", value);
            let record = Record { case: "light-ws".to_owned(), server: server.to_owned(), run: 1, figures };
            record::append(&path, &record)?;
        }
        Ok(path)
    }

    #[test]
    fn a_ratio_that_has_grown_too_much_fails() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let baseline = directory.path().join("baseline");
        check(&measured(directory.path(), "first", 50.0)?, &baseline, true)?;
        check(&measured(directory.path(), "close", 60.0)?, &baseline, false)?;
        let error = check(&measured(directory.path(), "worse", 70.0)?, &baseline, false).expect_err("it is worse");
        assert!(error.to_string().starts_with("1 ratios"), "{error}");
        Ok(())
    }
}
