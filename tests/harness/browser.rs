//! A real browser: headless Chromium, driven by a script of `tests/clients/` in Node.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::program::skip;
use super::within;

/// A script that has a browser, killed when the test is over. It reads a JSON object a line, and writes one a line whose
/// `event` says what it is.
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What happened and was not asked for yet.
    events: Vec<Value>,
}

impl Browser {
    /// `None`, said in one line, where something that it takes is not installed: `packages` are Node's.
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

    /// Tells the script something.
    pub async fn tell(&mut self, what: &Value) {
        within(self.stdin.write_all(format!("{what}\n").as_bytes())).await.expect("the script reads");
    }

    /// The next event of a kind. Those of different kinds come in no certain order.
    pub async fn next(&mut self, kind: &str) -> Value {
        self.next_of(&[kind]).await
    }

    /// The next event of one of these kinds.
    pub async fn next_of(&mut self, kinds: &[&str]) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| kinds.iter().any(|kind| event["event"] == *kind)) {
                return self.events.remove(at);
            }
            let line = within(self.lines.next_line()).await.unwrap();
            self.events.push(serde_json::from_str(&line.expect("the script goes on")).unwrap());
        }
    }

    /// Forgets what was not asked for.
    pub fn forget(&mut self) {
        self.events.clear();
    }

    /// Closes it, so that it leaves nothing behind.
    pub async fn end(mut self) {
        drop(self.stdin);
        assert!(within(self.child.wait()).await.unwrap().success());
    }
}

/// Node, which finds its packages where the environment says.
fn node() -> Command {
    let mut command = Command::new("node");
    if let Some(modules) = std::env::var_os("TEST_NODE_MODULES") {
        command.env("NODE_PATH", modules);
    }
    command.kill_on_drop(true);
    command
}
