//! Webhooks: events that are sent to an address.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Event, EventGap, Secret, merge};

/// A webhook to create: which events are sent where.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// What people call it: 1 to 128 bytes.
    pub name: String,
    /// Where to send: `https`, or `http` to an address that the settings allow; at most 2048 bytes.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "https://hooks.example.com/lessor")
    )]
    pub url: String,
    /// Only these kinds, at most 50; `session.*` is all that begin with `session.`. Empty: all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Only of this pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// Only of sessions of this owner, 1 to 256 bytes.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only what belongs to this tenant. Who has a tenant creates webhooks of that one.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The id of the event after which to begin; `0` for all that are kept. By default the next one.
    #[serde(default)]
    pub after: Option<String>,
}

/// A change to a webhook; what is left out stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WebhookPatch {
    /// What people call it: 1 to 128 bytes.
    #[serde(default)]
    pub name: Option<String>,
    /// Where to send.
    #[serde(default)]
    pub url: Option<String>,
    /// Only these kinds; empty: all.
    #[serde(default)]
    pub kinds: Option<Vec<String>>,
    /// Only of this pool; null: of all.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub pool: Option<Option<String>>,
    /// Only of sessions of this owner; null: of all.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub owner: Option<Option<String>>,
    /// Whether it sends. True also tries again at once what failed.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// The id of the event after which to go on, to send some again or to leave some out; `0` for the oldest
    /// that is kept.
    #[serde(default)]
    pub after: Option<String>,
}

/// A webhook, without its secret: that is shown once, when it is created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Webhook {
    /// Its id.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where it sends.
    pub url: String,
    /// Only these kinds; empty: all.
    pub kinds: Vec<String>,
    /// Only of this pool.
    pub pool: Option<String>,
    /// Only of sessions of this owner.
    pub owner: Option<String>,
    /// The tenant whose it is.
    pub tenant: Option<String>,
    /// Whether it sends.
    pub enabled: bool,
    /// Why the service has disabled it; null where somebody else did, and while it is enabled.
    pub disabled_reason: Option<String>,
    /// The id of the event up to which everything was taken by the receiver, or does not concern it.
    pub delivered_through: String,
    /// How often what comes next has failed.
    pub failures: i32,
    /// Since when it has failed, while it does.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it is tried again, while it fails.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it last failed.
    pub last_failure_at: Option<DateTime<Utc>>,
    /// How it last failed.
    pub last_failure: Option<String>,
    /// When the receiver last took something.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Until when the secret before this one signs too.
    pub old_secret_until: Option<DateTime<Utc>>,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When somebody last changed it.
    pub updated_at: DateTime<Utc>,
    /// Rises when somebody changes it; sending does not raise it.
    pub version: i64,
}

/// A webhook that was just created, or given a new secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedWebhook {
    /// The webhook.
    pub webhook: Webhook,
    /// What signs: `whsec_` and 32 random bytes in base64. It is never shown again.
    #[cfg_attr(
        feature = "openapi",
        schema(value_type = String, example = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    )]
    pub secret: Secret,
}

/// What a webhook sends: the body of the POST. `webhook-id`, `webhook-timestamp` and `webhook-signature` are
/// its headers, as <https://www.standardwebhooks.com> has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookDelivery {
    /// `events`, or `test` for one that somebody has asked for.
    #[serde(rename = "type")]
    pub delivery_type: DeliveryType,
    /// The webhook.
    pub webhook_id: Uuid,
    /// Says that events before these cannot be sent: they are past retention, or the database was restored.
    pub gap: Option<EventGap>,
    /// One or more, in their order; at most 100. None in a test, and where there is nothing but a gap.
    pub events: Vec<Event>,
}

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryType {
    /// Events.
    Events,
    /// A test.
    Test,
}

/// What came of a test.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookTest {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// The status that it answered with, if it did.
    pub status: Option<u16>,
    /// How it failed.
    pub failure: Option<String>,
    /// How long that took.
    pub seconds: f64,
}
