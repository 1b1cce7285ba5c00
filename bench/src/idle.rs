//! The measurement of the memory that idle connections cost.
//!
//! Only the memory of the process is counted. The socket buffers are memory of the kernel and the same for every
//! server.

use anyhow::Result;

use crate::measurement::{Round, Setup};
use crate::record::Figures;
use crate::resident::settled_kib;
use crate::server::Server;
use crate::statistics::to_f64;
use crate::swarm::{Afterwards, CONCURRENT, Plan, Swarm};
use crate::tally::Tally;

/// Measures one server.
pub fn measure(connections: u32, setup: &Setup, round: &Round, server: &Server) -> Result<Figures> {
    let mut tally = Tally::new(setup.clock)?;
    let mut swarm = Swarm::new(round.everything(server, "now"), connections)?;
    let before = settled_kib(server, setup.limit, |period| swarm.hold(period, &mut tally))?;
    let plan = Plan { total: connections, concurrent: CONCURRENT, afterwards: Afterwards::Keep };
    let progress = round.progress(plan.total)?;
    swarm.complete(&plan, setup.limit, &progress, &mut tally)?;
    let after = settled_kib(server, setup.limit, |period| swarm.hold(period, &mut tally))?;
    progress.finish_and_clear();
    let mut figures = Figures::default();
    figures.set("bytes_per_connection", (to_f64(after) - to_f64(before)) * 1024.0 / f64::from(connections));
    figures.set("rss_idle_kib", to_f64(after));
    figures.set("rss_peak_kib", to_f64(server.resident()?.peak));
    Ok(figures)
}
