//! Checks whether a request may use an endpoint: its origin, its token, and the limits on connections.

use std::convert::Infallible;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, COOKIE, HOST, IF_NONE_MATCH, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, StatusCode};
use warp::Filter;

use super::{App, Refusal};
use crate::admission::{AdmissionError, Admitted};
use crate::auth::{Access, AccessError, Origins};
use crate::connection::Peer;
use crate::shortened::shortened;
use crate::topic::Subscription;

/// The parts of a request that these checks need.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    pub(super) headers: HeaderMap,
    /// The query string, or an empty text. Never log it: it may hold a token.
    pub(super) query: String,
    peer: Option<Peer>,
}

/// Extracts these parts from each request. Never refuses a request.
pub(super) fn incoming() -> impl Filter<Extract = (Incoming,), Error = Infallible> + Clone {
    warp::header::headers_cloned()
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::optional::<Peer>())
        .map(|headers, query, peer| Incoming { headers, query, peer })
}

impl Incoming {
    /// The client's address, even behind trusted proxies.
    pub(super) fn address(&self, app: &App) -> Option<IpAddr> {
        self.peer.map(|Peer(peer)| app.config.trusted_proxies.client(peer.ip(), &self.headers))
    }

    /// The client's address for the log, with the port if the client connects without a proxy.
    pub(super) fn shown_peer(&self, app: &App) -> Option<String> {
        let (Peer(peer), client) = self.peer.zip(self.address(app))?;
        Some(if client == peer.ip().to_canonical() { peer.to_string() } else { client.to_string() })
    }

    /// The value of a header, if it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether `If-None-Match` lists this entity tag: the client has the content already.
    pub(super) fn holds(&self, etag: &str) -> bool {
        self.header(&IF_NONE_MATCH).is_some_and(|listed| matches(listed, etag))
    }

    /// Refuses pages of other origins. Requests without an `Origin` header (non-browsers) pass.
    pub(super) fn check_origin(&self, app: &App) -> Result<(), Refusal> {
        let Some(origin) = self.headers.get(ORIGIN) else { return Ok(()) };
        let origins = app.config.allowed_origins.as_ref().unwrap_or(&Origins::SameHost);
        if origin.to_str().is_ok_and(|origin| origins.allow(origin, self.header(&HOST))) {
            return Ok(());
        }
        let shown = shortened(&String::from_utf8_lossy(origin.as_bytes()));
        let detail = format!("origin '{shown}' is not allowed: add it to allowed-origins (ODDSWIRE_ALLOWED_ORIGINS)");
        Err(Refusal::new(StatusCode::FORBIDDEN, "origin_forbidden", detail))
    }

    /// The access that the request's token gives: all topics, if the server requires no token.
    pub(super) fn access(&self, app: &App) -> Result<Access, Refusal> {
        let Some(verifier) = &app.verifier else { return Ok(Access::PUBLIC) };
        let access = self.token(app).ok_or(AccessError::Missing).and_then(|token| verifier.check(&token));
        access.map_err(|error| {
            let code = match error {
                AccessError::Expired => "token_expired",
                AccessError::Missing | AccessError::Invalid(_) => "unauthorized",
            };
            Refusal::new(StatusCode::UNAUTHORIZED, code, error.to_string()).with_header(WWW_AUTHENTICATE, "Bearer")
        })
    }

    fn token(&self, app: &App) -> Option<String> {
        let bearer = || self.bearer().map(str::to_owned);
        let in_query = || {
            let mut pairs = form_urlencoded::parse(self.query.as_bytes());
            pairs.find(|(name, value)| name == "token" && !value.is_empty()).map(|(_, token)| token.into_owned())
        };
        let in_cookie = || {
            let name = app.config.subscriber_cookie.as_deref()?;
            let cookies = self.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let mut pairs =
                cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, token)| token.to_owned())
        };
        bearer().or_else(in_query).or_else(in_cookie)
    }

    /// The token in `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header(&AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Counts a new connection until the result is dropped, or refuses the connection.
    pub(super) fn admit(&self, app: &App) -> Result<Admitted, Refusal> {
        if app.draining.is_cancelled() {
            let detail = "the server is shutting down: connect to another one";
            return Err(unavailable("draining", detail));
        }
        app.admission.admit(self.address(app)).map_err(|error| match error {
            AdmissionError::Full(_) => unavailable("full", &error.to_string()),
            AdmissionError::FullForAddress(_) => {
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", error.to_string())
                    .with_header(RETRY_AFTER, "10")
            }
        })
    }
}

/// Compares entity tags weakly (RFC 9110, section 13.1.2).
fn matches(listed: &str, etag: &str) -> bool {
    listed.split(',').map(str::trim).any(|entry| entry == "*" || entry.strip_prefix("W/").unwrap_or(entry) == etag)
}

fn unavailable(code: &'static str, detail: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_header(RETRY_AFTER, "2")
}

/// Refuses subscriptions that the token does not allow. The error names these subscriptions.
pub(super) fn check_allowed(access: &Access, asked: &[Subscription]) -> Result<(), Refusal> {
    let forbidden: Vec<Subscription> = asked.iter().filter(|asked| !access.covers(asked)).cloned().collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = forbidden.iter().map(|name| format!("'{name}'")).collect();
    let detail = format!("the token does not allow {}: its claim 'topics' must list them", names.join(", "));
    Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail).naming(forbidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etag_matches_alone_in_a_list_weak_and_by_star() {
        let etag = "\"1-2\"";
        for listed in ["\"1-2\"", "W/\"1-2\"", "\"0-1\", \"1-2\"", "*"] {
            assert!(matches(listed, etag), "{listed}");
        }
        assert!(!matches("\"1-3\"", etag));
        assert!(!matches("1-2", etag));
    }
}
