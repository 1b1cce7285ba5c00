//! The client side of `/healthz`, for the health checks of containers.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;

use crate::dial::{DialError, Dialer, TlsError};
use crate::endpoint::Endpoint;

/// Why a server counts as unhealthy.
#[derive(Debug, Error)]
pub(crate) enum HealthError {
    /// The client cannot set up TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server does not accept a connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The answer is not HTTP, or the connection broke.
    #[error("{0} did not answer: {1}")]
    Http(Endpoint, hyper::Error),
    /// The server answers with a status other than 200.
    #[error("{0} answered {1}")]
    Status(Endpoint, StatusCode),
    /// The server does not answer within the timeout.
    #[error("{0} did not answer within {1:?}")]
    Timeout(Endpoint, Duration),
}

/// Asks the server at `endpoint` whether it is healthy.
pub(crate) async fn check(endpoint: Endpoint, timeout: Duration) -> Result<(), HealthError> {
    let dialer = Dialer::new(endpoint.clone())?;
    let asked = tokio::time::timeout(timeout, ask(&dialer)).await;
    match asked.map_err(|_| HealthError::Timeout(endpoint.clone(), timeout))?? {
        StatusCode::OK => Ok(()),
        status => Err(HealthError::Status(endpoint, status)),
    }
}

async fn ask(dialer: &Dialer) -> Result<StatusCode, HealthError> {
    let endpoint = dialer.endpoint();
    let failed = |error| HealthError::Http(endpoint.clone(), error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(dialer.dial().await?)).await.map_err(failed)?;
    let request = Request::get(endpoint.path("/healthz")).header("host", endpoint.authority());
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).expect("an endpoint makes a valid request"));
    tokio::select! {
        answer = answer => Ok(answer.map_err(failed)?.status()),
        Err(error) = connection => Err(failed(error)),
    }
}
