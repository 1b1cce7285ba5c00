//! Cross-origin requests: adds the headers that let a page of an allowed origin read the responses.
//!
//! The setting `allowed-origins` says which origins are allowed. The endpoints refuse pages of all other origins.

use std::convert::Infallible;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use warp::reply::{Reply as _, Response};
use warp::{Filter, Rejection};

use crate::auth::Origins;
use crate::config::Config;

/// The `Origin` and `Host` headers of a request.
pub(super) struct RequestOrigin {
    origin: Option<HeaderValue>,
    host: Option<HeaderValue>,
}

pub(super) fn origin() -> impl Filter<Extract = (RequestOrigin,), Error = Infallible> + Clone {
    warp::header::headers_cloned().map(|headers: HeaderMap| RequestOrigin {
        origin: headers.get(ORIGIN).cloned(),
        host: headers.get(HOST).cloned(),
    })
}

/// Answers preflight requests. The answer is the same for every origin: only the header that [`allow`] adds tells the
/// browser whether the origin is allowed.
pub(super) fn preflight() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let asked = warp::method().and(warp::header::headers_cloned()).and_then(|method, headers: HeaderMap| async move {
        let is_preflight = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if is_preflight { Ok(()) } else { Err(warp::reject::not_found()) }
    });
    asked.untuple_one().map(|| {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, idempotency-key, last-event-id, if-none-match"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        response
    })
}

/// If the page's origin is allowed, adds the headers that let the page read the response.
pub(super) fn allow(origin: RequestOrigin, config: &Config, mut response: Response) -> Response {
    let RequestOrigin { origin: Some(origin), host } = origin else { return response };
    let origins = config.allowed_origins.as_ref().unwrap_or(&Origins::SameHost);
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let allowed = origin.to_str().is_ok_and(|origin| origins.allow(origin, host));
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag, retry-after"));
    }
    response
}
