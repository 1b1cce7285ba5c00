//! The limit on open files of a process, which limits the number of connections.

use anyhow::{Context, Result, ensure};

/// The number of open files that are not connections: standard streams, the epoll instance, listeners, libraries and
/// logs.
const OTHER_FILES: u64 = 64;

/// Raises the soft limit to the hard limit, and fails if that is too low for `connections`. Servers inherit the limit,
/// so call this function before they start.
pub fn raise_limit(connections: u64) -> Result<()> {
    let wanted = connections + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit on open files")?;
    ensure!(limit >= wanted, "the limit on open files is {limit}: expected at least {wanted} (`ulimit -Hn`)");
    Ok(())
}
