//! One load: what the servers that take part in it are put under.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::deployment::Deployment;
use crate::dialect::{Dialect, Transport};
use crate::schedule::Source;

/// One load that servers are put under.
pub struct Case {
    pub name: String,
    pub transport: Transport,
    pub kind: Kind,
    pub servers: &'static [Dialect],
    /// Further arguments for oddswire.
    pub arguments: Vec<String>,
    pub deployment: Deployment,
}

pub enum Kind {
    Idle { connections: u32 },
    Connect { total: u32, concurrent: u32 },
    Image { clients: u32, state: Arc<Vec<(String, String)>> },
    Retained { keys: Arc<Vec<(String, String)>> },
    Fanout(Fanout),
}

/// Messages that go to many.
#[derive(Clone)]
pub struct Fanout {
    pub readers: u32,
    /// Subscribers that read nothing.
    pub deaf: u32,
    pub interest: Interest,
    pub source: Source,
    pub lasts: Duration,
    /// Connections that publish.
    pub publishers: u32,
}

/// What the subscribers want.
#[derive(Clone, Copy)]
pub enum Interest {
    All,
    /// Each wants one event of so many, in turn.
    Events(u64),
}

impl Case {
    pub fn concerns(&self, dialect: Dialect) -> bool {
        self.servers.contains(&dialect) && dialect.serves(self.transport)
    }

    pub fn arguments(&self, dialect: Dialect) -> &[String] {
        if dialect == Dialect::Oddswire { &self.arguments } else { &[] }
    }
}

impl Fanout {
    /// Refuses what cannot be measured.
    pub fn check(&self) -> Result<()> {
        ensure!(self.publishers > 0, "somebody has to publish");
        if let Interest::Events(events) = self.interest {
            ensure!(u64::from(self.readers) % events == 0, "each event must have the same number of readers");
        }
        self.readers.checked_add(self.deaf).context("there are too many subscribers")?;
        Ok(())
    }
}
