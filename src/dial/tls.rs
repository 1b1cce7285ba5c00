//! TLS connections with rustls and the system's certificates.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Stream;

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The system has no certificate authorities, so no server can be trusted.
    #[error("the system has no certificates to check a server with: install ca-certificates, or set SSL_CERT_FILE")]
    NoCertificates,
    /// The host is neither a host name nor an IP address, so no certificate can match it.
    #[error("invalid host '{0}': expected a host name or an IP address")]
    Name(String),
}

/// The client side of TLS for one server.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the system's certificates, for connections to this host.
    pub(super) fn new(host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let mut roots = RootCertStore::empty();
        // Skip certificates that cannot be parsed; the other certificates are enough to check most servers.
        let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if usable == 0 {
            return Err(TlsError::NoCertificates);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring speaks TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Encrypts a connection.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(Box::new(self.connector.connect(self.name.clone(), stream).await?))
    }
}

/// Whether the error means that the server's first bytes are not TLS, such as the answer of a plain HTTP server.
pub(super) fn is_not_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}
