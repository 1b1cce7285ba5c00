//! Connections to a server: TCP, or TLS with the system's certificates.

#[cfg(feature = "cli")]
mod tls;
/// Replaces the TLS module in a build without the feature `cli`, because only that feature adds the TLS crates.
#[cfg(not(feature = "cli"))]
#[path = "no_tls.rs"]
mod tls;

use std::io::{self, ErrorKind};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use self::tls::Tls;
pub(crate) use self::tls::TlsError;
use crate::endpoint::Endpoint;

/// The maximum time to open a connection, including the TLS handshake.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
pub(crate) type Stream = Box<dyn Connected>;

/// The traits that plain and encrypted connections have in common.
pub(crate) trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connected for T {}

/// Why a connection cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The host refuses connections on this port.
    #[error("nothing listens on {0}: start a server with 'oddswire serve', or set --url")]
    NothingListens(Endpoint),
    /// Connecting or the TLS handshake fails.
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, io::Error),
    /// The connection did not open within [`TIMEOUT`].
    #[error("cannot connect to {0}: no answer within {TIMEOUT:?}")]
    Timeout(Endpoint),
    /// The server answers the TLS handshake with something that is not TLS.
    #[error("{endpoint}: the server there does not speak TLS; try {other}", endpoint = .0, other = .0.in_the_other_scheme())]
    NotTls(Endpoint),
    /// The server answers a request over plain TCP with something that is not HTTP.
    #[error("{endpoint}: the server there does not speak plain HTTP; try {other}", endpoint = .0, other = .0.in_the_other_scheme())]
    NotHttp(Endpoint),
}

impl DialError {
    /// Whether a retry would fail in the same way, because the URL has the wrong scheme.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::NotTls(_) | Self::NotHttp(_))
    }
}

/// Opens connections to one server.
#[derive(Clone)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    tls: Option<Tls>,
}

impl Dialer {
    /// A dialer for this server. Reads the system's certificates if the URL asks for TLS.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, TlsError> {
        let tls = endpoint.is_tls().then(|| Tls::new(endpoint.host())).transpose()?;
        Ok(Self { endpoint, tls })
    }

    /// The server that this dialer connects to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Opens a new connection.
    pub(crate) async fn dial(&self) -> Result<Stream, DialError> {
        let connected = tokio::time::timeout(TIMEOUT, self.connect()).await;
        let connected = connected.map_err(|_| DialError::Timeout(self.endpoint.clone()))?;
        connected.map_err(|error| {
            let endpoint = self.endpoint.clone();
            match error.kind() {
                ErrorKind::ConnectionRefused => DialError::NothingListens(endpoint),
                _ if tls::is_not_tls(&error) => DialError::NotTls(endpoint),
                _ => DialError::Connect(endpoint, error),
            }
        })
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => tls.connect(stream).await,
        }
    }
}
