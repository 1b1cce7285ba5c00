//! Publishers' tokens, their topics, and the file that lists them.

use reqwest::Method;
use serde_json::json;

use crate::harness::get::get;
use crate::harness::hub::{GOOD, JSON, refused};
use crate::harness::jwt::{File, claims, start, token};
use crate::harness::process::Process;
use crate::harness::{Answer, App, TOKEN, ws};

const ODDS: &str = r#"{"topic":"odds_updates","data":1}"#;
const PROGRESS: &str = r#"{"topic":"scrape_progress","data":1}"#;

#[tokio::test]
async fn publishing_needs_exactly_the_token() {
    let app = App::start().await;
    let needed = "'Authorization: Bearer <token>'";
    let cases = [
        (None, 401, needed),
        (Some("Basic dXNlcjpwYXNz"), 401, needed),
        (Some("test-token"), 401, needed),
        (Some("Bearertest-token"), 401, needed),
        (Some("Bearer wrong"), 401, "belongs to no publisher"),
        (Some("Bearer test-toke"), 401, "belongs to no publisher"),
        (Some("Bearer test-tokens"), 401, "belongs to no publisher"),
        (Some("Bearer Test-Token"), 401, "belongs to no publisher"),
        (Some("Bearer test-token"), 200, ""),
        (Some("bearer test-token"), 200, ""),
        (Some("BEARER  test-token"), 200, ""),
    ];
    for (path, body) in [("/api/publish", GOOD), ("/api/broadcast", r#"{"type":"notice","data":1}"#)] {
        for (authorization, status, says) in cases {
            let mut request = app.request(Method::POST, path).header("content-type", JSON).body(body);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, status, "{authorization:?} at {path}");
            if status == 401 {
                refused(&answer, (401, "unauthorized", None, &[says]));
                assert_eq!(answer.header("www-authenticate"), "Bearer");
                assert!(!answer.text.contains("test-token"), "{}", answer.text);
            }
        }
    }
    assert_eq!(app.manager.position().offset, 3);
}

#[tokio::test]
async fn publishing_without_a_token_setting_is_disabled() {
    let app = App::with(|config| config.publish_token = None).await;
    for path in ["/api/publish", "/api/broadcast"] {
        let says = ["publish-token", "ODDSWIRE_PUBLISH_TOKEN", "publish-token-file"];
        refused(&app.post(path, JSON, GOOD).await, (403, "publishing_disabled", None, &says));
    }
    assert_eq!(app.manager.position().offset, 0);
}

async fn with_publishers(file: &File) -> App {
    App::with(|config| config.publish_token_file = Some(file.0.clone())).await
}

async fn post(app: &App, path: &str, token: &str, body: &str) -> Answer {
    let request = app.request(reqwest::Method::POST, path).bearer_auth(token);
    Answer::of(request.header("content-type", "application/json").body(body.to_owned())).await
}

#[tokio::test]
async fn publisher_with_topics_can_only_publish_to_these() {
    let file =
        File::new("# ours\nscraper:s-token:odds_updates\n\nboth:b-token:odds_updates, scrape_progress\nall:a-token\n");
    let app = with_publishers(&file).await;
    let cases = [
        ("s-token", format!("[{ODDS},{ODDS}]"), None),
        ("s-token", PROGRESS.to_owned(), Some(0)),
        ("s-token", format!("[{ODDS},{ODDS},{PROGRESS},{PROGRESS}]"), Some(2)),
        ("b-token", format!("[{ODDS},{PROGRESS}]"), None),
        ("a-token", format!("[{ODDS},{PROGRESS}]"), None),
        (TOKEN, format!("[{ODDS},{PROGRESS}]"), None),
    ];
    let mut taken = 0;
    for (token, body, refused) in cases {
        let answer = post(&app, "/api/publish", token, &body).await;
        if let Some(index) = refused {
            assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{token}: {body}");
            assert_eq!(answer.body["error"]["index"], index, "{body}");
            let detail = answer.detail();
            assert!(detail.contains("'scraper'") && detail.contains("'scrape_progress'"), "{detail}");
        } else {
            assert_eq!((answer.status, &answer.body["accepted"]), (200, &json!(2)), "{token}: {}", answer.text);
            taken += 2;
        }
        assert_eq!(app.manager.position().offset, taken, "no message of a refused request is stored: {body}");
    }
}

