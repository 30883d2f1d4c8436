//! Signatures of what is sent, as Standard Webhooks has them: HMAC-SHA256 over the id, the time and the
//! body. <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lessor_protocol::Secret;
use ring::hmac;

use crate::error::{Error, Result};

/// How every secret begins.
const PREFIX: &str = "whsec_";

/// How many random bytes a secret has.
const BYTES: usize = 32;

/// A key that signs. It shows in no `Debug` output.
#[derive(Clone)]
pub struct Key([u8; BYTES]);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// `Internal` when the system has no random numbers.
    pub fn fresh() -> Result<Self> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// As the database has it.
    ///
    /// # Errors
    /// `Internal` where it is none.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| Error::Internal("a webhook's secret is not 32 bytes".to_owned()))
    }

    /// What is kept of it: all, since it has to sign.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// As its receiver is told it.
    #[must_use]
    pub fn secret(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}", STANDARD.encode(self.0)))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The header `webhook-signature`: a signature by each key, with spaces between them.
#[must_use]
pub fn signature<'a>(
    keys: impl IntoIterator<Item = &'a Key>,
    id: &str,
    seconds: i64,
    body: &[u8],
) -> String {
    let signed = |key: &Key| sign(&key.0, id, seconds, body);
    let signatures: Vec<String> = keys.into_iter().map(signed).collect();
    signatures.join(" ")
}

fn sign(key: &[u8], id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn it_is_the_signature_of_the_standard() {
        let key = STANDARD
            .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .expect("base64");
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let found = sign(&key, id, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(found, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs() {
        let keys = [Key::fresh().expect("random"), Key::fresh().expect("random")];
        let both = signature(&keys, "a", 1, b"{}");
        let each: Vec<String> = keys
            .iter()
            .map(|key| signature([key], "a", 1, b"{}"))
            .collect();
        assert_eq!(both, each.join(" "));
        assert_ne!(each[0], each[1]);
        for other in [("b", 1, "{}"), ("a", 2, "{}"), ("a", 1, "{ }")] {
            let other = signature([&keys[0]], other.0, other.1, other.2.as_bytes());
            assert_ne!(other, each[0]);
        }
    }

    #[test]
    fn secrets_are_told_in_base64_and_shown_nowhere() {
        let key = Key::fresh().expect("random");
        let secret = key.secret();
        let text = secret
            .expose()
            .strip_prefix("whsec_")
            .expect("its beginning");
        let bytes = STANDARD.decode(text).expect("base64");
        assert_eq!(Key::of(&bytes).expect("a key").bytes(), key.bytes());
        assert_eq!(format!("{key:?}"), "Key(..)");
        assert!(Key::of(&bytes[1..]).is_err());
    }
}
