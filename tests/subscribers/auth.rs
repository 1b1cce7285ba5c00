//! Subscribers' tokens: which topics they allow, and how connections end when they expire.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::get::{code, get};
use crate::harness::jwt::{self, claims, expiring, now, start, token};
use crate::harness::raw::Raw;
use crate::harness::{App, eventually, sse, ws};

// Topics.

/// A token's topics, the topics in the query, and the outcome: the allowed topics, or the refused topic in quotes.
type Case<'a> = (&'a [&'a str], &'a str, Result<&'a [&'a str], &'a str>);

#[tokio::test]
async fn connection_gets_only_topics_that_its_token_allows() {
    let app = start().await;
    let all = &["odds_updates", "scrape_progress"][..];
    let cases: [Case<'_>; 11] = [
        (&["*"], "", Ok(all)),
        (&["*"], "odds_updates/1", Ok(&["odds_updates/1"])),
        (&["odds_updates"], "", Ok(&["odds_updates"])),
        (&["odds_updates"], "odds_updates/8301/1x2", Ok(&["odds_updates/8301/1x2"])),
        (&["odds_updates"], "odds_updates,scrape_progress", Err("'scrape_progress'")),
        (&["odds_updates/8301", "odds_updates/77"], "", Ok(&["odds_updates/77", "odds_updates/8301"])),
        (&["odds_updates/8301"], "odds_updates/8301/1x2", Ok(&["odds_updates/8301/1x2"])),
        (&["odds_updates/8301"], "odds_updates", Err("'odds_updates'")),
        (&["odds_updates/8301"], "odds_updates/83011", Err("'odds_updates/83011'")),
        (&[], "", Ok(&[])),
        (&[], "odds_updates", Err("'odds_updates'")),
    ];
    for (granted, asked, outcome) in cases {
        let query = format!("token={}&topics={asked}", token(&claims(granted)));
        match outcome {
            Ok(topics) => {
                assert_eq!(app.ws(&query).await.ack["topics"], json!(topics), "{granted:?}, {asked}");
                let ack = app.sse(&query).await.ack;
                assert_eq!(ack["topics"], json!(topics), "{granted:?}, {asked}");
                assert!(ack["data"]["expires_at"].as_str().is_some_and(|at| at.contains(".000Z")), "{ack}");
            }
            Err(named) => {
                for path in ["/api/ws", "/api/sse"] {
                    let (_, response) = get(app.address, &format!("{path}?{query}"), &[]).await;
                    assert_eq!((response.status, code(&response)), (403, "forbidden"), "{granted:?}, {asked}");
                    let detail = response.detail();
                    assert!(detail.contains(named) && detail.contains("claim 'topics'"), "{detail}");
                    let all = response.body["error"]["topics"].as_array().unwrap().clone();
                    let quoted: Vec<String> = all.iter().map(|name| format!("'{}'", name.as_str().unwrap())).collect();
                    assert_eq!(quoted.join(", "), named, "the field `topics` names the same topic");
                }
            }
        }
    }
}

#[tokio::test]
async fn token_without_the_claim_topics_allows_no_topic() {
    let app = start().await;
    let token = token(&json!({"exp": now() + 3600}));
    let mut client = app.ws(&format!("token={token}")).await;
    assert_eq!(client.ack["topics"], json!([]));
    app.odds("1", 1).await;
    client.nothing_came().await;
    let state = app.get(&format!("/api/topics/odds_updates/state?token={token}")).await;
    assert_eq!((state.status, state.code()), (403, "forbidden"));
}

#[tokio::test]
async fn state_can_be_read_only_within_the_tokens_topics() {
    let app = start().await;
    app.odds("8301/1x2", 1).await;
    app.odds("77/1x2", 2).await;
    let token = token(&claims(&["odds_updates/8301"]));
    for (path, allowed) in [
        ("odds_updates/state?key=8301&", true),
        ("odds_updates/state?key=8301/1x2&", true),
        ("odds_updates/state?", false),
        ("odds_updates/state?key=77&", false),
        ("odds_updates/state?key=830&", false),
        ("scrape_progress/state?", false),
    ] {
        let answer = app.get(&format!("/api/topics/{path}token={token}")).await;
        if allowed {
            assert_eq!((answer.status, &answer.body["items"][0]["data"]), (200, &json!(1)), "{path}");
        } else {
            assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{path}");
            assert!(answer.detail().contains("claim 'topics'"), "{}", answer.detail());
        }
    }
}

