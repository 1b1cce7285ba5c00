//! The progress line.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::rounds::Round;

/// Makes the progress line of one run. It goes to standard error, and only if that is a terminal; the library draws
/// nothing anywhere else.
pub fn line(round: &Round, total: u32) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}")?;
    let Round { case, spec, run, runs } = round;
    let message = format!("{}, {}, run {run} of {runs}", case.name, spec.name);
    Ok(ProgressBar::new(u64::from(total)).with_style(style).with_message(message))
}
