//! What the program does for people at a terminal: clients of a server, and a server that feeds itself.
//!
//! Exit codes: 0 where it did what was asked, 1 where it could not, 2 where what was asked makes no sense.

mod backoff;
mod client;
pub mod demo;
mod dial;

mod publish;
mod replay;
mod shell;
mod tail;
mod top;

use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use thiserror::Error;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::ConfigError;
use crate::config::commands::ClientCommand;

/// Why a command did not do what was asked. Each is one line.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs a command to its end.
pub fn run(command: ClientCommand) -> ExitCode {
    let ended = match command {
        ClientCommand::Tail(settings) => block_on(tail::run(settings)),
        ClientCommand::Publish(settings) => block_on(publish::run(settings)),
        ClientCommand::Replay(settings) => block_on(replay::run(settings)),
        ClientCommand::Top(settings) => block_on(top::run(settings)),
        ClientCommand::Completions(settings) => shell::completions(settings.shell),
        ClientCommand::Man(settings) => shell::man(&settings),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("oddswire: {failure}"));
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Runs a command on a runtime of its own. One thread: what waits for a terminal, a pipe or a file has another one, which
/// is not waited for at the end.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("the runtime cannot start: {error}")))?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

/// Writes to standard output. A reader that is gone has seen what it wanted to.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Failed(format!("cannot write: {error}"))),
        _ => Ok(()),
    }
}

/// Says something on standard error, if somebody listens there: how it ended is also told by the exit code.
fn say(line: &str) {
    let _: io::Result<()> = writeln!(io::stderr(), "{line}");
}

/// Waits until somebody wants the command to end.
async fn interrupted() -> io::Result<()> {
    let [mut interrupt, mut terminate, mut hangup] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// A text of somebody else's, fit for a terminal: what would steer it, or turn the direction of writing, is shown as an
/// escape.
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

/// `1 message`, `2 messages`.
fn messages(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "message" } else { "messages" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (18_605, "18,605"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!([0, 1, 2_000].map(messages), ["0 messages", "1 message", "2,000 messages"]);
    }

    #[test]
    fn what_would_steer_a_terminal_is_escaped_and_nothing_else() {
        assert_eq!(printable("Borussia Mönchengladbach 2½"), "Borussia Mönchengladbach 2½");
        assert_eq!(printable("ö\u{1b}[2J\u{9b}K\r\u{202e}x"), "ö\\u{1b}[2J\\u{9b}K\\r\\u{202e}x");
    }
}
