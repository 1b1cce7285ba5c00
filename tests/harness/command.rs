//! A command of the program, run with pipes or in a terminal.

use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::program::is_installed;
use super::within;

const PROGRAM: &str = env!("CARGO_BIN_EXE_oddswire");

/// A running command.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

/// The output of a program. A task reads the pipe continuously, so that the program never waits for the test.
struct Output {
    pieces: UnboundedReceiver<Vec<u8>>,
    /// Bytes that have arrived but that the test has not read yet.
    come: Vec<u8>,
}

/// The exit code and the output of a command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Standard output, without the part that the test had read before.
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Asserts that the command failed with this exit code, and that the last line on standard error contains these
    /// texts.
    #[track_caller]
    pub fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        assert!(line.starts_with("oddswire: "), "{self:?}");
        for part in says {
            assert!(line.contains(part), "the line does not contain {part:?}: {self:?}");
        }
    }
}

impl Running {
    /// Starts a command with pipes.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::piped());
        Self::of(command)
    }

    /// Starts a command in a terminal of 100 columns. All that the terminal gets arrives here as standard output.
    /// Returns `None` if `script`, the program that creates the terminal, is not installed.
    pub fn in_terminal(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        if !is_installed("script", std::process::Command::new("script").arg("--version")) {
            return None;
        }
        let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
        let line = format!("stty cols 100 rows 24 && exec '{PROGRAM}' {}", quoted.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh").env("TERM", "xterm-256color");
        command.envs(environment.iter().copied()).stdin(Stdio::piped());
        Some(Self::of(command))
    }

    fn of(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let (stdout, stderr) = (Output::of(child.stdout.take().unwrap()), Output::of(child.stderr.take().unwrap()));
        Self { stdin: child.stdin.take(), child, stdout, stderr }
    }

    /// Runs a command to its end.
    pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let mut running = Self::start(arguments, environment);
        running.stdin = None;
        running.end().await
    }

    /// The next line of standard output.
    pub async fn line(&mut self) -> String {
        self.stdout.line().await.expect("another line of standard output")
    }

    /// Reads standard output up to a line that contains this text, and returns that line.
    pub async fn shows(&mut self, text: &str) -> String {
        self.stdout.line_with(text).await
    }

    /// Reads standard error up to a line that contains this text, and returns that line.
    pub async fn says(&mut self, text: &str) -> String {
        self.stderr.line_with(text).await
    }

    /// Waits until the unread standard output contains this text. The output stays unread.
    pub async fn draws(&mut self, text: &str) {
        while !self.stdout.text().contains(text) {
            assert!(self.stdout.more().await, "{text} was never drawn: {:?}", self.stdout.text());
        }
    }

    /// Closes the pipe from the command's standard output.
    pub fn stop_reading(&mut self) {
        self.stdout.pieces.close();
    }

    fn id(&self) -> u32 {
        self.child.id().expect("the command runs")
    }

    pub fn signal(&self, name: &str) {
        signal(&self.id().to_string(), name);
    }

    /// Sends a signal to the program inside the terminal.
    pub fn signal_inside(&self, name: &str) {
        let children = format!("/proc/{0}/task/{0}/children", self.id());
        signal(std::fs::read_to_string(children).expect("Linux has this file").trim(), name);
    }

    /// Waits until the command ends.
    pub async fn end(mut self) -> Ended {
        for output in [&mut self.stdout, &mut self.stderr] {
            while output.more().await {}
        }
        let code = within(self.child.wait()).await.unwrap().code();
        Ended { code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

fn signal(id: &str, name: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, id]).status();
    assert!(sent.expect("kill is installed").success());
}

impl Output {
    fn of(mut pipe: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (send, pieces) = unbounded_channel();
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let read = tokio::select! {
                    read = pipe.read(&mut buffer) => read,
                    () = send.closed() => return,
                };
                // Reading from a terminal fails after the program at the other side has closed it.
                let Ok(count @ 1..) = read else { return };
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pieces, come: Vec::new() }
    }

    /// Waits for more output. Returns `false` at the end of the output.
    async fn more(&mut self) -> bool {
        let piece = within(self.pieces.recv()).await;
        self.come.extend(piece.iter().flatten());
        piece.is_some()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.come).into_owned()
    }

    /// Returns the next line, which must end with a line break; `None` at the end of the output.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.come.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.come.drain(..=end).collect();
                let line = String::from_utf8(line).expect("the output is UTF-8");
                return Some(line.trim_end_matches(['\n', '\r']).to_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn line_with(&mut self, text: &str) -> String {
        let mut passed = String::new();
        while let Some(line) = self.line().await {
            if line.contains(text) {
                return line;
            }
            passed += &(line + "\n");
        }
        panic!("the output ended without a line that contains {text:?}: {passed}");
    }
}
