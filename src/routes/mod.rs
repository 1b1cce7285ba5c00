//! The HTTP endpoints: warp filters, with one file for each endpoint. This file turns refusals into JSON responses.

mod access;
mod admin;
mod body;
mod console;
mod cors;
mod docs;
mod drafts;
mod nesting;
mod ops;
mod publish;
mod query;
mod sse;
mod state;
mod topics;
mod ws;

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;
use slog::Logger;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;
use warp::reject::Reject;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::admission::Admission;
use crate::auth::{Publishers, Verifier};
use crate::config::Config;
use crate::connection::InvalidHost;
use crate::engine::{Engine, Readiness};
use crate::manager::ConnectionManager;
use crate::shortened::shortened;
use crate::topic::Subscription;

/// The parts of the server that the endpoints use.
#[derive(Clone)]
pub struct App {
    /// The settings.
    pub config: Arc<Config>,
    /// The connection manager.
    pub manager: ConnectionManager,
    /// The publishers. SIGHUP replaces them.
    pub publishers: Arc<RwLock<Arc<Publishers>>>,
    /// The publish rate of each publisher, by name.
    pub publish_rates: PublishRates,
    /// Checks subscribers' tokens. `None` if the server requires no tokens.
    pub verifier: Option<Arc<Verifier>>,
    /// Limits the number of connections.
    pub admission: Admission,
    /// The storage engine, which takes published messages.
    pub engine: Arc<dyn Engine>,
    /// Cancelled when the server begins to drain.
    pub draining: CancellationToken,
    /// The tasks that a drain waits for.
    pub tasks: TaskTracker,
    /// The server's log.
    pub logger: Logger,
}

pub use self::admin::all as admin;
pub use self::publish::PublishRates;

impl App {
    /// Refuses requests while the engine is starting and has no state to serve.
    fn check_started(&self) -> Result<(), Refusal> {
        match self.engine.readiness() {
            Readiness::Ready | Readiness::Degraded(_) => Ok(()),
            Readiness::Starting(reason) => Err(Refusal::unavailable(format!("the server is starting: {reason}"))),
        }
    }

    /// The current publishers.
    #[must_use]
    pub fn publishers(&self) -> Arc<Publishers> {
        Arc::clone(&self.publishers.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All endpoints of the public listener.
pub fn all(app: &App) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let endpoints = endpoints(app);
    let config = Arc::clone(&app.config);
    let metrics = Arc::clone(app.manager.metrics());
    cors::origin().and(endpoints).map(move |origin, response: Response| {
        if let Some(Refused(code)) = response.extensions().get() {
            metrics.refused(code);
        }
        cors::allow(origin, &config, response)
    })
}

fn endpoints(app: &App) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> {
    let endpoints = cors::preflight()
        .or(ws::route(app))
        .unify()
        .or(sse::route(app))
        .unify()
        .or(publish::routes(app))
        .unify()
        .or(state::route(app))
        .unify()
        .or(topics::route(app))
        .unify()
        .or(ops::routes(app))
        .unify()
        .or(docs::routes())
        .unify()
        .or(console::routes(app))
        .unify();
    valid_host().and(endpoints).boxed().recover(recover).unify()
}

/// The routes of an embedding program. They get only requests with a valid host; the server's routes refuse the others.
pub fn own(routes: BoxedFilter<(Response,)>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    valid_host().and(routes)
}

/// Passes requests with a valid host, and refuses all other requests.
fn valid_host() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::ext::optional()
        .and_then(|invalid: Option<InvalidHost>| async move {
            match invalid {
                None => Ok(()),
                Some(InvalidHost(error)) => Err(reject(Refusal::bad_request(error.to_string()))),
            }
        })
        .untuple_one()
}

/// The refusal of a request. Its response is `{"error":{"code","detail","index","topics"}}`.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    index: Option<usize>,
    topics: Vec<Subscription>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reject for Refusal {}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), index: None, topics: Vec::new(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// A 503: the storage engine is not available.
    fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", detail).with_header(RETRY_AFTER, "1")
    }

    fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Adds the index of the message that the refusal is about, from 0.
    fn at(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }

    /// Adds the subscriptions that the refusal is about.
    fn naming(mut self, topics: Vec<Subscription>) -> Self {
        self.topics = topics;
        self
    }

    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ErrorFields<'a> {
            code: &'a str,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            index: Option<usize>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            topics: &'a [Subscription],
        }
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            error: ErrorFields<'a>,
        }
        let body = ErrorBody {
            error: ErrorFields { code: self.code, detail: &self.detail, index: self.index, topics: &self.topics },
        };
        let mut response = json(self.status, &body);
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(Refused(self.code));
        response
    }
}

/// The code of a refusal, as an extension of the response, for the metrics.
#[derive(Debug, Clone, Copy)]
struct Refused(&'static str);

/// A response with a JSON body.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("strings, numbers and lists always serialise");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn respond(result: Result<Response, Refusal>) -> Response {
    result.unwrap_or_else(Refusal::into_response)
}

/// Passes requests with an allowed method. Answers all other requests with 405 and the header `Allow`.
fn method(allowed: &'static [Method], allow: &'static str) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::method()
        .and_then(move |method: Method| async move {
            if allowed.contains(&method) {
                return Ok(());
            }
            let detail = format!("method {} is not allowed here: use {allow}", shortened(method.as_str()));
            Err(reject(
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with_header(ALLOW, allow),
            ))
        })
        .untuple_one()
}

/// Passes requests with the method GET or HEAD.
fn get() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    method(&[Method::GET, Method::HEAD], "GET, HEAD")
}

fn reject(refusal: Refusal) -> Rejection {
    warp::reject::custom(refusal)
}

fn with<T: Clone + Send + Sync + 'static>(
    value: &T,
) -> impl Filter<Extract = (T,), Error = Infallible> + Clone + use<T> {
    let value = value.clone();
    warp::any().map(move || value.clone())
}

/// Turns a rejection into a JSON response. The filters of this module reject with a [`Refusal`]. If no filter matches,
/// the response is a 404.
async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let refusal = match rejection.find::<Refusal>() {
        Some(refusal) => refusal.clone(),
        None if rejection.is_not_found() => {
            let detail = "unknown path: expected one of /api/ws, /api/sse, /api/publish, /api/broadcast, \
                          /api/topics, /api/docs/, /healthz and /readyz";
            Refusal::new(StatusCode::NOT_FOUND, "not_found", detail)
        }
        None => Refusal::bad_request(format!("invalid request: {rejection:?}")),
    };
    Ok(refusal.into_response())
}
