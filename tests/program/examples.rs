//! Runs the examples of README.md and docs/ with the real program, and compares their output with the page.
//!
//! A `console` block contains commands after `$`, each followed by its output. A `python run` or `js run` block runs in
//! Python or in a page of the server; a `text` block right after it is its output. Addresses, epochs, times and names
//! of connections may differ. A line `…` matches all further lines, and `…` at the end of a line matches the rest of
//! the line. A page changes the server's settings with comments: `<!-- server: ODDSWIRE_…=… -->`.

use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::sync::LazyLock;

use regex::Regex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::markdown::{Block, Page, root};
use crate::harness::process::Process;
use crate::harness::program::{Directory, is_installed, skip};
use crate::harness::within;

/// The token of `make run`, which the examples use.
const TOKEN: &str = "dev-token";

/// The server for a page's examples, and a working folder for its commands.
struct Reader {
    server: Process,
    folder: Directory,
}

impl Reader {
    async fn of(page: &Page) -> Self {
        let settings = page.remarks("server");
        let settings = settings.iter().map(|setting| setting.split_once('=').expect("a name and a value"));
        let common = [("ODDSWIRE_PUBLISH_TOKEN", TOKEN), ("ODDSWIRE_ENGINE", "memory")];
        let server = Process::serve(&common.into_iter().chain(settings).collect::<Vec<_>>()).await;
        Self { server, folder: Directory::new() }
    }

    /// Replaces the default addresses in a text by the server's addresses.
    fn placed(&self, text: &str) -> String {
        let (public, admin) = (self.server.address.to_string(), self.server.admin.to_string());
        text.replace("localhost:8000", &public).replace("localhost:9100", &admin)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let programs = Path::new(env!("CARGO_BIN_EXE_oddswire")).parent().unwrap().display();
        command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap())).env("NO_PROXY", "*");
        // The program's commands use this server by default.
        command.env("ODDSWIRE_URL", format!("http://{}", self.server.address));
        command.env("ODDSWIRE_ADMIN_URL", format!("http://{}", self.server.admin));
        command.current_dir(&self.folder.0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs each command of a block.
    async fn console(&self, block: &Block) {
        for (command, expected) in commands(block) {
            if let Some(target) = command.strip_prefix("make ") {
                check_make_target(target);
                continue;
            }
            let programs = ["curl", "websocat"].into_iter().filter(|name| command.contains(name));
            if !programs.into_iter().all(|name| is_installed(name, StdCommand::new(name).arg("--version"))) {
                continue;
            }
            let mut shell = self.command("bash");
            shell.args(["-o", "pipefail", "-c", &self.placed(&command)]);
            let goes_on = ["websocat", "curl -sN", "oddswire tail"].iter().any(|name| command.contains(name));
            let running = Running::start(shell, "").await;
            running.prints(&self.placed(&expected), goes_on).await;
        }
    }

    async fn python(&self, block: &Block, expected: Option<&str>) {
        let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut probe = StdCommand::new(&python);
        probe.args(["-c", "import websockets"]);
        if !has(&mut probe, "the Python package websockets") {
            return;
        }
        let mut command = self.command(&python);
        command.args(["-u", "-c", &self.placed(&block.text)]);
        Running::start(command, "").await.prints(&self.placed(expected.unwrap_or("…")), true).await;
    }

    async fn page(&self, block: &Block, expected: Option<&str>) {
        let chromium = std::env::var("TEST_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        let modules = std::env::var("TEST_NODE_MODULES").unwrap_or_default();
        let mut probe = StdCommand::new("node");
        probe.args(["-e", "require.resolve('playwright-core')"]).env("NODE_PATH", &modules);
        if !has(&mut probe, "playwright-core") || !has(StdCommand::new(&chromium).arg("--version"), "chromium") {
            return;
        }
        let mut command = self.command("node");
        let script = root().join("tests/clients/page.mjs");
        command.arg(script).args([&chromium, &self.placed("http://localhost:8000/api/topics")]);
        let running = Running::start(command.env("NODE_PATH", modules), &self.placed(&block.text)).await;
        running.prints(&self.placed(expected.unwrap_or("…")), true).await;
    }
}

/// Whether a required program is installed: the command `probe` then succeeds. If not, prints that the test is skipped.
fn has(probe: &mut StdCommand, what: &str) -> bool {
    let status = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success()) || skip(what).unwrap_or(false)
}

/// The commands of a block with their expected output.
fn commands(block: &Block) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in block.text.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), String::new())),
            (None, Some((command, _))) if goes_on => *command = format!("{command}\n{line}"),
            (None, Some((_, output))) => output.extend([line, "\n"]),
            (None, None) => panic!("line {}: output before a command", block.line),
        }
        goes_on = line.ends_with('\\');
    }
    found
}

/// Checks that a make target exists. Does not run `make`, which would build, or serve on a fixed port.
fn check_make_target(words: &str) {
    let target = words.split_whitespace().next().unwrap();
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "make has no target {target}");
}

