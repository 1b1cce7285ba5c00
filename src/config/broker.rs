//! Reads the broker's URL and the certificates to check the broker against, for the engine `redis`.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::check::{ConfigError, read_secret};
use super::serve::Config;

impl Config {
    /// Reads the broker's URL, and the certificates to check the broker's certificate against.
    pub(crate) fn broker(&self) -> Result<(String, Option<Vec<u8>>), ConfigError> {
        let url = match (&self.redis_url, &self.redis_url_file) {
            (Some(url), _) => url.expose().to_owned(),
            (None, Some(path)) => read_secret("redis-url-file", path)?.trim().to_owned(),
            (None, None) => {
                return Err(ConfigError(
                    "redis-url is not set: --engine redis needs it, such as redis://localhost:6379, or redis-url-file"
                        .to_owned(),
                ));
            }
        };
        Ok((url, self.redis_ca_file.as_deref().map(read_certificates).transpose()?))
    }
}

/// Reads the certificates, in PEM, to check the broker's certificate against.
fn read_certificates(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let refused = |reason: &str| ConfigError(format!("redis-ca-file '{}': {reason}", path.display()));
    let text = std::fs::read(path).map_err(|error| refused(&error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| refused(&error.to_string()))?;
    // With a file without valid certificates, TLS would refuse every broker, and no error would name this file.
    match RootCertStore::empty().add_parsable_certificates(certificates) {
        (1.., 0) => Ok(text),
        _ => Err(refused("expected one or more valid certificates in PEM")),
    }
}
