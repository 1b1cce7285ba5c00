//! Compares oddswire with other push servers, and with itself, under load from this machine.
//!
//! The subscribers are one thread with one epoll instance, so that on a small machine the servers under test keep as
//! much of the processor as possible. It works on Linux only, because it connects from further addresses of 127.0.0.0/8
//! and reads `/proc`.
//!
//! In reading order: [`cli`] and [`scenario`] say what is measured, [`rounds`] in which order, [`fanout`], [`idle`],
//! [`connect`] and [`image`] how; [`swarm`] and [`publisher`] are the two ends of a server, [`server`] is its process;
//! [`table`], [`report`], [`plot`] and [`gate`] show what came of it.

mod aims;
mod cli;
mod connect;
mod connection;
mod deadline;
mod dialect;
mod events;
mod fanout;
mod files;
mod frames;
mod gate;
mod head;
mod idle;
mod image;
mod machine;
mod message;
mod overflow;
mod plot;
mod process;
mod progress;
mod publisher;
mod record;
mod recording;
mod report;
mod rounds;
mod scenario;
mod schedule;
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

use crate::cli::{Cli, Command, RunArgs};
use crate::message::Clock;
use crate::rounds::Setup;
use crate::servers::ServerSpec;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Report(args) => report::write(&args.from, &args.to, &args.peers.places()),
        Command::Gate(args) => gate::check(&args.from, &args.baseline, args.update),
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
    files::raise_limit()?;
    let servers = servers(args)?;
    let recording = recording::read(&args.recording);
    if let Err(error) = &recording {
        eprintln!("skipped the recorded odds, which not every machine has: {error:#}");
    }
    let scale = args.scale(recording.ok().map(Arc::new));
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
