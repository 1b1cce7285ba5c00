//! Compares oddswire with other push servers, and with earlier builds, under load from this machine.
//!
//! One thread with one epoll instance drives all subscribers, so that the server under test gets most of a small
//! machine's processor. This program needs Linux, because it connects from many addresses of 127.0.0.0/8 and reads
//! `/proc`.
//!
//! - [`cli`] is the command line.
//! - [`questions`] has one file for each question; [`case`] defines one load of a question.
//! - [`rounds`] starts the servers and measures the cases in turn, one at a time.
//! - [`load`] has the publishers and subscribers; [`server`] starts the processes under test.
//! - [`figures`] stores and formats figures; [`report`] writes RESULTS.md from figures and [`aims`].
//! - [`instructions`] counts the instructions of the library's operations; [`gate`] compares figures with the baseline.

mod aims;
mod case;
mod cli;
mod deadline;
mod figures;
mod gate;
mod instructions;
mod load;
mod questions;
mod report;
mod rounds;
mod server;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::cli::{Cli, Command, GroupCommitArgs, InProcessArgs, RunArgs};
use crate::figures::table;
use crate::questions::{group_commit, sessions};
use crate::server::spec::{self, ServerSpec};
use crate::server::{deployment, open_files};

/// The folder that the report is written to, relative to the root of the repository.
const FOLDER: &str = "bench";

/// The file with the figures that the gate compares with, relative to the root of the repository.
const BASELINE: &str = "bench/baseline.json";

fn main() -> ExitCode {
    match done(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn done(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run(&args),
        Command::Report(args) => report::write(&args.from, Path::new(FOLDER), args.python.program.as_deref()),
        Command::Instructions(args) => instructions::measure(args.record.as_deref()).map(|all| table::print(&all)),
        Command::InProcess(InProcessArgs { only: Some(sessions), .. }) => sessions::measure(sessions),
        Command::InProcess(args) => sessions::run(args.runs, args.record.as_deref()),
        Command::GroupCommit(GroupCommitArgs { runs, seconds, directory }) => {
            let parent = directory.unwrap_or_else(std::env::temp_dir);
            group_commit::run(runs, Duration::from_secs(seconds), &parent)
        }
        Command::Operation(args) => instructions::perform(&args.name, args.times),
        Command::Gate(args) => gate::compare(&args.from, Path::new(BASELINE), args.update),
    }
}

/// Measures the questions one after the other and prints the figures of each when it is done.
fn run(args: &RunArgs) -> Result<()> {
    args.check()?;
    open_files::raise_limit(args.most_connections())?;
    let servers = servers(args)?;
    let broker = deployment::broker_is_installed();
    if !broker {
        eprintln!("skipped the engine redis: redis-server is not installed");
    }
    let scale = args.scale(broker);
    let mut failed = 0;
    for question in args.questions() {
        let cases = question.cases(&scale);
        let (records, failures) = rounds::measure(&cases, &servers, args.runs(), args.record.as_deref())?;
        failed += failures;
        table::print(&records);
    }
    ensure!(failed == 0, "{failed} measurements failed");
    Ok(())
}

fn servers(args: &RunArgs) -> Result<Vec<ServerSpec>> {
    if !args.servers.is_empty() {
        return Ok(args.servers.clone());
    }
    let (mut servers, missing) = spec::installed(args.python.program.as_deref())?;
    for (name, reason) in missing.iter().filter(|(name, _)| args.wants(name)) {
        eprintln!("skipped {name}: {reason:#}");
    }
    servers.retain(|spec| args.wants(&spec.name));
    ensure!(!servers.is_empty(), "no server to measure: expected --only with oddswire, stock-warp, fastapi or nchan");
    Ok(servers)
}
