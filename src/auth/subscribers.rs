//! The JSON Web Tokens of subscribers: their keys, their claims, and the access that a token gives.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use serde::Deserialize;
use thiserror::Error;

use super::signature;
use super::token::Token;
use crate::message::Timestamp;
use crate::topic::Subscription;

/// The maximum difference between the clocks of the issuer and the server.
const CLOCK_SKEW_SECONDS: u64 = 30;

/// The subscriptions that a client may have, and the time when this access ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The allowed subscriptions; `None` allows all topics.
    allowed: Option<Vec<Subscription>>,
    /// When the server ends the connection; `None` means never.
    pub expires: Option<Timestamp>,
}

impl Access {
    /// Access to all topics, for ever. All clients have this access if the server requires no tokens.
    pub const PUBLIC: Self = Self { allowed: None, expires: None };

    /// Whether this subscription is allowed.
    #[must_use]
    pub fn covers(&self, subscription: &Subscription) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|granted| {
                granted.topic() == subscription.topic()
                    && (granted.key().is_none() || subscription.key().is_some_and(|key| granted.covers(Some(key))))
            })
        })
    }

    /// The subscriptions of a client that requests none: all allowed subscriptions. `None` means every topic.
    #[must_use]
    pub fn everything(&self) -> Option<Vec<Subscription>> {
        self.allowed.clone()
    }
}

/// Why the server refuses a token. The error texts never contain the token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// The request has no token.
    #[error("a token is required: 'Authorization: Bearer', token= in the query, or the cookie")]
    Missing,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is invalid for another reason.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
}

/// Checks subscribers' tokens.
pub struct Verifier {
    keys: Vec<VerifyingKey>,
}

struct VerifyingKey {
    id: Option<String>,
    key: DecodingKey,
    /// The algorithm to verify with. It comes from the key, never from a token's header (RFC 8725, section 3.1).
    algorithm: Algorithm,
}

/// The end of the year 9999 in Unix milliseconds, the last moment that a timestamp can show. Some issuers use a later
/// `exp` for tokens that never expire.
const END_OF_TIME: i64 = 253_402_300_799_999;

#[derive(Deserialize)]
struct Claims {
    /// When the token expires, in Unix seconds with or without a fraction (RFC 7519, section 2). The library refuses
    /// tokens without `exp`.
    exp: Option<f64>,
    #[serde(default)]
    topics: Vec<String>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys)", self.keys.len())
    }
}

impl Verifier {
    /// Accepts tokens signed with a shared secret (HS256).
    #[must_use]
    pub fn with_secret(secret: &Token) -> Self {
        signature::install();
        let key = DecodingKey::from_secret(secret.expose().as_bytes());
        Self { keys: vec![VerifyingKey { id: None, key, algorithm: Algorithm::HS256 }] }
    }