#[tokio::test]
async fn subscribe_takes_effect_for_the_allowed_topics_only() {
    let app = start().await;
    let mut client =
        app.ws(&format!("token={}&topics=odds_updates/8301/ou", token(&claims(&["odds_updates/8301"])))).await;
    let asked = r#"{"type":"subscribe","topics":["odds_updates/8301/1x2","odds_updates/77","foo","scrape_progress"]}"#;
    client.send(asked).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates/8301/1x2", "odds_updates/8301/ou"]));
    let mut errors = [client.expect("error").await, client.expect("error").await];
    errors.sort_by_key(|error| error["data"]["code"].to_string());
    assert_eq!(
        (&errors[0]["data"]["code"], &errors[1]["data"]["code"]),
        (&json!("forbidden"), &json!("unknown_topic"))
    );
    assert_eq!(errors[0]["data"]["topics"], json!(["odds_updates/77", "scrape_progress"]));
    assert!(errors[0]["data"]["detail"].to_string().contains("claim 'topics'"), "{}", errors[0]);
    for key in ["77/1x2", "8301/other", "8301/1x2/a"] {
        app.odds(key, key).await;
    }
    app.publish(&json!({"topic": "scrape_progress", "data": 1})).await;
    assert_eq!(client.expect("odds_updates").await["data"], "8301/1x2/a");
    client.nothing_came().await;
}

// Expiry.

#[tokio::test]
async fn connection_ends_when_its_token_expires() {
    let app = start().await;
    for leeway in [0, LEEWAY] {
        let (ends, mut client, mut events) = expiring_soon(&app, leeway).await;
        let frame = client.closed().await.expect("a close code");
        assert_eq!(u16::from(frame.code), 4401);
        assert!(frame.reason.contains("expired"), "{}", frame.reason);
        assert!(events.event().await.is_none(), "the stream ends");
        assert!(now() >= ends, "the connection does not end too early");
        drop((client, events));
        app.connections(0).await;
    }
}

/// Clocks differ. For this many seconds after a token's expiry, the server still accepts the token and keeps its
/// connections.
const LEEWAY: i64 = 30;

/// Connects a WebSocket and a stream whose token makes the server end them in about two seconds. The token itself
/// expires `leeway` seconds before that. Returns the time of the end and both clients. On a busy machine connecting can
/// take longer than two seconds. This function then connects again, with more time.
async fn expiring_soon(app: &App, leeway: i64) -> (i64, ws::Client, sse::Client) {
    for left in [2, 5, 15] {
        let ends = now() + left;
        let query = format!("token={}", expiring(left - leeway));
        let socket = TcpStream::connect(app.address).await.expect("the server accepts");
        let client = ws::Client::attempt(socket, app.address, &query).await;
        let events = sse::Client::attempt(app, &query, None).await;
        if let (Ok(client), Ok(events), true) = (client, events, now() < ends) {
            return (ends, client, events);
        }
    }
    panic!("connecting took more than 15 seconds");
}

#[tokio::test]
async fn slow_client_gets_no_message_published_after_token_expiry() {
    let app = App::with(|config| {
        jwt::required(config);
        config.write_timeout = Duration::from_hours(1);
    })
    .await;
    let query = format!("token={}", expiring(4));
    let narrow = async || crate::harness::narrow_socket(app.address).await;
    let mut client = ws::Client::over(narrow().await, app.address, &query).await;
    let mut events = sse::Client::over(narrow().await, &query).await;
    // Publish more than the sockets and the outbox can hold.
    let padding = "x".repeat(60_000);
    for at in 0..60 {
        app.odds(&at.to_string(), padding.as_str()).await;
    }
    // The token of this second WebSocket expires later. So when the server closes it, the first token has expired too.
    let mut later = app.ws(&format!("token={}", expiring(5))).await;
    assert_eq!(u16::from(later.closed().await.expect("a close code").code), 4401);
    app.odds("after", "after").await;

    let last = loop {
        match client.frame().await.expect("a close frame").expect("no error") {
            tokio_tungstenite::tungstenite::Message::Close(frame) => break frame.expect("a close code"),
            message => assert!(!message.to_string().contains("\"after\""), "the late message was delivered"),
        }
    };
    assert_eq!(u16::from(last.code), 4401);
    while let Some(event) = events.event().await {
        assert!(!event.data.contains("\"after\""), "the late message was delivered");
    }
}

#[tokio::test]
async fn client_that_never_reads_is_removed_when_its_token_expires() {
    let app = start().await;
    let token = expiring(3);
    let mut silent = Vec::new();
    for path in ["/api/ws", "/api/sse"] {
        let mut raw = Raw::narrow(app.address).await;
        let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let head = format!("GET {path}?token={token} HTTP/1.1\r\nHost: localhost\r\n{handshake}\r\n");
        raw.send(head.as_bytes()).await;
        raw.head().await;
        silent.push(raw);
    }
    app.connections(2).await;
    // No message is published, so no write can time out. Only the expiry ends the connections.
    eventually("both connections are gone", || app.manager.is_empty()).await;
}

