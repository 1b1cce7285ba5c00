//! The resident memory of a server, once it has settled.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use crate::deadline::Deadline;
use crate::server::Server;

/// The size counts as settled when this many readings differ by at most 1 %.
const READINGS: usize = 5;

const READING_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until the resident size stays the same. `hold` spends the time between the readings, on the connections where
/// there are any, so that a lost one does not go unnoticed.
pub fn settled_kib(server: &Server, limit: Duration, mut hold: impl FnMut(Duration) -> Result<()>) -> Result<u64> {
    let deadline = Deadline::after(limit, "waiting for the resident size to settle");
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
    fn a_size_is_settled_after_enough_readings_within_one_percent() {
        assert!(!is_settled(&VecDeque::new()));
        assert!(!is_settled(&VecDeque::from([1000; READINGS - 1])));
        assert!(is_settled(&VecDeque::from([1000, 1010, 1005, 1000, 1010])));
        assert!(!is_settled(&VecDeque::from([1000, 1011, 1011, 1011, 1011])));
    }
}
