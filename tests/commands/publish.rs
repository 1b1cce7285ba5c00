//! `oddswire publish`: publishes every line of a file once, or says at which line it stopped.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::harness::command::Running;
use crate::harness::link::{Flow, Link};
use crate::harness::process::{self, Process};
use crate::harness::program::{Directory, Port};
use crate::harness::{App, TOKEN, within, ws};

const ENVIRONMENT: [(&str, &str); 1] = [("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];

/// A file of this many messages without key and topic. The data of each message is its number.
fn numbers(directory: &Directory, count: usize) -> PathBuf {
    let lines: Vec<String> = (1..=count).map(|number| format!("{{\"data\":{number}}}\n")).collect();
    file(directory, "numbers.ndjson", lines.concat().as_bytes())
}

fn file(directory: &Directory, name: &str, contents: &[u8]) -> PathBuf {
    let path = directory.0.join(name);
    std::fs::write(&path, contents).unwrap();
    path
}

fn arguments<'a>(url: &'a str, path: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["publish", "--topic=odds_updates", "--url", url, path.to_str().unwrap()], more].concat()
}

/// Reads messages, and checks that their data are these numbers in order.
async fn expect(client: &mut ws::Client, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        assert_eq!(client.expect("odds_updates").await["data"], number);
    }
}

#[tokio::test]
async fn file_is_published_completely_and_in_order() {
    let (app, directory) = (App::start().await, Directory::new());
    let mut client = app.ws("topics=odds_updates").await;
    let url = app.url("");
    let path = numbers(&directory, 1_234);
    let ended = Running::run(&arguments(&url, &path, &[]), &ENVIRONMENT).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("1,234 messages published in "), "{}", ended.stdout);
    expect(&mut client, 1..=1_234).await;

    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&std::fs::read(&path).unwrap()).unwrap();
    let path = file(&directory, "numbers.ndjson.gz", &gzip.finish().unwrap());
    let ended = Running::run(&arguments(&url, &path, &["--from-line=1001"]), &ENVIRONMENT).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    expect(&mut client, 1_001..=1_234).await;
}

#[tokio::test]
async fn byte_order_mark_at_the_start_of_a_file_is_ignored() {
    let (app, directory) = (App::start().await, Directory::new());
    let mut client = app.ws("topics=odds_updates").await;
    let url = app.url("");
    let path = file(&directory, "marked.ndjson", "\u{feff}{\"data\":1}\n{\"data\":2}\n".as_bytes());
    let ended = Running::run(&arguments(&url, &path, &[]), &ENVIRONMENT).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    expect(&mut client, 1..=2).await;
}

#[tokio::test]
async fn lines_from_a_pipe_are_published_before_the_pipe_ends() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    let url = app.url("");
    let mut publish = Running::start(&arguments(&url, Path::new("-"), &[]), &ENVIRONMENT);
    for number in 1..=3 {
        let line = format!("\n{{\"data\":{number}}}\n");
        publish.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
        expect(&mut client, number..=number).await;
    }
    publish.stdin = None;
    let ended = publish.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("3 messages published"), "{ended:?}");
}

#[tokio::test]
async fn error_names_the_bad_line_and_earlier_lines_are_published() {
    let (app, directory) = (App::start().await, Directory::new());
    let url = app.url("");
    for (bad, says) in [
        ("{\"data\":1", "line 4: not JSON"),
        ("[]", "line 4: expected a JSON object"),
        ("{\"topic\":\"nowhere\",\"data\":1}", "line 4: the server answered 400: no such topic: 'nowhere'"),
        ("{\"data\":null}", "line 4: the server answered 400: 'data' is null"),
        ("\u{1b}", "line 4: expected a JSON object"),
    ] {
        let lines = format!("{{\"data\":1}}\n\n{{\"data\":2}}\n{bad}\n{{\"data\":3}}\n");
        let path = file(&directory, "lines.ndjson", lines.as_bytes());
        let ended = Running::run(&arguments(&url, &path, &["--batch-messages=2"]), &ENVIRONMENT).await;
        ended.failed(1, &[says, "lines up to 3 are published; continue with --from-line 4"]);
        assert_eq!((ended.stderr.lines().count(), ended.stdout.as_str()), (1, ""), "{ended:?}");
    }
    let path = file(&directory, "bytes.ndjson", b"{\"data\":1}\n{\"data\":\"\xff\"}\n");
    Running::run(&arguments(&url, &path, &[]), &ENVIRONMENT).await.failed(1, &["line 2: invalid UTF-8 at byte 9"]);
    let path = file(&directory, "nameless.ndjson", b"{\"data\":1}\n");
    let nameless = ["publish", "--url", &url, path.to_str().unwrap()];
    Running::run(&nameless, &ENVIRONMENT)
        .await
        .failed(1, &["line 1: the line names no 'topic': set --topic", "nothing was published"]);
}

