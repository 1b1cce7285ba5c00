//! Checks the opening handshake of a WebSocket (RFC 6455, section 4.2).

use http::header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use oddswire::routes::App;
use tungstenite::handshake::derive_accept_key;

use super::service::{Answer, app, block_on, call};

/// Reads the lines of the input as headers `name: value` of the request `GET /api/ws`.
pub fn check(input: &[u8]) {
    let headers = headers(input);
    let app = app();
    let answer = block_on(opened(&app, &headers));
    match answer.status {
        StatusCode::SWITCHING_PROTOCOLS => switched(&headers, &answer),
        StatusCode::UPGRADE_REQUIRED => {
            assert_eq!(answer.headers[UPGRADE], "websocket");
            assert_eq!(answer.headers[CONNECTION], "Upgrade");
        }
        StatusCode::FORBIDDEN => assert!(headers.contains_key(ORIGIN)),
        status => assert_eq!(status, StatusCode::BAD_REQUEST),
    }
    assert_eq!(app.manager.active_count(), 0, "a handshake without a connection leaves no session");
}

fn headers(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|b| *b == b'\n').take(32) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        // The HTTP parser rejects invalid headers before this code sees them.
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Sends the request, and waits until the server's task for the connection has ended. The task ends because it never
/// gets a socket.
async fn opened(app: &App, headers: &HeaderMap) -> Answer {
    let mut request = Request::get("/api/ws").body(Full::default()).expect("a path makes a valid request");
    *request.headers_mut() = headers.clone();
    // Hyper adds an `OnUpgrade` to each request that can be upgraded. This `OnUpgrade` belongs to no connection, so it
    // fails.
    let on_upgrade = hyper::upgrade::on(Request::new(()));
    request.extensions_mut().insert(on_upgrade);
    let answer = call(app, request).await;
    app.tasks.close();
    app.tasks.wait().await;
    answer
}

/// Checks the request and the response of a successful handshake (RFC 6455, section 4.2).
fn switched(headers: &HeaderMap, answer: &Answer) {
    let has = |name: &HeaderName, token: &str| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
        values.collect::<Vec<_>>().join(",").split(',').any(|part| part.trim() == token)
    };
    assert!(has(&UPGRADE, "websocket"));
    assert!(has(&CONNECTION, "upgrade"));
    assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
    let key = headers[SEC_WEBSOCKET_KEY].to_str().expect("a key is ASCII");
    assert!(is_16_bytes(key), "{key}");
    assert_eq!(answer.headers[SEC_WEBSOCKET_ACCEPT], derive_accept_key(key.as_bytes()));
    assert_eq!(answer.headers[UPGRADE], "websocket");
    if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().expect("an allowed origin is text").to_ascii_lowercase();
        let (_, authority) = origin.split_once("://").expect("an allowed origin has a scheme");
        let host = headers[HOST].to_str().expect("a host is text").to_ascii_lowercase();
        let name = |authority: &str| authority.trim_end_matches(":443").trim_end_matches(":80").to_owned();
        assert_eq!(name(authority.trim_end_matches('/')), name(&host), "an allowed origin has the server's host");
    }
}

/// Whether the text is the base64 form of 16 bytes.
fn is_16_bytes(text: &str) -> bool {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Some(digits) = text.strip_suffix("==").filter(|digits| digits.len() == 22) else { return false };
    let value = |digit: u8| DIGITS.iter().position(|known| *known == digit);
    let values: Option<Vec<usize>> = digits.bytes().map(value).collect();
    values.is_some_and(|values| values[21] % 16 == 0)
}
