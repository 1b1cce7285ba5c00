//! A real browser: headless Chromium, driven by a Node script in `tests/clients/`.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::program::skip;
use super::within;

/// A Node script that drives Chromium, killed when the test ends. The script reads and writes one JSON object per line.
/// The field `event` of an output line names the kind of event.
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// Events that the script has reported and the test has not yet taken.
    events: Vec<Value>,
}

impl Browser {
    /// Starts the script. Returns `None`, and prints one line to standard error, if Chromium, Node or one of the Node
    /// `packages` is not installed.
    pub async fn start(script: &str, packages: &[&str]) -> Option<Self> {
        let chromium = std::env::var_os("TEST_CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
        if !std::path::Path::new(&chromium).exists() {
            return skip("chromium");
        }
        for package in packages {
            let mut probe = node();
            probe.args(["-e", &format!("require.resolve('{package}')")]).stderr(Stdio::null());
            match within(probe.status()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return skip("node"),
                status if !status.as_ref().expect("node starts").success() => return skip(package),
                _ => {}
            }
        }
        let mut path = OsString::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/"));
        path.push(script);
        let mut command = node();
        command.arg(path).arg(chromium).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node starts");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, stdin, lines: BufReader::new(stdout).lines(), events: Vec::new() })
    }

    /// Sends a line to the script.
    pub async fn tell(&mut self, what: &Value) {
        within(self.stdin.write_all(format!("{what}\n").as_bytes())).await.expect("the script reads");
    }

    /// Returns the next event of this kind. Keeps events of other kinds for later calls.
    pub async fn next(&mut self, kind: &str) -> Value {
        self.next_of(&[kind]).await
    }

    /// Returns the next event of one of these kinds.
    pub async fn next_of(&mut self, kinds: &[&str]) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| kinds.iter().any(|kind| event["event"] == *kind)) {
                return self.events.remove(at);
            }
            let line = within(self.lines.next_line()).await.unwrap();
            self.events.push(serde_json::from_str(&line.expect("the script still runs")).unwrap());
        }
    }

    /// Drops the events that the test has not taken.
    pub fn forget(&mut self) {
        self.events.clear();
    }

    /// Closes the browser cleanly, so that no process and no file of the browser remains.
    pub async fn end(mut self) {
        drop(self.stdin);
        assert!(within(self.child.wait()).await.unwrap().success());
    }
}

/// A Node command. Node searches the folder in `TEST_NODE_MODULES` for packages.
fn node() -> Command {
    let mut command = Command::new("node");
    if let Some(modules) = std::env::var_os("TEST_NODE_MODULES") {
        command.env("NODE_PATH", modules);
    }
    command.kill_on_drop(true);
    command
}
