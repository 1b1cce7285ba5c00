//! Checks the host that a request names. An HTTP/1.1 request must have exactly one valid `Host` header (RFC 9112,
//! section 3.2; RFC 6455, section 4.2.1). HTTP/1.0 requests may omit it, as the health checks of some load balancers
//! do.

use std::net::Ipv6Addr;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Version};
use thiserror::Error;

use crate::shortened::shortened;

/// Why the `Host` header of a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum HostError {
    #[error("missing Host header: an HTTP/1.1 request needs one, such as 'Host: odds.example.com'")]
    Missing,
    #[error("{0} Host headers: expected one")]
    Several(usize),
    #[error("invalid host '{0}': expected host[:port], such as odds.example.com or [::1]:8000")]
    Invalid(String),
    #[error("invalid request target '{0}': expected a path, such as /healthz")]
    Target(String),
}

/// Checks the host. If the request target is an absolute URL, the URL's host replaces the header (RFC 9112, section
/// 3.2.2). So the routes need only the header. Refuses a target that is only a host: it belongs to the method CONNECT of
/// proxies (section 3.2.3).
pub(crate) fn check<B>(request: &mut Request<B>) -> Result<(), HostError> {
    let given: Vec<&HeaderValue> = request.headers().get_all(HOST).iter().collect();
    match given[..] {
        [] if request.version() < Version::HTTP_11 => {}
        [] => return Err(HostError::Missing),
        [host] => check_value(host.as_bytes())?,
        _ => return Err(HostError::Several(given.len())),
    }
    let Some(target) = request.uri().authority() else { return Ok(()) };
    let is_absolute = request.uri().scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    if !is_absolute {
        return Err(HostError::Target(shortened(&request.uri().to_string())));
    }
    check_value(target.as_str().as_bytes())?;
    let host = HeaderValue::from_str(target.as_str()).expect("an authority is visible ASCII");
    request.headers_mut().insert(HOST, host);
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), HostError> {
    let is_valid = Authority::try_from(value).is_ok_and(|authority| is_host_and_port(&authority));
    let shown = || HostError::Invalid(shortened(&String::from_utf8_lossy(value)));
    if is_valid { Ok(()) } else { Err(shown()) }
}

/// The type `Authority` also accepts a user, an empty host, and any text in brackets or as the port.
fn is_host_and_port(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let Some(port) = text.strip_prefix(host) else { return false };
    is_host(host) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_host(host: &str) -> bool {
    let Some(literal) = host.strip_prefix('[') else { return !host.is_empty() && !host.contains(['[', ']']) };
    // A link-local IPv6 address may end with a zone, such as `%eth0` in `[fe80::1%eth0]`.
    let address = literal.strip_suffix(']').map(|literal| literal.split('%').next().unwrap_or_default());
    address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// A port may be empty (RFC 3986, section 3.2.3).
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let builder = Request::get(target).version(version);
        hosts.iter().fold(builder, |builder, host| builder.header(HOST, *host)).body(()).unwrap()
    }

    fn is_valid(host: &str) -> bool {
        check(&mut request(Version::HTTP_11, "/", &[host])).is_ok()
    }

    #[test]
    fn names_addresses_and_ports_are_valid() {
        let longest = "a".repeat(253);
        for host in [
            "localhost",
            "odds.example.com",
            "ODDS.example.com:8000",
            "odds_wire-1.example.",
            "host:",
            "host:0",
            "host:65535",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "[::1]:",
            "[::ffff:192.0.2.1]:80",
            "[fe80::1%eth0]:8000",
            "xn--bcher-kva.example",
            longest.as_str(),
        ] {
            assert!(is_valid(host), "{host}");
        }
    }

    #[test]
    fn target_is_a_path_or_a_url() {
        let check = |target: &str| check(&mut request(Version::HTTP_11, target, &["a"]));
        for target in ["/", "/healthz", "*", "http://a/healthz", "HTTPS://a:8000/"] {
            assert_eq!(check(target), Ok(()), "{target}");
        }
        for target in ["a", "healthz", "a:80", "user@a:99999", "ftp://a/healthz", "javascript://a/"] {
            assert_eq!(check(target), Err(HostError::Target(target.to_owned())), "{target}");
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        for host in [
            "",
            " ",
            "a b",
            "a, b",
            "host:65536",
            "host:99999",
            "host:+80",
            "host:8o",
            "host:80:80",
            ":80",
            "user@host",
            "user:password@host:80",
            "@host",
            "host/path",
            "http://host",
            "host?a",
            "host#a",
            "[::1",
            "::1",
            "[::1]8000",
            "[::1]x:80",
            "[::1]:x",
            "x[::1]",
            "[]",
            "[host]",
            "[1.2.3.4]",
            "a%20b",
            "a\"b",
            "a\\b",
            "a<b",
        ] {
            assert!(!is_valid(host), "{host:?}");
        }
        let mut bytes = request(Version::HTTP_11, "/", &[]);
        bytes.headers_mut().insert(HOST, HeaderValue::from_bytes(b"caf\xe9").unwrap());
        assert!(matches!(check(&mut bytes), Err(HostError::Invalid(_))));
    }

    #[test]
    fn only_http_1_0_may_omit_the_host() {
        assert_eq!(check(&mut request(Version::HTTP_10, "/", &[])), Ok(()));
        assert_eq!(check(&mut request(Version::HTTP_11, "/", &[])), Err(HostError::Missing));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(check(&mut request(version, "/", &["a", "a"])), Err(HostError::Several(2)));
            assert!(check(&mut request(version, "/", &["a b"])).is_err());
        }
    }

    #[test]
    fn the_target_in_absolute_form_replaces_the_header() {
        let mut absolute = request(Version::HTTP_11, "http://odds.example.com:81/api/ws?a=1", &["other"]);
        assert_eq!(check(&mut absolute), Ok(()));
        assert_eq!(absolute.headers()[HOST], "odds.example.com:81");
        // RFC 9112, section 3.2 requires the header even with an absolute URL.
        assert_eq!(check(&mut request(Version::HTTP_11, "http://a/", &[])), Err(HostError::Missing));
        let user = check(&mut request(Version::HTTP_11, "http://user@a/", &["a"]));
        assert_eq!(user, Err(HostError::Invalid("user@a".to_owned())));
    }

    #[test]
    fn an_error_shows_a_long_host_in_part() {
        let error = check(&mut request(Version::HTTP_11, "/", &[&"a b".repeat(1000)])).unwrap_err().to_string();
        assert!(error.contains("expected host[:port]") && error.len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn every_socket_address_is_valid(address: SocketAddr, ip: Ipv4Addr) {
            prop_assert!(is_valid(&address.to_string()));
            prop_assert!(is_valid(&ip.to_string()));
        }

        #[test]
        fn every_name_with_a_port_is_valid(name in "[a-zA-Z0-9_-]{1,20}(\\.[a-zA-Z0-9-]{1,20}){0,4}\\.?", port: u16) {
            let with_port = format!("{name}:{port}");
            prop_assert!(is_valid(&name));
            prop_assert!(is_valid(&with_port));
        }

        #[test]
        fn no_bytes_panic_and_valid_ones_are_of_an_authority(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if check_value(&bytes).is_ok() {
                let text = std::str::from_utf8(&bytes).unwrap();
                prop_assert!(!text.contains(['@', '/', '?', '#', ' ', '"', '\\']) && !text.starts_with(':'), "{text}");
            }
        }
    }
}
