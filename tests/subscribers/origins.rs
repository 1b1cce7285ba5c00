//! Pages of other origins: which pages may connect, and the CORS headers of the answers.

use reqwest::Method;

use crate::harness::get::{code, get};
use crate::harness::{Answer, App, TOKEN};

const READS: [&str; 4] = ["/api/ws", "/api/sse", "/api/topics", "/api/topics/odds_updates/state"];

async fn with_origins(list: &str) -> App {
    App::with(|config| config.allowed_origins = Some(list.parse().unwrap())).await
}

/// Publishes or broadcasts as a page of this origin does.
async fn post(app: &App, path: &str, origin: Option<&str>) -> Answer {
    let body = match path {
        "/api/broadcast" => r#"{"type":"notice","data":1}"#,
        _ => r#"{"topic":"odds_updates","data":1}"#,
    };
    let mut request = app.request(Method::POST, path).bearer_auth(TOKEN).header("content-type", "application/json");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    Answer::of(request.body(body)).await
}

/// Whether a page of this origin may connect to this host.
async fn passes(app: &App, origin: &str, host: &str) -> bool {
    let (_, response) = get(app.address, "/api/ws", &[("Host", host), ("Origin", origin)]).await;
    assert!(matches!(response.status, 101 | 403), "{response:?}");
    response.status == 101
}

#[tokio::test]
async fn page_of_another_origin_is_refused_with_the_setting() {
    let app = App::start().await;
    let origin = "https://evil.example";
    for path in READS {
        let (_, response) = get(app.address, path, &[("Origin", origin)]).await;
        assert_eq!((response.status, code(&response)), (403, "origin_forbidden"), "{path}");
        for says in ["'https://evil.example'", "allowed-origins", "ODDSWIRE_ALLOWED_ORIGINS"] {
            assert!(response.detail().contains(says), "{path}: {response:?}");
        }
    }
    for path in ["/api/publish", "/api/broadcast"] {
        let answer = post(&app, path, Some(origin)).await;
        assert_eq!((answer.status, answer.code()), (403, "origin_forbidden"), "{path}");
        assert!(answer.detail().contains("allowed-origins"), "{}", answer.detail());
    }
    assert_eq!(app.manager.position().offset, 0, "nothing was published");
}

#[tokio::test]
async fn requests_without_an_origin_pass_with_any_list() {
    for app in [App::start().await, with_origins("https://odds.example.com").await] {
        for path in READS {
            let (_, response) = get(app.address, path, &[]).await;
            assert!(matches!(response.status, 101 | 200), "{path}: {response:?}");
            assert_eq!(response.header("access-control-allow-origin"), "");
        }
        for path in ["/api/publish", "/api/broadcast"] {
            assert_eq!(post(&app, path, None).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn without_a_list_only_pages_of_the_same_host_pass() {
    let app = App::start().await;
    let cases = [
        ("https://odds.example.com", "odds.example.com", true),
        ("http://odds.example.com", "odds.example.com", true),
        ("https://odds.example.com", "ODDS.example.com:443", true),
        ("http://odds.example.com:8000", "odds.example.com:8000", true),
        ("http://[::1]:8000", "[::1]:8000", true),
        ("https://odds.example.com", "odds.example.com:8443", false),
        ("http://odds.example.com:3000", "odds.example.com:8000", false),
        ("https://odds.example.com:80", "odds.example.com", false),
        ("https://example.com", "odds.example.com", false),
        ("https://odds.example.com.evil.example", "odds.example.com", false),
        ("null", "odds.example.com", false),
        ("odds.example.com", "odds.example.com", false),
    ];
    for (origin, host, allowed) in cases {
        assert_eq!(passes(&app, origin, host).await, allowed, "{origin} at {host}");
    }
}

#[tokio::test]
async fn origin_passes_if_the_list_has_it_its_domain_or_a_star() {
    let listed = "https://odds.example.com, http://localhost:3000";
    let wild = "https://*.example.com";
    let cases = [
        (listed, "https://odds.example.com", true),
        (listed, "https://ODDS.example.com", true),
        (listed, "http://localhost:3000", true),
        (listed, "http://localhost:3001", false),
        (listed, "http://odds.example.com", false),
        (listed, "https://odds.example.com:8443", false),
        (listed, "https://a.odds.example.com", false),
        (listed, "https://server.test", false),
        (listed, "null", false),
        (wild, "https://odds.example.com", true),
        (wild, "https://a.b.example.com", true),
        (wild, "https://example.com", false),
        (wild, "https://evilexample.com", false),
        (wild, "https://odds.example.com.evil.example", false),
        (wild, "http://odds.example.com", false),
        (wild, "https://odds.example.com:8443", false),
        ("*", "https://evil.example", true),
        ("*", "null", true),
    ];
    for (list, origin, allowed) in cases {
        let app = with_origins(list).await;
        assert_eq!(passes(&app, origin, "server.test").await, allowed, "{origin} by {list}");
    }
}

#[tokio::test]
async fn allowed_page_may_read_answers_including_errors() {
    let app = with_origins("https://odds.example.com").await;
    let origin = [("Origin", "https://odds.example.com")];
    let paths = ["/api/sse", "/api/topics", "/api/topics/odds_updates/state", "/api/topics/foo/state", "/api/nothing"];
    for path in paths {
        let (_, response) = get(app.address, path, &origin).await;
        assert!(matches!(response.status, 200 | 404), "{path}: {response:?}");
        assert_eq!(response.header("access-control-allow-origin"), "https://odds.example.com", "{path}");
        assert_eq!(response.header("vary"), "origin", "{path}");
        assert!(response.header("access-control-expose-headers").contains("etag"), "{path}");
    }
    let answer = post(&app, "/api/publish", Some("https://odds.example.com")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://odds.example.com"));

    let (_, refused) = get(app.address, "/api/topics", &[("Origin", "https://evil.example")]).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, ""));
    assert_eq!(refused.header("vary"), "origin");
}

#[tokio::test]
async fn preflight_allows_only_listed_pages() {
    let app = with_origins("https://odds.example.com").await;
    let preflight = async |path: &str, origin: &str| {
        let request = app.request(Method::OPTIONS, path).header("origin", origin);
        Answer::of(request.header("access-control-request-method", "POST")).await
    };
    for path in ["/api/publish", "/api/broadcast", "/api/sse", "/api/topics", "/api/topics/odds_updates/state"] {
        let answer = preflight(path, "https://odds.example.com").await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "https://odds.example.com");
        for method in ["GET", "POST"] {
            assert!(answer.header("access-control-allow-methods").contains(method), "{path}");
        }
        for header in ["authorization", "content-type", "idempotency-key", "last-event-id", "if-none-match"] {
            assert!(answer.header("access-control-allow-headers").contains(header), "{path}: {header}");
        }
        let other = preflight(path, "https://evil.example").await;
        assert_eq!(other.header("access-control-allow-origin"), "", "{path}");
    }
    // Without the headers of a preflight, the server refuses OPTIONS like any other method.
    assert_eq!(Answer::of(app.request(Method::OPTIONS, "/api/publish")).await.status, 405);
}
