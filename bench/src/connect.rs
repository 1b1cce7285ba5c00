//! The measurement of the rate of handshakes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use crate::cli::ConnectArgs;
use crate::files;
use crate::load::{Afterwards, Load, Plan};
use crate::overflow;
use crate::progress;
use crate::report;
use crate::rounds::{self, Round};
use crate::server::Server;

/// Measures all servers and prints the report.
pub fn run(args: &ConnectArgs) -> Result<()> {
    files::allow_connections(args.concurrent)?;
    let mut overflows = BTreeMap::new();
    let series = rounds::measure(&args.common, args.runs, |round, server| {
        let before = overflow::total()?;
        let rate = handshakes_per_second(args, round, server)?;
        let during = overflow::total()?.saturating_sub(before);
        *overflows.entry(round.spec.name.clone()).or_insert(0) += during;
        Ok(rate)
    })?;
    println!(
        "connect: handshakes per second, {} in total, {} in flight, {} runs",
        args.total, args.concurrent, args.runs
    );
    report::print(&series);
    for (name, count) in overflows.into_iter().filter(|&(_, count)| count > 0) {
        println!(
            "note: {count} connection requests to {name} found its listen queue full; \
             each costs a second, so the rate depends on --concurrent"
        );
    }
    Ok(())
}

/// A handshake counts from the TCP connect to the first text message.
fn handshakes_per_second(args: &ConnectArgs, round: &Round, server: &Server) -> Result<f64> {
    let mut load = Load::new(server.address, args.concurrent)?;
    let plan = Plan { total: args.total, concurrent: args.concurrent, afterwards: Afterwards::Close };
    let progress = progress::line(round, plan.total)?;
    let start = Instant::now();
    load.complete(&plan, args.common.deadline(), &progress)?;
    let elapsed = start.elapsed();
    progress.finish_and_clear();
    Ok(f64::from(plan.total) / elapsed.as_secs_f64())
}
