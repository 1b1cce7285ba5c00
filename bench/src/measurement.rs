//! What every measurement is given.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::case::Case;
use crate::dialect::subscribe_path;
use crate::message::Clock;
use crate::server::Server;
use crate::servers::ServerSpec;
use crate::swarm::Target;

/// What all measurements share.
pub struct Setup {
    pub clock: Clock,
    /// How long each phase of a run may take beyond its planned time.
    pub limit: Duration,
}

/// One measurement: which case, which server, and which of the runs.
pub struct Round<'a> {
    pub case: &'a Case,
    pub spec: &'a ServerSpec,
    pub run: u32,
    pub runs: u32,
}

impl Round<'_> {
    /// Makes the progress line of this measurement. It goes to standard error, and only if that is a terminal; the
    /// library draws nothing anywhere else.
    pub fn progress(&self, total: u32) -> Result<ProgressBar> {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}")?;
        let Self { case, spec, run, runs } = self;
        let message = format!("{}, {}, run {run} of {runs}", case.name, spec.name);
        Ok(ProgressBar::new(u64::from(total)).with_style(style).with_message(message))
    }

    /// Subscribers to everything that is published.
    pub fn everything(&self, server: &Server, since: &'static str) -> Target {
        let transport = self.case.transport;
        Target {
            addresses: server.addresses().to_vec(),
            transport,
            greets: server.dialect.greets(),
            path: Box::new(move |_| subscribe_path(transport, None, since)),
            deaf_from: usize::MAX,
        }
    }
}
