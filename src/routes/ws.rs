//! `GET /api/ws`: the handshake checks, then the upgrade taken over from hyper.
//!
//! warp's own `ws()` gives each connection a read buffer of 128 KiB that becomes resident (measured: 140 KB per idle
//! connection). Here the session gets the bare TCP stream and the bytes that came behind the handshake; hyper's buffer
//! is freed with them.

use std::net::SocketAddr;

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use slog::{debug, error};
use tungstenite::handshake::derive_accept_key;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::query::{Query, query};
use super::{App, Refusal, method, peer, reject, respond, with};
use crate::connection::Io;
use crate::session::Session;

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "ws")
        .and(method(&[Method::GET], "GET"))
        .and(handshake())
        .and(query())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(peer())
        .and(with(app))
        .map(|accept: String, query, on_upgrade, peer, app| respond(switch(&accept, query, on_upgrade, peer, app)))
}

/// Checks the opening handshake (RFC 6455, section 4.2.1); gives the value of `Sec-WebSocket-Accept`.
fn handshake() -> impl Filter<Extract = (String,), Error = Rejection> + Clone {
    warp::header::headers_cloned().and_then(|headers: HeaderMap| async move { check(&headers).map_err(reject) })
}

fn check(headers: &HeaderMap) -> Result<String, Refusal> {
    let upgrade = |detail| {
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
        refusal.with_header(CONNECTION, "Upgrade").with_header(UPGRADE, "websocket")
    };
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(upgrade("this is a WebSocket endpoint: the request needs 'Upgrade: websocket'"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(upgrade("the request needs 'Connection: Upgrade'; a proxy in between has to pass it on"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let refusal = upgrade("Sec-WebSocket-Version must be 13 (RFC 6455)");
        return Err(refusal.with_header(SEC_WEBSOCKET_VERSION, "13"));
    }
    match headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes) {
        Some(key) if is_key(key) => Ok(derive_accept_key(key)),
        _ => Err(Refusal::bad_request("Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Whether a header that is a list has this token, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// 16 bytes in base64 are 22 characters and two of padding; the last character carries two bits of the last byte and
/// four that are zero.
fn is_key(key: &[u8]) -> bool {
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key, [digits @ .., last, b'=', b'='] if digits.len() == 21
        && digits.iter().all(alphabet) && matches!(last, b'A' | b'Q' | b'g' | b'w'))
}

/// Answers 101 and leaves the connection to a session.
fn switch(
    accept: &str,
    query: Query,
    on_upgrade: Option<OnUpgrade>,
    peer: Option<SocketAddr>,
    app: App,
) -> Result<Response, Refusal> {
    let on_upgrade = on_upgrade.ok_or_else(|| Refusal::bad_request("a WebSocket needs HTTP/1.1"))?;
    let accept = HeaderValue::from_str(accept).expect("base64 is a valid header value");
    app.tasks.clone().spawn(serve(query, on_upgrade, peer, app));

    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

async fn serve(query: Query, on_upgrade: OnUpgrade, peer: Option<SocketAddr>, app: App) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        // The peer went away before it had the 101.
        Err(error) => return debug!(app.logger, "ws.upgrade_failed"; "error" => %error),
    };
    let Ok(parts) = upgraded.downcast::<Io>() else {
        return error!(app.logger, "ws.upgrade_failed"; "error" => "the connection is not of the server's type");
    };
    let (connect, unknown) = query.connect(app.manager.topics());
    let session = Session {
        stream: parts.io.into_inner().into_inner(),
        // A copy: hyper's whole buffer would live as long as its last bytes.
        early: parts.read_buf.to_vec(),
        peer,
        connect,
        unknown,
    };
    drop(parts.read_buf);
    // In tasks of its own: this one is as large as everything that led to the session.
    session.start(&app.manager, app.config.session_limits(), &app.tasks, &app.logger);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_16_bytes_in_base64() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in [
            &b"dGhlIHNhbXBsZSBub25jZQ="[..],
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZR==",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhl-HNhbXBsZSBub25jZQ==",
            b"dGhlIHNhbXBsZSBub25jZQAA==",
            b"",
        ] {
            assert!(!is_key(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
