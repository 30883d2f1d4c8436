//! Which addresses webhooks may be sent to. Pure.
//!
//! Whoever may create a webhook makes this service connect to where he likes, from a place that can reach
//! more than he can. So it connects to the public Internet, by `https`, and to nothing else, unless the
//! settings allow it.
//!
//! Invariant: what is judged is the address that is connected to, after names were resolved, each time. A
//! name that leads elsewhere the next time gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The longest URL, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// The networks that the settings allow besides the public Internet.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<IpNet>);

impl Allowed {
    /// These.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether the settings name it.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        let has = |address: &IpAddr| self.0.iter().any(|network| network.contains(address));
        has(&address) || has(&plain)
    }

    /// Whether a connection to it may be made; one that is not encrypted only where the settings name it.
    #[must_use]
    pub fn may_connect(&self, address: IpAddr, encrypted: bool) -> bool {
        self.names(address) || (encrypted && is_public(address))
    }

    /// Reads an address to send to, or says in a sentence why it is none. Names are resolved later, when it
    /// is connected to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, text: &str) -> Result<reqwest::Url, String> {
        if text.len() > MAX_URL_BYTES {
            return Err(format!("must have at most {MAX_URL_BYTES} bytes"));
        }
        // The parser drops these, and what is kept would not be what is used.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("must not contain spaces or control characters".to_owned());
        }
        let url = reqwest::Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let encrypted = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => {
                return Err(
                    "must be https, or http to an address that the settings allow".to_owned(),
                );
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not have a user or a password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment".to_owned());
        }
        match literal(&url) {
            Some(address) if !self.may_connect(address, encrypted) => Err(refusal(encrypted)),
            None if !encrypted && self.0.is_empty() => Err(refusal(encrypted)),
            _ => Ok(url),
        }
    }
}

/// Why an address is not connected to. It does not say which: that would tell what names mean in here.
#[must_use]
pub fn refusal(encrypted: bool) -> String {
    if encrypted {
        "leads to an address that is not of the public Internet; LESSOR_WEBHOOK_ALLOW can allow it"
            .to_owned()
    } else {
        "must be https, but for addresses that LESSOR_WEBHOOK_ALLOW names".to_owned()
    }
}

/// The address that a URL has in the place of a name; resolvers are not asked for these.
#[must_use]
pub fn literal(url: &reqwest::Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.parse().ok()
}

/// Whether an address is of the public Internet, by the registries of IANA for special purposes
/// (RFC 6890 and what has been added to it).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        // This host, private, carriers' own, loopback, link-local.
        (0 | 10 | 127, _, _) | (100, 64..=127, _) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _)
        // Protocol assignments, examples, relays that are no more, benchmarks.
        | (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113)
        // Multicast, reserved, broadcast.
        | (224.., _, _)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Global unicast is 2000::/3; of that these are not.
    let special = (s[0] & 0xe000) != 0x2000
        // Protocol assignments, Teredo among them; examples; benchmarks are within the first.
        || (s[0] == 0x2001 && s[1] < 0x0200)
        || (s[0] == 0x2001 && s[1] == 0x0db8)
        || (s[0] == 0x3fff && s[1] < 0x1000);
    if s[0] == 0x2002 {
        // 6to4: what is inside is connected to.
        let [a, b] = s[1].to_be_bytes();
        let [c, d] = s[2].to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    if s[..6] == [0x0064, 0xff9b, 0, 0, 0, 0] {
        // The translation of IPv4: likewise.
        let [a, b] = s[6].to_be_bytes();
        let [c, d] = s[7].to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2002:0808:0808::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(ip(public)), "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:0a00:0001::1",
            "2002:7f00:0001::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip(other)), "{other}");
        }
    }

    #[test]
    fn what_the_settings_allow() {
        let allowed = Allowed::new(vec![
            "10.1.0.0/16".parse().expect("a network"),
            "fd00::/8".parse().expect("a network"),
        ]);
        for (address, encrypted, plain) in [
            ("10.1.2.3", true, true),
            ("::ffff:10.1.2.3", true, true),
            ("fd00::1", true, true),
            ("10.2.0.1", false, false),
            ("8.8.8.8", true, false),
            ("127.0.0.1", false, false),
        ] {
            assert_eq!(
                allowed.may_connect(ip(address), true),
                encrypted,
                "{address}"
            );
            assert_eq!(allowed.may_connect(ip(address), false), plain, "{address}");
        }
    }

    #[test]
    fn what_can_be_an_address() {
        let none = Allowed::default();
        for url in [
            "https://hooks.example.com/a?b=c",
            "https://hooks.example.com:8443",
            "https://8.8.8.8/",
            "https://localhost/is/judged/when/it/is/resolved",
        ] {
            assert!(none.read(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "hooks.example.com",
            "/path",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://hooks.example.com/",
            "http://8.8.8.8/",
            "https://user@example.com/",
            "https://user:secret@example.com/",
            "https://example.com/#part",
            "https://exa mple.com/",
            "https://example.com/a\nb",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            &format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES)),
        ] {
            assert!(none.read(url).is_err(), "{url}");
        }
        let local = Allowed::new(vec!["127.0.0.0/8".parse().expect("a network")]);
        assert!(local.read("http://127.0.0.1:8000/").is_ok());
        assert!(local.read("http://hooks.internal/").is_ok());
        assert!(local.read("http://10.0.0.1/").is_err());
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_webhook_addresses() {
        let examples: &[&[u8]] = &[
            b"https://hooks.example.com:8443/a?b=c",
            b"http://[::ffff:127.0.0.1]:80/",
            b"https://0x7f.1/",
        ];
        let allowed = Allowed::default();
        let words = [
            "https://", "http://", "@", "#", "[::1]", "0x7f.1", "\t", ":443",
        ];
        lessor_fuzz::run(examples, &words, |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(url) = allowed.read(&text) {
                assert_eq!(url.scheme(), "https");
                // It is read again before each attempt.
                assert_eq!(allowed.read(&text).as_ref(), Ok(&url));
                assert!(literal(&url).is_none_or(is_public));
            }
        });
    }
}
