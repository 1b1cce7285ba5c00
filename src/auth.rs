//! Who may publish, who may listen, and from which pages: tokens, claims, origins.
//!
//! A token is never shown: not in a log, not in an error, not in a debug print.

use std::fmt;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;

use crate::message::Timestamp;
use crate::topic::{Subscription, Topic, Topics};

/// Clocks may differ by this much, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 30;
/// The name of the publisher whose token is the setting `publish-token`.
const DEFAULT_PUBLISHER: &str = "default";

/// A secret: shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    fn is(&self, given: &str) -> Choice {
        self.0.as_bytes().ct_eq(given.as_bytes())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 or more visible ASCII characters without spaces".to_owned())
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Somebody who may publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    /// Stands in logs and metrics.
    pub name: String,
    token: Token,
    /// The topics that it may publish to; `None` is all.
    topics: Option<Vec<Topic>>,
}

impl Publisher {
    /// Whether it may publish to every topic, and broadcast.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.topics.is_none()
    }

    /// Whether it may publish to the topic.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.topics.as_ref().is_none_or(|topics| topics.contains(topic))
    }
}

/// Everybody who may publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publishers(Vec<Publisher>);

impl Publishers {
    /// The publisher of the setting `publish-token` and those of the file's lines `name:token[:topics]`. A line without
    /// a name is a token alone. Empty lines and those that begin with `#` don't count.
    pub fn new(token: Option<&Token>, file: Option<&str>, topics: &Topics) -> Result<Self, String> {
        let of_setting =
            token.map(|token| Publisher { name: DEFAULT_PUBLISHER.to_owned(), token: token.clone(), topics: None });
        let mut publishers: Vec<Publisher> = of_setting.into_iter().collect();
        let lines = file.into_iter().flat_map(str::lines).map(str::trim).enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let publisher = publisher(line, topics).map_err(|error| format!("line {}: {error}", at + 1))?;
            if publishers.iter().any(|known| known.name == publisher.name) {
                return Err(format!("line {}: the name '{}' stands twice", at + 1, publisher.name));
            }
            if publishers.iter().any(|known| known.token == publisher.token) {
                return Err(format!("line {}: '{}' has the token of another publisher", at + 1, publisher.name));
            }
            publishers.push(publisher);
        }
        if file.is_some() && publishers.is_empty() {
            return Err("it has no publisher: expected a line name:token[:topics], or a token alone".to_owned());
        }
        Ok(Self(publishers))
    }

    /// Whether nobody may publish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The publisher with this token. Every token is compared, each in constant time.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&Publisher> {
        let mut found = None;
        for publisher in &self.0 {
            if bool::from(publisher.token.is(token)) {
                found = Some(publisher);
            }
        }
        found
    }
}

fn publisher(line: &str, topics: &Topics) -> Result<Publisher, String> {
    let mut parts = line.splitn(3, ':');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (name, token) = second.map_or((DEFAULT_PUBLISHER, first), |token| (first, token));
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(valid) {
        return Err("expected name:token[:topics], the name 1 to 64 letters, digits, '_', '-' and '.'".to_owned());
    }
    let limited = third.map(|list| {
        // What stands there may be part of a token with a colon in it: it is not shown.
        let unknown = || format!("its third part must list topics; the topics are: {topics}");
        let known = |name: &str| topics.get(name.trim()).cloned().ok_or_else(unknown);
        list.split(',').map(known).collect()
    });
    Ok(Publisher { name: name.to_owned(), token: token.parse()?, topics: limited.transpose()? })
}

/// What a subscriber may listen to, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// `None` is everything.
    allowed: Option<Vec<Subscription>>,
    /// When the connection ends; `None` is never.
    pub expires: Option<Timestamp>,
}

impl Access {
    /// Everything, for ever: what everybody has where no token is asked for.
    pub const PUBLIC: Self = Self { allowed: None, expires: None };

