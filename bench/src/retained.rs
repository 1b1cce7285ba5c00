//! The measurement of the memory of a key that the server keeps.

use anyhow::{Context, Result};

use crate::measurement::{Round, Setup};
use crate::publisher;
use crate::record::Figures;
use crate::resident::settled_kib;
use crate::server::Server;
use crate::statistics::to_f64;
use crate::swarm::Swarm;
use crate::tally::Tally;

/// Measures one server.
pub fn measure(keys: &[(String, String)], setup: &Setup, round: &Round, server: &Server) -> Result<Figures> {
    // Nothing is connected whose events could be awaited meanwhile.
    let mut swarm = Swarm::new(round.everything(server, "now"), 1)?;
    let mut tally = Tally::new(setup.clock)?;
    let mut settled = || settled_kib(server, setup.limit, |period| swarm.hold(period, &mut tally));
    let before = settled()?;
    publisher::fill(server.address(), server.dialect, keys).context("could not publish the keys")?;
    let after = settled()?;
    let content: usize = keys.iter().map(|(key, data)| key.len() + data.len()).sum();
    let count = to_f64(keys.len() as u64);
    let mut figures = Figures::default();
    figures.set("bytes_per_key", (to_f64(after) - to_f64(before)) * 1024.0 / count);
    figures.set("content_bytes_per_key", to_f64(content as u64) / count);
    figures.set("rss_idle_kib", to_f64(after));
    figures.set("rss_peak_kib", to_f64(server.resident()?.peak));
    Ok(figures)
}
