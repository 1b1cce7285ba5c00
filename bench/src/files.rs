//! The limit on open files, which bounds the number of connections.

use anyhow::{Context, Result, ensure};

/// The connections of the largest scenario, and what a process needs besides: standard streams, the epoll instance,
/// listeners, libraries and logs.
const WANTED: u64 = 15_000 + 64;

/// Raises the soft limit to the hard limit. The servers inherit it, so that this has to happen before they start.
pub fn raise_limit() -> Result<()> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("could not raise the limit on open files")?;
    ensure!(limit >= WANTED, "the limit of {limit} open files is too low: some scenarios need {WANTED}");
    Ok(())
}
