//! Names that are allowed here, from names that were allowed there.

use sha2::{Digest as _, Sha256};

use crate::http::MAX_NAME_BYTES;

/// Whether it can be a name as it is.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MAX_NAME_BYTES
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Lower case, and a dash for what a name cannot have; none if nothing is left.
pub fn clean(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        let keep = c.is_ascii_lowercase() || c.is_ascii_digit();
        if keep || (matches!(c, '.' | '_') && !name.is_empty()) {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == MAX_NAME_BYTES {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The name with a digest of what it was made of, so that two of them stay apart.
pub fn marked(name: &str, of: &str) -> String {
    let digest = digest(of);
    let mut kept = name.to_owned();
    kept.truncate(MAX_NAME_BYTES - 9);
    format!("{kept}-{}", &digest[..8])
}

/// A resource domain for a cluster or an agent: its name, or a clean one with a digest.
pub fn domain(raw: &str) -> String {
    if is_name(raw) {
        raw.to_owned()
    } else {
        marked(&clean(raw).unwrap_or_else(|| "domain".to_owned()), raw)
    }
}

/// A digest of a text, in hexadecimal digits.
pub fn digest(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (raw, name) in [
            (
                "kubernetes-us-east-1-prod",
                Some("kubernetes-us-east-1-prod"),
            ),
            ("Kubernetes-US East/1", Some("kubernetes-us-east-1")),
            ("--x--", Some("x")),
            ("..a", Some("a")),
            ("Zürich", Some("z-rich")),
            ("", None),
            ("日本", None),
        ] {
            assert_eq!(clean(raw).as_deref(), name, "{raw}");
            assert!(clean(raw).is_none_or(|name| is_name(&name)));
        }
        assert_eq!(domain("prod-1"), "prod-1");
        assert!(domain("Prod 1").starts_with("prod-1-"));
        assert_ne!(domain("Prod 1"), domain("prod_1"));
        assert_ne!(domain("Prod 1"), domain("PROD 1"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_it_was_it_is_a_name_now(raw in ".{0,300}") {
            proptest::prop_assert!(is_name(&domain(&raw)));
            proptest::prop_assert!(clean(&raw).is_none_or(|name| is_name(&name)));
            proptest::prop_assert!(clean(&raw).is_none_or(|name| is_name(&marked(&name, &raw))));
        }
    }
}
