//! `GET /api/ws`: checks the WebSocket handshake, then takes the upgraded connection over from hyper.
//!
//! warp's own `ws()` gives each connection a read buffer of 128 KiB that becomes resident (measured: 140 KB per idle
//! connection). Here the session gets the bare TCP stream and a copy of the bytes that came after the handshake, so
//! that hyper's buffer is freed.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use slog::{debug, error};
use tungstenite::handshake::derive_accept_key;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::access::{Incoming, incoming};
use super::query::Query;
use super::{App, Refusal, method, respond, with};
use crate::config::Config;
use crate::connection::Io;
use crate::log::Since;
use crate::session::{Session, SessionLimits, Wanted};

pub(super) fn route(app: &App) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path!("api" / "ws")
        .and(method(&[Method::GET], "GET"))
        .and(incoming())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(with(app))
        .map(|incoming: Incoming, on_upgrade, app: App| respond(open(&incoming, on_upgrade, &app)))
}

/// Checks the opening handshake (RFC 6455, section 4.2.1), the access and the query. Then answers 101 and hands the
/// connection to a session.
fn open(incoming: &Incoming, on_upgrade: Option<OnUpgrade>, app: &App) -> Result<Response, Refusal> {
    let accept = check(&incoming.headers)?;
    incoming.check_origin(app)?;
    let access = incoming.access(app)?;
    let mut query = Query::parse(&incoming.query)?;
    let unknown_parameters = std::mem::take(&mut query.unknown);
    let (connect, unknown) = query.connect(incoming, app, &access)?;
    app.check_started()?;
    let admitted = incoming.admit(app)?;
    let on_upgrade = on_upgrade.ok_or_else(|| Refusal::bad_request("a WebSocket needs HTTP/1.1"))?;
    let verifier = app.verifier.clone();
    let wanted = Wanted { admitted, access, verifier, connect, unknown, unknown_parameters };
    app.tasks.spawn(serve(wanted, on_upgrade, app.clone()));
    Ok(switching(&accept))
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

/// Whether a list header contains this token, in upper or lower case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Whether a `Sec-WebSocket-Key` is 16 bytes in base64: 22 characters and two of padding. The last of the 22 carries
/// two bits of the last byte and four zero bits.
fn is_key(key: &[u8]) -> bool {
    let alphabet = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key, [digits @ .., last, b'=', b'='] if digits.len() == 21
        && digits.iter().all(alphabet) && matches!(last, b'A' | b'Q' | b'g' | b'w'))
}

fn switching(accept: &str) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(accept).expect("base64 is a valid header value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn serve(wanted: Wanted, on_upgrade: OnUpgrade, app: App) {
    if let Since::Position(position) = wanted.connect.since {
        app.engine.reach(position).await;
    }
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        // The peer disconnected before it got the response 101.
        Err(error) => return debug!(app.logger, "ws.upgrade_failed"; "error" => %error),
    };
    let Ok(parts) = upgraded.downcast::<Io>() else {
        return error!(app.logger, "ws.upgrade_failed"; "error" => "the connection is not of the server's type");
    };
    // Copy the bytes: a reference would keep hyper's whole buffer.
    let early = parts.read_buf.to_vec();
    drop(parts.read_buf);
    let session = Session { stream: parts.io.into_inner().into_inner(), early, wanted };
    // The session starts its own tasks. This task still keeps the memory of the request, so this task ends here.
    session.start(&app.manager, session_limits(&app.config), &app.tasks, &app.logger);
}

fn session_limits(config: &Config) -> SessionLimits {
    SessionLimits {
        client_message_bytes: config.client_message_bytes,
        client_messages_per_second: u32::try_from(config.client_messages_per_second).unwrap_or(u32::MAX),
        ping_interval: config.ping_interval,
        idle_timeout: config.idle_timeout,
        write_timeout: config.write_timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_16_bytes_in_base64() {
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
