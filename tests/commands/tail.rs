//! `oddswire tail`: output to terminals and pipes, and reconnects after restarts and cut connections.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use oddswire::config::{Config, EngineKind};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::command::Running;
use crate::harness::link::{Flow, Link};
use crate::harness::process::{self, Process};
use crate::harness::program::{Directory, Port};
use crate::harness::redis::{Certificates, Redis};
use crate::harness::tls::Tls;
use crate::harness::{self, App, jwt, within};

fn tail(address: SocketAddr, arguments: &[&str]) -> Running {
    Running::start(&[&["tail", &format!("http://{address}")], arguments].concat(), &[])
}

/// The next published message in the output of `oddswire tail`, which prints JSON.
async fn published(tail: &mut Running) -> Value {
    loop {
        let message: Value = serde_json::from_str(&tail.line().await).unwrap();
        if message.get("id").is_some() {
            return message;
        }
    }
}

#[tokio::test]
async fn every_message_comes_once_across_server_restarts() {
    let (directory, port) = (Directory::new(), Port::free());
    let listen = port.address.to_string();
    let settings = [
        ("ODDSWIRE_LISTEN", listen.as_str()),
        ("ODDSWIRE_PUBLISH_TOKEN", process::TOKEN),
        ("ODDSWIRE_ENGINE", "journal"),
        ("ODDSWIRE_DATA_DIR", directory.0.to_str().unwrap()),
        ("ODDSWIRE_DRAIN_SPREAD", "0s"),
    ];
    let mut server = Process::start(&[], &settings).await;
    let mut tail = tail(port.address, &["--json"]);
    tail.says("connected to").await;
    for round in 0..3 {
        server.odds(&format!("{round}/live"), round).await;
        assert_eq!(published(&mut tail).await["key"], format!("{round}/live"));
        server.stop().await;
        tail.says("retrying in ").await;
        server = Process::start(&[], &settings).await;
        // Tail may reconnect before or after this publish.
        server.odds(&format!("{round}/away"), round).await;
        assert_eq!(published(&mut tail).await["key"], format!("{round}/away"));
        tail.says("connected again").await;
    }
    tail.signal("INT");
    let ended = tail.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("6 messages over 4 connections; continue with --since "), "{ended:?}");
}

#[tokio::test]
async fn tail_resumes_after_a_cut_and_after_a_silent_connection() {
    let app = App::start().await;
    let link = Link::to(app.address).await;
    let mut tail = tail(link.address, &["--json", "--idle-timeout=1s"]);
    tail.says("connected to").await;
    app.odds("1", 1).await;
    assert_eq!(published(&mut tail).await["key"], "1");

    link.set(Flow::Cut);
    tail.says("retrying in ").await;
    app.odds("2", 2).await;
    link.set(Flow::Open);
    assert_eq!(published(&mut tail).await["key"], "2");

    link.set(Flow::Stalled);
    tail.says("no data from the server for 1s").await;
    app.odds("3", 3).await;
    // The stalled bytes belong to a connection that tail no longer uses, so drop them.
    link.set(Flow::Cut);
    link.set(Flow::Open);
    assert_eq!(published(&mut tail).await["key"], "3");
    app.odds("4", 4).await;
    assert_eq!(published(&mut tail).await["key"], "4");
}

#[tokio::test]
async fn tail_moves_to_the_next_server_before_the_old_one_closes() {
    const MESSAGES: usize = 300;
    let Some(redis) = Redis::start().await else { return };
    let shared = |config: &mut Config| {
        config.engine = EngineKind::Redis;
        config.redis_url = Some(redis.url().parse().unwrap());
    };
    let (last, next) = (App::with(shared).await, App::with(shared).await);
    let link = Link::to(last.address).await;
    let mut tail = tail(link.address, &["--json"]);
    tail.says("connected to").await;
    // At first no server listens at the new address, so tail keeps its old connection.
    let unused = Port::free();
    link.lead_to(unused.address);
    // Only announce the drain. The announced delay of this connection is zero, but the server does not close it.
    assert_eq!(last.manager.announce_drain(Duration::ZERO).len(), 1);
    tail.says("the server is shutting down").await;
    last.odds("0", 0).await;
    assert_eq!(published(&mut tail).await["key"], "0");
    let publishing = async {
        for number in 1..=MESSAGES {
            if number == MESSAGES / 3 {
                link.lead_to(next.address);
            }
            last.odds(&number.to_string(), number).await;
        }
        next.connections(1).await;
        next.odds("end", "end").await;
    };
    let reading = async {
        for number in 1..=MESSAGES {
            assert_eq!(published(&mut tail).await["key"], number.to_string());
        }
        assert_eq!(published(&mut tail).await["key"], "end");
    };
    tokio::join!(publishing, reading);
    last.connections(0).await;
    tail.says("connected again").await;
    tail.signal("INT");
    let ended = tail.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("302 messages over 2 connections; continue with --since "), "{ended:?}");
}

