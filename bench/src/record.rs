//! What was measured, kept as one JSON object a line, so that a report can be made of several sessions.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The figures of one run, by name. A name ends in its unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Keeps a figure; one that is not a number, as a ratio to nothing is, is left out.
    pub fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.0.insert(name.to_owned(), value);
        }
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
}

/// One run of one case with one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub case: String,
    pub server: String,
    /// The runs of a session are numbered from 1; servers of the same number were measured one after the other.
    pub run: u32,
    pub figures: Figures,
}

/// Adds a record at the end of a file.
pub fn append(path: &Path, record: &Record) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.with_context(|| format!("could not open {}", path.display()))?;
    writeln!(file, "{}", serde_json::to_string(record)?)?;
    Ok(())
}

/// Reads all records of a file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("cannot read: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() -> Result<()> {
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
