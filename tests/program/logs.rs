//! The program's log: its events, its format, and the secrets that it must not contain.

use std::net::TcpListener;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::process::{Process, TOKEN, run};
use crate::harness::ws;

#[tokio::test]
async fn log_lines_are_json_objects_with_time_level_and_event() {
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
async fn connects_and_disconnects_are_logged_with_their_details() {
    let mut process = Process::serve(&[]).await;
    let client = ws::Client::connect(process.address, "topics=odds_updates/8301,scrape_progress").await;
    let connected = process.event("ws.connect").await;
    assert_eq!(connected["total_connections"], 1);
    assert!(connected["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{connected}");
    client.close().await;
    let gone = process.event("ws.disconnect").await;
    assert_eq!((&gone["total_connections"], &gone["messages"]), (&json!(0), &json!(0)), "{gone}");
    assert!(gone["reason"].is_string() && gone["duration"].is_f64(), "{gone}");
    assert!(gone["bytes"].as_u64().unwrap() > 100, "the bytes include the acknowledgement: {gone}");
    for topic in ["odds_updates/8301", "scrape_progress"] {
        assert!(connected["topics"].to_string().contains(topic), "ws.connect lists the topics: {connected}");
    }
}

#[tokio::test]
async fn log_contains_no_tokens_and_no_message_data() {
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
async fn log_does_not_quote_a_body_that_is_only_a_string() {
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
async fn log_level_and_format_follow_the_settings() {
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
async fn unknown_variable_is_logged_as_a_warning_with_its_name() {
    let environment =
        [("ODDSWIRE_LISTEN", "127.0.0.1:0"), ("ODDSWIRE_LISTN", "marmalade"), ("ODDSWIRE_", "1"), ("ODDS", "1")];
    // The server knows the variables of the other commands, so it logs no warning about them.
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
    assert!(!log.contains("marmalade"), "the value is not logged, since it may be a secret: {log}");
}

#[tokio::test]
async fn unknown_query_parameters_cause_one_warning() {
    let mut process = Process::serve(&[]).await;
    let _socket = ws::Client::connect(process.address, "topic=odds_updates&x=1").await;
    let warning = process.event("ws.unknown_parameter").await;
    assert_eq!((&warning["level"], &warning["parameters"]), (&json!("WARNING"), &json!("topic, x")));
    let (_events, _) = crate::harness::get::get(process.address, "/api/sse?topic=odds_updates", &[]).await;
    assert_eq!(process.event("sse.unknown_parameter").await["parameters"], "topic");
    assert_eq!(process.logged("ws.unknown_parameter"), 1);
}
