//! How many handshakes does a server complete in a second, and how much processor time does one handshake take?

use std::time::Instant;

use anyhow::Result;

use crate::case::{ALL, Case, Scale};
use crate::figures::record::Figures;
use crate::figures::statistics::to_f64;
use crate::load::measurement::Measurement;
use crate::load::swarm::{Afterwards, Plan, Swarm, Target};
use crate::load::tally::Tally;
use crate::server::listen_overflows;

/// The number of simultaneous handshakes.
const CONCURRENT: u32 = 200;

pub fn cases(scale: &Scale) -> Vec<Case> {
    let total = scale.part_of(20_000);
    vec![Case::new("connect", ALL, Box::new(move |measurement| measure(total, measurement)))]
}

/// A handshake lasts from the TCP connect to the first message. If the server does not send a first message, the
/// handshake lasts until the response.
fn measure(total: u32, measurement: &Measurement) -> Result<Figures> {
    let server = measurement.server;
    let mut tally = Tally::new(measurement.clock)?;
    let mut swarm = Swarm::new(Target::everything(server), CONCURRENT)?;
    let plan = Plan { total, concurrent: CONCURRENT, afterwards: Afterwards::Close };
    let progress = measurement.progress(total)?;
    let overflows = listen_overflows::total()?;
    let before = server.cpu()?;
    let start = Instant::now();
    swarm.complete(&plan, &progress, &mut tally)?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = server.cpu()? - before;
    progress.finish_and_clear();
    let mut figures = Figures::default();
    figures.set("handshakes_per_s", f64::from(total) / elapsed);
    figures.set("cpu_us_per_handshake", cpu.total() / f64::from(total));
    figures.set("listen_overflows", to_f64(listen_overflows::total()?.saturating_sub(overflows)));
    Ok(figures)
}
