//! The program itself: how it starts, what it logs, how it ends, and what it says to settings that it cannot use.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::CommandFactory as _;
use oddswire::config::{Cli, EngineKind};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::program::Directory;
use crate::harness::{Answer, engine, within, ws};

const PROGRAM: &str = env!("CARGO_BIN_EXE_oddswire");

pub type Environment<'a> = &'a [(&'a str, &'a str)];

pub const TOKEN: &str = "sesame-4711";

/// Until it is known.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// The program with exactly these arguments and variables; on a port that the system chooses where they name none, so
/// that a start that should have been refused takes no fixed one.
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

/// What a program that ended left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end.
pub async fn run(arguments: &[&str], environment: Environment<'_>) -> Ended {
    let output = within(program(arguments, environment).output()).await.expect("the program starts");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Ended { code: output.status.code(), stdout, stderr }
}

/// A running server.
pub struct Process {
    child: Child,
    /// Read as it comes, so that the program never waits for a test that is busy with something else.
    log: UnboundedReceiver<String>,
    pub address: SocketAddr,
    /// Metrics, health and connections.
    pub admin: SocketAddr,
    /// Its whole log so far.
    text: String,
    /// Where its engine keeps what it has to.
    _directory: Option<Directory>,
}

impl Process {
    /// Starts the program and waits until it listens.
    pub async fn start(arguments: &[&str], environment: Environment<'_>) -> Self {
        Self::of(program(arguments, environment)).await
    }

    /// With a token, and at most that many open files.
    pub async fn with_files(most: usize, environment: Environment<'_>) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\""), PROGRAM]);
        Self::of(prepared(command, &[&[("ODDSWIRE_PUBLISH_TOKEN", TOKEN)], environment].concat())).await
    }

    /// With a token; no file of it may be longer than so many bytes, or `unlimited`, and writing on is an error like any
    /// other.
    pub async fn with_files_of(bytes: &str, environment: Environment<'_>) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("trap '' XFSZ && exec prlimit --fsize={bytes}: \"$0\""), PROGRAM]);
        Self::of(prepared(command, &[&[("ODDSWIRE_PUBLISH_TOKEN", TOKEN)], environment].concat())).await
    }

