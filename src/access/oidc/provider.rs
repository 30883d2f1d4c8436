//! What the provider says about itself (OpenID Connect Discovery 1.0), and how it is asked.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::outgoing;

/// How long it has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of an answer.
const MAX_BYTES: usize = 1024 * 1024;

/// What it says about itself, as far as it is used here.
#[derive(Debug, Default, Deserialize)]
pub struct Discovery {
    /// Who it is.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_uri: String,
    /// Where people sign in.
    pub authorization_endpoint: Option<String>,
    /// Where a code is exchanged for tokens.
    pub token_endpoint: Option<String>,
    /// How codes can be bound to who asked for them; many do not say.
    pub code_challenge_methods_supported: Option<Vec<String>>,
}

/// A provider.
#[derive(Debug)]
pub struct Provider {
    issuer: String,
    http: reqwest::Client,
}

impl Provider {
    /// The one with this issuer; it has not been asked yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(issuer: &str) -> Result<Self> {
        // What is not where the provider says is not its: no redirects.
        let http = outgoing::http().map_err(Error::Internal)?;
        let http = http.timeout(PATIENCE);
        Ok(Self {
            issuer: issuer.to_owned(),
            http: http
                .build()
                .map_err(|error| Error::Internal(error.to_string()))?,
        })
    }

    /// What it says about itself now.
    ///
    /// # Errors
    /// Why it does not, or that it is another one.
    pub async fn discover(&self) -> std::result::Result<Discovery, String> {
        let url = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.trim_end_matches('/')
        );
        let discovery: Discovery = self.get(&url).await?;
        if discovery.issuer != self.issuer {
            return Err(format!("{url} is of the issuer {:?}", discovery.issuer));
        }
        must_be_safe(&self.issuer, "its keys", &discovery.jwks_uri)?;
        Ok(discovery)
    }

    /// What it answers there.
    ///
    /// # Errors
    /// Why it does not answer, or nothing that could be used.
    pub async fn get<T: DeserializeOwned>(&self, url: &str) -> std::result::Result<T, String> {
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

/// Whether a place that a provider names is behind TLS, as it is itself.
///
/// # Errors
/// When it is not.
pub fn must_be_safe(issuer: &str, what: &str, url: &str) -> std::result::Result<(), String> {
    if issuer.starts_with("https://") && !url.starts_with("https://") {
        return Err(format!("{what} is not behind https"));
    }
    Ok(())
}