    /// Whether this subscription is within what is allowed.
    #[must_use]
    pub fn covers(&self, subscription: &Subscription) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|granted| {
                granted.topic() == subscription.topic()
                    && (granted.key().is_none() || subscription.key().is_some_and(|key| granted.covers(Some(key))))
            })
        })
    }

    /// What a subscriber gets who names no topics: all that is allowed. `None` is every topic.
    #[must_use]
    pub fn everything(&self) -> Option<Vec<Subscription>> {
        self.allowed.clone()
    }
}

/// Why a token does not admit. The token itself is part of no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is none.
    #[error("a token is required: 'Authorization: Bearer', token= in the query, or the cookie")]
    Missing,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is not good for another reason.
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
    /// What the key is for: never what a token claims (RFC 8725, section 3.1).
    algorithm: Algorithm,
}

/// The last moment that a timestamp can show, in milliseconds: the year 9999 ends then. Issuers mean "for ever" by
/// what is later.
const END_OF_TIME: i64 = 253_402_300_799_999;

#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970, with or without a fraction (RFC 7519, section 2). The library says that it is required.
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
    /// Tokens signed with a shared secret (HS256).
    #[must_use]
    pub fn with_secret(secret: &Token) -> Self {
        let key = DecodingKey::from_secret(secret.expose().as_bytes());
        Self { keys: vec![VerifyingKey { id: None, key, algorithm: Algorithm::HS256 }] }
    }

    /// Tokens signed with a key of the set (RS256, ES256, `EdDSA`).
    pub fn with_jwks(text: &str) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(text).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            // Issuers keep keys for other things in the same set: they are left aside (RFC 7517, section 5).
            let Some(algorithm) = algorithm(jwk) else { continue };
            let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("key {at}: {error}"))?;
            keys.push(VerifyingKey { id: jwk.common.key_id.clone(), key, algorithm });
        }
        if keys.is_empty() {
            return Err("the set has no key that signs with RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self { keys })
    }

    /// What the token admits to.
    pub fn check(&self, token: &str) -> Result<Access, AccessError> {
        let header = decode_header(token).map_err(|_| AccessError::Invalid("it is no JSON Web Token"))?;
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
            // It was let in for a clock that differs, so it ends when that excuse does.
            expires = expires.plus(Duration::from_secs(CLOCK_SKEW_SECONDS));
        }
        if claims.topics.iter().any(|topic| topic == "*") {
            return Ok(Access { allowed: None, expires: Some(expires) });
        }
        let parsed: Result<Vec<Subscription>, _> = claims.topics.iter().map(|topic| topic.parse()).collect();
        let allowed = parsed.map_err(|_| AccessError::Invalid("its claim 'topics' is no list of subscriptions"))?;
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
            AccessError::Invalid("its claims cannot be read: 'exp' is a number, 'topics' a list of strings")
        }
        _ => AccessError::Invalid("it cannot be read"),
    }
}

/// The pages that may connect from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host that the request is for.
    SameHost,
    /// All pages.
    Any,
    /// These.
    Listed(Vec<Origin>),
}

/// An entry of `allowed-origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `https://odds.example.com`
    Exact(String),
    /// `https://*.example.com`: scheme, and the host's end with the dot and the port.
    Subdomains(String, String),
}

impl std::str::FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let entries = text.split(',').map(|entry| entry.trim().parse());
        entries.collect::<Result<_, _>>().map(Self::Listed)
    }
}

impl std::str::FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is no origin: expected one such as https://odds.example.com, https://*.example.com, or *")
        };
        let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
        if !matches!(scheme, "http" | "https") || host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong());
        }
        match host.strip_prefix('*') {
            Some(end) if end.starts_with('.') && end.len() > 1 && !end.contains('*') => {
                Ok(Self::Subdomains(scheme.to_owned(), end.to_ascii_lowercase()))
            }
            None if !host.contains('*') => Ok(Self::Exact(text.to_ascii_lowercase())),
            _ => Err(wrong()),
        }
    }
}

impl Origins {
    /// Whether a page of this origin may connect to the host of the request.
    #[must_use]
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::SameHost => same_host(&origin, host),
            Self::Listed(entries) => entries.iter().any(|entry| entry.matches(&origin)),
        }
    }
}

