//! The measurement of the memory that idle connections cost.
//!
//! Only the memory of the process is counted. The socket buffers are memory of the kernel and the same for every
//! server.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use crate::deadline::Deadline;
use crate::dialect::subscribe_path;
use crate::fanout::{CONCURRENT, to_f64};
use crate::progress;
use crate::record::Figures;
use crate::rounds::{Round, Setup};
use crate::server::Server;
use crate::swarm::{Afterwards, Plan, Swarm, Target};
use crate::tally::Tally;

/// The size counts as settled when this many readings differ by at most 1 %.
const READINGS: usize = 5;

const READING_INTERVAL: Duration = Duration::from_millis(250);

/// Measures one server.
pub fn measure(connections: u32, setup: &Setup, round: &Round, server: &Server) -> Result<Figures> {
    let mut tally = Tally::new(setup.clock)?;
    let mut swarm = Swarm::new(everything(round, server, "now"), connections)?;
    let before = settled_kib(server, setup.limit, |period| swarm.hold(period, &mut tally))?;
    let plan = Plan { total: connections, concurrent: CONCURRENT, afterwards: Afterwards::Keep };
    let progress = progress::line(round, plan.total)?;
    swarm.complete(&plan, setup.limit, &progress, &mut tally)?;
    let after = settled_kib(server, setup.limit, |period| swarm.hold(period, &mut tally))?;
    progress.finish_and_clear();
    let mut figures = Figures::default();
    figures.set("bytes_per_connection", (to_f64(after) - to_f64(before)) * 1024.0 / f64::from(connections));
    figures.set("rss_idle_kib", to_f64(after));
    figures.set("rss_peak_kib", to_f64(server.resident()?.peak));
    Ok(figures)
}

/// Subscribers to everything that is published.
pub fn everything(round: &Round, server: &Server, since: &'static str) -> Target {
    let transport = round.case.transport;
    Target {
        address: server.address,
        transport,
        greets: server.dialect.greets(),
        path: Box::new(move |_| subscribe_path(transport, None, since)),
        deaf_from: usize::MAX,
    }
}

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
