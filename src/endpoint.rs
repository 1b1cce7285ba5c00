//! The URL of a server, as a person types it.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

/// Why a text is no URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// It is no URL, or of another kind.
    #[error("expected a URL such as http://127.0.0.1:8000 or wss://odds.example.com")]
    Form,
    /// It has a user or password, which would be shown wherever the URL is.
    #[error("a user or password in the URL is not sent: the option for the token is --token")]
    UserInfo,
    /// It asks for something of its own.
    #[error("the URL has a query: topics and position are options of the command, and this is the server's address")]
    Query,
}

/// Where a server is: `http`, `https`, `ws` or `wss`, a host, a port, and the path that a proxy serves it below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    tls: bool,
    authority: String,
    host: String,
    port: u16,
    prefix: String,
}

/// What people copy from elsewhere: the server's own paths belong to the commands.
const OWN_PATHS: [&str; 5] = ["/api/ws", "/api/sse", "/api/publish", "/metrics", "/api/connections"];

impl Endpoint {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port, as the `Host` header has them.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The name or address to connect to; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 80 or 443 where the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same place, encrypted where this one is not, and the other way round.
    #[must_use]
    pub fn in_the_other_scheme(&self) -> Self {
        Self { tls: !self.tls, ..self.clone() }
    }

    /// A path of the server's, below the prefix.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
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
        // `host:` and `host:99999` have a colon and no port.
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
    fn all_four_schemes_and_a_prefix_are_taken() {
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
    fn a_url_of_an_endpoint_is_that_of_its_server() {
        assert_eq!(read("ws://localhost:8000/api/ws").to_string(), "http://localhost:8000");
        assert_eq!(read("https://x.example/live/api/publish").path("/api/ws"), "/live/api/ws");
    }

    #[test]
    fn an_ipv6_address_is_connected_to_without_brackets() {
        let endpoint = read("http://[::1]:8000");
        assert_eq!((endpoint.host(), endpoint.authority(), endpoint.port()), ("::1", "[::1]:8000", 8000));
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_with_what_would_be() {
        for text in
            ["", "localhost:8000", "/api/ws", "ftp://localhost", "http://", "http://localhost:99999", "http://h:"]
        {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Form), "{text}");
        }
        assert_eq!("http://me:secret@localhost".parse::<Endpoint>(), Err(EndpointError::UserInfo));
        assert_eq!("ws://localhost/api/ws?topics=a".parse::<Endpoint>(), Err(EndpointError::Query));
    }
}
