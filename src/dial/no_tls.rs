//! A build without TLS: every `https` URL is an error.

use std::io;

use thiserror::Error;
use tokio::net::TcpStream;

use super::Stream;

/// The URL requires TLS, which this build lacks.
#[derive(Debug, Error)]
#[error("this build cannot connect to https: use an http URL, or build with --features cli")]
pub(crate) struct TlsError;

/// A type without values, because [`Tls::new`] always fails.
#[derive(Clone)]
pub(super) enum Tls {}

impl Tls {
    pub(super) fn new(_host: &str) -> Result<Self, TlsError> {
        Err(TlsError)
    }

    #[expect(clippy::unused_async, reason = "the same signature as with TLS")]
    pub(super) async fn connect(&self, _stream: TcpStream) -> io::Result<Stream> {
        match *self {}
    }
}

pub(super) fn is_not_tls(_error: &io::Error) -> bool {
    false
}
