//! From where a request comes: the address of its client, through proxies that are trusted.
//!
//! Invariant: what a header says of an address counts only when the peer is a configured proxy, and
//! then only up to the first address that is none. Of `X-Forwarded-For` and `Forwarded` a proxy sets
//! one and may pass the other on as a client wrote it; where both came and disagree, neither counts.
//!
//! What it does not do: decide anything by it. It is for logs, the audit and limits.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The address of a request's client, in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// One household or host: whoever has an IPv6 network has 2^64 addresses in it.
#[must_use]
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// How long a client may take to send a body, in a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowAfter(pub Duration);

/// The proxies whose word on addresses is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those with an address in one of these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether this is the address of one of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that came from `peer` with these headers.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let peer = peer.to_canonical();
        if !self.contain(peer) {
            return ClientAddress(peer);
        }
        let forwarded_for = self.first_stranger(&forwarded_for(headers));
        let forwarded = self.first_stranger(&forwarded(headers));
        let said = match (forwarded_for, forwarded) {
            (Some(one), Some(other)) => (one == other).then_some(one),
            (one, other) => one.or(other),
        };
        ClientAddress(said.unwrap_or(peer))
    }

    /// The nearest hop that is no proxy of ours; what is further off was said by strangers. None
    /// where the nearest words are no address, or there are only proxies.
    fn first_stranger(&self, hops: &[&str]) -> Option<IpAddr> {
        for hop in hops.iter().rev() {
            let address = address(hop)?;
            if !self.contain(address) {
                return Some(address);
            }
        }
        None
    }
}

fn forwarded_for(headers: &HeaderMap) -> Vec<&str> {
    lines(headers, "x-forwarded-for")
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .collect()
}

/// The `for` of each element (RFC 7239, 4): an element without one is a hop that hides itself.
fn forwarded(headers: &HeaderMap) -> Vec<&str> {
    let node = |element: &'_ str| -> Option<(usize, usize)> {
        let mut at = 0;
        for pair in element.split(';') {
            let trimmed = pair.trim_start();
            if trimmed.len() >= 4 && trimmed.as_bytes()[..4].eq_ignore_ascii_case(b"for=") {
                let begin = at + (pair.len() - trimmed.len()) + 4;
                return Some((begin, at + pair.len()));
            }
            at += pair.len() + 1;
        }
        None
    };
    lines(headers, "forwarded")
        .flat_map(|line| line.split(','))
        .map(|element| node(element).map_or("", |(from, to)| element[from..to].trim()))
        .collect()
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    // What is no text is a hop that says nothing.
    headers
        .get_all(name)
        .iter()
        .map(|line| line.to_str().unwrap_or(""))
}

/// An address as these headers have it: bare, quoted, in brackets, with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop
        .strip_prefix('"')
        .and_then(|hop| hop.strip_suffix('"'))
        .unwrap_or(hop);
    let parsed = hop.parse::<IpAddr>().ok().or_else(|| {
        if let Some(rest) = hop.strip_prefix('[') {
            let (inner, port) = rest.split_once(']')?;
            let port = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
            return inner.parse().ok().filter(|_| port);
        }
        let (inner, port) = hop.split_once(':')?;
        port.parse::<u16>().ok()?;
        inner.parse().ok()
    })?;
    Some(parsed.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let proxies = Proxies::new(vec![
            "10.0.0.0/8".parse().expect("a network"),
            "fd00::/8".parse().expect("a network"),
        ]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        let peer = peer.parse().expect("an address");
        proxies.client(peer, &map).0.to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        for header in ["x-forwarded-for", "forwarded"] {
            assert_eq!(
                client("192.0.2.1", &[(header, "198.51.100.7")]),
                "192.0.2.1"
            );
            assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
        }
    }

    #[test]
    fn a_proxy_is_believed_up_to_the_first_stranger() {
        for (value, expected) in [
            ("198.51.100.7", "198.51.100.7"),
            ("1.1.1.1, 198.51.100.7, 10.2.3.4", "198.51.100.7"),
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("2001:db8::1, fd00::5", "2001:db8::1"),
            // The nearest hop is no address: nobody knows who it is.
            ("198.51.100.7, unknown", "10.0.0.1"),
            ("198.51.100.7, ", "10.0.0.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[("x-forwarded-for", value)]),
                expected,
                "{value}"
            );
        }
        for (value, expected) in [
            ("for=198.51.100.7;proto=https", "198.51.100.7"),
            ("proto=https; FOR=\"[2001:db8::1]:99\"", "2001:db8::1"),
            ("for=1.1.1.1, for=198.51.100.7", "198.51.100.7"),
            ("for=198.51.100.7, for=_hidden", "10.0.0.1"),
            ("for=198.51.100.7, by=x", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[("forwarded", value)]),
                expected,
                "{value}"
            );
        }
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
        ];
        assert_eq!(client("10.0.0.1", &lines), "2.2.2.2");
    }

    #[test]
    fn two_headers_that_disagree_are_not_believed() {
        let said = |other| [("x-forwarded-for", "2.2.2.2"), ("forwarded", other)];
        assert_eq!(client("10.0.0.1", &said("for=2.2.2.2")), "2.2.2.2");
        assert_eq!(client("10.0.0.1", &said("for=3.3.3.3")), "10.0.0.1");
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_forwarded() {
        let examples: &[&[u8]] = &[
            b"1.1.1.1, 198.51.100.7:99, 10.2.3.4",
            b"for=1.1.1.1;proto=https, for=\"[2001:db8::1]:80\"",
        ];
        let words = [
            "for=",
            "10.0.0.1",
            "[::1]",
            "::ffff:10.0.0.1",
            "_x",
            "\"",
            ",",
        ];
        lessor_fuzz::run(examples, &words, |input| {
            let proxy = IpAddr::from([10, 0, 0, 1]);
            let proxies = Proxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
            let Ok(value) = axum::http::HeaderValue::from_bytes(input) else {
                return;
            };
            for name in ["x-forwarded-for", "forwarded"] {
                let mut headers = HeaderMap::new();
                headers.insert(name, value.clone());
                let found = proxies.client(proxy, &headers).0;
                // A stranger whom the proxy named, or the proxy itself; never another one of ours.
                assert!(found == proxy || !proxies.contain(found), "{found}");
                let stranger = IpAddr::from([192, 0, 2, 1]);
                assert_eq!(proxies.client(stranger, &headers).0, stranger);
            }
        });
    }
}
