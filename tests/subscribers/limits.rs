//! The limits: the server accepts a value at the limit. Beyond the limit, the client gets an error, and other clients
//! are not affected.

use std::time::Duration;

use serde_json::json;

use crate::harness::get::{code, get};
use crate::harness::raw::{Raw, frame};
use crate::harness::{App, TOKEN, within};

#[tokio::test]
async fn full_server_refuses_new_connections_and_keeps_the_others() {
    let app = App::with(|config| config.max_connections = 2).await;
    let mut held = app.ws("").await;
    let mut events = app.sse("").await;
    for path in ["/api/ws", "/api/sse"] {
        let (_, response) = get(app.address, path, &[]).await;
        assert_eq!((response.status, code(&response), response.header("retry-after")), (503, "full", "2"), "{path}");
        let detail = response.detail();
        assert!(detail.contains("2 connections") && detail.contains("(max-connections)"), "{detail}");
    }
    // Reads and publishes do not count as connections.
    let (_, read) = get(app.address, "/api/topics", &[]).await;
    assert_eq!((read.status, &read.body["connections"]), (200, &json!(2)));
    app.odds("1", "for both").await;
    assert_eq!(held.expect("odds_updates").await["data"], "for both");
    assert_eq!(events.expect("odds_updates").await["data"], "for both");
}

#[tokio::test]
async fn ended_connection_frees_its_place_on_both_transports() {
    let app = App::with(|config| config.max_connections = 1).await;
    for path in ["/api/ws", "/api/sse", "/api/ws", "/api/sse"] {
        // The server notices with a short delay that the previous connection has ended.
        let (taken, _) = within(async {
            loop {
                let (raw, response) = get(app.address, path, &[]).await;
                if matches!(response.status, 101 | 200) {
                    return (raw, response);
                }
            }
        })
        .await;
        assert_eq!(get(app.address, path, &[]).await.1.status, 503, "{path}");
        drop(taken);
    }
}

#[tokio::test]
async fn refused_request_does_not_count_as_a_connection() {
    let app = App::with(|config| config.max_connections = 1).await;
    for query in ["topics=Odds", "since=yesterday", "conflate_ms=-1"] {
        for path in ["/api/ws", "/api/sse"] {
            assert_eq!(get(app.address, &format!("{path}?{query}"), &[]).await.1.status, 400);
        }
    }
    assert_eq!(get(app.address, "/api/ws", &[("Origin", "https://evil.example")]).await.1.status, 403);
    app.ws("").await;
}

/// Connects with each of these forwarding headers in turn, and keeps the connections open. Checks for each header
/// whether the server admits the connection.
async fn check_in_turn(app: &App, cases: &[(&str, &str, bool)]) {
    let mut held = Vec::new();
    for (at, (header, value, admitted)) in cases.iter().enumerate() {
        let path = ["/api/ws", "/api/sse"][at % 2];
        let (raw, response) = get(app.address, path, &[(header, value)]).await;
        held.push(raw);
        if *admitted {
            assert!(matches!(response.status, 101 | 200), "{header}: {value}: {response:?}");
            continue;
        }
        assert_eq!((response.status, code(&response)), (429, "too_many_connections"), "{header}: {value}");
        let detail = response.detail();
        assert!(detail.contains("2 connections") && detail.contains("(max-connections-per-ip)"), "{detail}");
        assert_eq!(response.header("retry-after"), "10");
    }
}

#[tokio::test]
async fn connections_count_by_the_address_from_a_trusted_proxy() {
    let app = App::with(|config| {
        config.max_connections_per_ip = 2;
        config.trusted_proxies = "127.0.0.1, 10.0.0.0/8".parse().unwrap();
    })
    .await;
    let cases = [
        ("X-Forwarded-For", "9.9.9.9", true),
        ("X-Forwarded-For", "9.9.9.9, 10.0.0.7", true),
        ("X-Forwarded-For", "9.9.9.9", false),
        ("Forwarded", "for=\"9.9.9.9:4711\";proto=https", false),
        // Entries to the left of the client's address come from the client itself, so the server ignores them.
        ("X-Forwarded-For", "1.1.1.1, 9.9.9.9", false),
        ("Forwarded", "for=1.1.1.1, for=9.9.9.9", false),
        ("X-Forwarded-For", "8.8.8.8", true),
        ("Forwarded", "for=8.8.8.8", true),
        ("X-Forwarded-For", "8.8.8.8", false),
        ("X-Forwarded-For", "2001:db8:0:1::1", true),
        ("X-Forwarded-For", "2001:db8:0:1:ffff::2", true),
        ("Forwarded", "for=\"[2001:db8:0:1::3]:80\"", false),
        ("X-Forwarded-For", "2001:db8:0:2::1", true),
    ];
    check_in_turn(&app, &cases).await;
}

