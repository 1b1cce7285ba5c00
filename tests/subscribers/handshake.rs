//! The opening handshake: accepted and refused requests, and bytes that are not a valid request.

use std::time::Duration;

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::contract;
use crate::harness::raw::{HANDSHAKE, Raw, Response, frame};
use crate::harness::{Answer, App, within};

/// The handshake with one header replaced by `lines`, or removed if `lines` is empty.
fn handshake_with(name: &str, lines: &str) -> String {
    let of_another = |line: &&str| !line.split(':').next().unwrap().eq_ignore_ascii_case(name);
    let kept: String = HANDSHAKE.trim_end().split_inclusive("\r\n").filter(of_another).collect();
    format!("{}\r\n{lines}\r\n", kept.trim_end())
}

/// The handshake with another query string.
fn handshake_for(query: &str) -> String {
    HANDSHAKE.replace("/api/ws", &format!("/api/ws?{query}"))
}

async fn ask(app: &App, request: &str) -> Response {
    let mut raw = Raw::connect(app.address).await;
    raw.send(request.as_bytes()).await;
    raw.response().await
}

#[tokio::test]
async fn plain_get_gets_426_with_the_required_upgrade() {
    let app = App::start().await;
    let answer = app.get("/api/ws").await;
    assert_eq!((answer.status, answer.code()), (426, "upgrade_required"));
    assert_eq!(answer.header("upgrade"), "websocket");
    assert!(answer.header("connection").eq_ignore_ascii_case("upgrade"), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.detail().contains("Upgrade: websocket"), "{answer:?}");
}

#[tokio::test]
async fn accept_value_matches_the_example_in_the_rfc() {
    let app = App::start().await;
    let response = ask(&app, HANDSHAKE).await;
    assert_eq!(response.status, 101);
    assert_eq!(response.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.header("upgrade"), "websocket");
    assert!(response.header("connection").eq_ignore_ascii_case("upgrade"));
    assert_eq!(response.header("sec-websocket-extensions"), "", "no extension is negotiated");
}

#[tokio::test]
async fn connection_and_upgrade_are_case_insensitive_lists() {
    let app = App::start().await;
    let accepted = [
        ("Connection", "Connection: keep-alive, Upgrade\r\n"),
        ("Connection", "connection: UPGRADE\r\n"),
        ("Connection", "Connection: upgrade ,keep-alive\r\n"),
        ("Connection", "Connection: keep-alive\r\nConnection: Upgrade\r\n"),
        ("Upgrade", "Upgrade: WebSocket\r\n"),
        ("Upgrade", "UPGRADE: WEBSOCKET\r\n"),
        ("Upgrade", "Upgrade: h2c, websocket\r\n"),
    ];
    for (name, lines) in accepted {
        let mut raw = Raw::connect(app.address).await;
        raw.send(handshake_with(name, lines).as_bytes()).await;
        raw.accepted().await;
    }
}

#[tokio::test]
async fn missing_or_wrong_header_is_refused_and_connection_stays_open() {
    let app = App::start().await;
    let refused = [
        ("Upgrade", "", 426, "Upgrade: websocket"),
        ("Upgrade", "Upgrade: h2c\r\n", 426, "Upgrade: websocket"),
        ("Upgrade", "Upgrade: websockets\r\n", 426, "Upgrade: websocket"),
        ("Connection", "", 426, "Connection: Upgrade"),
        ("Connection", "Connection: keep-alive\r\n", 426, "Connection: Upgrade"),
        ("Connection", "Connection: upgraded\r\n", 426, "Connection: Upgrade"),
        ("Sec-WebSocket-Version", "", 426, "must be 13"),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8\r\n", 426, "must be 13"),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 14\r\n", 426, "must be 13"),
        ("Sec-WebSocket-Key", "", 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key:\r\n", 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1\r\n", 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc=\r\n", 400, "16 bytes in base64"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!! not base64 !!!!!!==\r\n", 400, "16 bytes in base64"),
    ];
    let mut raw = Raw::connect(app.address).await;
    for (name, lines, status, rule) in refused {
        raw.send(handshake_with(name, lines).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, status, "{lines:?}: {response:?}");
        assert!(response.detail().contains(rule), "{lines:?}: {response:?}");
        if status == 426 {
            assert_eq!(response.header("upgrade"), "websocket", "{lines:?}");
        }
        let supported = if name == "Sec-WebSocket-Version" { "13" } else { "" };
        assert_eq!(response.header("sec-websocket-version"), supported, "{lines:?}");
    }
    assert!(app.manager.is_empty());
    raw.shake_hands().await;
}

