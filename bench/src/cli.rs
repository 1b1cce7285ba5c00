//! The command line.

use std::collections::HashSet;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use clap::{Args, Parser, Subcommand, value_parser};

/// What stands for the port number in the command line of a server.
const PORT_PLACEHOLDER: &str = "{port}";

/// Compares WebSocket servers under load from this machine.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measures the resident memory that each idle connection costs.
    Idle(IdleArgs),
    /// Measures how many handshakes per second a server completes.
    Connect(ConnectArgs),
}

#[derive(Args)]
pub struct IdleArgs {
    /// How many connections to hold open.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
    pub connections: u32,

    /// How many times to measure each server.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args)]
pub struct ConnectArgs {
    /// How many handshakes to keep in flight.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..))]
    pub concurrent: u32,

    /// How many handshakes to complete in one run.
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    pub total: u32,

    /// How many times to measure each server.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    pub runs: u32,

    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args)]
pub struct CommonArgs {
    /// A server to measure; the first one given is what the others are compared
    /// with. The command is split on white space, and {port} in it is replaced
    /// by a free port of 127.0.0.1.
    #[arg(long = "server", value_name = "NAME=PROGRAM-WITH-ARGS", required = true)]
    pub servers: Vec<ServerSpec>,

    /// How long each phase of a run may take: starting the server, opening the
    /// connections, and waiting for its memory use to settle.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = value_parser!(u64).range(1..=86_400)
    )]
    deadline: u64,
}

impl CommonArgs {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
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

/// A server to measure: its name in the report and how to start it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    pub name: String,
    program: String,
    arguments: Vec<String>,
}

impl ServerSpec {
    /// Returns the program and its arguments with the port filled in.
    pub fn command_line(&self, port: u16) -> (String, Vec<String>) {
        let port = port.to_string();
        let fill = |word: &String| word.replace(PORT_PLACEHOLDER, &port);
        (fill(&self.program), self.arguments.iter().map(fill).collect())
    }
}

impl FromStr for ServerSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("expected NAME=PROGRAM-WITH-ARGS")?;
        ensure!(!name.trim().is_empty(), "the name of the server is empty");
        ensure!(command.contains(PORT_PLACEHOLDER), "the command line does not contain {PORT_PLACEHOLDER}");
        let mut words = command.split_whitespace().map(str::to_owned);
        Ok(Self {
            name: name.trim().to_owned(),
            program: words.next().context("the command line is empty")?,
            arguments: words.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_filled_in_wherever_it_is_named() {
        let spec: ServerSpec =
            "a=prog --listen 127.0.0.1:{port} -p {port} x=y".parse().expect("the specification is valid");
        assert_eq!(spec.name, "a");
        let (program, arguments) = spec.command_line(81);
        assert_eq!(program, "prog");
        assert_eq!(arguments, ["--listen", "127.0.0.1:81", "-p", "81", "x=y"]);
    }

    #[test]
    fn incomplete_specifications_are_refused() {
        for text in ["prog {port}", "=prog {port}", "a=prog", "a="] {
            assert!(text.parse::<ServerSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_may_be_given_only_once() {
        let line = ["b", "idle", "--server", "a=p {port}", "--server", "a=q {port}"];
        let Command::Idle(args) = Cli::parse_from(line).command else {
            panic!("the line names the subcommand idle");
        };
        assert!(args.common.check().is_err());
    }
}