#[tokio::test]
async fn forwarding_headers_of_untrusted_peers_are_ignored() {
    let app = App::with(|config| {
        config.max_connections_per_ip = 2;
        config.trusted_proxies = "10.0.0.0/8".parse().unwrap();
    })
    .await;
    let cases = [
        ("X-Forwarded-For", "9.9.9.9", true),
        ("X-Forwarded-For", "8.8.8.8", true),
        ("X-Forwarded-For", "7.7.7.7", false),
        ("Forwarded", "for=10.0.0.1", false),
    ];
    check_in_turn(&app, &cases).await;
}

#[tokio::test]
async fn burst_of_twice_the_rate_passes_and_one_more_gets_4429() {
    for (per_second, kind) in [(1, &b"{\"type\":\"ping\"}"[..]), (2, b"{\"type\":\"ping\"}"), (1, b"")] {
        let app = App::with(|config| config.client_messages_per_second = per_second).await;
        let (first, answer) = if kind.is_empty() { (0x89, 0xa) } else { (0x81, 0x1) };
        let mut within_burst = Raw::websocket(app.address).await;
        let mut beyond = Raw::websocket(app.address).await;
        // Send everything in one write, so that no time passes in which the rate would allow more.
        within_burst.send(&frame(first, kind).repeat(2 * per_second)).await;
        beyond.send(&frame(first, kind).repeat(2 * per_second + 1)).await;
        for raw in [&mut within_burst, &mut beyond] {
            for _ in 0..2 * per_second {
                assert_eq!(raw.frame().await.expect("an answer").opcode, answer);
            }
        }
        let close = beyond.frame().await.expect("a close frame");
        assert_eq!(close.close_code(), 4429);
        let reason = String::from_utf8(close.payload[2..].to_vec()).unwrap();
        assert!(reason.contains("client-messages-per-second"), "{reason}");
        app.odds("1", 1).await;
        assert_eq!(within_burst.frame().await.expect("the client is still served").opcode, 0x1);
    }
}

