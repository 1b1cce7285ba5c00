//! The address of a client behind a proxy. Whatever the client writes into the headers itself, it passes for nobody.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use oddswire::admission::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY: &str = "10.0.0.1";
/// Where the client really is, which only the proxy knows.
const CLIENT: &str = "203.0.113.7";

/// Reads the input as lines of header values, `x` and `f` before each saying which header it is.
pub fn check(input: &[u8]) {
    let headers = headers(input);
    let [proxy, client]: [IpAddr; 2] = [PROXY, CLIENT].map(|text| text.parse().expect("an address"));
    let trusted: TrustedProxies = "10.0.0.0/8, fd00::/8".parse().expect("networks");
    assert_eq!(trusted.client(client, &headers), client, "nobody else's word counts");
    assert_eq!(TrustedProxies::default().client(proxy, &headers), proxy, "nobody is trusted by default");
    let told = trusted.client(proxy, &headers);
    assert_eq!(told, told.to_canonical());

    for (name, value) in [(X_FORWARDED_FOR, CLIENT), (FORWARDED, "for=203.0.113.7")] {
        for way in [appended(&headers, &name, value), joined(&headers, &name, value)] {
            let found = trusted.client(proxy, &way);
            // Where the client contradicts the proxy in the other header, it is nobody: the proxy itself.
            assert!(found == client || found == proxy, "{found} is the client's own word: {way:?}");
        }
    }
}

fn headers(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|b| *b == b'\n').take(8) {
        let (name, value) = match line {
            [b'x', value @ ..] => (X_FORWARDED_FOR, value),
            [b'f', value @ ..] => (FORWARDED, value),
            _ => continue,
        };
        // What is no header value never gets past the HTTP parser.
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            headers.append(name, value);
        }
    }
    headers
}

/// What a proxy makes of it that adds a line of its own.
fn appended(headers: &HeaderMap, name: &HeaderName, value: &'static str) -> HeaderMap {
    let mut headers = headers.clone();
    headers.append(name, HeaderValue::from_static(value));
    headers
}

/// What a proxy makes of it that joins all lines to one and adds to that.
fn joined(headers: &HeaderMap, name: &HeaderName, value: &'static str) -> HeaderMap {
    let mut lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.push(value.as_bytes());
    let line = HeaderValue::from_bytes(&lines.join(&b", "[..])).expect("values joined are a value");
    let mut headers = headers.clone();
    headers.insert(name, line);
    headers
}
