//! An HTTP client that sends one request at a time over one connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use oddswire::config::Token;
use serde::Deserialize;
use thiserror::Error;
use tokio::task::JoinSet;

use super::printable;
use crate::dial::{DialError, Dialer};

/// The maximum time for a request and its complete answer. By default the server waits 30 s for the body of a publish.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The maximum length of an answer, in bytes. The longest answer is the list of connections of a large server.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The `User-Agent` of the program.
pub(super) const AGENT: &str = concat!("oddswire/", env!("CARGO_PKG_VERSION"));

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    /// The connection cannot be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or the answer is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(hyper::Error),
    /// The answer ended early, or is longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer is incomplete: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The complete answer did not arrive within [`TIMEOUT`].
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

impl AskError {
    /// Whether a retry would fail in the same way.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, Self::Dial(error) if error.is_lasting())
    }
}

/// The answer of a server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends requests to one server, and keeps the connection open between requests.
pub(super) struct Client {
    dialer: Dialer,
    token: Option<Token>,
    open: Option<SendRequest<Full<Bytes>>>,
    /// The task that reads from and writes to the open connection.
    driving: JoinSet<()>,
}

impl Client {
    pub(super) fn new(dialer: Dialer, token: Option<Token>) -> Self {
        Self { dialer, token, open: None, driving: JoinSet::new() }
    }

    /// Sends a GET request.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, AskError> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Publishes messages, one per line. The server takes them only once, even if a request with the same `key` (the
    /// `Idempotency-Key`) is repeated.
    pub(super) async fn post_lines(&mut self, path: &str, key: &str, lines: Bytes) -> Result<Answer, AskError> {
        self.send(
            Method::POST,
            path,
            &[(CONTENT_TYPE.as_str(), "application/x-ndjson"), ("idempotency-key", key)],
            lines,
        )
        .await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, AskError> {
        let endpoint = self.dialer.endpoint();
        let mut request = Request::builder().method(method).uri(endpoint.path(path));
        request = request.header(HOST, endpoint.authority()).header(USER_AGENT, AGENT);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("paths and tokens are visible ASCII");
        // Take the connection out of `open`, so that it is not used again after an error.
        let open = self.open.take();
        let asked = tokio::time::timeout(TIMEOUT, self.ask(open, request)).await;
        asked.map_err(|_| AskError::Timeout)?
    }

    async fn ask(
        &mut self,
        open: Option<SendRequest<Full<Bytes>>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, AskError> {
        let mut sender = match open {
            // The server may have closed the connection since the last request.
            Some(mut open) => match open.ready().await {
                Ok(()) => open,
                Err(_) => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let (head, body) = sender.send_request(request).await.map_err(|error| self.broken(error))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(AskError::Body)?.to_bytes();
        self.open = Some(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn broken(&self, error: hyper::Error) -> AskError {
        if error.is_parse() && !self.dialer.endpoint().is_tls() {
            return DialError::NotHttp(self.dialer.endpoint().clone()).into();
        }
        AskError::Broken(error)
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, AskError> {
        let stream = self.dialer.dial().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(AskError::Broken)?;
        self.driving.abort_all();
        self.driving.spawn(async move {
            // Ignore the error here: the request that waits for an answer also gets it.
            let _: Result<(), _> = connection.await;
        });
        Ok(sender)
    }
}

/// An answer with an error status: the server refuses the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefusedRequest {
    pub(super) status: StatusCode,
    /// The server's error code; empty if another program answered, such as a proxy.
    pub(super) code: String,
    pub(super) detail: String,
    /// Index of the first invalid message in the request.
    pub(super) index: Option<usize>,
    pub(super) retry_after: Option<Duration>,
}

impl RefusedRequest {
    /// Reads an answer with an error status.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Error,
        }
        #[derive(Deserialize)]
        struct Error {
            code: String,
            detail: String,
            index: Option<usize>,
        }
        let read = serde_json::from_slice::<Body>(body).ok().map(|body| body.error);
        let (code, detail, index) = read.map_or_else(Default::default, |e| (e.code, printable(&e.detail), e.index));
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { status, code, detail, index, retry_after: seconds.map(Duration::from_secs) }
    }

    /// Whether a retry of the same request may succeed.
    pub(super) fn is_temporary(&self) -> bool {
        self.status.is_server_error()
            || matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
    }
}

impl std::fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.detail.as_str(), self.status.canonical_reason()) {
            ("", Some(reason)) => write!(f, "{} {reason}", self.status.as_u16()),
            ("", None) => write!(f, "{}", self.status.as_u16()),
            (detail, _) => write!(f, "{}: {detail}", self.status.as_u16()),
        }
    }
}
