//! Connections to a server: TCP, or TLS with the system's certificates.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;

/// A connection must stand within this time, TLS included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
pub(super) type Stream = Box<dyn Connected>;

/// What both kinds of connection can do.
pub(super) trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connected for T {}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// It is not accepted, or TLS fails.
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, io::Error),
    /// It takes too long.
    #[error("cannot connect to {0}: no answer within {TIMEOUT:?}")]
    Timeout(Endpoint),
    /// What answers a greeting in TLS is something else.
    #[error("{endpoint}: the server there does not speak TLS; try {other}", endpoint = .0, other = .0.in_the_other_scheme())]
    NotTls(Endpoint),
    /// What answers a request is no HTTP.
    #[error("{endpoint}: the server there does not speak plain HTTP; try {other}", endpoint = .0, other = .0.in_the_other_scheme())]
    NotHttp(Endpoint),
}

impl DialError {
    /// Whether it would be the same again: the URL is that of something else.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, Self::NotTls(_) | Self::NotHttp(_))
    }
}

/// Why no encrypted connection can be made at all.
#[derive(Debug, Error)]
pub(super) enum TlsError {
    /// Without certificates no server could be trusted.
    #[error("the system has no certificates to check a server with: install ca-certificates, or set SSL_CERT_FILE")]
    NoCertificates,
    /// The host is no name that a certificate could have.
    #[error("'{0}' is no host name or address")]
    Name(String),
}

/// Connects to one server.
#[derive(Clone)]
pub(super) struct Dialer {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    /// Reads the system's certificates where they are needed.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, TlsError> {
        let tls = endpoint.is_tls().then(|| connector(endpoint.host())).transpose()?;
        Ok(Self { endpoint, tls })
    }

    /// Where it connects to.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A new connection.
    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        let connected = tokio::time::timeout(TIMEOUT, self.connect()).await;
        let connected = connected.map_err(|_| DialError::Timeout(self.endpoint.clone()))?;
        connected.map_err(|error| {
            let endpoint = self.endpoint.clone();
            if is_no_tls(&error) { DialError::NotTls(endpoint) } else { DialError::Connect(endpoint, error) }
        })
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

/// Whether what came from the server is nothing of TLS at all, such as the plain answer of an HTTP server.
fn is_no_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

fn connector(host: &str) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    let mut roots = RootCertStore::empty();
    // A certificate that cannot be read is one authority less, and those that can be read still count.
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 {
        return Err(TlsError::NoCertificates);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring speaks TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}
