//! A case: one load, and the servers that are measured under it.

use std::time::Duration;

use anyhow::Result;

use crate::figures::record::Figures;
use crate::load::fanout::Fanout;
use crate::load::measurement::Measurement;
use crate::server::deployment::Deployment;
use crate::server::dialect::Dialect;

/// Measures one server under the load of a case.
pub type Measure = Box<dyn Fn(&Measurement) -> Result<Figures>>;

/// The servers that are fast enough for all loads. `FastAPI` is too slow for most loads.
pub const FAST: &[Dialect] = &[Dialect::Oddswire, Dialect::StockWarp, Dialect::Nchan];
pub const ALL: &[Dialect] = &[Dialect::Oddswire, Dialect::StockWarp, Dialect::Nchan, Dialect::FastApi];
pub const OURS: &[Dialect] = &[Dialect::Oddswire];

/// The number of keys of published messages, unless a question depends on the number.
pub const KEYS: u64 = 100;

/// The settings that determine the size of every case.
#[derive(Clone, Copy, Default)]
pub struct Scale {
    /// Use a tenth of the connections and keys, for the gate.
    pub quick: bool,
    pub lasts: Duration,
    /// The number of connections that publish in `hot`.
    pub publishers: u32,
    /// Whether Redis is installed.
    pub broker: bool,
}

impl Scale {
    /// Returns a number of connections or keys, or a tenth of it in a quick run.
    pub fn part_of(&self, number: u32) -> u32 {
        if self.quick { number / 10 } else { number }
    }
}

/// One load, and the servers to measure under this load.
pub struct Case {
    /// The name in the results: the name of the question, alone or followed by a hyphen and more words.
    pub name: String,
    pub servers: &'static [Dialect],
    /// Additional command-line arguments for oddswire.
    pub arguments: Vec<String>,
    pub deployment: Deployment,
    pub measure: Measure,
}

impl Case {
    pub fn new(name: &str, servers: &'static [Dialect], measure: Measure) -> Self {
        Self { name: name.to_owned(), servers, arguments: Vec::new(), deployment: Deployment::Memory, measure }
    }

    /// A case that measures deliveries.
    pub fn fanout(name: &str, servers: &'static [Dialect], fanout: Fanout) -> Self {
        Self::new(name, servers, Box::new(move |measurement| fanout.measure(measurement)))
    }

    /// The additional arguments for a server. Only oddswire has any.
    pub fn arguments(&self, dialect: Dialect) -> &[String] {
        if dialect == Dialect::Oddswire { &self.arguments } else { &[] }
    }
}
