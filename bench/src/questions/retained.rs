//! How much memory does a key with its latest value take?

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::case::{Case, OURS, Scale};
use crate::figures::record::Figures;
use crate::figures::statistics::to_f64;
use crate::load::measurement::Measurement;
use crate::load::swarm::{Swarm, Target};
use crate::load::tally::Tally;
use crate::load::{message, publisher};
use crate::server::resident::settled_kib;

/// The length of the data of each key, in bytes.
const BYTES: usize = 400;

pub fn cases(scale: &Scale) -> Vec<Case> {
    let key = |number| (message::key(number), message::data(number, BYTES));
    let keys: Arc<Vec<(String, String)>> = Arc::new((0..u64::from(scale.part_of(100_000))).map(key).collect());
    vec![Case::new("retained", OURS, Box::new(move |measurement| measure(&keys, measurement)))]
}

fn measure(keys: &[(String, String)], measurement: &Measurement) -> Result<Figures> {
    let server = measurement.server;
    // The swarm has no connections here. It only waits between two readings of the memory.
    let mut swarm = Swarm::new(Target::everything(server), 1)?;
    let mut tally = Tally::new(measurement.clock)?;
    let mut settled = || settled_kib(server, |period| swarm.hold(period, &mut tally));
    let before = settled()?;
    publisher::fill(server.address(), server.dialect, keys).context("cannot publish the keys")?;
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
