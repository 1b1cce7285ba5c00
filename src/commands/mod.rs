//! The commands for people at a terminal: clients of a server, and `demo`, a server that publishes to itself.
//!
//! Each command is a module. [`settings`] has the arguments of all commands.
//!
//! Exit codes: 0 if the command succeeded, 1 if it failed, 2 if the arguments are invalid.

mod backoff;
mod client;
pub(crate) mod demo;
mod publish;
mod replay;
pub(crate) mod settings;
mod shell;
mod tail;
mod top;

use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use thiserror::Error;
use tokio::runtime::Builder;
use tokio_stream::StreamExt as _;

use self::settings::ClientCommand;
use crate::dial::TlsError;
use crate::signals;

/// Why a command failed. Each error text is one line.
#[derive(Debug, Error)]
enum Failure {
    /// The arguments are invalid.
    #[error("{0}")]
    Usage(String),
    /// The arguments are valid, but the command failed.
    #[error("{0}")]
    Failed(String),
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs a command to its end. `program` is the clap definition of all commands, for completions and manual pages.
pub(crate) fn run(command: ClientCommand, program: clap::Command) -> ExitCode {
    let ended = match command {
        ClientCommand::Tail(settings) => block_on(tail::run(settings)),
        ClientCommand::Publish(settings) => block_on(publish::run(settings)),
        ClientCommand::Replay(settings) => block_on(replay::run(settings)),
        ClientCommand::Top(settings) => block_on(top::run(settings)),
        ClientCommand::Completions(settings) => shell::completions(settings.shell, program),
        ClientCommand::Man(settings) => shell::man(&settings, program),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("oddswire: {failure}"));
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Runs a command on a new runtime with one thread. Blocking reads and writes run on other threads. The program exits
/// without waiting for these threads.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("the runtime cannot start: {error}")))?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

/// Writes to standard output. A closed pipe is not an error: the program at its other end has read enough.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Failed(format!("cannot write: {error}"))),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. Ignores write errors, because the exit code also shows whether the command
/// succeeded.
fn say(line: &str) {
    let _: io::Result<()> = writeln!(io::stderr(), "{line}");
}

/// Waits for a signal that asks the command to end: SIGINT, SIGTERM or SIGHUP.
async fn interrupted() -> Result<(), Failure> {
    let signals = signals::stop().and_then(|stop| Ok(stop.merge(signals::hangup()?)));
    let signals = signals.map_err(|error| Failure::Failed(format!("signals cannot be received: {error}")));
    signals?.next().await;
    Ok(())
}

/// Makes untrusted text safe for a terminal: escapes control characters, and characters that change the direction of
/// text.
fn printable(text: &str) -> String {
    let steers = |char: char| char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.chars().any(steers) {
        return text.to_owned();
    }
    text.chars().map(|char| if steers(char) { char.escape_default().to_string() } else { char.to_string() }).collect()
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 message`, `2 messages`.
fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (18_605, "18,605"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn one_is_singular() {
        let counts = [0, 1, 2_000].map(|count| counted(count, "message"));
        assert_eq!(counts, ["0 messages", "1 message", "2,000 messages"]);
    }

    #[test]
    fn only_characters_that_steer_a_terminal_are_escaped() {
        assert_eq!(printable("Borussia Mönchengladbach 2½"), "Borussia Mönchengladbach 2½");
        assert_eq!(printable("ö\u{1b}[2J\u{9b}K\r\u{202e}x"), "ö\\u{1b}[2J\\u{9b}K\\r\\u{202e}x");
    }
}
