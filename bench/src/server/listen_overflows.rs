//! Counts the connection requests that arrived while the queue of a listener was full.
//!
//! The kernel drops such a request, and the client's kernel repeats the request after a second. A few dropped requests
//! are enough to make the rate of handshakes depend on the length of the queue instead of the cost of a handshake.

use std::fs;

use anyhow::{Context, Result};

const PATH: &str = "/proc/net/netstat";

const COUNTER: &str = "ListenOverflows";

/// Reads the number of overflows up to now. The kernel counts overflows for the whole network namespace, not for each
/// listener.
pub fn total() -> Result<u64> {
    let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    parse(&text).with_context(|| format!("{PATH} has no valid {COUNTER}"))
}

/// Finds the counter. One line has the names of counters, and the next line their values.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let mut names = lines.next()?.split_whitespace();
    let column = names.position(|name| name == COUNTER)?;
    lines.next()?.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_is_read_from_the_column_of_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\n\
                    TcpExt: 1 57 58\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(parse(text), Some(57));
        assert_eq!(parse("TcpExt: ListenDrops\nTcpExt: 1\n"), None);
    }
}