/// A running program and its output.
struct Running {
    shown: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    async fn start(mut command: impl std::borrow::BorrowMut<Command>, input: &str) -> Self {
        let command = command.borrow_mut();
        let shown = format!("{:?}", command.as_std());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        if !input.is_empty() {
            let mut stdin = child.stdin.take().unwrap();
            within(stdin.write_all(input.as_bytes())).await.expect("the program reads");
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { shown, child, lines }
    }

    /// Compares the program's output with the expected lines. Then waits for the end of the program, unless the program
    /// runs forever (`goes_on`).
    async fn prints(mut self, expected: &str, goes_on: bool) {
        for expected in expected.lines() {
            let Some(line) = within(self.lines.next_line()).await.expect("the output is UTF-8") else {
                let errors = self.errors().await;
                panic!("{} ended instead of printing\n{expected}\n{errors}", self.shown);
            };
            if expected == "…" {
                return;
            }
            let (is, expected) = (comparable(&line), comparable(expected));
            let same = match expected.strip_suffix('…') {
                Some(begin) => is.starts_with(begin),
                None => is == expected,
            };
            assert!(same, "{} printed\n{is}\ninstead of\n{expected}", self.shown);
        }
        if !goes_on {
            drop(self.child.stdin.take());
            let more = within(self.lines.next_line()).await.expect("the output is UTF-8");
            assert_eq!(more, None, "{} printed more than the page shows", self.shown);
            let status = within(self.child.wait()).await.expect("the program ends");
            let errors = self.errors().await;
            assert!(status.success(), "{}: {status}\n{errors}", self.shown);
        }
    }

    async fn errors(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().expect("standard error is piped");
        within(stderr.read_to_string(&mut text)).await.expect("the output is UTF-8");
        text
    }
}

/// Replaces the parts of a line that differ between runs. Keeps offsets, because each run publishes the same messages.
fn comparable(line: &str) -> String {
    static VARIES: LazyLock<[(Regex, &str); 6]> = LazyLock::new(|| {
        [
            (r"[0-9]{13}-", "EPOCH-"),
            (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z", "TIME"),
            (r"^[0-9:]{8}\.[0-9]{3} ", "TIME "),
            (r"c[0-9a-f]{16}\b", "CONNECTION"),
            (r"^retry: [0-9]+$", "retry: SOME"),
            (r"(?i)^date: .*$", "date: NOW"),
        ]
        .map(|(pattern, with)| (Regex::new(pattern).unwrap(), with))
    });
    let line = line.trim_end();
    VARIES.iter().fold(line.to_owned(), |line, (varies, with)| varies.replace_all(&line, *with).into_owned())
}

async fn run(name: &str) {
    let page = Page::read(name);
    let reader = Reader::of(&page).await;
    let blocks = page.blocks();
    let mut ran = 0;
    for (at, block) in blocks.iter().enumerate() {
        let expected = blocks.get(at + 1).filter(|next| next.info == "text").map(|next| next.text.as_str());
        eprintln!("{name}:{}: {}", block.line, block.info);
        match block.info.as_str() {
            "console" => reader.console(block).await,
            "python run" => reader.python(block, expected).await,
            "js run" => reader.page(block, expected).await,
            _ => continue,
        }
        ran += 1;
    }
    assert!(ran > 0, "{name} has no example");
}

#[tokio::test]
async fn readme_examples_print_what_the_page_shows() {
    let shown_only: Vec<_> = Page::read("README.md").blocks();
    for block in shown_only {
        let is_run = ["console", "python run", "js run", "text"].contains(&block.info.as_str());
        assert!(is_run, "README.md:{}: no test runs the '{}' block", block.line, block.info);
    }
    run("README.md").await;
}

#[tokio::test]
async fn quickstart_examples_print_what_the_page_shows() {
    run("docs/quickstart.md").await;
}

#[tokio::test]
async fn commands_examples_print_what_the_page_shows() {
    run("docs/commands.md").await;
}

#[tokio::test]
async fn publishing_examples_print_what_the_page_shows() {
    run("docs/publishing.md").await;
}

#[tokio::test]
async fn protocol_examples_print_what_the_page_shows() {
    run("docs/protocol.md").await;
}

#[tokio::test]
async fn security_examples_print_what_the_page_shows() {
    run("docs/security.md").await;
}

#[tokio::test]
async fn operations_examples_print_what_the_page_shows() {
    run("docs/operations.md").await;
}

#[test]
fn every_page_with_examples_has_a_test() {
    let run = include_str!("examples.rs");
    for page in Page::all() {
        let has_examples = page.blocks().iter().any(|block| block.info == "console" || block.info.ends_with(" run"));
        let is_run = run.contains(&format!("run(\"{}\")", page.name));
        assert!(!has_examples || is_run, "{} has examples that no test runs", page.name);
    }
}
