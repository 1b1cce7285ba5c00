//! Limits the number of connections, in total and from one address. Finds a client's address behind proxies.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::FORWARDED;
use ipnet::IpNet;
use thiserror::Error;

/// Why the server refuses a new connection. It never closes an existing connection to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// The server already has `max-connections` connections.
    #[error("the server has {0} connections, which is the limit (max-connections): try again later")]
    Full(usize),
    /// The client's address already has `max-connections-per-ip` connections.
    #[error("your address has {0} connections, which is the limit (max-connections-per-ip)")]
    FullForAddress(usize),
}

#[derive(Debug, Default)]
struct PlaceCounts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Shared {
    counts: Mutex<PlaceCounts>,
    most: usize,
    /// 0 means no limit.
    most_per_address: usize,
}

/// Counts connections. All clones share the counts.
#[derive(Debug, Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

impl Admission {
    /// Allows `most` connections in total, and `most_per_address` from one address (0: no limit) or IPv6 /64.
    #[must_use]
    pub fn new(most: usize, most_per_address: usize) -> Self {
        Self { shared: Arc::new(Shared { counts: Mutex::default(), most, most_per_address }) }
    }

    /// Admits a connection and counts it until the result is dropped, or says why not.
    pub fn admit(&self, address: Option<IpAddr>) -> Result<Admitted, AdmissionError> {
        let Shared { counts, most, most_per_address } = &*self.shared;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= *most {
            return Err(AdmissionError::Full(*most));
        }
        let counted = address.filter(|_| *most_per_address > 0).map(network);
        if let Some(network) = counted {
            let of_address = counts.by_address.entry(network).or_default();
            if *of_address >= *most_per_address {
                return Err(AdmissionError::FullForAddress(*most_per_address));
            }
            *of_address += 1;
        }
        counts.all += 1;
        Ok(Admitted { admission: self.clone(), counted })
    }
}

/// An admitted connection. Dropping this value makes room for another connection.
#[derive(Debug)]
pub struct Admitted {
    admission: Admission,
    counted: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        let Some(network) = self.counted else { return };
        if let Some(of_address) = counts.by_address.get_mut(&network) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&network);
            }
        }
    }
}

/// An internet customer has at least a /64 of IPv6 addresses, so a /64 counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The proxies whose forwarding headers are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl std::str::FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |entry: &str| {
            let entry = entry.trim();
            let single = || entry.parse::<IpAddr>().map(IpNet::from);
            entry.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
                format!("invalid network '{entry}': expected one such as 10.0.0.0/8, 192.168.1.7 or fd00::/8")
            })
        };
        let entries = text.split(',').filter(|entry| !entry.trim().is_empty());
        entries.map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Finds the client's address. Behind trusted proxies this is the nearest address in the header that is not a
    /// trusted proxy. If `Forwarded` and `X-Forwarded-For` give different addresses, the client itself sent one of the
    /// headers. So the server then uses the peer's address, as it does if the address is unreadable.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let client = |way: Vec<Option<IpAddr>>| (!way.is_empty()).then(|| self.last_untrusted(&way));
        match (client(x_forwarded_for(headers)), client(forwarded(headers))) {
            (Some(one), Some(other)) if one != other => peer,
            (Some(told), _) | (None, Some(told)) => told.unwrap_or(peer),
            (None, None) => peer,
        }
    }

    /// Walks from the nearest address to the first untrusted address, and returns it. Entries farther away may be
    /// invented by the client.
    fn last_untrusted(&self, way: &[Option<IpAddr>]) -> Option<IpAddr> {
        let mut farthest = None;
        for hop in way.iter().rev() {
            let address = (*hop)?;
            farthest = Some(address);
            if !self.contains(address) {
                break;
            }
        }
        farthest
    }
}

fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    elements(headers, "x-forwarded-for").map(|element| address(&element)).collect()
}

/// The addresses in the `for` parameters of the header `Forwarded` (RFC 7239, section 5.2).
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let of_element = |element: String| {
        element.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.eq_ignore_ascii_case("for").then(|| address(value.trim_matches('"')))?
        })
    };
    elements(headers, FORWARDED.as_str()).map(of_element).collect()
}

