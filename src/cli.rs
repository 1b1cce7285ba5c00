//! Parses the command line: finds the command and its settings, and refuses invalid arguments.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use oddswire::config::Config;
use oddswire::config::values::{Between, address};

#[cfg(feature = "cli")]
use crate::commands::settings::{ClientCommand, Demo};
use crate::endpoint::Endpoint;

/// Examples for the help text. Without the feature `cli`, they must not name commands that the build lacks.
#[cfg(feature = "cli")]
const EXAMPLES: &str = "\
Examples:
  oddswire --publish-token dev-token
  oddswire serve --engine journal --data-dir /var/lib/oddswire
  oddswire tail --topic odds_updates --since snapshot
  oddswire publish messages.ndjson --token dev-token";
#[cfg(not(feature = "cli"))]
const EXAMPLES: &str = "\
Examples:
  oddswire --publish-token dev-token
  oddswire serve --listen 0.0.0.0:8000
  oddswire health --url http://127.0.0.1:8000";

/// Pushes live state to browsers over WebSocket and SSE, by topic.
///
/// Publishers post messages to topics over HTTP (/api/publish). Clients receive them at /api/ws and /api/sse. Each
/// setting below is a flag; most are also an environment variable. Write durations as 250ms, 30s or 1h, and sizes as
/// 16KiB or 8MiB.
#[derive(Debug, Parser)]
#[command(name = "oddswire", version, args_conflicts_with_subcommands = true, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// The command; without one, the program serves.
    #[command(subcommand)]
    command: Option<Command>,
    /// The settings of `serve`.
    #[command(flatten)]
    config: Config,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM or SIGINT; the default without a command
    #[command(after_help = "\
Examples:
  oddswire serve --publish-token dev-token
  oddswire serve --listen 0.0.0.0:8000 --allowed-origins https://odds.example.com")]
    Serve(Box<Config>),
    /// Serve, and publish a synthetic market of 200 events and 10 bookmakers
    #[cfg(feature = "cli")]
    #[command(after_help = "\
Examples:
  oddswire demo
  oddswire demo --rate 2000 --seed 1 --listen 0.0.0.0:8000")]
    Demo(Box<Demo>),
    /// Ask a running server whether it is healthy: exit code 0 if it is, 1 if not
    #[command(after_help = "\
Examples:
  oddswire health
  oddswire health --url https://odds.example.com --timeout 10s
  oddswire health --listen 0.0.0.0:8000")]
    Health(Health),
    /// The commands that are clients of a server.
    #[cfg(feature = "cli")]
    #[command(flatten)]
    Client(ClientCommand),
}

/// The settings of `health`.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Address of the server: http or https, with the path if a proxy serves it below one; takes precedence over --listen
    #[arg(long, env = "ODDSWIRE_URL", value_name = "URL")]
    url: Option<Endpoint>,
    /// Address that the server listens on; for an unspecified one, such as 0.0.0.0, the loopback interface is asked
    #[arg(long, env = "ODDSWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_parser = address)]
    listen: SocketAddr,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s",
          value_parser = Between(Duration::from_millis(1), Duration::from_secs(60)))]
    pub(crate) timeout: Duration,
}

impl Health {
    /// Ignores `ODDSWIRE_URL` if the user typed `--listen` and no `--url`.
    fn prefer_arguments(&mut self, matches: &clap::ArgMatches) {
        let is_typed = |name| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        if is_typed("listen") && !is_typed("url") {
            self.url = None;
        }
    }

    /// The server whose health the command checks.
    pub(crate) fn server(&self) -> Endpoint {
        self.url.clone().unwrap_or_else(|| Endpoint::of_listener(self.listen))
    }
}

/// Commands that this build lacks, because it was built without the feature `cli`.
#[cfg(not(feature = "cli"))]
const MISSING: [&str; 7] = ["completions", "demo", "man", "publish", "replay", "tail", "top"];

/// The clap definition of all commands and settings, for completions and manual pages.
#[cfg(feature = "cli")]
pub(crate) fn program() -> clap::Command {
    Cli::command()
}

