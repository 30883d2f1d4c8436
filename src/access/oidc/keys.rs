//! The provider's keys: fetched when the first sign-in comes, and again before they are old.
//!
//! A key that the provider has replaced is found once it is used, without a restart. An unknown one is asked
//! for now and then (`kept.rs`), so that nobody makes this server ask by inventing keys.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::kept::Kept;
use super::provider::Provider;
use super::verify;

/// The most keys that are taken.
const MAX_KEYS: usize = 100;

/// A public key of the provider, with what it may be used for.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub key: DecodingKey,
    /// Which signatures it can have made.
    pub algorithms: Vec<Algorithm>,
}

type ById = HashMap<String, Arc<Key>>;

/// The keys of one provider.
#[derive(Debug)]
pub struct Keys(Kept<ById>);

impl Keys {
    /// None of them known yet.
    pub fn new() -> Self {
        Self(Kept::new("its keys"))
    }

    /// The key with this id; none if the provider has none.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn find(&self, provider: &Provider, id: &str) -> Result<Option<Arc<Key>>, String> {
        let named = |keys: &ById| keys.get(id).map(Arc::clone);
        self.0.find(named, || fetch(provider)).await
    }
}

async fn fetch(provider: &Provider) -> Result<ById, String> {
    // Where they are may have changed, too.
    let discovery = provider.discover().await?;
    Ok(keys(provider.get::<JwkSet>(&discovery.jwks_uri).await?))
}

/// The keys of a set that can check signatures; one without an id has the empty one.
fn keys(set: JwkSet) -> ById {
    let signs = |key: &jsonwebtoken::jwk::Jwk| {
        matches!(
            key.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        )
    };
    let mut keys = HashMap::new();
    for jwk in set.keys.iter().filter(|key| signs(key)).take(MAX_KEYS) {
        let Ok(key) = DecodingKey::from_jwk(jwk) else {
            continue;
        };
        let own = verify::algorithms(key.family());
        let said = jwk
            .common
            .key_algorithm
            .map(|algorithm| algorithm.to_string());
        let algorithms: Vec<Algorithm> = own
            .iter()
            .copied()
            .filter(|algorithm| {
                said.as_ref()
                    .is_none_or(|said| *said == format!("{algorithm:?}"))
            })
            .collect();
        if !algorithms.is_empty() {
            let id = jwk.common.key_id.clone().unwrap_or_default();
            keys.insert(id, Arc::new(Key { key, algorithms }));
        }
    }
    keys
}
