//! `oddswire replay`: publishes a recording in its order and at its pace.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::command::Running;
use crate::harness::program::Directory;
use crate::harness::{App, TOKEN, recorded};

const ENVIRONMENT: [(&str, &str); 1] = [("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];

fn arguments<'a>(url: &'a str, path: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "--url", url, path.to_str().unwrap()], more].concat()
}

/// A recording with a line for each pair: `at` and `data.seen_at`, in milliseconds after a fixed time.
fn recording(directory: &Directory, moments: &[(u64, u64)]) -> std::path::PathBuf {
    let mut lines = String::new();
    for (at, (moment, seen)) in moments.iter().enumerate() {
        let line = json!({"at": 1_743_511_672_980 + moment, "key": format!("{at}"), "data": {"seen_at": 1_743_511_672_980 + seen}});
        writeln!(lines, "{line}").unwrap();
    }
    let path = directory.0.join("recording.ndjson");
    std::fs::write(&path, lines).unwrap();
    path
}

#[tokio::test]
async fn replay_takes_the_recorded_time_divided_by_the_speed() {
    let (app, directory) = (App::start().await, Directory::new());
    let mut client = app.ws("topics=odds_updates").await;
    let path = recording(&directory, &[(0, 0), (2_000, 0), (2_000, 0), (8_000, 0)]);
    let url = app.url("");
    let began = Instant::now();
    let mut replay = Running::start(&arguments(&url, &path, &["--speed=10x", "--type=odds_update"]), &ENVIRONMENT);
    let mut arrived = Vec::new();
    for at in 0..4 {
        let message = client.expect("odds_update").await;
        assert_eq!(message["key"], at.to_string());
        arrived.push(began.elapsed());
    }
    // A message must not come early. On a busy machine it may come late.
    assert!(arrived[1] >= Duration::from_millis(200) && arrived[3] >= Duration::from_millis(800), "{arrived:?}");
    let summary = replay.line().await;
    assert!(summary.starts_with("4 messages published in ") && summary.contains("s late"), "{summary}");
    assert_eq!(replay.end().await.code, Some(0));
}

#[tokio::test]
async fn lines_are_sorted_by_seen_at_and_ties_keep_their_order() {
    let (app, directory) = (App::start().await, Directory::new());
    let path = recording(&directory, &[(0, 3_000), (1, 1_000), (2, 2_000), (3, 1_000)]);
    let url = app.url("");
    for (by, order) in [("at", ["0", "1", "2", "3"]), ("seen_at", ["1", "3", "2", "0"])] {
        let mut client = app.ws("topics=odds_updates").await;
        let ended = Running::run(&arguments(&url, &path, &["--speed=max", "--by", by]), &ENVIRONMENT).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let delete = (0..4).map(|at| json!({"topic": "odds_updates", "key": format!("{at}"), "data": null}));
        for key in order {
            assert_eq!(client.expect("odds_updates").await["key"], key, "by {by}");
        }
        // Delete the keys, because unchanged values would not be delivered in the second round.
        app.publish(&delete.collect::<Value>()).await;
    }
}

#[tokio::test]
async fn topic_and_type_of_a_line_win_and_tail_output_can_be_replayed() {
    let (app, directory) = (App::start().await, Directory::new());
    let path = directory.0.join("recording.ndjson");
    let lines = [
        r#"{"type":"connection_ack","topics":[],"timestamp":"2026-02-06T12:00:00.259Z","data":{"topics":[]}}"#,
        r#"{"type":"odds_update","topic":"odds_updates","id":"1-1","key":"1","timestamp":"2026-02-06T12:00:00.300Z","data":1}"#,
        r#"{"at":1,"topic":"scrape_progress","type":"PROGRESS","data":2}"#,
        r#"{"at":2,"key":"3","data":3}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let url = app.url("");
    let mut client = app.ws("topics=odds_updates,scrape_progress").await;
    let more = ["--speed=max", "--topic=odds_updates", "--type=other"];
    let ended = Running::run(&arguments(&url, &path, &more), &ENVIRONMENT).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("3 messages published in "), "{ended:?}");
    for (kind, topic, data) in
        [("odds_update", "odds_updates", 1), ("PROGRESS", "scrape_progress", 2), ("other", "odds_updates", 3)]
    {
        let message = client.expect(kind).await;
        assert_eq!((&message["topic"], &message["data"]), (&json!(topic), &json!(data)));
    }
}

