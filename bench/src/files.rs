//! The limit on open files, which bounds the number of connections.

use anyhow::{Context, Result, ensure};

/// What a process needs besides connections: standard streams, the epoll instance, listeners, libraries and logs.
const BESIDES: u64 = 64;

/// Raises the soft limit to the hard limit, which has to allow so many connections. The servers inherit it, so that this
/// has to happen before they start.
pub fn raise_limit(connections: u64) -> Result<()> {
    let wanted = connections + BESIDES;
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("could not raise the limit on open files")?;
    ensure!(limit >= wanted, "the limit of {limit} open files is too low: some scenarios need {wanted}");
    Ok(())
}
