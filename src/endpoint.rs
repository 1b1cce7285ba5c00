//! Parses the URL of a server as a user types it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

/// Why a URL is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum EndpointError {
    /// The text is not a URL, or the URL has an unknown scheme.
    #[error("expected a URL such as http://127.0.0.1:8000 or wss://odds.example.com")]
    Form,
    /// The URL has a user or password. The program prints URLs, so it would print the password too.
    #[error("the URL has a user or password, which is never sent: set --token instead")]
    UserInfo,
    /// The URL has a query.
    #[error(
        "the URL has a query: expected only the server's address; set topics and position with --topic and --since"
    )]
    Query,
}

/// The address of a server: `http`, `https`, `ws` or `wss`, a host, a port, and the path prefix that a proxy may add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    tls: bool,
    authority: String,
    host: String,
    port: u16,
    prefix: String,
}

/// Paths that users may copy along with the address. Parsing removes them, because each command adds its own path.
const OWN_PATHS: [&str; 5] = ["/api/ws", "/api/sse", "/api/publish", "/metrics", "/api/connections"];

impl Endpoint {
    /// The endpoint of a server that listens on this address. If the server listens on all addresses, this is the
    /// loopback address.
    pub(crate) fn of_listener(listen: SocketAddr) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, listen.port());
        let (host, port) = (ip.to_string(), address.port());
        Self { tls: false, authority: address.to_string(), host, port, prefix: String::new() }
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port, as the `Host` header has them.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The host name or address to connect to; an IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port; 80 or 443 if the URL has none.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same address with TLS instead of plain TCP, or the other way round.
    pub(crate) fn in_the_other_scheme(&self) -> Self {
        Self { tls: !self.tls, ..self.clone() }
    }

    /// A path of the server, after the path prefix of the proxy.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::Form)?;
        let tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(EndpointError::Form),
        };
        let authority = uri.authority().ok_or(EndpointError::Form)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(EndpointError::Query);
        }
        let path = uri.path().trim_end_matches('/');
        let prefix = OWN_PATHS.iter().find_map(|own| path.strip_suffix(own)).unwrap_or(path);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // `host:` and `host:99999` have a colon but no valid port.
        let named = authority.port_u16();
        if host.is_empty() || (named.is_none() && authority.as_str().len() > authority.host().len()) {
            return Err(EndpointError::Form);
        }
        Ok(Self {
            tls,
            authority: authority.as_str().to_owned(),
            host: host.to_owned(),
            port: named.unwrap_or(if tls { 443 } else { 80 }),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Endpoint {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn all_four_schemes_and_a_prefix_are_accepted() {
        for (text, tls, port, path) in [
            ("http://127.0.0.1:8000", false, 8000, "/api/ws"),
            ("ws://localhost", false, 80, "/api/ws"),
            ("https://odds.example.com/", true, 443, "/api/ws"),
            ("wss://odds.example.com:8443/live/", true, 8443, "/live/api/ws"),
        ] {
            let endpoint = read(text);
            assert_eq!((endpoint.is_tls(), endpoint.port()), (tls, port), "{text}");
            assert_eq!(endpoint.path("/api/ws"), path, "{text}");
        }
    }

    #[test]
    fn path_of_an_api_endpoint_is_cut_off() {
        assert_eq!(read("ws://localhost:8000/api/ws").to_string(), "http://localhost:8000");
        assert_eq!(read("https://x.example/live/api/publish").path("/api/ws"), "/live/api/ws");
    }

    #[test]
    fn ipv6_host_has_no_brackets() {
        let endpoint = read("http://[::1]:8000");
        assert_eq!((endpoint.host(), endpoint.authority(), endpoint.port()), ("::1", "[::1]:8000", 8000));
    }

    #[test]
    fn invalid_url_is_refused_with_the_expected_form() {
        for text in
            ["", "localhost:8000", "/api/ws", "ftp://localhost", "http://", "http://localhost:99999", "http://h:"]
        {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Form), "{text}");
        }
        assert_eq!("http://me:secret@localhost".parse::<Endpoint>(), Err(EndpointError::UserInfo));
        assert_eq!("ws://localhost/api/ws?topics=a".parse::<Endpoint>(), Err(EndpointError::Query));
    }
}