    /// Accepts tokens signed with a key of the set (RS256, ES256, `EdDSA`).
    pub fn with_jwks(text: &str) -> Result<Self, String> {
        signature::install();
        let set: JwkSet = serde_json::from_str(text).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            // Issuers keep keys for other purposes in the same set. Skip such keys (RFC 7517, section 5).
            let Some(algorithm) = algorithm(jwk) else { continue };
            let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("key {at}: {error}"))?;
            check_modulus(&key).map_err(|error| format!("key {at}: {error}"))?;
            keys.push(VerifyingKey { id: jwk.common.key_id.clone(), key, algorithm });
        }
        if keys.is_empty() {
            return Err("the set has no key that signs with RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self { keys })
    }

    /// Verifies the token. Returns the access that it gives.
    pub fn check(&self, token: &str) -> Result<Access, AccessError> {
        let header = decode_header(token).map_err(|_| AccessError::Invalid("it is not a JSON Web Token"))?;
        let named = |key: &&VerifyingKey| match (&key.id, &header.kid) {
            (Some(id), Some(kid)) => id == kid,
            _ => true,
        };
        let mut refused = AccessError::Invalid("no key of the server fits its header");
        for key in self.keys.iter().filter(named).filter(|key| key.algorithm == header.alg) {
            match key.verify(token) {
                Ok(access) => return Ok(access),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// Refuses an RSA key that ring does not accept.
fn check_modulus(key: &DecodingKey) -> Result<(), String> {
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return Ok(()) };
    if n.first() == Some(&0) {
        return Err("an RSA modulus that begins with a zero byte (RFC 7518, section 6.3.1.1)".to_owned());
    }
    if signature::RSA_MODULUS_BYTES.contains(&n.len()) {
        return Ok(());
    }
    Err(format!("an RSA modulus of {} bits: expected 2048 to 8192 (RFC 7518, section 3.3)", n.len() * 8))
}

fn algorithm(jwk: &jsonwebtoken::jwk::Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, KeyAlgorithm, PublicKeyUse};
    if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
        return None;
    }
    match (&jwk.common.key_algorithm, &jwk.algorithm) {
        (None | Some(KeyAlgorithm::RS256), AlgorithmParameters::RSA(_)) => Some(Algorithm::RS256),
        (None | Some(KeyAlgorithm::ES256), AlgorithmParameters::EllipticCurve(curve))
            if curve.curve == EllipticCurve::P256 =>
        {
            Some(Algorithm::ES256)
        }
        (None | Some(KeyAlgorithm::EdDSA), AlgorithmParameters::OctetKeyPair(_)) => Some(Algorithm::EdDSA),
        _ => None,
    }
}

impl VerifyingKey {
    fn verify(&self, token: &str) -> Result<Access, AccessError> {
        let mut validation = Validation::new(self.algorithm);
        validation.leeway = CLOCK_SKEW_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        let claims: Claims = decode(token, &self.key, &validation).map_err(|error| refusal(error.kind()))?.claims;
        let seconds = claims.exp.ok_or(NO_EXPIRY)?;
        let since_1970 = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        let millis = i64::try_from(since_1970.as_millis()).unwrap_or(END_OF_TIME);
        let mut expires = Timestamp::from_millis(millis.min(END_OF_TIME));
        if expires <= Timestamp::now() {
            // The token has expired, and is accepted only because clocks may differ. So the access ends when this
            // tolerance ends.
            expires = expires.plus(Duration::from_secs(CLOCK_SKEW_SECONDS));
        }
        if claims.topics.iter().any(|topic| topic == "*") {
            return Ok(Access { allowed: None, expires: Some(expires) });
        }
        let parsed: Result<Vec<Subscription>, _> = claims.topics.iter().map(|topic| topic.parse()).collect();
        let allowed = parsed.map_err(|_| AccessError::Invalid("its claim 'topics' is not a list of subscriptions"))?;
        Ok(Access { allowed: Some(allowed), expires: Some(expires) })
    }
}

const NO_EXPIRY: AccessError = AccessError::Invalid("it has no claim 'exp'");

fn refusal(kind: &ErrorKind) -> AccessError {
    match kind {
        ErrorKind::ExpiredSignature => AccessError::Expired,
        ErrorKind::ImmatureSignature => AccessError::Invalid("it is not valid yet (nbf)"),
        ErrorKind::InvalidSignature => AccessError::Invalid("its signature is wrong"),
        ErrorKind::MissingRequiredClaim(_) => NO_EXPIRY,
        ErrorKind::InvalidAlgorithm => AccessError::Invalid("its algorithm is not that of the key"),
        ErrorKind::Json(_) => {
            AccessError::Invalid("its claims cannot be read: 'exp' must be a number and 'topics' a list of strings")
        }
        _ => AccessError::Invalid("it cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_covers_itself_and_narrower_ones() {
        let access = |list: &[&str]| Access {
            allowed: Some(list.iter().map(|text| text.parse().unwrap()).collect()),
            expires: None,
        };
        let covers = |list: &[&str], asked: &str| access(list).covers(&asked.parse().unwrap());
        assert!(covers(&["odds_updates"], "odds_updates/8301"));
        assert!(covers(&["odds_updates/8301"], "odds_updates/8301/1x2"));
        assert!(!covers(&["odds_updates/8301"], "odds_updates"));
        assert!(!covers(&["odds_updates/8301"], "odds_updates/83"));
        assert!(!covers(&["odds_updates/8301"], "odds_updates/83011"));
        assert!(!covers(&[], "odds_updates"));
        assert!(Access::PUBLIC.covers(&"odds_updates".parse().unwrap()));
    }
}
