//! The command line.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum as _, value_parser};

use crate::case::Scale;
use crate::questions::Question;
use crate::server::spec::ServerSpec;

/// Measures oddswire and other push servers under the same load.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measures servers and prints the medians.
    Run(RunArgs),
    /// Writes bench/RESULTS.md and bench/plots from a file that `run --record` wrote.
    Report(ReportArgs),
    /// Counts the instructions and allocations of the operations in memory; needs valgrind.
    Instructions(InstructionsArgs),
    /// Measures many sessions without sockets. Fails when a cost grows faster than their number.
    InProcess(InProcessArgs),
    /// Compares two ways to sync the journal: one sync that many publishes share, and one sync for each publish.
    GroupCommit(GroupCommitArgs),
    /// Does an operation so many times, for valgrind to count.
    #[command(hide = true)]
    Operation(OperationArgs),
    /// Fails when oddswire costs more than bench/baseline.json allows.
    Gate(GateArgs),
}

#[derive(Args)]
pub struct RunArgs {
    /// The questions to answer; all of them by default.
    #[arg(value_enum)]
    questions: Vec<Question>,

    /// How many times to measure each server in each case; 5 by default, or 2 with --quick.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// How long one measurement publishes messages; 10 by default, or 2 with --quick.
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,

    /// Measures only what the gate compares: some questions, a tenth of the connections, oddswire and stock-warp.
    #[arg(long)]
    pub quick: bool,

    /// The number of connections that publish in `hot`. Each sends its next message when the previous one has been
    /// answered.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=64))]
    pub publishers: u32,

    /// A file to append each measurement to, as one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// A server to measure instead of oddswire and the installed peers. The command is split at white space, and {port}
    /// is replaced by a free port of 127.0.0.1. The names stock-warp, fastapi and nchan stand for these peers. Any
    /// other name stands for an oddswire, which must accept the publish token "bench".
    #[arg(long = "server", value_name = "NAME=PROGRAM-WITH-ARGS")]
    pub servers: Vec<ServerSpec>,

    /// Measures only these of oddswire and the peers.
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "servers")]
    only: Vec<String>,

    #[command(flatten)]
    pub python: PythonArgs,
}

impl RunArgs {
    /// The number of connections of the largest case.
    pub fn most_connections(&self) -> u64 {
        if self.quick { 2_000 } else { 19_000 }
    }

    pub fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 2 } else { 5 })
    }

    pub fn questions(&self) -> &[Question] {
        match self.questions.as_slice() {
            [] if self.quick => Question::QUICK,
            [] => Question::value_variants(),
            named => named,
        }
    }

    /// Whether to measure the server with this name.
    pub fn wants(&self, name: &str) -> bool {
        match self.only.as_slice() {
            [] => !self.quick || ["oddswire", "stock-warp"].contains(&name),
            only => only.iter().any(|wanted| wanted == name),
        }
    }

    pub fn scale(&self, broker: bool) -> Scale {
        let lasts = Duration::from_secs(self.seconds.unwrap_or(if self.quick { 2 } else { 10 }));
        Scale { quick: self.quick, lasts, publishers: self.publishers, broker }
    }

    /// Rejects two servers with the same name, because their rows would look the same.
    pub fn check(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for spec in &self.servers {
            ensure!(
                seen.insert(&spec.name),
                "duplicate server name '{}': expected a different name for each",
                spec.name
            );
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct PythonArgs {
    /// The interpreter for the peer fastapi, with fastapi, uvicorn and websockets.
    #[arg(long = "python", value_name = "PROGRAM")]
    pub program: Option<String>,
}

#[derive(Args)]
pub struct ReportArgs {
    /// The file that `run --record` wrote.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,

    #[command(flatten)]
    pub python: PythonArgs,
}

#[derive(Args)]
pub struct InstructionsArgs {
    /// A file to append the counts to.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

#[derive(Args)]
pub struct InProcessArgs {
    /// How many times to measure each number of sessions.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    /// A file to append each measurement to.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Measures this number of sessions in this process.
    #[arg(long, hide = true, value_parser = value_parser!(u32).range(1..))]
    pub only: Option<u32>,
}

#[derive(Args)]
pub struct GroupCommitArgs {
    /// How many times to measure each side. The sides take turns.
    #[arg(long, default_value_t = 7, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    /// How long one measurement publishes messages.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,

    /// A folder on the disk to measure; the folder for temporary files by default.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

#[derive(Args)]
pub struct OperationArgs {
    pub name: String,
    pub times: u32,
}

#[derive(Args)]
pub struct GateArgs {
    /// The file that `run --record` and `instructions --record` wrote.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,

    /// Replaces the baseline with the measured figures.
    #[arg(long)]
    pub update: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn server_names_must_differ() {
        let line = ["b", "run", "idle", "--server", "a=p {port}", "--server", "a=q {port}"];
        let Command::Run(args) = Cli::parse_from(line).command else {
            panic!("the line has the subcommand run");
        };
        assert!(args.check().is_err());
    }
}
