//! All settings: flags, environment variables, units, bounds and defaults. `read` checks them once; all later code can
//! rely on valid values.
//!
//! - `serve`: settings of the server; `commands`: settings of the other commands.
//! - `values`: parsers of single values; `check`: checks across settings.

#[cfg(feature = "redis")]
mod broker;
mod check;
pub mod commands;
mod serve;
mod values;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand};

pub use self::check::ConfigError;
use self::commands::{ClientCommand, Demo};
pub use self::serve::{Config, EngineKind, LogFormat, LogLevel, SyncWhen};
pub use self::values::AdminListen;
use self::values::{Between, address, ms, secs};

/// Pushes scrape progress and odds changes to browsers over WebSocket and SSE, by topic.
///
/// Publishers post messages to topics over HTTP (/api/publish). Clients receive them at /api/ws and /api/sse. Each
/// setting below is a flag; most are also an environment variable. Write durations as 250ms, 30s or 1h, and sizes as
/// 16KiB or 8MiB.
#[derive(Debug, Parser)]
#[command(name = "oddswire", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    /// The command; without one, the program serves.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of `serve`.
    #[command(flatten)]
    pub config: Config,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT; the default without a command
    Serve(Box<Config>),
    /// Serve, and publish a synthetic market of 200 events and 10 bookmakers
    Demo(Box<Demo>),
    /// Check whether a running server is alive: exit code 0 if it is, 1 if it is not
    Health(Health),
    /// The commands for people at a terminal.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The settings of `health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Address of the server; for an unspecified address, such as 0.0.0.0, the check uses the loopback interface
    #[arg(long, env = "ODDSWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_parser = address)]
    pub listen: SocketAddr,
    /// How long to wait for the server's answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = Between(ms(1), secs(60)))]
    pub timeout: Duration,
}

/// Reads the command line and the environment. Ends the program at an invalid setting, as [`refuse`] does.
#[must_use]
pub fn read() -> Cli {
    let mut command = Cli::command();
    // A command declares its own settings. The top-level ones must not read the same variables a second time.
    if std::env::args_os().nth(1).is_some_and(|first| command.find_subcommand(first).is_some()) {
        command = command.mut_args(|arg| arg.env(None::<&str>));
    }
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let parsed = parsed.unwrap_or_else(|error| refuse_usage(&error));
    let check = |config: Config| config.check().unwrap_or_else(|error| refuse(&error.to_string()));
    match parsed {
        Cli { command: None, config } => Cli { command: None, config: check(config) },
        Cli { command: Some(Command::Serve(config)), .. } => Cli { command: None, config: check(*config) },
        Cli { command: Some(Command::Demo(demo)), config } => {
            let demo = demo.check().unwrap_or_else(|error| refuse(&error.to_string()));
            Cli { command: Some(Command::Demo(Box::new(demo))), config }
        }
        other => other,
    }
}

/// Ends the program because of an invalid setting: one line on standard error, and exit code 2.
pub fn refuse(reason: &str) -> ! {
    eprintln!("oddswire: {reason}");
    std::process::exit(2)
}

/// Prints help and version as clap formats them. Shortens any other error to one line and ends the program.
fn refuse_usage(error: &clap::Error) -> ! {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        error.exit()
    }
    let text = without_secret(error);
    let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).collect();
    let known = lines.iter().filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = known.copied().collect::<Vec<_>>().join(" ");
    refuse(line.trim_start_matches("error: "))
}

/// Returns the text of an error, without the value if that is a secret.
fn without_secret(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    const SECRETS: [&str; 4] = ["--publish-token ", "--subscriber-jwt-secret ", "--redis-url ", "--token "];
    let text = error.to_string();
    // A URL can contain a password.
    let is_url = |arg: &str| ["--url ", "[URL]"].iter().any(|url| arg.starts_with(url));
    match (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (Some(ContextValue::String(arg)), Some(ContextValue::String(value)))
            if SECRETS.iter().any(|secret| arg.starts_with(secret)) || (is_url(arg) && value.contains('@')) =>
        {
            text.replace(&format!("'{value}'"), "(not shown)")
        }
        _ => text,
    }
}

/// Returns the environment variables that begin with `ODDSWIRE_` but are not settings: most likely misspelt names.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where settings are read")]
pub fn unknown_variables() -> Vec<String> {
    let command = Cli::command();
    let of_subcommands = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<OsString> =
        command.get_arguments().chain(of_subcommands).filter_map(|arg| arg.get_env().map(OsString::from)).collect();
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name))
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("ODDSWIRE_"))
        .collect()
}