#[tokio::test]
async fn oversized_batch_is_halved_and_oversized_message_is_an_error() {
    let app = App::with(|config| {
        config.publish_body_bytes = 2_000;
        config.publish_message_bytes = 500;
    })
    .await;
    let directory = Directory::new();
    let mut client = app.ws("topics=odds_updates").await;
    let url = app.url("");
    let path = numbers(&directory, 1_000);
    let ended = Running::run(&arguments(&url, &path, &[]), &ENVIRONMENT).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    expect(&mut client, 1..=1_000).await;
    let long = format!("{{\"data\":1}}\n{{\"data\":\"{}\"}}\n", "x".repeat(600));
    let path = file(&directory, "long.ndjson", long.as_bytes());
    let ended = Running::run(&arguments(&url, &path, &["--batch-messages=1"]), &ENVIRONMENT).await;
    ended.failed(1, &["line 2: the server answered 413", "publish-message-bytes", "--from-line 2"]);
}

#[tokio::test]
async fn publish_retries_after_503_until_all_lines_are_accepted() {
    let (data, directory) = (Directory::new(), Directory::new());
    let environment = [
        ("ODDSWIRE_ENGINE", "journal"),
        ("ODDSWIRE_DATA_DIR", data.0.to_str().unwrap()),
        // The client reads nothing until the command has published all messages, so the outbox must hold all of them.
        ("ODDSWIRE_OUTBOX_BYTES", "64MiB"),
    ];
    let mut server = Process::with_files_of("unlimited", &environment).await;
    server.limit_files_to("4000000");
    let text = "x".repeat(50_000);
    let lines: Vec<String> = (1..=200).map(|number| format!("{{\"data\":[{number},\"{text}\"]}}\n")).collect();
    let path = file(&directory, "long.ndjson", lines.concat().as_bytes());
    let mut client = ws::Client::connect(server.address, "topics=odds_updates").await;
    let url = server.url("");
    let arguments = arguments(&url, &path, &["--batch-messages=5"]);
    let mut publish = Running::start(&arguments, &[("ODDSWIRE_PUBLISH_TOKEN", process::TOKEN)]);
    let said = publish.says("retrying for up to 5m").await;
    assert!(said.starts_with("oddswire: the server answered 503: "), "{said}");
    server.limit_files_to("unlimited");
    publish.says("the server takes messages again").await;
    let ended = publish.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("200 messages published in "), "{ended:?}");
    for number in 1..=200 {
        assert_eq!(client.expect("odds_updates").await["data"][0], number, "each message comes once and in order");
    }
    server.event("journal.recovered").await;
}

#[tokio::test]
async fn cut_connection_does_not_duplicate_messages() {
    let (app, directory) = (App::with(|config| config.outbox_bytes = 64 << 20).await, Directory::new());
    let link = Link::to(app.address).await;
    let url = format!("http://{}", link.address);
    let path = numbers(&directory, 30_000);
    let mut client = app.ws("topics=odds_updates").await;
    let mut publish = Running::start(&arguments(&url, &path, &["--batch-messages=20"]), &ENVIRONMENT);
    for until in [2_000, 4_000, 6_000] {
        expect(&mut client, until - 1_999..=until).await;
        link.set(Flow::Cut);
        publish.says("retrying for up to 5m").await;
        link.set(Flow::Open);
    }
    expect(&mut client, 6_001..=30_000).await;
    assert_eq!(publish.end().await.code, Some(0));
    client.nothing_came().await;
}