    /// From here on no file of it may be longer; how many bytes, or `unlimited`.
    pub fn limit_files_to(&self, bytes: &str) {
        let (process, limit) = (self.child.id().expect("it runs").to_string(), format!("--fsize={bytes}:"));
        let limited = std::process::Command::new("prlimit").args(["--pid", &process, &limit]).status();
        assert!(limited.expect("prlimit is there").success());
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

    /// On a port that the system chooses, with a token.
    pub async fn serve(environment: Environment<'_>) -> Self {
        let common = [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
        Self::start(&[], &[&common, environment].concat()).await
    }

    /// The next record with this event, past all others.
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

    /// How often an event stands in what was read of its log.
    pub fn logged(&self, event: &str) -> usize {
        self.text.matches(&format!(r#""event":"{event}""#)).count()
    }

    /// The processor time that it has used, to the hundredth of a second.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id().expect("it runs"))).unwrap();
        // The second field is the name, in parentheses; the 14th and 15th are user and system time in ticks of 10 ms.
        let (_, behind_name) = stat.rsplit_once(") ").expect("the kernel says it");
        let ticks = behind_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it runs"))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end.
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

    /// Publishes with this token; the status.
    pub async fn publish(&self, token: &str) -> u16 {
        self.post("/api/publish", token, r#"{"topic":"odds_updates","data":1}"#).await.status
    }
}

// Start and end.

#[tokio::test]
async fn sigterm_and_sigint_drain_and_end_with_0() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::serve(&[]).await;
        let mut client = ws::Client::connect(process.address, "").await;
        process.signal(signal);
        assert_eq!(u16::from(client.closed().await.expect("a close frame with a code").code), 1001, "{signal}");
        assert_eq!(process.event("server.draining").await["connections"], 1);
        drop(client);
        let ended = process.end().await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn serve_is_what_happens_without_a_command() {
    let process = Process::start(&["serve", "--listen=127.0.0.1:0", "--publish-token=flag"], &[]).await;
    assert_eq!(process.publish("flag").await, 200);
    let environment = [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
    for arguments in [&["serve"][..], &[]] {
        let process = Process::start(arguments, &environment).await;
        assert_eq!(process.publish(TOKEN).await, 200, "{arguments:?}");
        process.signal("TERM");
        assert_eq!(process.end().await.code, Some(0));
    }
}

#[tokio::test]
async fn a_flag_counts_more_than_its_variable() {
    let environment = [("ODDSWIRE_LISTEN", "no address"), ("ODDSWIRE_PUBLISH_TOKEN", "variable")];
    for command in [&[][..], &["serve"]] {
        let arguments = [command, &["--listen=127.0.0.1:0", "--publish-token=flag"]].concat();
        let process = Process::start(&arguments, &environment).await;
        assert_eq!((process.publish("variable").await, process.publish("flag").await), (401, 200), "{command:?}");
    }
}

#[tokio::test]
async fn an_address_in_use_ends_the_start_with_1_and_names_it_and_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, says) in [
        (["--listen", &address, "--admin-listen", "off"], "set listen to"),
        (["--listen", "127.0.0.1:0", "--admin-listen", &address], "set admin-listen to another address and port, or"),
    ] {
        let ended = run(&arguments, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        let failed: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&failed["event"], &failed["level"]), (&json!("server.failed"), &json!("ERROR")));
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("in use") && error.contains(says), "{error}");
        assert_eq!(error.matches(&address).count(), 1, "{error}");
    }
}

// The log.

#[tokio::test]
async fn every_log_line_is_an_object_with_time_level_and_event_first() {
    let mut process = Process::serve(&[("ODDSWIRE_LOG_LEVEL", "debug")]).await;
    let client = ws::Client::connect(process.address, "topics=odds_updates/8301,scrape_progress").await;
    let connected = process.event("ws.connect").await;
    assert_eq!(connected["connection"], client.ack["data"]["connection"]);
    client.close().await;
    assert_eq!(process.event("ws.disconnect").await["connection"], connected["connection"]);
    assert_eq!(process.publish("wrong").await, 401);
    assert_eq!(process.event("publish.rejected").await["code"], "unauthorized");
    process.signal("TERM");
    let log = process.end().await.stderr;
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(line.starts_with(r#"{"ts":"#), "{line}");
        let ts = record["ts"].as_str().expect("a time");
        assert!(ts.len() == "2026-02-06T12:00:00.123Z".len() && ts.ends_with('Z'), "{line}");
        assert!(["ERROR", "WARNING", "INFO", "DEBUG"].contains(&record["level"].as_str().expect("a level")), "{line}");
        assert!(!record["event"].as_str().expect("an event").contains(' '), "{line}");
    }
    for event in ["ws_manager_ready", "server.listening", "server.draining"] {
        assert!(log.contains(&format!(r#""event":"{event}""#)), "{event}: {log}");
    }
}

#[tokio::test]
async fn connecting_and_disconnecting_are_logged_with_what_an_operator_asks_for() {
    let mut process = Process::serve(&[]).await;
    let client = ws::Client::connect(process.address, "topics=odds_updates/8301,scrape_progress").await;
    let connected = process.event("ws.connect").await;
    assert_eq!(connected["total_connections"], 1);
    assert!(connected["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{connected}");
    client.close().await;
    let gone = process.event("ws.disconnect").await;
    assert_eq!((&gone["total_connections"], &gone["messages"]), (&json!(0), &json!(0)), "{gone}");
    assert!(gone["reason"].is_string() && gone["duration"].is_f64(), "{gone}");
    assert!(gone["bytes"].as_u64().unwrap() > 100, "the acknowledgement: {gone}");
    for topic in ["odds_updates/8301", "scrape_progress"] {
        assert!(connected["topics"].to_string().contains(topic), "ws.connect says the topics: {connected}");
    }
}

#[tokio::test]
async fn tokens_and_data_stand_nowhere_in_the_log() {
    const DATA: &str = "marmalade";
    let mut process = Process::serve(&[("ODDSWIRE_LOG_LEVEL", "debug")]).await;
    let mut client = ws::Client::connect(process.address, &format!("token={TOKEN}")).await;
    let sent = [
        (200, "/api/publish", TOKEN, r#"{"topic":"odds_updates","key":"a","data":"marmalade"}"#),
        (200, "/api/broadcast", TOKEN, r#"{"type":"notice","data":"marmalade"}"#),
        (401, "/api/publish", "wrong-secret", r#"{"topic":"odds_updates","data":"marmalade"}"#),
        (400, "/api/publish", TOKEN, r#"{"topic":"foo","data":"marmalade"}"#),
        (400, "/api/publish", TOKEN, r#"{"topic":"odds_updates","data":"marmalade","more":1}"#),
        (400, "/api/publish", TOKEN, r#"{"topic":"odds_updates","data":"marmalade"#),
        (400, "/api/publish", TOKEN, r#"{"data":"marmalade"}"#),
        (400, "/api/broadcast", TOKEN, r#"{"data":"marmalade"}"#),
    ];
    for (status, path, token, body) in sent {
        assert_eq!(process.post(path, token, body).await.status, status, "{body}");
    }
    client.send(DATA).await;
    client.send(r#"{"type":"dance","data":"marmalade"}"#).await;
    client.send(r#"{"type":"subscribe","topics":["odds_updates"],"data":"marmalade","since":7}"#).await;
    client.send_frame(Message::Binary(DATA.as_bytes().to_vec().into())).await;
    client.close().await;
    for event in ["publish.rejected", "ws.malformed_message", "ws.unknown_message_type", "ws.disconnect"] {
        process.event(event).await;
    }
    process.signal("TERM");
    let log = process.end().await.stderr;
    for secret in [TOKEN, "wrong-secret", DATA] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn a_message_that_is_only_a_string_is_not_quoted_in_the_log() {
    let process = Process::serve(&[]).await;
    for body in [r#""marmalade""#, r#"["marmalade"]"#] {
        assert_eq!(process.post("/api/publish", TOKEN, body).await.status, 400);
    }
    assert_eq!(process.post("/api/broadcast", TOKEN, r#""marmalade""#).await.status, 400);
    process.signal("TERM");
    let log = process.end().await.stderr;
    assert!(log.contains("publish.rejected") && !log.contains("marmalade"), "{log}");
}

#[tokio::test]
async fn the_log_level_and_format_are_those_of_the_settings() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let events = async |arguments: &[&str]| {
        let ended = run(&[arguments, &["--listen", &address]].concat(), &[("ODDSWIRE_LISTN", "7")]).await;
        ended.stderr
    };
    let lines = |log: &str| log.lines().count();
    assert_eq!(lines(&events(&["--log-level=error"]).await), 1);
    assert_eq!(lines(&events(&["--log-level=warn"]).await), 2);
    let term = events(&["--log-level=error", "--log-format=term"]).await;
    assert!(serde_json::from_str::<Value>(&term).is_err() && term.contains("server.failed"), "{term}");
    let json = events(&["--log-level=error", "--log-format=json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["event"], "server.failed");
}

#[tokio::test]
async fn a_variable_that_is_no_setting_is_a_warning_that_names_it() {
    let environment =
        [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_LISTN", "marmalade"), ("ODDSWIRE_", "1"), ("ODDS", "1")];
    // Those of other commands are settings too.
    let of_commands = [("ODDSWIRE_URL", "http://localhost"), ("ODDSWIRE_TOKEN", "1"), ("ODDSWIRE_ADMIN_URL", "1")];
    let environment = [&environment[..], &of_commands].concat();
    let mut process = Process::start(&[], &environment).await;
    process.signal("TERM");
    process.event("server.draining").await;
    let log = process.end().await.stderr;
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<Value> = records.filter(|record| record["event"] == "config.unknown_variable").collect();
    let mut names: Vec<&str> = warnings.iter().map(|record| record["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["ODDSWIRE_", "ODDSWIRE_LISTN"]);
    assert!(warnings.iter().all(|record| record["level"] == "WARNING"), "{log}");
    assert!(!log.contains("marmalade"), "what it holds may be a secret: {log}");
}

// Settings.

/// What is refused: one line on standard error that says all of these, and exit code 2.
#[track_caller]
pub fn refused(ended: &Ended, says: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "one line: {}", ended.stderr);
    for part in says {
        assert!(ended.stderr.contains(part), "the line does not say {part:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_bad_value_ends_the_start_with_2_and_one_line_that_says_what_is_allowed() {
    let long_topic = "t".repeat(65);
    let cases = [
        ("listen", "8000", "an address and a port"),
        ("listen", "localhost:8000", "127.0.0.1:8000"),
        ("listen", "127.0.0.1:65536", "an address and a port"),
        ("topics", "odds,Odds", "1 to 64 bytes of a-z, 0-9 and _"),
        ("topics", "odds,,progress", "1 to 64 bytes"),
        ("topics", &long_topic, "1 to 64 bytes"),
        ("topics", "a\nb", "1 to 64 bytes"),
        ("log-format", "xml", "auto, term, json"),
        ("log-level", "loud", "error, warn, info, debug"),
        ("history-messages", "10000001", "from 0 to 10000000"),
        ("history-messages", "many", "from 0 to 10000000"),
        ("state-keys", "0", "from 1 to 10000000"),
        ("state-keys", "-1", "from 1 to 10000000"),
        ("history-bytes", "8 apples", "such as 16KiB or 8MiB"),
        ("outbox-bytes", "1023", "from 1.0 KiB to 1.0 GiB"),
        ("memory-budget", "1023", "from 1.0 KiB to 1.0 TiB"),
        ("memory-budget", "1048575", "not be less than outbox-bytes, which is 1048576 bytes"),
        ("publish-message-bytes", "63", "from 64 B to 1.0 GiB"),
        ("publish-batch-messages", "0", "from 1 to 1000000"),
        ("publish-batch-messages", "1000001", "from 1 to 1000000"),
        ("client-message-bytes", "17MiB", "from 125 B to 16.0 MiB"),
        ("history-age", "1", "such as 250ms, 30s or 1h"),
        ("write-timeout", "99ms", "from 100ms to 1h"),
        ("write-timeout", "3601s", "from 100ms to 1h"),
        ("drain-timeout", "soon", "from 1ms to 1h"),
        ("suppress-unchanged", "perhaps", "true, false"),
        ("idle-timeout", "25s", "more than ping-interval, which is 25s"),
        ("publish-body-bytes", "64KiB", "more than publish-message-bytes, which is 65536 bytes"),
        ("publish-token-file", "/nowhere/token", "No such file"),
    ];
    for (setting, value, allowed) in cases {
        let shown = value.lines().next().unwrap();
        let shown = if setting == "publish-body-bytes" { "65536" } else { shown };
        let says = [setting, shown, allowed];
        refused(&run(&[&format!("--{setting}={value}")], &[]).await, &says);
        let variable = format!("ODDSWIRE_{}", setting.to_uppercase().replace('-', "_"));
        refused(&run(&[], &[(&variable, value)]).await, &says);
        refused(&run(&["serve"], &[(&variable, value)]).await, &says);
    }
}

#[tokio::test]
async fn the_last_allowed_values_are_allowed() {
    let arguments = [
        "--listen=127.0.0.1:0",
        "--state-keys=1",
        "--history-messages=0",
        "--history-bytes=0",
        "--outbox-bytes=1024",
        "--memory-budget=1024",
        "--client-message-bytes=125B",
        "--publish-message-bytes=64",
        "--publish-body-bytes=1KiB",
        "--publish-batch-messages=1000000",
        "--write-timeout=1h",
        "--ping-interval=100ms",
        "--idle-timeout=101ms",
        "--history-age=30days",
        "--drain-timeout=1ms",
        "--sse-comment-interval=3600s",
        "--suppress-unchanged=false",
        "--topics= odds , progress ",
    ];
    let process = Process::start(&arguments, &[]).await;
    process.signal("TERM");
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test]
async fn an_empty_value_or_an_unknown_flag_is_refused_in_one_line() {
    for name in ["LISTEN", "TOPICS", "PUBLISH_TOKEN", "HISTORY_MESSAGES", "OUTBOX_BYTES", "WRITE_TIMEOUT", "LOG_LEVEL"]
    {
        let variable = format!("ODDSWIRE_{name}");
        let flag = name.to_lowercase().replace('_', "-");
        refused(&run(&[], &[(&variable, "")]).await, &[&flag]);
        refused(&run(&[&format!("--{flag}=")], &[]).await, &[&flag]);
    }
    refused(&run(&["--lissten=127.0.0.1:0"], &[]).await, &["'--lissten'", "--listen"]);
    refused(&run(&["servee"], &[]).await, &["'servee'", "serve"]);
    refused(&run(&["health", "--timeout=0s"], &[]).await, &["timeout", "0s", "from 1ms to 1m"]);
}

#[tokio::test]
async fn a_token_is_refused_without_being_shown() {
    for secret in ["mar malade", "märmalade", "mar\nmalade"] {
        for ended in [
            run(&["--publish-token", secret], &[]).await,
            run(&[], &[("ODDSWIRE_PUBLISH_TOKEN", secret)]).await,
            run(&["serve"], &[("ODDSWIRE_PUBLISH_TOKEN", secret)]).await,
        ] {
            refused(&ended, &["publish-token", "visible ASCII characters without spaces"]);
            assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
        }
    }
}

pub fn temporary(name: &str, contents: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, contents).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[tokio::test]
async fn the_token_can_stand_in_a_file() {
    let file = temporary("token", "  sesame-4711\r\n");
    let process = Process::start(&["--listen=127.0.0.1:0", "--publish-token-file", &file], &[]).await;
    assert_eq!((process.publish(TOKEN).await, process.publish("wrong").await), (200, 401));

    let both = [("ODDSWIRE_PUBLISH_TOKEN_FILE", file.as_str()), ("ODDSWIRE_PUBLISH_TOKEN", "another")];
    refused(&run(&[], &both).await, &["publish-token-file", &file, "'default' stands twice"]);
    std::fs::remove_file(&file).unwrap();
    refused(&run(&[], &both[..1]).await, &["publish-token-file", &file, "No such file"]);
}

#[tokio::test]
async fn a_file_that_holds_no_token_is_refused_without_being_shown() {
    for (name, contents, reason) in [
        ("empty", "\n", "it has no publisher"),
        ("two", "marmalade\nsecond\n", "line 2: the name 'default' stands twice"),
        ("spaces", "mar malade", "line 1: expected 1 or more visible ASCII characters without spaces"),
    ] {
        let file = temporary(name, contents);
        let ended = run(&["--publish-token-file", &file], &[]).await;
        refused(&ended, &["publish-token-file", &file, reason]);
        assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn help_names_every_setting_with_its_variable_and_shows_no_secret() {
    let secret = [("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
    for arguments in [&["--help"][..], &["-h"], &["serve", "--help"]] {
        let ended = run(arguments, &secret).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(!ended.stdout.contains(TOKEN));
        let text = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = Cli::command();
        let settings: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        assert!(settings.contains(&"listen") && settings.len() > 15);
        // What is done once is no setting: a variable would do it at every start.
        assert!(text.contains("--reset-data") && !text.contains("ODDSWIRE_RESET_DATA"));
        for setting in settings.into_iter().filter(|name| !["help", "version", "reset-data"].contains(name)) {
            let variable = format!("[env: ODDSWIRE_{}", setting.to_uppercase().replace('-', "_"));
            assert!(text.contains(&format!("--{setting} <")), "{setting}: {text}");
            assert!(text.contains(&variable), "{variable}: {text}");
        }
    }
}

#[tokio::test]
async fn version_names_the_program_and_its_version() {
    for flag in ["--version", "-V"] {
        let ended = run(&[flag], &[]).await;
        let expected = format!("oddswire {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((ended.code, ended.stdout, ended.stderr), (Some(0), expected, String::new()));
    }
}

// Health.

#[tokio::test]
async fn health_is_0_where_a_server_runs() {
    let process = Process::serve(&[]).await;
    let address = process.address.to_string();
    let everywhere = format!("0.0.0.0:{}", process.address.port());
    for ended in [
        run(&["health", "--timeout=60s", "--listen", &address], &[]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address)]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &everywhere)]).await,
        run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address), ("ODDSWIRE_PUBLISH_TOKEN", TOKEN)]).await,
    ] {
        assert_eq!((ended.code, ended.stdout, ended.stderr), (Some(0), String::new(), String::new()));
    }
}

#[tokio::test]
async fn health_is_1_and_one_line_where_no_server_runs() {
    // Bound and not listening: nobody else gets the port, and nobody answers.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let nobody = run(&["health", "--timeout=60s"], &[("ODDSWIRE_LISTEN", &address)]).await;
    assert!(nobody.stderr.contains(&format!("cannot connect to {address}")), "{}", nobody.stderr);

    // Connects, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let silence = run(&["health", "--timeout=100ms", "--listen", &address], &[]).await;
    assert!(silence.stderr.contains(&format!("{address} did not answer within 100ms")), "{}", silence.stderr);
    for ended in [nobody, silence] {
        assert_eq!((ended.code, ended.stderr.lines().count(), ended.stdout.as_str()), (Some(1), 1, ""));
    }
}

#[tokio::test]
async fn health_is_1_where_the_answer_is_not_200_or_no_http() {
    for (answer, says) in [("HTTP/1.1 503 Sorry\r\ncontent-length: 0\r\n\r\n", "503"), ("220 smtp\r\n", "not answer")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let arguments = ["health", "--timeout=60s", "--listen", &address];
        let serving = async {
            let (mut stream, _) = within(listener.accept()).await.unwrap();
            let mut request = [0; 1024];
            assert!(within(stream.read(&mut request)).await.unwrap() > 0);
            within(stream.write_all(answer.as_bytes())).await.unwrap();
            stream
        };
        let (_open, ended) = tokio::join!(serving, run(&arguments, &[]));
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
        assert!(ended.stderr.contains(says) && ended.stderr.contains(&address), "{}", ended.stderr);
    }
}
