//! Sending one delivery to one address.
//!
//! Invariants:
//! - An address is judged when it is connected to, after its name was resolved, and no redirect or proxy
//!   leads elsewhere afterwards.
//! - Nothing that comes back is kept but the status: an answer cannot be read out of here.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use chrono::{DateTime, Utc};
use lessor_protocol::WebhookDelivery;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use uuid::Uuid;

use super::address::{self, Allowed};
use super::sign::{self, Key};
use super::state::Outcome;
use crate::error::{Error, Result};
use crate::outgoing;

/// How long a receiver has to answer, its name and its connection included.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long it has to take a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// For how long a connection is kept that nothing is sent over.
const KEEP: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Its id: the same when it is sent again.
    pub id: String,
    /// The webhook, for the log.
    pub webhook: Uuid,
    /// Where to.
    pub url: String,
    /// What signs: one key, or two while one takes the other's place.
    pub keys: Vec<Key>,
    /// The moment of this attempt.
    pub at: DateTime<Utc>,
    /// The body, JSON.
    pub body: Vec<u8>,
}

impl Parcel {
    /// A delivery under this id, for an address, signed by these secrets as of now.
    ///
    /// # Errors
    /// `Internal` where a secret is none.
    pub fn of(
        id: String,
        url: String,
        secrets: &[Vec<u8>],
        delivery: &WebhookDelivery,
    ) -> Result<Self> {
        let keys = secrets.iter().map(|secret| Key::of(secret));
        Ok(Self {
            id,
            webhook: delivery.webhook_id,
            url,
            keys: keys.collect::<Result<_>>()?,
            at: Utc::now(),
            body: serde_json::to_vec(delivery)
                .map_err(|error| Error::Internal(error.to_string()))?,
        })
    }
}

/// Sends to addresses that are allowed.
#[derive(Clone, Debug)]
pub struct Sender {
    allowed: Arc<Allowed>,
    /// For `https`, and for `http`: what may be connected to differs.
    encrypted: reqwest::Client,
    plain: reqwest::Client,
}

/// Resolves names, and keeps back the addresses that may not be connected to.
struct Guard {
    allowed: Arc<Allowed>,
    encrypted: bool,
}

/// All addresses of a name were kept back.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, encrypted) = (Arc::clone(&self.allowed), self.encrypted);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let may: Vec<SocketAddr> = found
                .filter(|found| allowed.may_connect(found.ip(), encrypted))
                .collect();
            if may.is_empty() {
                return Err(Refused(address::refusal(encrypted)).into());
            }
            Ok(Box::new(may.into_iter()) as Addrs)
        })
    }
}

impl Sender {
    /// One that sends to the public Internet and to these.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(allowed: Allowed) -> std::result::Result<Self, String> {
        let allowed = Arc::new(allowed);
        let client = |encrypted: bool| {
            let guard = Guard {
                allowed: Arc::clone(&allowed),
                encrypted,
            };
            outgoing::http()?
                // A proxy would connect in our place, and ask nobody.
                .no_proxy()
                .dns_resolver(Arc::new(guard))
                .connect_timeout(CONNECT_PATIENCE)
                .timeout(PATIENCE)
                .pool_idle_timeout(KEEP)
                .pool_max_idle_per_host(2)
                .build()
                .map_err(|error| error.to_string())
        };
        Ok(Self {
            encrypted: client(true)?,
            plain: client(false)?,
            allowed,
        })
    }

    /// What may be sent to.
    #[must_use]
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// Sends a parcel, and says what came of it.
    pub async fn send(&self, parcel: Parcel) -> Outcome {
        // The settings may have changed since it was created, and literal addresses pass no resolver.
        let url = match self.allowed.read(&parcel.url) {
            Ok(url) => url,
            Err(why) => return Outcome::unanswered(format!("its address {why}")),
        };
        let client = match url.scheme() {
            "https" => &self.encrypted,
            _ => &self.plain,
        };
        let seconds = parcel.at.timestamp();
        let signature = sign::signature(&parcel.keys, &parcel.id, seconds, &parcel.body);
        let headers = [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (HeaderName::from_static("webhook-id"), parcel.id),
            (
                HeaderName::from_static("webhook-timestamp"),
                seconds.to_string(),
            ),
            (HeaderName::from_static("webhook-signature"), signature),
        ];
        let mut request = client.post(url).body(parcel.body);
        for (name, value) in headers {
            let Ok(value) = HeaderValue::from_str(&value) else {
                return Outcome::unanswered("its headers cannot be sent");
            };
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(answer) => {
                let retry_after = answer.headers().get(header::RETRY_AFTER);
                let retry_after = retry_after.and_then(|value| value.to_str().ok());
                Outcome::answered(answer.status().as_u16(), retry_after)
            }
            Err(error) => {
                // Addresses can hold secrets.
                let error = error.without_url();
                tracing::debug!(webhook = %parcel.webhook, ?error, "a delivery failed");
                Outcome::unanswered(why(&error))
            }
        }
    }
}

/// Why there was no answer, in words that tell nothing of the network in here.
fn why(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(Refused(why)) = error.downcast_ref() {
            return format!("its address {why}");
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return format!("TLS: {error}");
        }
        // What such an error wraps is within it, and not its source.
        let within = error.downcast_ref::<std::io::Error>();
        let within = within.and_then(std::io::Error::get_ref);
        cause = within
            .map(|error| error as &(dyn std::error::Error + 'static))
            .or_else(|| error.source());
    }
    if error.is_timeout() {
        format!("it did not answer within {} s", PATIENCE.as_secs())
    } else if error.is_connect() {
        "it could not be connected to".to_owned()
    } else {
        "it ended the connection without an answer".to_owned()
    }
}