#[tokio::test]
async fn other_methods_get_405_with_the_allowed_method() {
    let app = App::start().await;
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = Answer::of(app.request(method.clone(), "/api/ws")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET"), "{method}");
        assert_eq!(answer.code(), "method_not_allowed", "{method}");
    }
    let post = ask(&app, &HANDSHAKE.replacen("GET", "POST", 1)).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET"), "a handshake is a GET");
}

#[tokio::test]
async fn invalid_query_is_refused_with_the_broken_rule() {
    let app = App::start().await;
    let (topic, key) = ("t".repeat(65), "k".repeat(257));
    let refused = [
        ("topics=Odds".to_owned(), "1 to 64 bytes of a-z, 0-9 and _"),
        ("topics=odds-updates".to_owned(), "1 to 64 bytes of a-z, 0-9 and _"),
        ("topics=odds_updates,%FF".to_owned(), "1 to 64 bytes of a-z, 0-9 and _"),
        (format!("topics={topic}"), "1 to 64 bytes of a-z, 0-9 and _"),
        (format!("topics=odds_updates/{key}"), "1 to 256 bytes"),
        ("topics=odds_updates/".to_owned(), "it is empty"),
        ("topics=odds_updates//1x2".to_owned(), "empty segment"),
        ("topics=odds_updates/8301/".to_owned(), "empty segment"),
        ("topics=odds_updates/a%0Ab".to_owned(), "control character"),
        ("since=yesterday".to_owned(), "since: invalid position 'yesterday'"),
        ("since=42".to_owned(), "since: invalid position '42'"),
        ("since=1763849000000-".to_owned(), "since: invalid position '1763849000000-'"),
        ("since=1763849000000--1".to_owned(), "since: invalid position '1763849000000--1'"),
        ("conflate_ms=60001".to_owned(), "from 0 to 60000"),
        ("conflate_ms=-1".to_owned(), "from 0 to 60000"),
        ("conflate_ms=soon".to_owned(), "from 0 to 60000"),
    ];
    for (query, rule) in refused {
        let response = ask(&app, &handshake_for(&query)).await;
        assert_eq!((response.status, &response.body["error"]["code"]), (400, &"bad_request".into()), "{query}");
        assert!(response.detail().contains(rule), "{query}: {response:?}");
        assert!(response.detail().len() < 400, "the error is short: {response:?}");
    }
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn longest_topic_key_and_conflation_window_are_accepted() {
    let app = App::start().await;
    let (topic, key) = ("t".repeat(64), "k".repeat(256));
    let mut client = app.ws(&format!("topics={topic}")).await;
    assert_eq!(client.expect("error").await["data"]["code"], "unknown_topic");
    let client = app.ws(&format!("topics=odds_updates/{key}&conflate_ms=60000")).await;
    assert_eq!(client.ack["topics"][0], format!("odds_updates/{key}"));
    assert_eq!(client.ack["data"]["conflate_ms"], 60_000);
}

#[tokio::test]
async fn frames_in_the_same_segment_as_the_handshake_are_handled() {
    let app = App::start().await;
    let mut raw = Raw::connect(app.address).await;
    let mut bytes = HANDSHAKE.as_bytes().to_vec();
    bytes.extend(frame(0x89, b"early"));
    bytes.extend(frame(0x81, format!(r#"{{"type":"ping"{}}}"#, " ".repeat(2000)).as_bytes()));
    // Send only the first 9 bytes of the last frame now, and the rest later.
    let last = frame(0x81, br#"{"type":"subscribe","topics":[]}"#);
    bytes.extend_from_slice(&last[..9]);
    raw.send(&bytes).await;
    raw.accepted().await;
    let pong = raw.frame().await.unwrap();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (0xa, &b"early"[..]));
    assert!(raw.frame().await.unwrap().payload.starts_with(br#"{"type":"pong""#));
    raw.send(&last[9..]).await;
    assert!(raw.frame().await.unwrap().payload.starts_with(br#"{"type":"subscription_update""#));
}

#[tokio::test]
async fn handshake_in_pieces_after_another_request_is_accepted() {
    let app = App::start().await;
    let mut other = Raw::websocket(app.address).await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    for byte in HANDSHAKE.as_bytes() {
        raw.send(&[*byte]).await;
        other.turn().await;
    }
    raw.accepted().await;
}

#[tokio::test]
async fn http_1_0_is_answered_but_cannot_be_upgraded() {
    let app = App::start().await;
    let health = ask(&app, "GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!((health.status, &health.body["status"]), (200, &"ok".into()));
    let response = ask(&app, &HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert_eq!(response.status, 400);
    assert!(response.detail().contains("HTTP/1.1"), "{response:?}");
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn incomplete_handshake_is_closed_while_others_are_served() {
    let app = App::with(|config| config.header_timeout = Duration::from_secs(1)).await;
    let mut client = app.ws("").await;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut waiting = Vec::new();
    for begun in ["", "G", &HANDSHAKE[..60], &HANDSHAKE[..HANDSHAKE.len() - 2], request] {
        let mut raw = Raw::connect(app.address).await;
        raw.send(begun.as_bytes()).await;
        waiting.push((begun, raw));
        client.nothing_came().await;
    }
    for (begun, mut raw) in waiting {
        if begun == request {
            assert_eq!(raw.response().await.status, 200, "a complete request is answered");
        }
        assert_eq!(raw.rest().await, b"", "{begun:?}");
        client.nothing_came().await;
    }
    app.connections(1).await;
}

#[tokio::test]
async fn handshake_sent_slowly_has_the_same_deadline() {
    let app = App::with(|config| config.header_timeout = Duration::from_secs(1)).await;
    let mut client = app.ws("").await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(&HANDSHAKE.as_bytes()[..60]).await;
    let mut moments = tokio::time::interval(Duration::from_millis(20));
    let ended = async {
        loop {
            tokio::select! {
                read = raw.socket.read_u8() => return read,
                _ = moments.tick() => {}
            }
            // Extend a header that never ends. If this write fails, the next read fails too.
            let _ = raw.socket.write_all(b"x").await;
        }
    };
    within(ended).await.expect_err("the connection is closed without an answer");
    client.nothing_came().await;
    app.connections(1).await;
}

#[tokio::test]
async fn garbage_is_closed_and_does_not_affect_other_clients() {
    let app = App::start().await;
    let mut client = app.ws("").await;
    let tls_hello = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[0xa5; 505]].concat();
    let every_byte: Vec<u8> = (0..=255).rev().cycle().take(4096).collect();
    let frames = frame(0x81, br#"{"type":"ping"}"#);
    let garbage: [&[u8]; 7] = [
        &[0; 1000],
        &every_byte,
        &tls_hello,
        &frames,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /api/ws HTTP/9.9\r\n\r\n",
    ];
    for bytes in garbage {
        let mut raw = Raw::connect(app.address).await;
        raw.send(bytes).await;
        let rest = raw.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{bytes:?}: {rest:?}");
        client.nothing_came().await;
    }
    app.connections(1).await;
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused() {
    let app = App::start().await;
    let mut client = app.ws("").await;
    let mut raw = Raw::connect(app.address).await;
    raw.send(handshake_with("Host", &"x: y\r\n".repeat(200)).as_bytes()).await;
    assert!(raw.rest().await.starts_with(b"HTTP/1.1 431"));

    let mut raw = Raw::connect(app.address).await;
    raw.send(&HANDSHAKE.as_bytes()[..60]).await;
    let chunk = vec![b'x'; 64 << 10];
    let endless = async {
        for _ in 0..1024 {
            raw.socket.write_all(&chunk).await?;
        }
        std::io::Result::Ok(())
    };
    within(endless).await.expect_err("the server ends a connection whose header never ends");
    let rest = raw.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
    client.nothing_came().await;
}

/// Requests of every kind. The first value names the listener that answers: `true` is the public listener, `false` the
/// admin listener.
const REQUESTS: [(bool, &str, &str); 14] = [
    (true, "GET", "/"),
    (true, "GET", "/console/oddswire.js"),
    (true, "GET", "/api/ws"),
    (true, "GET", "/api/sse"),
    (true, "POST", "/api/publish"),
    (true, "POST", "/api/broadcast"),
    (true, "GET", "/api/topics"),
    (true, "GET", "/api/topics/odds_updates/state"),
    (true, "GET", "/api/docs/"),
    (true, "GET", "/healthz"),
    (true, "GET", "/nothing"),
    (false, "GET", "/healthz"),
    (false, "GET", "/metrics"),
    (false, "GET", "/api/connections"),
];

#[tokio::test]
async fn missing_repeated_or_invalid_host_is_answered_400() {
    let app = App::start().await;
    let handshake = handshake_with("Host", "");
    let (_, fields) = handshake.split_once("\r\n").unwrap();
    for (is_public, method, path) in REQUESTS {
        let mut raw = Raw::connect(if is_public { app.address } else { app.admin }).await;
        for (lines, says) in [
            ("", "missing Host header"),
            ("Host: a\r\nHost: a\r\n", "2 Host headers"),
            ("Host: a b\r\n", "invalid host 'a b'"),
            ("Host:\r\n", "invalid host ''"),
            ("Host: localhost:99999\r\n", "invalid host 'localhost:99999'"),
            ("Host: user@localhost\r\n", "invalid host 'user@localhost'"),
        ] {
            raw.send(format!("{method} {path} HTTP/1.1\r\n{lines}{fields}").as_bytes()).await;
            let response = raw.response().await;
            let shown = (response.status, &response.body["error"]["code"]);
            assert_eq!(shown, (400, &"bad_request".into()), "{method} {path} with {lines:?}: {response:?}");
            assert!(response.detail().contains(says), "{method} {path} with {lines:?}: {response:?}");
            if path != "/nothing" {
                let (status, headers, body) = (response.status, response.headers(), Some(&response.body));
                contract::Response { method, path, status, headers, body }.check();
            }
        }
    }
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn foreign_origin_with_no_or_two_hosts_gets_400() {
    let app = App::start().await;
    for host in
        ["", "Host: odds.example.com\r\nHost: evil.example\r\n", "Host: evil.example\r\nHost: odds.example.com\r\n"]
    {
        let request = handshake_with("Host", &format!("{host}Origin: http://evil.example\r\n"));
        let response = ask(&app, &request).await;
        assert_eq!(response.status, 400, "{host:?}: {response:?}");
    }
    assert!(app.manager.is_empty());
}

#[tokio::test]
async fn addresses_and_ports_are_valid_hosts() {
    let app = App::start().await;
    for host in ["[::1]:8000", "127.0.0.1", "localhost:", "ODDS.example.com.:443"] {
        let mut raw = Raw::connect(app.address).await;
        raw.send(handshake_with("Host", &format!("Host: {host}\r\n")).as_bytes()).await;
        raw.accepted().await;
    }
}

#[tokio::test]
async fn host_of_an_absolute_target_overrides_the_header() {
    let app = App::start().await;
    let absolute = |target: &str, host: &str| {
        let request = HANDSHAKE.replace("GET /api/ws", &format!("GET {target}/api/ws"));
        request.replace("Host: localhost\r\n", &format!("{host}Origin: http://odds.example.com\r\n"))
    };
    let odds = "http://odds.example.com";
    assert_eq!(ask(&app, &absolute(odds, "Host: other\r\n")).await.status, 101);
    assert_eq!(ask(&app, &absolute("http://other", "Host: odds.example.com\r\n")).await.status, 403);
    assert_eq!(ask(&app, &absolute(odds, "")).await.status, 400);
    assert_eq!(ask(&app, &absolute("http://user@odds.example.com", "Host: other\r\n")).await.status, 400);
}

/// The text of an `error` about an unknown query parameter.
fn unknown_parameter(message: &serde_json::Value) -> &str {
    assert_eq!(message["data"]["code"], "unknown_parameter", "{message}");
    message["data"]["detail"].as_str().unwrap()
}

#[tokio::test]
async fn errors_after_the_ack_name_unknown_query_parameters() {
    let app = App::start().await;
    let query = "topic=odds_updates&topic=scrape_progress&_=1&x=2&y=3";
    let mut socket = app.ws(query).await;
    let mut events = app.sse(query).await;
    for expected in [
        "unknown query parameter 'topic': did you mean 'topics'?",
        "unknown query parameter '_': expected topics, since, conflate_ms, token",
        "unknown query parameter 'x': expected topics, since, conflate_ms, token",
    ] {
        assert_eq!(unknown_parameter(&within(socket.expect("error")).await), expected);
        assert_eq!(unknown_parameter(&within(events.expect("error")).await), expected);
    }
    assert_eq!(socket.ack["topics"].as_array().unwrap().len(), 2, "an unknown parameter has no effect");
    socket.nothing_came().await;
    app.odds("8301", 1).await;
    assert_eq!(socket.next().await["data"], 1);
    assert_eq!(events.next().await["data"], 1);
}
