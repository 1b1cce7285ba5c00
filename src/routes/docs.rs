//! `GET /api/docs/…`: the machine-readable descriptions of the API, and a page with links to these descriptions.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use warp::path::FullPath;
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::get;

/// The links are relative, so that the page works behind a proxy that adds a prefix. `{base}` stands for the beginning
/// of each link: it is empty if the page's own path ends with a slash.
const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<meta name=\"color-scheme\" content=\"light dark\">
<title>oddswire: API</title>
<h1>oddswire: API</h1>
<ul>
<li><a href=\"{base}openapi.yaml\">openapi.yaml</a>: the HTTP endpoints (OpenAPI 3.1)
<li><a href=\"{base}asyncapi.yaml\">asyncapi.yaml</a>: the messages over WebSocket and server-sent events (AsyncAPI 3)
</ul>
";

/// Media type of YAML (RFC 9512).
const YAML: &str = "application/yaml";
const HTML: &str = "text/html; charset=utf-8";

pub(super) fn routes() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let document = |content: &'static str| move |incoming: Incoming| respond(&incoming, YAML, content.to_owned());
    let page = |path: FullPath, incoming: Incoming| {
        let base = if path.as_str().ends_with('/') { "" } else { "docs/" };
        respond(&incoming, HTML, PAGE.replace("{base}", base))
    };
    let openapi = warp::path!("api" / "docs" / "openapi.yaml").and(get()).and(incoming());
    let asyncapi = warp::path!("api" / "docs" / "asyncapi.yaml").and(get()).and(incoming());
    let index = warp::path!("api" / "docs").and(get()).and(warp::path::full()).and(incoming());
    openapi
        .map(document(include_str!("../../docs/api/openapi.yaml")))
        .or(asyncapi.map(document(include_str!("../../docs/api/asyncapi.yaml"))))
        .unify()
        .or(index.map(page))
        .unify()
}

fn respond(incoming: &Incoming, content_type: &'static str, content: String) -> Response {
    let etag = etag_of(&content);
    let mut response = if incoming.holds(&etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(content.into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&etag).expect("hexadecimal digits and quotes are a valid header value"));
    // Clients check each time whether a document has changed, so they get the documents of a new program version at
    // once.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The entity tag for a content. It is the same on every node that runs the same version.
pub(super) fn etag_of(content: &str) -> String {
    let mut etag = String::from("\"");
    for byte in &digest(&SHA256, content.as_bytes()).as_ref()[..8] {
        write!(etag, "{byte:02x}").expect("writing to memory does not fail");
    }
    etag + "\""
}
