//! What stands behind the address of a server: one process, one with a file, or several nodes on a broker.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// The program of the broker.
const BROKER: &str = "redis-server";

/// How oddswire keeps what is published, and on how many nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deployment {
    /// One process, in memory; the peers are always so.
    #[default]
    Memory,
    /// One process and its file, each group of publishes synced.
    Journal,
    /// So many nodes on a broker of their own.
    Redis(usize),
}

impl Deployment {
    pub fn name(self) -> String {
        match self {
            Self::Memory => "memory".to_owned(),
            Self::Journal => "journal".to_owned(),
            Self::Redis(nodes) => format!("redis-{nodes}"),
        }
    }

    /// The processes that clients are spread over.
    pub fn nodes(self) -> usize {
        if let Self::Redis(nodes) = self { nodes } else { 1 }
    }

    pub fn has_broker(self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// What oddswire is told of it.
    pub fn arguments(self, scratch: &Path, broker: Option<SocketAddr>) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match (self, broker) {
            (Self::Journal, _) => words(&["--engine", "journal", "--data-dir", &scratch.to_string_lossy()]),
            (Self::Redis(_), Some(broker)) => {
                words(&["--engine", "redis", "--redis-url", &format!("redis://{broker}")])
            }
            _ => Vec::new(),
        }
    }
}

/// Whether there is a broker to start.
pub fn broker_is_installed() -> bool {
    let null = Stdio::null;
    let asked = Command::new(BROKER).arg("--version").stdin(null()).stdout(null()).stderr(null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Starts a broker that writes down what it is given and syncs once a second, as it does unless told otherwise when it is
/// to keep anything.
pub fn start_broker(address: SocketAddr, scratch: &Path) -> Result<Child> {
    let log = File::create(scratch.join("broker")).context("could not create the broker's log")?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    Command::new(BROKER)
        .args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "yes", "--dir"])
        .arg(scratch)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start the broker ({BROKER})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_broker_are_told_where_it_is() {
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 7)));
        let arguments = Deployment::Redis(2).arguments(Path::new("/scratch"), address);
        assert_eq!(arguments, ["--engine", "redis", "--redis-url", "redis://127.0.0.1:7"]);
        assert!(Deployment::Memory.arguments(Path::new("/scratch"), None).is_empty());
    }
}
