//! The origins of pages that may connect from a browser.

use std::str::FromStr;

use http::Uri;

/// The pages that may connect from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the same host and port as the request's `Host` header.
    SameHost,
    /// All pages.
    Any,
    /// Pages of these origins.
    Listed(Vec<Origin>),
}

/// An entry of `allowed-origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `https://odds.example.com`
    Exact(String),
    /// `https://*.example.com`: the scheme, and the end of the host from the dot on, with the port if there is one.
    Subdomains(String, String),
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let entries = text.split(',').map(|entry| entry.trim().parse());
        entries.collect::<Result<_, _>>().map(Self::Listed)
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "invalid origin '{text}': expected one such as https://odds.example.com, https://*.example.com, or *"
            )
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
    /// Whether a page of `origin` may connect. `host` is the request's `Host` header.
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

/// Whether the origin has the same host and port as the `Host` header. Schemes may differ, because TLS may end at a
/// proxy.
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
    fn invalid_origins_are_refused() {
        for text in
            ["", "example.com", "https://", "ftp://a", "https://a/b", "https://*", "https://a.*.com", "https://*a.com"]
        {
            assert!(text.parse::<Origins>().unwrap_err().contains("invalid origin"), "{text}");
        }
    }
}
