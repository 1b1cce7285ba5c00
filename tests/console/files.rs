//! The files of the console over HTTP.

use reqwest::Method;

use crate::harness::{Answer, App};

#[tokio::test]
async fn files_are_served_with_type_caching_and_security_headers() {
    let app = App::start().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/?topics=odds_updates", "text/html; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/oddswire.js", "text/javascript; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let etag = answer.header("etag");
        let policy = answer.header("content-security-policy");
        for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"] {
            assert!(policy.split("; ").any(|part| part == directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
        let again = app.request(Method::GET, path).header("if-none-match", etag);
        let again = Answer::of(again).await;
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", etag), "{path}");
        let head = Answer::of(app.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.text.as_str(), head.header("etag")), (200, "", etag), "{path}");
        assert_eq!(head.header("content-length"), answer.text.len().to_string(), "{path}");
        let post = app.post(path, "text/plain", "").await;
        assert_eq!(
            (post.status, post.code(), post.header("allow")),
            (405, "method_not_allowed", "GET, HEAD"),
            "{path}"
        );
    }
    for path in
        ["/console", "/console/", "/console/index.html", "/console/none.js", "/console/../Cargo.toml", "/index.html"]
    {
        let answer = app.get(path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn disabled_console_answers_404_at_its_paths() {
    let app = App::with(|config| config.console = false).await;
    for path in ["/", "/console/console.js", "/console/oddswire.js"] {
        for method in [Method::GET, Method::POST] {
            let answer = Answer::of(app.request(method.clone(), path)).await;
            assert_eq!((answer.status, answer.code()), (404, "not_found"), "{method} {path}");
        }
    }
    assert_eq!(app.get("/api/topics").await.status, 200);
}