/// The elements of a list header, from all its lines. Invalid UTF-8 in one element does not affect the other elements,
/// because the proxy may have added a valid element to the same line.
fn elements(headers: &HeaderMap, name: &str) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    values.map(|element| String::from_utf8_lossy(element).trim().to_owned())
}

/// Parses an address with or without a port. IPv6 addresses may have brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(inside, _)| inside);
    let parsed = bare.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    parsed.or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        trusted.parse::<TrustedProxies>().unwrap().client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn forwarding_headers_count_from_trusted_proxies_only() {
        let spoofed = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=9.9.9.9")];
        assert_eq!(client("", "1.2.3.4", &spoofed), "1.2.3.4");
        assert_eq!(client("10.0.0.0/8", "1.2.3.4", &spoofed), "1.2.3.4");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &spoofed), "9.9.9.9");
        assert_eq!(client("10.0.0.0/8", "::ffff:10.0.0.1", &spoofed), "9.9.9.9");
    }

    #[test]
    fn entries_beyond_the_first_untrusted_hop_are_ignored() {
        let way = [("x-forwarded-for", "6.6.6.6, 9.9.9.9, 10.0.0.2")];
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &way), "9.9.9.9");
        let two_lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "9.9.9.9:1234")];
        assert_eq!(client("10.0.0.1", "10.0.0.1", &two_lines), "9.9.9.9");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[("x-forwarded-for", "10.0.0.9, 10.0.0.2")]), "10.0.0.9");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[("x-forwarded-for", "9.9.9.9, junk")]), "10.0.0.1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_as_in_rfc_7239() {
        let headers = [("forwarded", "for=6.6.6.6, For=\"[2001:db8::1]:4711\";proto=https")];
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &headers), "2001:db8::1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[("forwarded", "for=_hidden")]), "10.0.0.1");
    }

    #[test]
    fn unreadable_address_does_not_yield_to_the_clients_entry() {
        let client_of = |headers: &[(&'static str, &[u8])]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, http::HeaderValue::from_bytes(value).unwrap());
            }
            let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
            trusted.client("10.0.0.1".parse().unwrap(), &map).to_string()
        };
        let joined: (&'static str, &[u8]) = ("x-forwarded-for", b"\xff, 9.9.9.9");
        assert_eq!(client_of(&[joined]), "9.9.9.9");
        assert_eq!(client_of(&[("x-forwarded-for", b"6.6.6.6"), joined]), "9.9.9.9");
        assert_eq!(client_of(&[("forwarded", b"for=6.6.6.6"), joined]), "10.0.0.1");
        assert_eq!(client_of(&[("forwarded", b"for=_hidden"), ("x-forwarded-for", b"6.6.6.6")]), "10.0.0.1");
    }

    #[test]
    fn neither_header_is_used_if_the_two_differ() {
        let headers = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=8.8.8.8")];
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &headers), "10.0.0.1");
    }

    #[test]
    fn places_are_counted_in_all_and_by_address() {
        let admission = Admission::new(3, 2);
        let v4: Option<IpAddr> = Some("1.2.3.4".parse().unwrap());
        let v6 = |text: &str| Some(text.parse().unwrap());
        let first = admission.admit(v4).unwrap();
        let _second = admission.admit(v4).unwrap();
        assert_eq!(admission.admit(v4).unwrap_err(), AdmissionError::FullForAddress(2));
        let third = admission.admit(v6("2001:db8::1")).unwrap();
        assert_eq!(admission.admit(v6("2001:db9::1")).unwrap_err(), AdmissionError::Full(3));
        drop((first, third));
        let _same_network = [admission.admit(v6("2001:db8::1")).unwrap(), admission.admit(v6("2001:db8::2")).unwrap()];
        assert_eq!(admission.shared.counts.lock().unwrap().by_address.len(), 2);
    }

    #[test]
    fn error_names_the_invalid_network() {
        assert!("10.0.0.0/33".parse::<TrustedProxies>().unwrap_err().contains("invalid network '10.0.0.0/33'"));
        assert!("10.0.0.1, ::1".parse::<TrustedProxies>().is_ok());
    }
}
