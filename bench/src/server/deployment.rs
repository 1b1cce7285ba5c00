//! The deployments of oddswire: one process in memory, one process with a journal, or one or more nodes with Redis.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// The broker's program. All nodes of a deployment share one broker.
const BROKER: &str = "redis-server";

/// The storage engine, and the number of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deployment {
    /// One process that keeps messages in memory. Peers always run like this.
    #[default]
    Memory,
    /// One process that keeps messages in a journal, with one sync for each group of publishes.
    Journal,
    /// This number of nodes, which share one Redis.
    Redis(usize),
}

impl Deployment {
    /// The name of the deployment in the results.
    pub fn name(self) -> String {
        match self {
            Self::Memory => "memory".to_owned(),
            Self::Journal => "journal".to_owned(),
            Self::Redis(nodes) => format!("redis-{nodes}"),
        }
    }

    /// The number of oddswire processes. Clients are spread over these processes.
    pub fn nodes(self) -> usize {
        if let Self::Redis(nodes) = self { nodes } else { 1 }
    }

    /// Whether the deployment needs Redis.
    pub fn has_broker(self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// The command-line arguments that select this deployment.
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

/// Whether Redis is installed.
pub fn broker_is_installed() -> bool {
    let null = Stdio::null;
    let asked = Command::new(BROKER).arg("--version").stdin(null()).stdout(null()).stderr(null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Starts Redis with an append-only file. Redis syncs this file once a second, which is the default of `appendfsync`.
pub fn start_broker(address: SocketAddr, scratch: &Path) -> Result<Child> {
    let log = File::create(scratch.join("broker")).context("cannot create the log of redis-server")?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    Command::new(BROKER)
        .args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "yes", "--dir"])
        .arg(scratch)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {BROKER}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_the_url_of_redis() {
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 7)));
        let arguments = Deployment::Redis(2).arguments(Path::new("/scratch"), address);
        assert_eq!(arguments, ["--engine", "redis", "--redis-url", "redis://127.0.0.1:7"]);
        assert!(Deployment::Memory.arguments(Path::new("/scratch"), None).is_empty());
    }
}
