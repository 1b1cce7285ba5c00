//! A client program that people use, such as curl, if it is installed.

use std::io::ErrorKind;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::program::skip;
use super::{App, within};

/// A running client program, killed when the test ends.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts the program. Returns `None`, and prints one line to standard error, if the program is not installed.
    pub fn start(program: &str, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => return skip(program),
            child => child.expect("the program starts"),
        };
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Some(Self { child, stdin, lines: BufReader::new(stdout).lines() })
    }

    pub fn curl(app: &App, path: &str, arguments: &[&str]) -> Option<Self> {
        let common = ["--silent", "--show-error", "--noproxy", "*", &app.url(path)];
        Self::start("curl", &[&common, arguments].concat())
    }

    pub async fn line(&mut self) -> String {
        within(self.lines.next_line()).await.unwrap().expect("the program prints another line")
    }

    /// The next line, parsed as JSON after `prefix` is removed.
    pub async fn json(&mut self, prefix: &str) -> Value {
        let line = self.line().await;
        let json = line.strip_prefix(prefix).unwrap_or_else(|| panic!("no {prefix:?}: {line}"));
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub async fn send(&mut self, text: &str) {
        within(self.stdin.as_mut().unwrap().write_all(text.as_bytes())).await.expect("the program reads");
    }

    /// Closes the program's standard input, and waits until the program ends. Returns the exit code and the rest of the
    /// output.
    pub async fn end(mut self) -> (Option<i32>, String) {
        drop(self.stdin.take());
        let mut rest = String::new();
        while let Some(line) = within(self.lines.next_line()).await.unwrap() {
            rest.push_str(&line);
        }
        (within(self.child.wait()).await.unwrap().code(), rest)
    }
}