#[tokio::test]
async fn every_message_counts_for_the_rate_except_pongs() {
    for counted in [&frame(0x82, b"binary")[..], &frame(0x81, b"no json"), &frame(0x81, br#"{"type":"dance"}"#)] {
        let app = App::with(|config| config.client_messages_per_second = 1).await;
        let mut raw = Raw::websocket(app.address).await;
        raw.send(&counted.repeat(3)).await;
        assert_eq!(raw.closed().await, 4429);
    }
    // Send pongs although the server has sent no ping.
    let app = App::with(|config| config.client_messages_per_second = 1).await;
    let mut raw = Raw::websocket(app.address).await;
    raw.send(&frame(0x8a, b"").repeat(3)).await;
    assert_eq!(raw.closed().await, 4429);
}

#[tokio::test]
async fn pongs_that_answer_pings_do_not_use_up_the_rate() {
    let app = App::with(|config| {
        config.client_messages_per_second = 1;
        (config.ping_interval, config.idle_timeout) = (Duration::from_millis(20), Duration::from_hours(1));
    })
    .await;
    let mut raw = Raw::websocket(app.address).await;
    for _ in 0..20 {
        assert_eq!(raw.frame().await.expect("a ping, not the end").opcode, 0x9);
        raw.send(&frame(0x8a, b"")).await;
    }
}

#[tokio::test]
async fn query_with_too_many_subscriptions_is_refused() {
    let app = App::with(|config| config.subscriptions_per_connection = 2).await;
    let topics = |count: usize| (0..count).map(|at| format!("odds_updates/{at}")).collect::<Vec<_>>().join(",");
    for path in ["/api/ws", "/api/sse"] {
        let (_, edge) = get(app.address, &format!("{path}?topics={}", topics(2)), &[]).await;
        assert!(matches!(edge.status, 101 | 200), "{edge:?}");
        let (_, response) = get(app.address, &format!("{path}?topics={}", topics(3)), &[]).await;
        assert_eq!((response.status, code(&response)), (400, "too_many_subscriptions"), "{path}");
        let detail = response.detail();
        for says in ["3 subscriptions", "the limit is 2", "subscriptions-per-connection"] {
            assert!(detail.contains(says), "{detail}");
        }
    }
}

#[tokio::test]
async fn repeated_subscription_counts_once() {
    let app = App::with(|config| config.subscriptions_per_connection = 2).await;
    let twice = "odds_updates/1,odds_updates/2,odds_updates/1";
    let (_, response) = get(app.address, &format!("/api/ws?topics={twice}"), &[]).await;
    assert_eq!(response.status, 101, "{}", response.detail());
    let mut client = app.ws("topics=odds_updates/1").await;
    client.send(r#"{"type":"subscribe","topics":["odds_updates/2","odds_updates/1","odds_updates/2"]}"#).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates/1", "odds_updates/2"]));
}

#[tokio::test]
async fn subscribe_beyond_the_limit_has_no_effect() {
    let app = App::with(|config| config.subscriptions_per_connection = 3).await;
    let mut client = app.ws("topics=odds_updates/1").await;
    client.send(r#"{"type":"subscribe","topics":["odds_updates/2","odds_updates/3","odds_updates/4"]}"#).await;
    let error = client.expect("error").await;
    assert_eq!(error["data"]["code"], "too_many_subscriptions");
    let detail = error["data"]["detail"].as_str().unwrap();
    for says in ["4 subscriptions", "the limit is 3", "subscriptions-per-connection"] {
        assert!(detail.contains(says), "{detail}");
    }
    app.odds("2/a", 2).await;
    client.nothing_came().await;
    // A client may have exactly as many subscriptions as the limit. An existing subscription counts once, and an
    // unsubscribe frees a place.
    client.send(r#"{"type":"subscribe","topics":["odds_updates/1","odds_updates/2","odds_updates/3"]}"#).await;
    assert_eq!(client.expect("subscription_update").await["topics"].as_array().unwrap().len(), 3);
    client.send(r#"{"type":"unsubscribe","topics":["odds_updates/1"]}"#).await;
    client.expect("subscription_update").await;
    client.send(r#"{"type":"subscribe","topics":["odds_updates/4"]}"#).await;
    let topics = json!(["odds_updates/2", "odds_updates/3", "odds_updates/4"]);
    assert_eq!(client.expect("subscription_update").await["topics"], topics);
}

#[tokio::test]
async fn head_of_up_to_header_bytes_passes_and_a_longer_one_gets_431() {
    let app = App::with(|config| config.header_bytes = 8 << 10).await;
    let head = |length: usize| {
        let (begin, end) = ("GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Padding: ", "\r\n\r\n");
        format!("{begin}{}{end}", "x".repeat(length - begin.len() - end.len()))
    };
    let mut edge = Raw::connect(app.address).await;
    edge.send(head(8 << 10).as_bytes()).await;
    assert_eq!(edge.response().await.status, 200);

    let mut beyond = Raw::connect(app.address).await;
    // Hold back the end of the head. The server must answer before the head is complete.
    beyond.send(&head((8 << 10) + 1).as_bytes()[..8 << 10]).await;
    let response = beyond.response().await;
    assert_eq!(response.status, 431);
    assert_eq!(beyond.rest().await, b"", "the connection ends");
}

#[tokio::test]
async fn late_body_gets_408_and_publishes_nothing() {
    let app = App::with(|config| config.publish_body_timeout = Duration::from_millis(200)).await;
    let body = r#"{"topic":"odds_updates","data":1}"#;
    for path in ["/api/publish", "/api/broadcast"] {
        let mut raw = Raw::connect(app.address).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        raw.send(&[head.as_bytes(), &body.as_bytes()[..10]].concat()).await;
        let response = raw.response().await;
        assert_eq!((response.status, code(&response)), (408, "body_timeout"), "{path}");
        let detail = response.detail();
        assert!(detail.contains("within 200ms") && detail.contains("(publish-body-timeout)"), "{detail}");
    }
    assert_eq!(app.manager.position().offset, 0);
    let answer = app.post("/api/publish", "application/json", body).await;
    assert_eq!(answer.status, 200, "a body in time is accepted");
}

/// The bytes of several publish and broadcast requests. One write sends them all, so that no time passes between them.
fn pipelined(paths: &[&str], token: &str) -> Vec<u8> {
    let request = |path: &&str| {
        let body = match *path {
            "/api/broadcast" => r#"{"type":"notice","data":1}"#,
            _ => r#"{"topic":"scrape_progress","data":1}"#,
        };
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    paths.iter().map(request).collect::<String>().into_bytes()
}

#[tokio::test]
async fn publisher_beyond_its_rate_gets_429_and_others_do_not() {
    let file = crate::harness::jwt::File::new("scraper:scraper-token\n");
    let app = App::with(|config| {
        config.publishes_per_second = 1;
        config.publish_token_file = Some(file.0.clone());
    })
    .await;
    let mut raw = Raw::connect(app.address).await;
    // Requests with an unknown token do not count against a publisher's rate.
    raw.send(&pipelined(&["/api/publish"; 3], "wrong")).await;
    for _ in 0..3 {
        assert_eq!(raw.response().await.status, 401);
    }
    raw.send(&pipelined(&["/api/publish", "/api/broadcast", "/api/publish", "/api/broadcast"], TOKEN)).await;
    for _ in 0..2 {
        assert_eq!(raw.response().await.status, 200, "the burst");
    }
    for _ in 0..2 {
        let refused = raw.response().await;
        assert_eq!((refused.status, code(&refused)), (429, "too_many_publishes"));
        assert_eq!(refused.header("retry-after"), "1");
        let detail = refused.detail();
        for says in ["'default'", "more than 1 times", "(publishes-per-second)"] {
            assert!(detail.contains(says), "{detail}");
        }
    }
    assert_eq!(app.manager.position().offset, 1, "no message of a refused request was stored");
    raw.send(&pipelined(&["/api/publish"], "scraper-token")).await;
    assert_eq!(raw.response().await.status, 200);
    // After some time the server admits the publisher again.
    let again = async {
        loop {
            let answer = app.post("/api/publish", "application/json", r#"{"topic":"odds_updates","data":1}"#).await;
            if answer.status == 200 {
                return;
            }
        }
    };
    within(again).await;
}