impl Origin {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => origin == exact,
            Self::Subdomains(scheme, end) => origin
                .split_once("://")
                .is_some_and(|(given, host)| given == scheme && host.len() > end.len() && host.ends_with(end.as_str())),
        }
    }
}

/// Whether the origin's host and port are those of the `Host` header. Its scheme is not compared: TLS may end at a proxy.
fn same_host(origin: &str, host: Option<&str>) -> bool {
    let authority = |uri: &str| {
        let uri = uri.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some())?;
        uri.authority().map(ToString::to_string)
    };
    let default_port = if origin.starts_with("https://") { ":443" } else { ":80" };
    let Some((of_origin, host)) = authority(origin).zip(host) else { return false };
    let host = host.to_ascii_lowercase();
    let plain = |name: &str| name.strip_suffix(default_port).unwrap_or(name).to_owned();
    plain(&of_origin) == plain(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        "scrape_progress,odds_updates".parse().unwrap()
    }

    #[test]
    fn publishers_are_found_by_their_token_and_limited_to_their_topics() {
        let file = "# ours\nscraper:secret-1:odds_updates\n\nbackend:secret-2\n";
        let publishers = Publishers::new(Some(&"main".parse().unwrap()), Some(file), &topics()).unwrap();
        assert_eq!(publishers.find("main").unwrap().name, "default");
        let scraper = publishers.find("secret-1").unwrap();
        assert_eq!(scraper.name, "scraper");
        assert!(scraper.may_publish(&"odds_updates".parse().unwrap()));
        assert!(!scraper.may_publish(&"scrape_progress".parse().unwrap()));
        assert!(publishers.find("backend").is_none());
        assert!(publishers.find("").is_none());
    }

    #[test]
    fn a_bad_line_of_the_token_file_is_named() {
        for (file, reason) in [
            ("a:b:c", "line 1: its third part must list topics"),
            ("a:b\nc:b", "line 2: 'c' has the token of another publisher"),
            ("\na b:c", "line 2: expected name:token"),
            ("a:", "line 1: expected 1 or more visible"),
            ("a:b\na:c", "line 2: the name 'a' stands twice"),
        ] {
            let error = Publishers::new(None, Some(file), &topics()).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn a_granted_subscription_covers_itself_and_what_is_narrower() {
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

    #[test]
    fn origins_are_exact_or_subdomains_or_of_the_same_host() {
        let allow = |list: &str, origin: &str| list.parse::<Origins>().unwrap().allow(origin, Some("odds.example.com"));
        assert!(allow("https://a.example.com, http://localhost:3000", "http://localhost:3000"));
        assert!(allow("https://A.example.com", "https://a.EXAMPLE.com"));
        assert!(!allow("https://a.example.com", "http://a.example.com"));
        assert!(allow("https://*.example.com", "https://a.b.example.com"));
        assert!(!allow("https://*.example.com", "https://example.com"));
        assert!(!allow("https://*.example.com", "https://.example.com.evil.com"));
        assert!(!allow("https://*.example.com", "https://evilexample.com"));
        assert!(allow("*", "null"));
        let same = |origin: &str, host: &str| Origins::SameHost.allow(origin, Some(host));
        assert!(same("https://odds.example.com", "odds.example.com"));
        assert!(same("https://odds.example.com", "odds.example.com:443"));
        assert!(same("http://localhost:8000", "LOCALHOST:8000"));
        assert!(!same("http://localhost:3000", "localhost:8000"));
        assert!(!same("null", "localhost:8000"));
        assert!(!Origins::SameHost.allow("http://a", None));
    }

    #[test]
    fn an_entry_that_is_no_origin_is_refused() {
        for text in
            ["", "example.com", "https://", "ftp://a", "https://a/b", "https://*", "https://a.*.com", "https://*a.com"]
        {
            assert!(text.parse::<Origins>().unwrap_err().contains("is no origin"), "{text}");
        }
    }
}
