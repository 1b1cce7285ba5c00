//! The limit on open files, which bounds the number of connections.

use anyhow::{Context, Result, ensure};

/// What this process and a server need besides one file for each connection:
/// standard streams, the epoll instance, listeners, libraries and logs.
const RESERVED: u64 = 64;

/// Raises the soft limit to the hard limit and checks that `connections` fit.
/// The servers inherit the limit, so it has to happen before they start.
pub fn allow_connections(connections: u32) -> Result<()> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("could not raise the limit on open files")?;
    ensure!(
        u64::from(connections) + RESERVED <= limit,
        "{connections} connections do not fit into the limit of {limit} open files"
    );
    Ok(())
}