/// Reads the command line and the environment. If a value is invalid, prints one line to standard error and exits with
/// code 2.
pub(crate) fn read() -> Command {
    let mut program = Cli::command();
    let first = std::env::args_os().nth(1);
    #[cfg(not(feature = "cli"))]
    if let Some(name) = first.as_ref().and_then(|first| MISSING.into_iter().find(|name| first == name)) {
        refuse(&format!("this build has no command '{name}': build with --features cli"));
    }
    // If the user names a command, ignore the variables of the default command. Otherwise an invalid variable of
    // `serve` would fail every command.
    if first.is_some_and(|first| program.find_subcommand(first).is_some()) {
        program = program.mut_args(|arg| arg.env(None::<&str>));
    }
    let parsed = program.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| {
        let mut parsed = Cli::from_arg_matches(&matches)?;
        if let (Some(Command::Health(health)), Some(matches)) =
            (&mut parsed.command, matches.subcommand_matches("health"))
        {
            health.prefer_arguments(matches);
        }
        Ok(parsed)
    });
    let Cli { command, config } = parsed.unwrap_or_else(|error| refuse_usage(&error));
    let check = |config: Config| config.check().unwrap_or_else(|error| refuse(&error.to_string()));
    match command.unwrap_or_else(|| Command::Serve(Box::new(config))) {
        Command::Serve(config) => Command::Serve(Box::new(check(*config))),
        #[cfg(feature = "cli")]
        Command::Demo(demo) => Command::Demo(Box::new(demo.check().unwrap_or_else(|reason| refuse(&reason)))),
        other => other,
    }
}

/// Prints why a setting is invalid as one line to standard error, and exits with code 2.
pub(crate) fn refuse(reason: &str) -> ! {
    eprintln!("oddswire: {reason}");
    std::process::exit(2)
}

/// Prints help and version unchanged. From the text of an error, prints only the description of the problem.
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

/// The text of an error. If the invalid value may be a secret, the text does not show the value.
fn without_secret(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    const SECRETS: [&str; 4] = ["--publish-token ", "--subscriber-jwt-secret ", "--redis-url ", "--token "];
    let text = error.to_string();
    // A URL may contain a password.
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

/// Environment variables that begin with `ODDSWIRE_` but belong to no setting. They are probably misspelt.
#[expect(clippy::disallowed_methods, reason = "this is where settings are read")]
pub(crate) fn unknown_variables() -> Vec<String> {
    let program = Cli::command();
    let of_commands = program.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<OsString> =
        program.get_arguments().chain(of_commands).filter_map(|arg| arg.get_env().map(OsString::from)).collect();
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name))
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("ODDSWIRE_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example commands in a command's help text, without indentation.
    fn examples(command: &clap::Command) -> Vec<String> {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        after.lines().filter_map(|line| line.strip_prefix("  oddswire")).map(|line| format!("oddswire{line}")).collect()
    }

    #[test]
    fn every_example_in_help_is_a_valid_command() {
        let program = Cli::command();
        let commands = std::iter::once(&program).chain(program.get_subcommands());
        for command in commands {
            let examples = examples(command);
            assert!((2..=4).contains(&examples.len()), "{}: {examples:?}", command.get_name());
            for example in examples {
                let parsed = Cli::try_parse_from(example.split(' '));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn last_url_on_the_command_line_wins() {
        let [one, other] = ["http://one", "http://other"];
        for (arguments, expected) in [
            (&[one][..], one),
            (&["--url", one], one),
            (&["--url", one, other], other),
            (&[one, "--url", other], other),
        ] {
            for command in ["tail", "top"] {
                let words = ["oddswire", command].into_iter().chain(arguments.iter().copied());
                let url = match Cli::try_parse_from(words).unwrap().command {
                    Some(Command::Client(ClientCommand::Tail(tail))) => tail.url().clone(),
                    Some(Command::Client(ClientCommand::Top(top))) => top.url().clone(),
                    other => panic!("{other:?}"),
                };
                assert_eq!(url.to_string(), expected, "{command} {arguments:?}");
            }
        }
    }

    #[test]
    fn health_asks_the_url_before_the_listener() {
        let asked = |arguments: &[&str]| {
            let words = ["oddswire", "health"].into_iter().chain(arguments.iter().copied());
            match Cli::try_parse_from(words).unwrap().command {
                Some(Command::Health(health)) => health.server().to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(asked(&["--listen=0.0.0.0:81"]), "http://127.0.0.1:81");
        assert_eq!(asked(&["--listen=[::]:81"]), "http://[::1]:81");
        assert_eq!(
            asked(&["--listen=127.0.0.1:81", "--url=https://odds.example.com/live"]),
            "https://odds.example.com/live"
        );
    }
}
