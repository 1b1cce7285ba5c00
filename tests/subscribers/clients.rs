//! Installed clients that people use: the Python package `websockets`, websocat and curl.

use std::ffi::OsString;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::client::Program;
use crate::harness::program::skip;
use crate::harness::{App, TOKEN, within};

/// The Python interpreter, if it has the package `websockets`.
async fn python() -> Option<OsString> {
    let python = std::env::var_os("TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(&python);
    command.args(["-c", "import websockets"]).stderr(Stdio::null()).kill_on_drop(true);
    let has_it = within(command.status()).await.is_ok_and(|status| status.success());
    if has_it { Some(python) } else { skip("the Python package websockets") }
}

#[tokio::test]
async fn python_package_websockets_works_as_the_contract_says() {
    let Some(python) = python().await else { return };
    let app = App::start().await;
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/websockets_client.py"));
    command.args([&format!("ws://{}/api/ws", app.address), &app.url(""), TOKEN]).kill_on_drop(true);
    let output = within(command.output()).await.expect("the interpreter starts");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stdout.lines().last(), Some("ok: a normal close is answered with code 1000"), "{stdout}");
    app.connections(0).await;
}

#[tokio::test]
async fn websocat_prints_the_acknowledgement_and_exits() {
    let app = App::start().await;
    let url = format!("ws://{}/api/ws?topics=odds_updates/8301", app.address);
    let Some(websocat) = Program::start("websocat", &["-U1", &url]) else { return };
    let (code, ack) = websocat.end().await;
    let ack: Value = serde_json::from_str(&ack).unwrap();
    assert_eq!(
        (code, &ack["type"], &ack["topics"][0]),
        (Some(0), &"connection_ack".into(), &"odds_updates/8301".into())
    );
    app.connections(0).await;
}

#[tokio::test]
async fn websocat_sends_lines_and_prints_messages() {
    let app = App::start().await;
    let url = format!("ws://{}/api/ws", app.address);
    let Some(mut websocat) = Program::start("websocat", &[&url]) else { return };
    assert_eq!(websocat.json("").await["type"], "connection_ack");
    websocat.send("{\"type\":\"ping\"}\n").await;
    assert_eq!(websocat.json("").await["type"], "pong");
    websocat.send("{\"type\":\"unsubscribe\",\"topics\":[\"scrape_progress\"]}\n").await;
    assert_eq!(websocat.json("").await["type"], "subscription_update");
    let answer = app.odds("8301/1x2/betpawa", 1.5).await;
    let message = websocat.json("").await;
    assert_eq!((&message["id"], &message["data"]), (&answer["position"], &1.5.into()));
    assert_eq!(websocat.end().await, (Some(0), String::new()));
    app.connections(0).await;
}

#[tokio::test]
async fn curl_prints_events_immediately() {
    let app = App::start().await;
    let Some(mut curl) = Program::curl(&app, "/api/sse?topics=odds_updates", &["--no-buffer"]) else { return };
    assert!(curl.line().await.starts_with("retry: "));
    assert_eq!(curl.line().await, format!("id: {}", app.manager.position()));
    assert_eq!(curl.json("data: ").await["type"], "connection_ack");
    assert_eq!(curl.line().await, "");
    for data in [1.5, 1.75] {
        app.odds("8301/1x2/betpawa", data).await;
        assert_eq!(curl.line().await, format!("id: {}", app.manager.position()));
        assert_eq!(curl.json("data: ").await["data"], data);
        assert_eq!(curl.line().await, "");
    }
    drop(curl);
    app.connections(0).await;
}

#[tokio::test]
async fn curl_publishes_objects_and_lines_of_any_allowed_size() {
    let app = App::start().await;
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let with = |content_type: &str| ["-H", &authorization, "-H", content_type].map(str::to_owned);
    let line = format!("{{\"topic\":\"odds_updates\",\"data\":\"{}\"}}\n", "x".repeat(1000));
    let cases = [
        ("Content-Type: application/json", r#"{"topic":"odds_updates","data":{"a":1}}"#.to_owned(), 1),
        ("Content-Type: application/x-ndjson", line.repeat(3), 3),
        // Above 1 MiB curl sends `Expect: 100-continue`.
        ("Content-Type: application/x-ndjson", line.repeat(2000), 2000),
    ];
    for (content_type, body, accepted) in cases {
        let headers = with(content_type);
        let arguments = [&headers.each_ref().map(String::as_str)[..], &["--data-binary", "@-"]].concat();
        let Some(mut curl) = Program::curl(&app, "/api/publish", &arguments) else { return };
        curl.send(&body).await;
        let (code, answer) = curl.end().await;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        assert_eq!((code, &answer["accepted"]), (Some(0), &accepted.into()), "{answer}");
    }
}

#[tokio::test]
async fn curl_gets_the_error_for_a_body_that_is_too_large() {
    let app = App::start().await;
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let headers = ["-H", &authorization, "-H", "Content-Type: application/x-ndjson"];
    for more in [&["--data-binary", "@-"][..], &["--data-binary", "@-", "-H", "Expect:"]] {
        let Some(mut curl) = Program::curl(&app, "/api/publish", &[&headers, more].concat()) else { return };
        curl.send(&" ".repeat((8 << 20) + 1)).await;
        let (_, answer) = curl.end().await;
        assert!(answer.contains("body_too_large") && answer.contains("publish-body-bytes"), "{more:?}: {answer:?}");
    }
}
