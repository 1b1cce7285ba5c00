//! The command line.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum as _, value_parser};

use crate::dialect::Transport;
use crate::recording::Change;
use crate::scenario::{Scale, Scenario};
use crate::servers::{Places, ServerSpec};

/// Puts oddswire and other push servers under the same load, in turn, and compares them.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measures scenarios and prints the medians.
    Run(RunArgs),
    /// Writes RESULTS.md and the plots from what `run --record` kept.
    Report(ReportArgs),
    /// Counts the instructions and allocations of the operations in memory; needs valgrind.
    Instructions(InstructionsArgs),
    /// Measures many sessions without sockets, and fails where something grows faster than their number.
    InProcess(InProcessArgs),
    /// Measures what publishers gain that share the journal's syncs, against a sync for each publish.
    GroupCommit(GroupCommitArgs),
    /// Does an operation in memory so many times, for valgrind to count.
    #[command(hide = true)]
    Operation(OperationArgs),
    /// Fails where oddswire has lost ground, compared with a stored baseline.
    Gate(GateArgs),
}

#[derive(Args)]
pub struct RunArgs {
    /// What to measure; everything if nothing is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// How many times to measure each server in each case; 5, or 2 if it is to be quick.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// How long messages are published in one measurement; 10, or 2 if it is to be quick.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,

    /// How the subscribers are served; both, or WebSocket if it is to be quick.
    #[arg(long, value_enum)]
    transport: Option<Transport>,

    /// A tenth of the connections, and only what the gate compares: some of the scenarios, oddswire and stock-warp.
    #[arg(long)]
    pub quick: bool,

    /// Another number of subscribers, in the scenarios for which that makes sense.
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=19_000))]
    pub subscribers: Option<u32>,

    /// Another number of messages a second in light, gentle and wide.
    #[arg(long, value_name = "PER-SECOND", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,

    /// The connections that publish in hot; each sends its next message when the one before has been answered.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=64))]
    pub publishers: u32,

    /// A file to which each measurement is added, as one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// A server to measure, in place of oddswire and all peers that are installed. The command is split on white space,
    /// and {port} in it is replaced by a free port of 127.0.0.1. stock-warp, fastapi and nchan are spoken to
    /// in their way; any other name is an oddswire, which must take publishes with the token "bench".
    #[arg(long = "server", value_name = "NAME=PROGRAM-WITH-ARGS")]
    pub servers: Vec<ServerSpec>,

    /// Measures only these of oddswire and the peers.
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "servers")]
    only: Vec<String>,

    #[command(flatten)]
    pub peers: PeerArgs,

    /// The recorded odds; without them their scenario is skipped, and others use synthetic data.
    #[arg(long, value_name = "FILE", default_value = "../shared/data/odds_updates.ndjson.gz")]
    pub recording: PathBuf,

    /// The outbox of a connection in the scenario slow, small enough for the slow ones to exceed it.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = value_parser!(u32).range(1_024..))]
    outbox_bytes: u32,

    /// How long each phase of a measurement may take beyond its planned time: starting the server, opening the
    /// connections, waiting for the last messages or for the memory to settle.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = value_parser!(u64).range(1..=86_400))]
    deadline: u64,
}

impl RunArgs {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// As many connections as the largest scenario has.
    pub fn most_connections(&self) -> u64 {
        if self.quick { 2_000 } else { 19_000 }
    }

    pub fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 2 } else { 5 })
    }

    pub fn transports(&self) -> Vec<Transport> {
        match self.transport {
            Some(transport) => vec![transport],
            None if self.quick => vec![Transport::Ws],
            None => vec![Transport::Ws, Transport::Sse],
        }
    }

    pub fn scenarios(&self) -> &[Scenario] {
        match self.scenarios.as_slice() {
            [] if self.quick => Scenario::QUICK,
            [] => Scenario::value_variants(),
            named => named,
        }
    }

    /// Whether a server takes part.
    pub fn wants(&self, name: &str) -> bool {
        match self.only.as_slice() {
            [] => !self.quick || ["oddswire", "stock-warp"].contains(&name),
            only => only.iter().any(|wanted| wanted == name),
        }
    }

    pub fn scale(&self, recording: Option<Arc<Vec<Change>>>, broker: bool) -> Scale {
        Scale {
            quick: self.quick,
            lasts: Duration::from_secs(self.seconds.unwrap_or(if self.quick { 2 } else { 10 })),
            subscribers: self.subscribers,
            rate: self.rate,
            publishers: self.publishers,
            outbox: self.outbox_bytes,
            recording,
            broker,
        }
    }

    /// Refuses two servers of one name, whose rows could not be told apart.
    pub fn check(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for spec in &self.servers {
            ensure!(seen.insert(&spec.name), "the server name {} is given twice", spec.name);
        }
        Ok(())
    }
}

/// Where the peers are.
#[derive(Args)]
pub struct PeerArgs {
    /// An interpreter that has fastapi, uvicorn and websockets.
    #[arg(long, env = "ODDSWIRE_BENCH_PYTHON")]
    python: Option<String>,

    /// The nginx that nchan is a module of.
    #[arg(long, default_value = "nginx")]
    nginx: String,

    /// The directory of this program's sources, which has the peers and their configuration.
    #[arg(long, value_name = "DIRECTORY", default_value = "bench")]
    bench: PathBuf,
}

impl PeerArgs {
    pub fn places(&self) -> Places<'_> {
        Places { bench: &self.bench, python: self.python.as_deref(), nginx: &self.nginx }
    }
}

#[derive(Args)]
pub struct ReportArgs {
    /// What `run --record` kept.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,

    /// The directory that gets RESULTS.md and plots/.
    #[arg(long, value_name = "DIRECTORY", default_value = "bench")]
    pub to: PathBuf,

    #[command(flatten)]
    pub peers: PeerArgs,
}

#[derive(Args)]
pub struct InstructionsArgs {
    /// A file to which the counts are added.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

#[derive(Args)]
pub struct InProcessArgs {
    /// The numbers of sessions.
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "10000,20000,50000,100000,200000")]
    pub sessions: Vec<u32>,

    /// How many times to measure each number.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    /// A file to which each measurement is added.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Measures this number in this process.
    #[arg(long, hide = true, value_parser = value_parser!(u32).range(1..))]
    pub only: Option<u32>,
}

#[derive(Args)]
pub struct GroupCommitArgs {
    /// Publishers at the same time, each with one publish on its way.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = value_parser!(u32).range(1..=1024))]
    pub publishers: u32,

    /// How many times to measure each side; they take turns.
    #[arg(long, default_value_t = 7, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    /// How long messages are published in one measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,

    /// Where the journals are, on the disk that is of interest; the directory for temporary files otherwise.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,

    /// A file to which each measurement is added.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

#[derive(Args)]
pub struct OperationArgs {
    pub name: String,
    pub times: u32,
}

#[derive(Args)]
pub struct GateArgs {
    /// What `run --record` kept.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,

    /// The figures to compare with.
    #[arg(long, value_name = "FILE", default_value = "bench/baseline.json")]
    pub baseline: PathBuf,

    /// Makes what was measured the new baseline.
    #[arg(long)]
    pub update: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_name_may_be_given_only_once() {
        let line = ["b", "run", "idle", "--server", "a=p {port}", "--server", "a=q {port}"];
        let Command::Run(args) = Cli::parse_from(line).command else {
            panic!("the line names the subcommand run");
        };
        assert!(args.check().is_err());
    }
}