#[tokio::test]
async fn broadcast_during_a_move_to_the_next_server_is_printed_once() {
    let Some(redis) = Redis::start().await else { return };
    let shared = |config: &mut Config| {
        config.engine = EngineKind::Redis;
        config.redis_url = Some(redis.url().parse().unwrap());
    };
    let (last, next) = (App::with(shared).await, App::with(shared).await);
    let (link, held) = (Link::to(last.address).await, Link::to(next.address).await);
    held.set(Flow::Unanswered);
    let mut tail = tail(link.address, &["--json"]);
    tail.says("connected to").await;
    link.lead_to(held.address);
    last.manager.announce_drain(Duration::ZERO);
    // Tail is connected to the next server, but has not received the response of that server yet.
    next.connections(1).await;
    let broadcast = async |data: &str| {
        let notice = json!({"type": "notice", "data": data}).to_string();
        assert_eq!(last.post("/api/broadcast", "application/json", notice).await.status, 200);
    };
    broadcast("both").await;
    tail.shows("both").await;
    held.set(Flow::Open);
    tail.says("connected again").await;
    broadcast("after").await;
    loop {
        let told = tail.line().await;
        assert!(!told.contains("both"), "the broadcast was printed before");
        if told.contains("after") {
            break;
        }
    }
}

#[tokio::test]
async fn old_server_may_close_before_the_next_connection_is_open() {
    let (last, next) = (App::start().await, App::start().await);
    let (link, held) = (Link::to(last.address).await, Link::to(next.address).await);
    held.set(Flow::Unanswered);
    let mut tail = tail(link.address, &["--json"]);
    tail.says("connected to").await;
    link.lead_to(held.address);
    last.manager.announce_drain(Duration::ZERO);
    next.connections(1).await;
    last.stop().await;
    let said = tail.says("the server closed the connection").await;
    assert!(said.ends_with("already reconnecting"), "{said}");
    held.set(Flow::Open);
    tail.says("connected again").await;
    next.odds("1", 1).await;
    assert_eq!(published(&mut tail).await["key"], "1");
    tail.signal("INT");
    let ended = tail.end().await;
    assert!(ended.stderr.contains("1 message over 2 connections"), "{ended:?}");
    next.connections(0).await;
}

#[tokio::test]
async fn restart_that_loses_state_is_reported_as_a_gap_or_snapshot() {
    let port = Port::free();
    let listen = port.address.to_string();
    let settings = [
        ("ODDSWIRE_LISTEN", listen.as_str()),
        ("ODDSWIRE_PUBLISH_TOKEN", process::TOKEN),
        ("ODDSWIRE_ENGINE", "memory"),
    ];
    let server = Process::start(&["--drain-spread=0s"], &settings).await;
    let mut tail = tail(port.address, &["--topic=scrape_progress,odds_updates"]);
    tail.says("connected to").await;
    server.take(&json!({"topic": "scrape_progress", "data": {"phase": "starting"}})).await;
    tail.shows("phase starting").await;
    server.stop().await;
    let _server = Process::start(&[], &settings).await;
    let told = tail.shows("scrape_progress").await;
    assert!(told.contains("GAP") || told.contains("the whole state"), "{told}");
    assert!(told.contains("an unknown number"), "{told}");
    tail.shows("live from").await;
}

