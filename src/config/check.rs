//! Checks across settings: values that contradict each other, and the contents of the files that settings name.

use std::path::Path;

use super::serve::{Config, EngineKind};
use crate::auth::{Publishers, Token, Verifier};

/// HS256 needs a secret at least as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Why a setting is invalid: one line with the setting's name, its value, and the allowed values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

impl Config {
    /// Checks the settings against each other, and reads the files that the settings name.
    pub fn check(mut self) -> Result<Self, ConfigError> {
        self.check_bounds()?;
        self.check_engine()?;
        if let Some(path) = self.subscriber_jwt_secret_file.take() {
            self.subscriber_jwt_secret = Some(read_token("subscriber-jwt-secret-file", &path)?);
        }
        self.check_secret()?;
        self.publishers()?;
        self.verifier()?;
        #[cfg(feature = "redis")]
        if self.engine == EngineKind::Redis {
            self.broker()?;
        }
        Ok(self)
    }

    /// Checks settings whose bounds are the values of other settings.
    fn check_bounds(&self) -> Result<(), ConfigError> {
        let too_small = |small: &str, small_is: String, large: &str, large_is: String| {
            ConfigError(format!("{small} is {small_is}: expected more than {large}, which is {large_is}"))
        };
        if self.idle_timeout <= self.ping_interval {
            let [idle, ping] =
                [self.idle_timeout, self.ping_interval].map(|d| humantime::format_duration(d).to_string());
            return Err(too_small("idle-timeout", idle, "ping-interval", ping));
        }
        if self.publish_body_bytes <= self.publish_message_bytes {
            let sizes = [self.publish_body_bytes, self.publish_message_bytes];
            let [body, message] = sizes.map(|size| format!("{size} bytes"));
            return Err(too_small("publish-body-bytes", body, "publish-message-bytes", message));
        }
        if self.memory_budget < self.outbox_bytes {
            let [budget, outbox] = [self.memory_budget, self.outbox_bytes];
            return Err(ConfigError(format!(
                "memory-budget is {budget} bytes: expected at least outbox-bytes, which is {outbox} bytes"
            )));
        }
        Ok(())
    }

    /// Checks that the journal has a directory, and that `--reset-data` is used with the journal only.
    fn check_engine(&self) -> Result<(), ConfigError> {
        if self.engine == EngineKind::Journal && self.data_dir.as_ref().is_none_or(|dir| dir.as_os_str().is_empty()) {
            return Err(ConfigError(
                "data-dir is not set: --engine journal needs a directory for its file, such as /var/lib/oddswire"
                    .to_owned(),
            ));
        }
        if self.engine != EngineKind::Journal && self.reset_data {
            return Err(ConfigError(
                "reset-data is set without --engine journal: the other engines have no file to reset".to_owned(),
            ));
        }
        Ok(())
    }

    /// Checks that the secret for subscribers' tokens is long enough.
    fn check_secret(&self) -> Result<(), ConfigError> {
        match self.subscriber_jwt_secret.as_ref().map(|secret| secret.expose().len()) {
            Some(length @ ..MIN_SECRET_BYTES) => Err(ConfigError(format!(
                "subscriber-jwt-secret has {length} bytes: expected {MIN_SECRET_BYTES} or more for HS256 \
                 (RFC 7518, section 3.2)",
            ))),
            _ => Ok(()),
        }
    }

    /// Reads the publishers from `publish-token` and from the present contents of `publish-token-file`.
    pub fn publishers(&self) -> Result<Publishers, ConfigError> {
        let path = self.publish_token_file.as_deref();
        let named = |error: String| match path {
            Some(path) => format!("publish-token-file '{}': {error}", path.display()),
            None => error,
        };
        let file = path.map(|path| read_secret("publish-token-file", path)).transpose()?;
        let publishers = Publishers::new(self.publish_token.as_ref(), file.as_deref(), &self.topics);
        publishers.map_err(|error| ConfigError(named(error)))
    }

    /// Builds the verifier of subscribers' tokens; `None` if subscribers need no token.
    pub(crate) fn verifier(&self) -> Result<Option<Verifier>, ConfigError> {
        if let Some(secret) = &self.subscriber_jwt_secret {
            return Ok(Some(Verifier::with_secret(secret)));
        }
        let Some(path) = &self.subscriber_jwks_file else { return Ok(None) };
        let text = read_secret("subscriber-jwks-file", path)?;
        let verifier = Verifier::with_jwks(&text);
        verifier.map(Some).map_err(|error| ConfigError(format!("subscriber-jwks-file '{}': {error}", path.display())))
    }
}

/// Reads a file that contains secrets. The error names the setting and the path.
pub(super) fn read_secret(setting: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{setting} '{}': {error}", path.display())))
}

/// Reads a file that contains one token.
fn read_token(setting: &str, path: &Path) -> Result<Token, ConfigError> {
    let token = read_secret(setting, path)?.trim().parse();
    token.map_err(|error| ConfigError(format!("{setting} '{}': {error}", path.display())))
}
