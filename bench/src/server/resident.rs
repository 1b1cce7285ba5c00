//! Reads the resident memory of a server after the size has settled.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use crate::deadline::{Deadline, LIMIT};
use crate::server::Server;

/// The size has settled when this many readings in a row differ by at most 1 %.
const READINGS: usize = 5;

const READING_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until the resident size has settled, and returns it in KiB. `hold` waits between two readings, and fails if a
/// connection ends during that time.
pub fn settled_kib(server: &Server, mut hold: impl FnMut(Duration) -> Result<()>) -> Result<u64> {
    let deadline = Deadline::after(LIMIT, "waiting for the resident size to settle");
    let mut readings = VecDeque::new();
    loop {
        let reading = server.resident()?.now;
        readings.push_back(reading);
        if readings.len() > READINGS {
            readings.pop_front();
        }
        if is_settled(&readings) {
            return Ok(reading);
        }
        hold(deadline.remaining()?.min(READING_INTERVAL))?;
    }
}

fn is_settled(readings: &VecDeque<u64>) -> bool {
    let (Some(&least), Some(&most)) = (readings.iter().min(), readings.iter().max()) else {
        return false;
    };
    readings.len() >= READINGS && most - least <= most / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_settles_after_five_readings_within_one_percent() {
        assert!(!is_settled(&VecDeque::new()));
        assert!(!is_settled(&VecDeque::from([1000; READINGS - 1])));
        assert!(is_settled(&VecDeque::from([1000, 1010, 1005, 1000, 1010])));
        assert!(!is_settled(&VecDeque::from([1000, 1011, 1011, 1011, 1011])));
    }
}
