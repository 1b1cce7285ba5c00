//! The client side of `/healthz`: what a container's health check runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Why a server does not count as alive.
#[derive(Debug, Error)]
pub enum HealthError {
    /// It does not take connections.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// It speaks no HTTP.
    #[error("{0} did not answer: {1}")]
    Http(SocketAddr, hyper::Error),
    /// It says that it is not well.
    #[error("{0} answered {1}")]
    Status(SocketAddr, StatusCode),
    /// It takes too long.
    #[error("{0} did not answer within {1:?}")]
    Timeout(SocketAddr, Duration),
}

/// Asks the server at `listen` whether it is alive.
pub async fn check(listen: SocketAddr, timeout: Duration) -> Result<(), HealthError> {
    let address = reachable(listen);
    let asked = tokio::time::timeout(timeout, ask(address)).await;
    match asked.map_err(|_| HealthError::Timeout(address, timeout))?? {
        StatusCode::OK => Ok(()),
        status => Err(HealthError::Status(address, status)),
    }
}

async fn ask(address: SocketAddr) -> Result<StatusCode, HealthError> {
    let stream = TcpStream::connect(address).await.map_err(|error| HealthError::Connect(address, error))?;
    let failed = |error| HealthError::Http(address, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get("/healthz").header("host", address.to_string()).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.expect("a path and an address make a valid request"));
    tokio::select! {
        answer = answer => Ok(answer.map_err(failed)?.status()),
        Err(error) = connection => Err(failed(error)),
    }
}

/// A server that listens on all addresses is asked on the loopback interface.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
