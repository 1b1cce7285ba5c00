//! Compares oddswire with other push servers, and with itself, under load from this machine.
//!
//! The subscribers are one thread with one epoll instance, so that on a small machine the servers under test keep as
//! much of the processor as possible. It works on Linux only, because it connects from further addresses of 127.0.0.0/8
//! and reads `/proc`.
//!
//! In reading order: [`cli`], [`scenario`] and [`case`] say what is measured, [`rounds`] in which order, [`fanout`],
//! [`idle`], [`connect`], [`image`] and [`retained`] how; [`swarm`] and [`publisher`] are the two ends of a server, [`server`] is its process;
//! [`table`], [`report`], [`plot`] and [`gate`] show what came of it, [`growth`] and [`curve`] what follows from it.
//! Without a load: [`instructions`] counts what the [`operations`] take, [`in_process`] has more sessions than sockets,
//! [`group_commit`] has publishers and a journal.

mod aims;
mod case;
mod cli;
mod connect;
mod connection;
mod curve;
mod deadline;
mod deployment;
mod dialect;
mod events;
mod fanout;
mod files;
mod fit;
mod frames;
mod gate;
mod group_commit;
mod growth;
mod head;
mod idle;
mod image;
mod in_process;
mod instructions;
mod machine;
mod measurement;
mod message;
mod operations;
mod overflow;
mod pipes;
mod plot;
mod process;
mod publisher;
mod record;
mod recording;
mod report;
mod resident;
mod retained;
mod rounds;
mod scenario;
mod schedule;
mod served;
mod server;
mod servers;
mod statistics;
mod swarm;
mod table;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::cli::{Cli, Command, InProcessArgs, RunArgs};
use crate::measurement::Setup;
use crate::message::Clock;
use crate::servers::ServerSpec;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Report(args) => report::write(&args.from, &args.to, &args.peers.places()),
        Command::Instructions(args) => instructions::measure(args.record.as_deref()).map(|all| table::print(&all)),
        Command::InProcess(InProcessArgs { only: Some(sessions), .. }) => in_process::measure(sessions),
        Command::InProcess(args) => in_process::run(&args.sessions, args.runs, args.record.as_deref()),
        Command::GroupCommit(args) => group_commit::run(&args),
        Command::Operation(args) => instructions::perform(&args.name, args.times),
        Command::Gate(args) => gate::compare(&args.from, &args.baseline, args.update),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes in one line is the message; a backtrace, as returning the error could print, would
            // only hide it.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the scenarios one after the other and prints each when it is done.
fn run(args: &RunArgs) -> Result<()> {
    args.check()?;
    files::raise_limit(args.most_connections())?;
    let servers = servers(args)?;
    let recording = recording::read(&args.recording);
    if let Err(error) = &recording {
        eprintln!("skipped the recorded odds, which not every machine has: {error:#}");
    }
    let broker = deployment::broker_is_installed();
    if !broker {
        eprintln!("skipped the engine redis: redis-server is not installed");
    }
    let scale = args.scale(recording.ok().map(Arc::new), broker);
    let setup = Setup { clock: Clock::start(), limit: args.deadline() };
    let mut failed = 0;
    for scenario in args.scenarios() {
        for transport in args.transports() {
            let cases = scenario.cases(transport, &scale)?;
            let (records, failures) = rounds::measure(&cases, &servers, args.runs(), &setup, args.record.as_deref())?;
            failed += failures;
            table::print(&records);
        }
    }
    ensure!(failed == 0, "{failed} measurements failed");
    Ok(())
}

fn servers(args: &RunArgs) -> Result<Vec<ServerSpec>> {
    if !args.servers.is_empty() {
        return Ok(args.servers.clone());
    }
    let (mut servers, missing) = servers::installed(&args.peers.places())?;
    for (name, reason) in missing.iter().filter(|(name, _)| args.wants(name)) {
        eprintln!("skipped {name}: {reason:#}");
    }
    servers.retain(|spec| args.wants(&spec.name));
    ensure!(!servers.is_empty(), "there is no server to measure");
    Ok(servers)
}
