//! The input of every measurement.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::load::message::Clock;
use crate::server::Server;

/// One measurement of one server.
pub struct Measurement<'a> {
    pub server: &'a Server,
    pub clock: Clock,
    /// The case, the server and the run, for the progress line.
    pub label: String,
}

impl Measurement<'_> {
    /// Makes the progress line. The library draws it on standard error, and only on a terminal.
    pub fn progress(&self, total: u32) -> Result<ProgressBar> {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}")?;
        Ok(ProgressBar::new(u64::from(total)).with_style(style).with_message(self.label.clone()))
    }
}
