//! The server program, run as a separate process: arguments, environment variables, signals, log and exit code.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use oddswire::config::EngineKind;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::program::Directory;
use super::{Answer, engine, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_oddswire");

pub type Environment<'a> = &'a [(&'a str, &'a str)];

pub const TOKEN: &str = "sesame-4711";

/// The placeholder for an address that the program has not logged yet.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// A command that runs the program with these arguments and environment variables. If they name no ports, the program
/// listens on ports that the system chooses. So no test takes a fixed port by accident.
fn program(arguments: &[&str], environment: Environment<'_>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    prepared(command, environment)
}

fn prepared(mut command: Command, environment: Environment<'_>) -> Command {
    command
        .env_clear()
        .env("ODDSWIRE_LISTEN", "127.0.0.1:0")
        .env("ODDSWIRE_ADMIN_LISTEN", "127.0.0.1:0")
        .envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The exit code and the output of a program that has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program until it ends.
pub async fn run(arguments: &[&str], environment: Environment<'_>) -> Ended {
    let output = within(program(arguments, environment).output()).await.expect("the program starts");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Ended { code: output.status.code(), stdout, stderr }
}

/// A running server.
pub struct Process {
    child: Child,
    /// The lines of the log. A task reads the log continuously, so that the program never waits for the test.
    log: UnboundedReceiver<String>,
    pub address: SocketAddr,
    /// The address of the admin listener: metrics, health and connections.
    pub admin: SocketAddr,
    /// The part of the log that the test has read.
    text: String,
    /// The engine's directory, if the harness created one.
    _directory: Option<Directory>,
}

impl Process {
    /// Starts the program and waits until it listens.
    pub async fn start(arguments: &[&str], environment: Environment<'_>) -> Self {
        Self::of(program(arguments, environment)).await
    }

    /// Starts the program with a publish token and a maximum number of open files.
    pub async fn with_files(most: usize, environment: Environment<'_>) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\""), PROGRAM]);
        Self::of(prepared(command, &[&[("ODDSWIRE_PUBLISH_TOKEN", TOKEN)], environment].concat())).await
    }

    /// Starts the program with a publish token and a maximum size of its files: a number of bytes, or `unlimited`. A
    /// write beyond this size fails with an error, because the program ignores the signal XFSZ.
    pub async fn with_files_of(bytes: &str, environment: Environment<'_>) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("trap '' XFSZ && exec prlimit --fsize={bytes}: \"$0\""), PROGRAM]);
        Self::of(prepared(command, &[&[("ODDSWIRE_PUBLISH_TOKEN", TOKEN)], environment].concat())).await
    }

    /// Changes the maximum size of the program's files: a number of bytes, or `unlimited`.
    pub fn limit_files_to(&self, bytes: &str) {
        let (process, limit) = (self.child.id().expect("it has not ended").to_string(), format!("--fsize={bytes}:"));
        let limited = std::process::Command::new("prlimit").args(["--pid", &process, &limit]).status();
        assert!(limited.expect("prlimit is installed").success());
    }

    async fn of(mut command: Command) -> Self {
        let names_engine = command.as_std().get_envs().any(|(name, _)| name == "ODDSWIRE_ENGINE");
        let directory = (engine() == EngineKind::Journal && !names_engine).then(Directory::new);
        if let Some(directory) = &directory {
            command.env("ODDSWIRE_ENGINE", "journal").env("ODDSWIRE_DATA_DIR", &directory.0);
            command.env("ODDSWIRE_SYNC", "interval:50");
        }
        let mut child = command.spawn().expect("the program starts");
        let (lines, log) = unbounded_channel();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await
                && lines.send(line).is_ok()
            {}
        });
        let mut process =
            Self { child, log, address: NOWHERE, admin: NOWHERE, text: String::new(), _directory: directory };
        let listening = process.event("server.listening").await;
        let address = |name: &str| listening[name].as_str().map_or(NOWHERE, |address| address.parse().unwrap());
        (process.address, process.admin) = (address("address"), address("admin"));
        process
    }

    /// Starts the program on a port that the system chooses, with a publish token.
    pub async fn serve(environment: Environment<'_>) -> Self {
        let common = [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
        Self::start(&[], &[&common, environment].concat()).await
    }

    /// Returns the next log record with this event. Skips all other records.
    pub async fn event(&mut self, event: &str) -> Value {
        loop {
            let line = within(self.log.recv()).await;
            let line = line.unwrap_or_else(|| panic!("no {event} in the log:\n{}", self.text));
            self.text.push_str(&line);
            self.text.push('\n');
            let record: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if record["event"] == event {
                return record;
            }
        }
    }

    /// How often an event occurs in the part of the log that the test has read.
    pub fn logged(&self, event: &str) -> usize {
        self.text.matches(&format!(r#""event":"{event}""#)).count()
    }

    /// The processor time that the program has used, with a resolution of 10 ms.
    pub fn processor_time(&self) -> Duration {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id().expect("it has not ended"))).unwrap();
        // Field 2 is the program's name, in parentheses. Fields 14 and 15 are user and system time, in ticks of 10 ms.
        let (_, after_name) = stat.rsplit_once(") ").expect("the name is in parentheses");
        let ticks = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// The program's resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it has not ended"))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux lists VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("it has not ended").to_string();
        let sent = std::process::Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill is installed").success());
    }

    /// Waits until the program ends.
    pub async fn end(mut self) -> Ended {
        while let Some(line) = within(self.log.recv()).await {
            self.text.push_str(&line);
            self.text.push('\n');
        }
        let mut stdout = String::new();
        within(self.child.stdout.take().unwrap().read_to_string(&mut stdout)).await.unwrap();
        let code = within(self.child.wait()).await.unwrap().code();
        Ended { code, stdout, stderr: self.text }
    }

    pub async fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        let request = reqwest::Client::new().post(format!("http://{}{path}", self.address)).bearer_auth(token);
        Answer::of(request.header("content-type", "application/json").body(body.to_owned())).await
    }

    /// Publishes a message with this token, and returns the status.
    pub async fn publish(&self, token: &str) -> u16 {
        self.post("/api/publish", token, r#"{"topic":"odds_updates","data":1}"#).await.status
    }
}

/// Asserts that the exit code is 2, and that standard error is a single line that contains these texts.
#[track_caller]
pub fn refused(ended: &Ended, says: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "expected one line: {}", ended.stderr);
    for part in says {
        assert!(ended.stderr.contains(part), "the line does not contain {part:?}: {}", ended.stderr);
    }
}

/// Writes a file with these contents, and returns its path.
pub fn temporary(name: &str, contents: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, contents).unwrap();
    path.into_os_string().into_string().unwrap()
}
