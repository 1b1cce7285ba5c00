//! Compares WebSocket servers by the memory that an idle connection costs and
//! by the rate at which connections can be established.
//!
//! The load comes from one thread with one epoll instance, so that on a small
//! machine the servers under test keep as much of the processor as possible.
//! It works on Linux only, because it connects from further addresses of
//! 127.0.0.0/8 and reads `/proc`.

mod cli;
mod connect;
mod connection;
mod deadline;
mod files;
mod idle;
mod load;
mod overflow;
mod progress;
mod reply;
mod report;
mod rounds;
mod server;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Idle(args) => idle::run(&args),
        Command::Connect(args) => connect::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes in one line is the message; a backtrace, as
            // returning the error could print, would only hide it.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
