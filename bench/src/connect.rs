//! The measurement of the rate of handshakes.

use std::time::Instant;

use anyhow::Result;

use crate::measurement::{Round, Setup};
use crate::overflow;
use crate::record::Figures;
use crate::server::Server;
use crate::statistics::to_f64;
use crate::swarm::{Afterwards, Plan, Swarm};
use crate::tally::Tally;

/// Measures one server. A handshake counts from the TCP connect to the first message, where the server sends one by
/// itself, otherwise to the response.
pub fn measure(total: u32, concurrent: u32, setup: &Setup, round: &Round, server: &Server) -> Result<Figures> {
    let mut tally = Tally::new(setup.clock)?;
    let mut swarm = Swarm::new(round.everything(server, "now"), concurrent)?;
    let plan = Plan { total, concurrent, afterwards: Afterwards::Close };
    let progress = round.progress(plan.total)?;
    let overflows = overflow::total()?;
    let before = server.cpu()?;
    let start = Instant::now();
    swarm.complete(&plan, setup.limit, &progress, &mut tally)?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = server.cpu()? - before;
    progress.finish_and_clear();
    let total = f64::from(plan.total);
    let mut figures = Figures::default();
    figures.set("handshakes_per_s", total / elapsed);
    figures.set("cpu_us_per_handshake", cpu.total() / total);
    figures.set("cpu_user_us_per_handshake", cpu.user / total);
    // Each costs the client a second, so that the rate tells more about the length of the listen queue.
    figures.set("listen_overflows", to_f64(overflow::total()?.saturating_sub(overflows)));
    Ok(figures)
}
