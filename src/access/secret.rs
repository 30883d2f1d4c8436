//! The text of a token: `lessor_<role>_` and 256 random bits.

use lessor_protocol::{Role, Secret, TOKEN_PREFIX};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// How many of the 62 there are in a token: that many are 256 bits.
const RANDOM_CHARS: usize = 43;

/// How many of those are kept in the clear, so that people can tell tokens apart. What is left is far
/// more than anybody can try.
const SHOWN_CHARS: usize = 4;

/// Longer ones are none.
const MAX_BYTES: usize = 128;

/// A token that was just made up.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The secret.
    pub secret: Secret,
    /// How it begins.
    pub prefix: String,
    /// What is kept of it.
    pub digest: [u8; 32],
}

/// Makes up a token.
///
/// # Errors
/// `Internal` when the system has no random numbers.
pub fn fresh(role: Role) -> Result<Fresh> {
    let begin = format!("{TOKEN_PREFIX}{role}_");
    let mut random = String::with_capacity(RANDOM_CHARS);
    while random.len() < RANDOM_CHARS {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| Error::Internal(error.to_string()))?;
        // The largest multiple of 62 in a byte: each character is as likely as any other.
        let even = bytes.iter().filter(|byte| **byte < 248);
        let left = RANDOM_CHARS - random.len();
        random.extend(
            even.take(left)
                .map(|byte| char::from(ALPHABET[usize::from(byte % 62)])),
        );
    }
    let prefix = format!("{begin}{}", &random[..SHOWN_CHARS]);
    let text = format!("{begin}{random}");
    Ok(Fresh {
        digest: digest(&text),
        secret: Secret::new(text),
        prefix,
    })
}

/// What is kept of a secret.
#[must_use]
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Whether this could be one of ours: nothing else is looked up.
#[must_use]
pub fn is_one(bearer: &str) -> bool {
    bearer.starts_with(TOKEN_PREFIX) && bearer.len() <= MAX_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn they_are_long_and_all_different() {
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<char, u32> = BTreeMap::new();
        for _ in 0..1000 {
            let fresh = fresh(Role::Operator).expect("random numbers");
            let text = fresh.secret.expose().to_owned();
            let random = text
                .strip_prefix("lessor_operator_")
                .expect("its beginning");
            assert_eq!(random.len(), 43);
            random
                .chars()
                .for_each(|c| *counts.entry(c).or_default() += 1);
            assert!(text.starts_with(&fresh.prefix) && fresh.prefix.len() == 20);
            assert_eq!(digest(&text), fresh.digest);
            assert!(is_one(&text) && !format!("{fresh:?}").contains(random));
            assert!(seen.insert(text));
        }
        // 43,000 characters, about 694 of each; six standard deviations are 158.
        assert_eq!(counts.len(), 62);
        assert!(
            counts.values().all(|n| (530..860).contains(n)),
            "{counts:?}"
        );
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "s3cret",
            "Lessor_admin_x",
            &format!("lessor_{}", "x".repeat(200)),
        ] {
            assert!(!is_one(text), "{text}");
        }
    }
}