#[tokio::test]
async fn json_lines_equal_the_server_messages_byte_for_byte() {
    let app = App::start().await;
    let mut client = app.ws("topics=odds_updates").await;
    let mut tail = tail(app.address, &["--json", "--topic", "odds_updates"]);
    assert!(tail.line().await.starts_with(r#"{"type":"connection_ack","#));
    for data in [r#"{ "b" :1.50,"a": "ö\u001b[2J" }"#, "{\n  \"c\": [1,\n2]\r\n}", "1e2", r#""""#] {
        let body = format!(r#"{{"topic":"odds_updates","key":"1","data":{data}}}"#);
        assert_eq!(app.post("/api/publish", "application/json", body).await.status, 200);
        let sent = client.text().await.replace(['\n', '\r'], " ");
        assert_eq!(tail.line().await, sent.as_str());
    }
}

#[tokio::test]
async fn tls_needs_a_certificate_that_the_system_trusts() {
    let Some(certificates) = Certificates::new() else { return };
    let app = App::start().await;
    let tls = Tls::to(app.address, &certificates).await;
    let url = format!("wss://{}", tls.address);
    let trusted =
        [("SSL_CERT_FILE", certificates.path("ca.crt")), ("ODDSWIRE_PUBLISH_TOKEN", harness::TOKEN.to_owned())];
    let trusted: Vec<_> = trusted.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut tail = Running::start(&["tail", "--url", &url, "--json"], &trusted);
    tail.says(&format!("connected to https://{}", tls.address)).await;
    let mut publish = Running::start(&["publish", "--url", &url.replace("wss", "https"), "-"], &trusted);
    let line = "{\"topic\":\"odds_updates\",\"data\":\"sealed\"}\n";
    publish.stdin.take().unwrap().write_all(line.as_bytes()).await.unwrap();
    assert_eq!(published(&mut tail).await["data"], "sealed");
    assert_eq!(publish.end().await.code, Some(0));

    let mut stranger = Running::start(&["tail", &url], &[("SSL_CERT_FILE", &certificates.path("other.crt"))]);
    let said = stranger.says("retrying in ").await;
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn url_with_the_wrong_scheme_exits_with_1_and_the_right_url() {
    let Some(certificates) = Certificates::new() else { return };
    let app = App::start().await;
    let tls = Tls::to(app.address, &certificates).await;
    let ca = certificates.path("ca.crt");
    let trusted = [("SSL_CERT_FILE", ca.as_str()), ("ODDSWIRE_PUBLISH_TOKEN", harness::TOKEN)];
    for (scheme, other, address, lacks) in [
        ("https", "http", app.address, "does not speak TLS"),
        ("http", "https", tls.address, "does not speak plain HTTP"),
    ] {
        let [wrong, right] = [scheme, other].map(|scheme| format!("{scheme}://{address}"));
        let says = [&format!("{wrong}: the server there {lacks}; try {right}")[..]];
        for arguments in [vec!["tail", &wrong], vec!["top", "--once", &wrong], vec!["publish", "-", "--url", &wrong]] {
            let mut running = Running::start(&arguments, &trusted);
            let line = "{\"topic\":\"odds_updates\",\"data\":1}\n";
            // `tail` and `top` do not read their input, and may have ended already.
            let _: std::io::Result<()> = running.stdin.take().unwrap().write_all(line.as_bytes()).await;
            running.end().await.failed(1, &says);
        }
    }
}

#[tokio::test]
async fn permanent_refusal_exits_with_1_and_the_reason() {
    let app = App::with(|config| {
        jwt::required(config);
        config.subscriptions_per_connection = 1;
    })
    .await;
    let url = format!("ws://{}", app.address);
    let narrow = jwt::token(&jwt::claims(&["odds_updates/8301"]));
    let token = jwt::expiring(600);
    for (environment, arguments, says) in [
        (None, &[][..], &["401: ", "token"][..]),
        (Some("marmalade"), &[], &["401: "]),
        (Some(narrow.as_str()), &["--topic=odds_updates"], &["403: ", "odds_updates"]),
        (Some(token.as_str()), &["--topic=odds_updates", "--topic=scrape_progress"], &["400: ", "subscriptions"]),
    ] {
        let environment: Vec<_> = environment.iter().map(|token| ("ODDSWIRE_TOKEN", *token)).collect();
        let ended = Running::run(&[&["tail", &url], arguments].concat(), &environment).await;
        ended.failed(1, says);
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(!ended.stderr.contains("marmalade"), "{ended:?}");
    }
    let mut tail = Running::start(&["tail", &url, "--token", &token, "--topic", "odds_updates"], &[]);
    tail.says("connected to").await;
}

#[tokio::test]
async fn only_unknown_topics_exit_with_1_and_the_known_topics() {
    let app = App::start().await;
    for more in [&[][..], &["--json"], &["--since=snapshot"]] {
        let mut arguments = vec!["tail", "--topic=nope,odds"];
        let url = app.url("");
        arguments.extend([&[url.as_str()], more].concat());
        let ended = Running::run(&arguments, &[]).await;
        ended.failed(1, &["no such topic: 'nope', 'odds'; the topics are: "]);
    }
    let mut some = tail(app.address, &["--topic=nope,odds_updates"]);
    some.shows("no such topic: 'nope'").await;
    app.odds("1", 1).await;
    some.shows("odds_updates").await;
}

#[tokio::test]
async fn expired_token_exits_with_1_and_the_reason_of_the_server() {
    let app = App::with(jwt::required).await;
    // The server allows 30 s of clock skew. That leaves 6 s for the program to start.
    let token = jwt::expiring(-24);
    let mut tail = tail(app.address, &["--token", &token]);
    tail.says("connected to").await;
    tail.says("4401: token has expired").await;
    tail.end().await.failed(1, &["401: "]);
}

#[tokio::test]
async fn closed_standard_output_exits_with_0_even_without_messages() {
    let app = App::start().await;
    let mut tail = tail(app.address, &[]);
    tail.says("connected to").await;
    tail.stop_reading();
    let ended = tail.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    app.connections(0).await;
}

#[tokio::test]
async fn full_disk_exits_with_1_even_without_further_messages() {
    let app = App::start().await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_oddswire"));
    command.args(["tail", &app.url(""), "--json"]).env_clear().kill_on_drop(true).stdout(full);
    let tail = command.stderr(Stdio::piped()).spawn().unwrap();
    let ended = within(tail.wait_with_output()).await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("oddswire: cannot write: No space left"), "{said}");
}

#[tokio::test]
async fn interrupt_ends_tail_even_if_its_output_is_blocked() {
    let app = App::start().await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_oddswire"));
    command.args(["tail", &app.url(""), "--json"]).env_clear().kill_on_drop(true);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    app.connections(1).await;
    // Send more than the pipe and tail's own queue can hold.
    for at in 0..1_000 {
        app.odds(&format!("{at}"), "x".repeat(2_000)).await;
    }
    let id = tail.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    assert_eq!(within(tail.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn readable_lines_are_coloured_and_cut_only_in_a_terminal() {
    let app = App::start().await;
    let url = format!("http://{}", app.address);
    let mut piped = Running::start(&["tail", &url], &[("TERM", "xterm-256color")]);
    let Some(mut shown) = Running::in_terminal(&["tail", &url], &[]) else { return };
    let Some(mut plain) = Running::in_terminal(&["tail", &url], &[("NO_COLOR", "1")]) else { return };
    app.connections(3).await;
    let long = "x".repeat(200);
    for home in [1.85, 1.9] {
        app.odds("8301/1x2/betpawa", json!({"home": home, "name": long})).await;
    }
    // Search for the price with its name, because the time at the start of the line may contain the same digits.
    let line = piped.shows("home 1.9").await;
    assert!(line.contains("odds_updates  8301/1x2/betpawa  home 1.9▲  name xxx") && line.contains(&long), "{line}");
    assert!(!line.contains('\x1b'), "{line}");
    let line = plain.shows("home 1.9").await;
    assert!(line.ends_with("xx…") && line.chars().count() == 100 && !line.contains('\x1b'), "{line}");
    let line = shown.shows("1.9▲").await;
    assert!(line.contains("\x1b[32m1.9▲\x1b[0m") && line.contains('…'), "{line}");
}

#[tokio::test]
async fn invalid_arguments_exit_with_2() {
    for (arguments, says) in [
        (&["tail", "localhost:8000"][..], &["localhost:8000", "http://127.0.0.1:8000"][..]),
        (&["tail", "--topic=Odds!"], &["Odds!", "a-z"]),
        (&["tail", "--since=yesterday"], &["yesterday", "snapshot"]),
        (&["tail", "ws://localhost/api/ws?topics=a"], &["query"]),
        (&["tail", "--idle-timeout=5"], &["--idle-timeout"]),
        (&["tail", "--json", "--full"], &["--full"]),
    ] {
        Running::run(arguments, &[]).await.failed(2, says);
    }
    for arguments in [&["tail", "--token", "marma lade"][..], &["tail", "http://me:marmalade@localhost"]] {
        let ended = Running::run(arguments, &[]).await;
        ended.failed(2, &[]);
        assert!(!ended.stderr.contains("lade"), "{ended:?}");
    }
}
