//! Checks how the server finds the address of a client behind a proxy. A client must not be able to choose this address
//! with its own headers.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use oddswire::admission::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY: &str = "10.0.0.1";
/// The client's real address, which the proxy adds to the headers.
const CLIENT: &str = "203.0.113.7";

/// Reads each line of the input as the value of a header: `X-Forwarded-For` if the line begins with `x`, and
/// `Forwarded` if it begins with `f`.
pub fn check(input: &[u8]) {
    let headers = headers(input);
    let [proxy, client]: [IpAddr; 2] = [PROXY, CLIENT].map(|text| text.parse().expect("an address"));
    let trusted: TrustedProxies = "10.0.0.0/8, fd00::/8".parse().expect("networks");
    assert_eq!(
        trusted.client(client, &headers),
        client,
        "headers from other addresses than the proxy's have no effect"
    );
    assert_eq!(TrustedProxies::default().client(proxy, &headers), proxy, "no proxy is trusted by default");
    let told = trusted.client(proxy, &headers);
    assert_eq!(told, told.to_canonical());

    for (name, value) in [(X_FORWARDED_FOR, CLIENT), (FORWARDED, "for=203.0.113.7")] {
        for way in [appended(&headers, &name, value), joined(&headers, &name, value)] {
            let found = trusted.client(proxy, &way);
            // If the client sent the other header and it contradicts the proxy's header, the server uses the proxy's
            // address.
            assert!(found == client || found == proxy, "{found} comes from the client's own header: {way:?}");
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
        // The HTTP parser rejects invalid values before this code sees them.
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns the headers from a proxy that adds a header line with `value`.
fn appended(headers: &HeaderMap, name: &HeaderName, value: &'static str) -> HeaderMap {
    let mut headers = headers.clone();
    headers.append(name, HeaderValue::from_static(value));
    headers
}

/// Returns the headers from a proxy that joins all lines of the header into one and adds `value` at the end.
fn joined(headers: &HeaderMap, name: &HeaderName, value: &'static str) -> HeaderMap {
    let mut lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.push(value.as_bytes());
    let line = HeaderValue::from_bytes(&lines.join(&b", "[..])).expect("joined values are a valid value");
    let mut headers = headers.clone();
    headers.insert(name, line);
    headers
}
