//! The server and the clock that a measurement uses.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::load::message::Clock;
use crate::server::Server;

/// One measurement of one server.
pub struct Measurement<'a> {
    pub server: &'a Server,
    pub clock: Clock,
    /// The names of the case and the server, and the number of the run, for the progress line.
    pub label: String,
}

impl Measurement<'_> {
    /// Creates the progress line. The library writes the line to standard error, and only if that is a terminal.
    pub fn progress(&self, total: u32) -> Result<ProgressBar> {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}")?;
        Ok(ProgressBar::new(u64::from(total)).with_style(style).with_message(self.label.clone()))
    }
}
