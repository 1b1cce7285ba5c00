//! The measurement of the memory that idle connections cost.
//!
//! Only the memory of the process is counted. The socket buffers are memory of
//! the kernel and the same for every server.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use crate::cli::IdleArgs;
use crate::deadline::Deadline;
use crate::files;
use crate::load::{Afterwards, Load, Plan};
use crate::progress;
use crate::report;
use crate::rounds::{self, Round};
use crate::server::Server;

/// How many handshakes to keep in flight while opening the connections. It is
/// less than 128, the length of the queue of a listener unless set otherwise.
const CONCURRENT: u32 = 100;

/// The size counts as settled when this many readings differ by at most 1 %.
const READINGS: usize = 5;

const READING_INTERVAL: Duration = Duration::from_millis(250);

/// Measures all servers and prints the report.
pub fn run(args: &IdleArgs) -> Result<()> {
    files::allow_connections(args.connections)?;
    let series = rounds::measure(&args.common, args.runs, |round, server| bytes_per_connection(args, round, server))?;
    println!("idle: resident bytes per connection, {} connections, {} runs", args.connections, args.runs);
    report::print(&series);
    Ok(())
}

fn bytes_per_connection(args: &IdleArgs, round: &Round, server: &Server) -> Result<f64> {
    let limit = args.common.deadline();
    let mut load = Load::new(server.address, args.connections)?;
    let before = settled_kib(server, &mut load, limit)?;
    let plan = Plan { total: args.connections, concurrent: CONCURRENT, afterwards: Afterwards::Keep };
    let progress = progress::line(round, plan.total)?;
    load.complete(&plan, limit, &progress)?;
    let after = settled_kib(server, &mut load, limit)?;
    progress.finish_and_clear();
    let growth = f64::from(after) - f64::from(before);
    Ok(growth * 1024.0 / f64::from(args.connections))
}

/// Waits until the resident size stays the same. The time between the readings
/// is spent on the connections, so that a lost one does not go unnoticed.
fn settled_kib(server: &Server, load: &mut Load, limit: Duration) -> Result<u32> {
    let deadline = Deadline::after(limit, "waiting for the resident size to settle");
    let mut readings = VecDeque::new();
    loop {
        let reading = server.resident_kib()?;
        readings.push_back(reading);
        if readings.len() > READINGS {
            readings.pop_front();
        }
        if is_settled(&readings) {
            return Ok(reading);
        }
        load.hold(deadline.remaining()?.min(READING_INTERVAL))?;
    }
}

fn is_settled(readings: &VecDeque<u32>) -> bool {
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