#[tokio::test]
async fn auth_message_can_extend_widen_and_shorten_a_connection() {
    let app = start().await;
    let short = json!({"exp": now() + 3, "topics": ["odds_updates/8301"]});
    let mut client = app.ws(&format!("token={}", token(&short))).await;
    let until = now() + 3600;
    let longer = token(&json!({"exp": until, "topics": ["odds_updates"]}));
    client.send(json!({"type": "auth", "token": longer}).to_string()).await;
    let ack = client.expect("auth_ack").await;
    let shown = oddswire::message::Timestamp::from_millis(until * 1000).to_string();
    assert_eq!(ack["data"]["expires_at"], shown);
    client.send(r#"{"type":"subscribe","topics":["odds_updates"]}"#).await;
    let update = client.expect("subscription_update").await;
    assert_eq!(update["topics"], json!(["odds_updates", "odds_updates/8301"]));

    let mut sentinel = app.ws(&format!("token={}", token(&json!({"exp": now() + 4, "topics": ["*"]})))).await;
    assert_eq!(u16::from(sentinel.closed().await.expect("a close code").code), 4401);
    client.nothing_came().await;
    // A new token may also make the connection end earlier.
    client.send(json!({"type": "auth", "token": expiring(1)}).to_string()).await;
    client.expect("auth_ack").await;
    assert_eq!(u16::from(client.closed().await.expect("a close code").code), 4401);
}

#[tokio::test]
async fn new_token_without_a_subscribed_topic_closes_with_4403() {
    let app = start().await;
    for (held, then, closes) in [
        ("odds_updates", &["scrape_progress"][..], true),
        ("odds_updates", &["odds_updates/8301"], true),
        ("odds_updates", &[], true),
        ("odds_updates/8301", &["odds_updates/8301/1x2"], true),
        ("odds_updates/8301", &["odds_updates/8301"], false),
        ("odds_updates/8301", &["odds_updates"], false),
    ] {
        let mut client = app.ws(&format!("token={}&topics={held}", token(&claims(&["*"])))).await;
        client.send(json!({"type": "auth", "token": token(&claims(then))}).to_string()).await;
        if closes {
            assert_eq!(u16::from(client.closed().await.expect("a close code").code), 4403, "{held}, {then:?}");
        } else {
            client.expect("auth_ack").await;
            client.send(r#"{"type":"subscribe","topics":["scrape_progress"]}"#).await;
            client.expect("subscription_update").await;
            assert_eq!(client.expect("error").await["data"]["code"], "forbidden", "the new token applies");
        }
    }
}

#[tokio::test]
async fn invalid_token_in_an_auth_message_is_an_error_only() {
    let app = start().await;
    let mut client = app.ws(&format!("token={}", token(&claims(&["odds_updates"])))).await;
    let other = jwt::signed(&json!({"alg": "HS256"}), &claims(&["*"]), "another-secret-of-at-least-32-bytes");
    let expired = expiring(-31);
    let cases = [
        (json!(other), "unauthorized", "its signature is wrong"),
        (json!(expired), "token_expired", "has expired"),
        (json!("abc"), "unauthorized", "not a JSON Web Token"),
        (json!(""), "bad_request", "'token' must be"),
        (json!(7), "bad_request", "'token' must be"),
        (Value::Null, "bad_request", "'token' must be"),
    ];
    for (token, code, reason) in cases {
        client.send(json!({"type": "auth", "token": token}).to_string()).await;
        let error = client.expect("error").await;
        assert_eq!(error["data"]["code"], code, "{error}");
        assert!(error["data"]["detail"].as_str().unwrap().contains(reason), "{error}");
    }
    app.odds("1", "goes on").await;
    assert_eq!(client.expect("odds_updates").await["data"], "goes on");

    let public = App::start().await;
    let mut client = public.ws("").await;
    client.send(json!({"type": "auth", "token": expiring(60)}).to_string()).await;
    let error = client.expect("error").await;
    assert_eq!(error["data"]["code"], "bad_request");
    assert!(error["data"]["detail"].to_string().contains("asks for no token"), "{error}");
    client.nothing_came().await;
}

#[tokio::test]
async fn token_may_expire_after_the_year_9999() {
    let app = start().await;
    for exp in [253_402_300_799_u64, 253_402_300_800, 9_999_999_999_999, u64::MAX / 1000, u64::MAX] {
        let token = token(&json!({"exp": exp, "topics": ["*"]}));
        let mut client = app.ws(&format!("token={token}")).await;
        client.send(json!({"type": "auth", "token": token}).to_string()).await;
        assert!(client.expect("auth_ack").await["data"].get("expires_at").is_some(), "{exp}");
        app.sse(&format!("token={token}")).await;
        client.nothing_came().await;
    }
}