#[tokio::test]
async fn lost_state_of_the_server_is_reported_with_exit_code_1() {
    let port = Port::free();
    let listen = port.address.to_string();
    let settings = [("ODDSWIRE_LISTEN", listen.as_str()), ("ODDSWIRE_PUBLISH_TOKEN", process::TOKEN)];
    let settings = [&settings[..], &[("ODDSWIRE_ENGINE", "memory"), ("ODDSWIRE_DRAIN_SPREAD", "0s")]].concat();
    let url = format!("http://{listen}");
    for (command, line) in [("publish", r#"{"data":1}"#), ("replay", r#"{"at":1,"data":1}"#)] {
        let server = Process::start(&[], &settings).await;
        let mut client = ws::Client::connect(server.address, "topics=odds_updates").await;
        let arguments = [command, "--topic=odds_updates", "--url", &url, "--token", process::TOKEN, "-"];
        let mut publish = Running::start(&arguments, &[]);
        let mut input = publish.stdin.take().unwrap();
        for _ in 1..=2 {
            input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            client.expect("odds_updates").await;
        }
        // The server answers the pending request before it ends.
        server.stop().await;
        let server = Process::start(&[], &settings).await;
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        publish.says("the server restarted without its messages: those before line 3 are lost").await;
        drop(input);
        let ended = publish.end().await;
        assert!(ended.stdout.starts_with("3 messages published in "), "{command}: {ended:?}");
        ended.failed(1, &["the server restarted without its messages: those before line 3 are lost"]);
        server.stop().await;
    }
}

#[tokio::test]
async fn killed_run_resumes_and_does_not_duplicate_messages() {
    // Limit the requests per second, so that the run is still in progress when it is killed.
    let app = App::with(|config| config.publishes_per_second = 5).await;
    let directory = Directory::new();
    let (path, progress) = (numbers(&directory, 200), directory.0.join("progress.json"));
    let url = app.url("");
    let remember = ["--batch-messages=10", "--progress", progress.to_str().unwrap()];
    let arguments = arguments(&url, &path, &remember);
    let mut client = app.ws("topics=odds_updates").await;

    let mut publish = Running::start(&arguments, &ENVIRONMENT);
    publish.says("429: ").await;
    publish.signal("KILL");
    assert_eq!(publish.end().await.code, None);
    // Simulate a kill after the server accepted a batch and before the command saved the progress of that batch.
    let kept = std::fs::read_to_string(&progress).unwrap();
    let mut kept: Value = serde_json::from_str(&kept).unwrap();
    let reached = kept["line"].as_u64().unwrap();
    assert!((10..200).contains(&reached), "{kept}");
    kept["line"] = (reached - 10).into();
    std::fs::write(&progress, kept.to_string()).unwrap();

    let mut other = arguments.clone();
    other.push("--batch-bytes=2KiB");
    Running::run(&other, &ENVIRONMENT)
        .await
        .failed(2, &["it was started with --topic odds_updates --batch-messages 10"]);
    let ended = Running::run(&arguments, &ENVIRONMENT).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    expect(&mut client, 1..=200).await;
    client.nothing_came().await;
    assert!(!progress.exists(), "a completed run removes the progress file");
}

#[tokio::test]
async fn progress_of_another_server_or_changed_file_is_refused() {
    let app = App::with(|config| config.publishes_per_second = 1).await;
    let directory = Directory::new();
    let (path, progress) = (numbers(&directory, 100), directory.0.join("progress.json"));
    let remember = ["--batch-messages=10", "--progress", progress.to_str().unwrap()];
    let (url, other) = (app.url(""), format!("{}/other", app.url("")));
    let mut publish = Running::start(&arguments(&url, &path, &remember), &ENVIRONMENT);
    publish.says("429: ").await;
    publish.signal("INT");
    publish.end().await.failed(1, &["continue with --progress"]);
    let kept = std::fs::read_to_string(&progress).unwrap();

    let ended = Running::run(&arguments(&other, &path, &remember), &ENVIRONMENT).await;
    ended.failed(
        1,
        &["it belongs to http://", "/other: continue with --url", "or remove the progress file to start over"],
    );
    numbers(&directory, 5);
    let ended = Running::run(&arguments(&url, &path, &remember), &ENVIRONMENT).await;
    ended.failed(1, &["numbers.ndjson has changed: it was ", "now it is 55 bytes of ", "or remove the progress file"]);
    assert_eq!(std::fs::read_to_string(&progress).unwrap(), kept, "a refused run does not change the progress file");
}

#[tokio::test]
async fn from_line_beyond_the_end_of_the_file_is_refused() {
    let (app, directory) = (App::start().await, Directory::new());
    let (url, path) = (app.url(""), numbers(&directory, 3));
    let ended = Running::run(&arguments(&url, &path, &["--from-line=99999"]), &ENVIRONMENT).await;
    ended.failed(2, &["there is no line 99999 to continue from: the file has 3 lines"]);
    assert_eq!(ended.stdout, "");
    // `--from-line` may name the line after the last one. A run that was interrupted at the end has nothing left to
    // publish.
    let ended = Running::run(&arguments(&url, &path, &["--from-line=4"]), &ENVIRONMENT).await;
    assert_eq!((ended.code, ended.stdout.starts_with("0 messages published")), (Some(0), true), "{ended:?}");
}

#[tokio::test]
async fn interrupted_run_names_the_line_to_continue_from() {
    let app = App::with(|config| config.publishes_per_second = 1).await;
    let directory = Directory::new();
    let path = numbers(&directory, 100);
    let url = app.url("");
    let mut publish = Running::start(&arguments(&url, &path, &["--batch-messages=10"]), &ENVIRONMENT);
    publish.says("429: ").await;
    publish.signal("INT");
    let ended = publish.end().await;
    ended.failed(1, &["interrupted; lines up to ", "are published; continue with --from-line "]);
}

#[tokio::test]
async fn publish_gives_up_after_retry_for() {
    let directory = Directory::new();
    let path = numbers(&directory, 10);
    let link = Link::to("127.0.0.1:1".parse().unwrap()).await;
    let url = format!("http://{}", link.address);
    let ended = Running::run(&arguments(&url, &path, &["--retry-for=300ms"]), &ENVIRONMENT).await;
    ended.failed(
        1,
        &["gave up after 0.", " s, because --retry-for is 300ms: ", "nothing was published", "--from-line 1"],
    );
}

#[tokio::test]
async fn publish_without_a_server_reports_retries_at_once() {
    let directory = Directory::new();
    let path = numbers(&directory, 10);
    let says = "nothing listens on http://127.0.0.1:1: start a server with 'oddswire serve', or set --url";
    let ended = Running::run(&arguments("http://127.0.0.1:1", &path, &["--retry-for=1s"]), &ENVIRONMENT).await;
    assert_eq!(ended.stderr.lines().next().unwrap(), format!("oddswire: {says}; retrying for up to 1s"));
    ended.failed(1, &[says, "gave up after"]);
}

#[tokio::test]
async fn invalid_arguments_exit_with_2_and_a_wrong_token_with_1() {
    let (app, directory) = (App::start().await, Directory::new());
    let url = app.url("");
    let path = numbers(&directory, 1);
    let progress = file(&directory, "progress", b"marmalade");
    let progress = progress.to_str().unwrap();
    Running::run(&arguments(&url, &path, &[]), &[]).await.failed(2, &["ODDSWIRE_PUBLISH_TOKEN", "--token-file"]);
    for (more, says) in [
        (&["--batch-messages=0"][..], "--batch-messages"),
        (&["--batch-bytes=1"], "--batch-bytes"),
        (&["--from-line=0"], "--from-line"),
        (&["--from-line=2", "--progress=x"], "--progress"),
        (&["--progress", progress], "not a progress file of oddswire"),
        (&["--token-file=/nowhere"], "/nowhere"),
    ] {
        Running::run(&arguments(&url, &path, more), &ENVIRONMENT).await.failed(2, &[says]);
    }
    Running::run(&arguments(&url, Path::new("/nowhere"), &[]), &ENVIRONMENT).await.failed(2, &["/nowhere"]);
    let token = file(&directory, "token", b"marmalade\n");
    let token = ["--token-file", token.to_str().unwrap()];
    let ended = Running::run(&arguments(&url, &path, &token), &ENVIRONMENT).await;
    ended.failed(1, &["401: ", "nothing was published"]);
    assert!(!ended.stderr.contains("marmalade"), "{ended:?}");
    let token = file(&directory, "token", format!("{TOKEN}\n").as_bytes());
    let token = ["--token-file", token.to_str().unwrap()];
    assert_eq!(Running::run(&arguments(&url, &path, &token), &[]).await.code, Some(0));
}

#[tokio::test]
async fn terminal_shows_a_bar_with_rate_and_time_left() {
    let app = App::with(|config| config.publishes_per_second = 2).await;
    let directory = Directory::new();
    let path = numbers(&directory, 100);
    let url = app.url("");
    let started = Running::in_terminal(&arguments(&url, &path, &["--batch-messages=15"]), &ENVIRONMENT);
    let Some(mut publish) = started else { return };
    // The progress bar overwrites its own line, so everything before the summary counts as one line.
    let mut shown = String::new();
    while !shown.contains("messages published") {
        shown += &publish.line().await;
    }
    for part in ["%", "messages, ", "/s", "ETA "] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
}

#[tokio::test]
async fn file_without_messages_is_reported_as_empty() {
    let app = App::start().await;
    let directory = Directory::new();
    for contents in ["", "\n  \n"] {
        let path = file(&directory, "empty.ndjson", contents.as_bytes());
        let ended = Running::run(&arguments(&app.url(""), &path, &[]), &ENVIRONMENT).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.starts_with("0 messages published in "), "{ended:?}");
        assert!(ended.stdout.contains("; the file has no messages"), "{ended:?}");
    }
}

#[tokio::test]
async fn exit_code_is_2_even_if_standard_error_is_closed() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_oddswire"));
    command.args(["publish", "no-such-file", "--token", "token"]).env_clear().kill_on_drop(true).stderr(writer);
    assert_eq!(within(command.status()).await.unwrap().code(), Some(2));
}
