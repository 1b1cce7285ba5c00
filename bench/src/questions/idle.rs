//! How much memory does an idle connection take?
//!
//! Counts only the memory of the server's processes. The kernel's socket buffers are the same for every server.
//!
//! The first connections are not counted. With them, the server also takes memory that does not grow with the number of
//! connections: pages of its program, and buffers for simultaneous handshakes.

use anyhow::Result;

use crate::case::{ALL, Case, Scale};
use crate::figures::record::Figures;
use crate::figures::statistics::to_f64;
use crate::load::measurement::Measurement;
use crate::load::swarm::{Afterwards, CONCURRENT, Plan, Swarm, Target};
use crate::load::tally::Tally;
use crate::server::resident::settled_kib;

/// How many connections the server has before the measurement.
const FIRST: u32 = 1_000;

pub fn cases(scale: &Scale) -> Vec<Case> {
    let connections = scale.part_of(15_000);
    vec![Case::new("idle", ALL, Box::new(move |measurement| measure(connections, measurement)))]
}

fn measure(connections: u32, measurement: &Measurement) -> Result<Figures> {
    let server = measurement.server;
    let mut tally = Tally::new(measurement.clock)?;
    let mut swarm = Swarm::new(Target::everything(server), FIRST + connections)?;
    let progress = measurement.progress(connections)?;
    let first = Plan { total: FIRST, concurrent: CONCURRENT, afterwards: Afterwards::Keep };
    swarm.complete(&first, &progress, &mut tally)?;
    let before = settled_kib(server, |period| swarm.hold(period, &mut tally))?;
    swarm.complete(&Plan { total: connections, ..first }, &progress, &mut tally)?;
    let after = settled_kib(server, |period| swarm.hold(period, &mut tally))?;
    progress.finish_and_clear();
    let mut figures = Figures::default();
    figures.set("bytes_per_connection", (to_f64(after) - to_f64(before)) * 1024.0 / f64::from(connections));
    figures.set("rss_idle_kib", to_f64(after));
    figures.set("rss_peak_kib", to_f64(server.resident()?.peak));
    Ok(figures)
}
