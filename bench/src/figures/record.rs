//! Records of measurements: a file with one JSON object a line, so that several commands can append to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The figures of one run, by name. Most names end with the unit of the figure, such as `p99_us`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Stores a figure. Skips values that are not finite, such as a ratio to zero.
    pub fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.0.insert(name.to_owned(), value);
        }
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
}

/// The figures of one case and one server in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub case: String,
    pub server: String,
    /// The number of the run, from 1. A run measures the servers one after the other.
    pub run: u32,
    pub figures: Figures,
}

/// Appends a record to a file. Creates the file and its folder if they are missing.
pub fn append(path: &Path, record: &Record) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
    writeln!(file, "{}", serde_json::to_string(record)?)?;
    Ok(())
}

/// Reads all records of a file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let record = |line| {
        let expected = || format!("invalid record '{line}': expected a JSON object with case, server, run and figures");
        serde_json::from_str(line).with_context(expected)
    };
    text.lines().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("new").join("records");
        let mut figures = Figures::default();
        figures.set("p99_us", 1.5);
        figures.set("ratio", f64::NAN);
        let record = Record { case: "light-ws".to_owned(), server: "oddswire".to_owned(), run: 1, figures };
        append(&path, &record)?;
        append(&path, &record)?;
        assert_eq!(read(&path)?, [record.clone(), record]);
        Ok(())
    }
}
