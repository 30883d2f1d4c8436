//! The provider's keys: fetched when the first sign-in comes, and again before they are old.
//!
//! Invariants:
//! - A key that the provider has replaced is found once it is used, without a restart. An unknown key
//!   is asked for at most every [`AGAIN`], so that nobody makes this server ask by inventing keys.
//! - While the provider cannot be reached, keys that are known serve on for [`TRUST`]. What cannot be
//!   told then is "cannot tell now", never "wrong".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::time::Instant;

use super::verify;
use crate::outgoing;

/// After how long keys are fetched anew.
const FRESH: Duration = Duration::from_secs(600);

/// For how long keys are used while the provider cannot be reached.
const TRUST: Duration = Duration::from_secs(86_400);

/// The pause between two attempts to fetch them.
const AGAIN: Duration = Duration::from_secs(5);

/// How long the provider has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of an answer of the provider.
const MAX_BYTES: usize = 1024 * 1024;

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

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<String, Arc<Key>>,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
    /// Why the last attempt failed, if it did.
    failed: Option<String>,
}

/// The keys of one provider.
#[derive(Debug)]
pub struct Keys {
    issuer: String,
    http: reqwest::Client,
    known: Mutex<Known>,
    /// Who fetches; the others wait for that.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// The keys of the provider with this issuer, none of them known yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(issuer: &str) -> Result<Self, String> {
        // What is not where the provider says is not its: no redirects.
        let http = outgoing::http()?.timeout(PATIENCE);
        Ok(Self {
            issuer: issuer.to_owned(),
            http: http.build().map_err(|error| error.to_string())?,
            known: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// The key with this id; none if the provider has none.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn find(&self, id: &str) -> Result<Option<Arc<Key>>, String> {
        if let Some(key) = self.known(id, FRESH) {
            return Ok(Some(key));
        }
        let _turn = self.turn.lock().await;
        if let Some(key) = self.known(id, FRESH) {
            return Ok(Some(key));
        }
        if self.may_try(Instant::now()) {
            let failed = self.fetch().await.err();
            if let Some(why) = &failed {
                let issuer = &self.issuer;
                tracing::warn!(
                    issuer,
                    why,
                    "the keys of the sign-in provider could not be fetched"
                );
            }
            self.locked().failed = failed;
        }
        match (self.known(id, TRUST), self.locked().failed.clone()) {
            (Some(key), _) => Ok(Some(key)),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(None),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: &str, within: Duration) -> Option<Arc<Key>> {
        let known = self.locked();
        let is_recent = known.fetched_at.is_some_and(|at| at.elapsed() < within);
        known.by_id.get(id).filter(|_| is_recent).map(Arc::clone)
    }

    fn may_try(&self, now: Instant) -> bool {
        let mut known = self.locked();
        if known.tried_at.is_some_and(|at| now < at + AGAIN) {
            return false;
        }
        known.tried_at = Some(now);
        true
    }

    async fn fetch(&self) -> Result<(), String> {
        let url = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.trim_end_matches('/')
        );
        let discovery: Discovery = self.get(&url).await?;
        if discovery.issuer != self.issuer {
            return Err(format!("{url} is of the issuer {:?}", discovery.issuer));
        }
        if self.issuer.starts_with("https://") && !discovery.jwks_uri.starts_with("https://") {
            return Err("the provider's keys are not behind https".to_owned());
        }
        let set: JwkSet = self.get(&discovery.jwks_uri).await?;
        let by_id = keys(set);
        let mut known = self.locked();
        (known.by_id, known.fetched_at) = (by_id, Some(Instant::now()));
        Ok(())
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let said = |error: reqwest::Error| error.without_url().to_string();
        let mut response = self.http.get(url).send().await.map_err(said)?;
        if !response.status().is_success() {
            return Err(format!("{url} answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(said)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(format!("{url} answered more than {MAX_BYTES} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))
    }
}

/// The keys of a set that can check signatures; one without an id has the empty one.
fn keys(set: JwkSet) -> HashMap<String, Arc<Key>> {
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
