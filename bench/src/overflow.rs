//! Connection requests that found the queue of a listener full.
//!
//! The kernel drops such a request and the client repeats it after a second. A
//! few of them are enough for the rate of handshakes to tell more about the
//! length of that queue than about the cost of a handshake.

use std::fs;

use anyhow::{Context, Result};

const PATH: &str = "/proc/net/netstat";

const COUNTER: &str = "ListenOverflows";

/// Reads how many there have been so far. The counter covers all listeners of
/// the network namespace, because there is none for a single socket.
pub fn total() -> Result<u64> {
    let text = fs::read_to_string(PATH).with_context(|| format!("could not read {PATH}"))?;
    parse(&text).with_context(|| format!("{PATH} has no valid {COUNTER}"))
}

/// The file has pairs of lines, the names of the counters and their values.
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
    fn the_value_is_found_in_the_column_of_the_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\n\
                    TcpExt: 1 57 58\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(parse(text), Some(57));
        assert_eq!(parse("TcpExt: ListenDrops\nTcpExt: 1\n"), None);
    }
}
