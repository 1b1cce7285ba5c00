//! The recorded odds: real keys, sizes and bursts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message;

/// One change of a key.
pub struct Change {
    /// When it was recorded, counted from the first one.
    pub at: Duration,
    pub key: String,
    pub data: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    at: &'a str,
    key: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reads a recording, in the order of its times.
pub fn read(path: &Path) -> Result<Vec<Change>> {
    let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    let mut first = None;
    let mut changes = Vec::new();
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let line = line?;
        let Line { at, key, data } = serde_json::from_str(&line).with_context(|| format!("cannot read: {line}"))?;
        let seconds = seconds(at).with_context(|| format!("no time: {at}"))?;
        let at = Duration::from_secs(seconds.saturating_sub(*first.get_or_insert(seconds)));
        changes.push(Change { at, key, data: data.get().to_owned() });
    }
    Ok(changes)
}

/// The last change of each key.
pub fn last_state(changes: &[Change]) -> Vec<(String, String)> {
    let newest: HashMap<&str, usize> =
        changes.iter().enumerate().map(|(index, change)| (change.key.as_str(), index)).collect();
    let mut indices: Vec<usize> = newest.into_values().collect();
    indices.sort_unstable();
    indices.into_iter().map(|index| (changes[index].key.clone(), changes[index].data.clone())).collect()
}

/// As many keys as the recording has, with data of about the same length.
pub fn synthetic_state(keys: u64, bytes: usize) -> Vec<(String, String)> {
    (0..keys).map(|number| (message::key(number), message::data(number, bytes))).collect()
}

/// Seconds since 1970 of a time such as `2026-08-04T17:54:32Z`. Days are counted as in the proleptic Gregorian
/// calendar with years that begin in March, so that the leap day is the last of its year.
fn seconds(text: &str) -> Option<u64> {
    let field = |start: usize, end: usize| text.get(start..end)?.parse::<u64>().ok();
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + field(11, 13)? * 3_600 + field(14, 16)? * 60 + field(17, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2026-08-04T17:54:32Z"), Some(1_785_866_072));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn the_last_change_of_each_key_is_its_state() {
        let change = |key: &str, data: &str| Change { at: Duration::ZERO, key: key.to_owned(), data: data.to_owned() };
        let state = last_state(&[change("a", "1"), change("b", "2"), change("a", "3")]);
        assert_eq!(state, [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "3".to_owned())]);
    }
}