#[tokio::test]
async fn recorded_odds_arrive_byte_for_byte() {
    const LINES: usize = 3_000;
    let (Some(path), directory) = (recorded("odds_updates.ndjson.gz"), Directory::new()) else { return };
    let mut text = String::new();
    let file = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    std::io::Read::read_to_string(&mut std::io::Read::take(file, 2 << 20), &mut text).unwrap();
    let lines: Vec<&str> = text.lines().take(LINES).collect();
    let some = directory.0.join("some.ndjson");
    std::fs::write(&some, lines.join("\n")).unwrap();
    let app = App::with(|config| {
        config.suppress_unchanged = false;
        // The client reads nothing until the command has published all messages, so the outbox must hold all of them.
        config.outbox_bytes = 64 << 20;
    })
    .await;
    let mut client = app.ws("topics=odds_updates").await;
    let url = app.url("");
    let ended = Running::run(&arguments(&url, &some, &["--speed=max"]), &ENVIRONMENT).await;
    assert!(ended.stdout.starts_with("3,000 messages published in "), "{ended:?}");
    for line in lines {
        let (_, data) = line.split_once(r#","data":"#).unwrap();
        let message = client.text().await;
        assert!(message.ends_with(&format!(r#","data":{data}"#)), "{message} for {line}");
    }
}

#[tokio::test]
async fn error_names_the_line_that_is_not_a_recording() {
    let (app, directory) = (App::start().await, Directory::new());
    let url = app.url("");
    let path = directory.0.join("recording.ndjson");
    for (by, line, says) in [
        ("at", r#"{"key":"1","data":1}"#, "line 2: invalid recorded message: missing field `at`"),
        ("at", r#"{"at":"yesterday","key":"1","data":1}"#, "line 2: invalid time in 'at'"),
        ("seen_at", r#"{"at":2,"key":"1","data":{"seen_at":"soon"}}"#, "line 2: invalid time in data.seen_at"),
        ("at", r#"{"at":2,"key":"1//2","data":1}"#, "line 2: the server answered 400: invalid key '1//2'"),
    ] {
        let first = r#"{"at":1,"key":"0","data":{"seen_at":1}}"#;
        std::fs::write(&path, format!("{first}\n{line}\n")).unwrap();
        let ended = Running::run(&arguments(&url, &path, &["--speed=1000x", "--by", by]), &ENVIRONMENT).await;
        ended.failed(1, &[says]);
    }
    for (more, says) in [(&["--speed=0x"][..], "10x"), (&["--by=now"], "seen_at"), (&["--topic=Odds"], "a-z")] {
        Running::run(&arguments(&url, &path, more), &ENVIRONMENT).await.failed(2, &[says]);
    }
}

#[tokio::test]
async fn progress_bar_counts_published_and_not_read_lines() {
    let (app, directory) = (App::start().await, Directory::new());
    let (url, path) = (app.url(""), directory.0.join("recording.ndjson"));
    // Two lines of the same length. The second is due an hour later, but the command has already read it.
    std::fs::write(&path, "{\"at\":1000000,\"key\":\"1\",\"data\":1}\n{\"at\":4600000,\"key\":\"1\",\"data\":2}\n")
        .unwrap();
    let Some(mut replay) = Running::in_terminal(&arguments(&url, &path, &[]), &ENVIRONMENT) else { return };
    replay.draws(" 50%  1 message,").await;
    replay.signal_inside("INT");
    let ended = replay.end().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("interrupted after 1 message published in "), "{ended:?}");
}