#[tokio::test]
async fn publisher_limited_to_topics_cannot_broadcast() {
    let file = File::new("some:s-token:odds_updates\nevery:e-token:odds_updates,scrape_progress\nall:a-token\n");
    let app = with_publishers(&file).await;
    let mut client = app.ws("").await;
    for (token, name) in [("s-token", "'some'"), ("e-token", "'every'")] {
        let answer = post(&app, "/api/broadcast", token, r#"{"type":"notice","data":1}"#).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden"));
        assert!(answer.detail().contains(name) && answer.detail().contains("limited to topics"), "{}", answer.detail());
    }
    client.nothing_came().await;
    for token in ["a-token", TOKEN] {
        assert_eq!(post(&app, "/api/broadcast", token, r#"{"type":"notice","data":1}"#).await.status, 200, "{token}");
        client.expect("notice").await;
    }
}

#[tokio::test]
async fn token_that_differs_from_every_publishers_gets_401() {
    let file = File::new("scraper:s-token\nbackend:b-token\n");
    let app = with_publishers(&file).await;
    for given in ["s-toke", "s-tokenn", "S-token", "scraper", "scraper:s-token", "s-token:", "s-token b-token", "#"] {
        for (path, body) in [("/api/publish", ODDS), ("/api/broadcast", r#"{"type":"notice","data":1}"#)] {
            let answer = post(&app, path, given, body).await;
            assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{given}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert!(!answer.text.contains(given) || given == "#", "{}", answer.text);
        }
    }
    assert_eq!(app.manager.position().offset, 0);
}

async fn serving(file: &File) -> Process {
    let settings = [("ODDSWIRE_PUBLISH_TOKEN_FILE", file.path()), ("ODDSWIRE_LOG_LEVEL", "debug")];
    Process::start(&[], &settings).await
}

#[tokio::test]
async fn sighup_reloads_the_token_file() {
    let file = File::new("scraper:old-token\nbackend:same-token\n");
    let mut process = serving(&file).await;
    assert_eq!([process.publish("old-token").await, process.publish("new-token").await], [200, 401]);
    file.write("scraper:new-token\nbackend:same-token:scrape_progress\n");
    assert_eq!(process.publish("old-token").await, 200, "the server reads the file only at SIGHUP");
    let mut client = ws::Client::connect(process.address, "").await;
    process.signal("HUP");
    process.event("config.reloaded").await;
    assert_eq!([process.publish("old-token").await, process.publish("new-token").await], [401, 200]);
    assert_eq!(process.publish("same-token").await, 403, "the publisher's topics are reloaded too");
    client.expect("odds_updates").await;
    client.nothing_came().await;
}

#[tokio::test]
async fn sighup_with_an_invalid_file_keeps_the_publishers() {
    let file = File::new("scraper:first-secret\n");
    let mut process = serving(&file).await;
    let broken = [
        ("", "it has no publisher"),
        ("# nobody\n", "it has no publisher"),
        ("scraper:second-secret\nscraper:third-secret\n", "line 2: duplicate name 'scraper'"),
        ("good:second-secret\nno name:third-secret\n", "line 2: expected name:token[:topics]"),
        ("scraper:\n", "line 1: expected 1 or more visible ASCII characters"),
        ("scraper:second-secret:nowhere\n", "line 1: its third part must list topics"),
    ];
    for (contents, reason) in broken {
        file.write(contents);
        process.signal("HUP");
        let error = process.event("config.reload_failed").await["error"].to_string();
        for says in ["publish-token-file", file.path(), reason] {
            assert!(error.contains(says), "{says}: {error}");
        }
        assert_eq!([process.publish("first-secret").await, process.publish("second-secret").await], [200, 401]);
    }
    std::fs::remove_file(&file.0).unwrap();
    process.signal("HUP");
    assert!(process.event("config.reload_failed").await["error"].to_string().contains("No such file"));
    assert_eq!(process.publish("first-secret").await, 200);
    process.signal("TERM");
    let log = process.end().await.stderr;
    assert!(!log.contains("-secret"), "{log}");
}

#[tokio::test]
async fn log_has_the_publishers_name_and_never_its_token() {
    let file = File::new("scraper:s-token:odds_updates\n");
    let mut process = serving(&file).await;
    assert_eq!(process.publish("s-token").await, 200);
    let accepted = process.event("publish.accepted").await;
    assert_eq!((&accepted["publisher"], &accepted["messages"]), (&json!("scraper"), &json!(1)));
    assert_eq!(process.post("/api/publish", "s-token", PROGRESS).await.status, 403);
    let rejected = process.event("publish.rejected").await;
    assert!(rejected["detail"].to_string().contains("'scraper'"), "{rejected}");
    assert_eq!(process.publish("guessed-token").await, 401);
    process.signal("TERM");
    let log = process.end().await.stderr;
    assert!(!log.contains("s-token") && !log.contains("guessed-token"), "{log}");
}

#[tokio::test]
async fn subscriber_tokens_do_not_apply_to_publishing_and_health() {
    let app = start().await;
    app.odds("1", 1).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(app.get(path).await.status, 200);
    }
    let subscriber = token(&claims(&["*"]));
    assert_eq!(post(&app, "/api/publish", &subscriber, ODDS).await.status, 401);
    assert_eq!(get(app.address, &format!("/api/ws?token={TOKEN}"), &[]).await.1.status, 401);
}
