//! Inventories: what an agent sees on its platform, what is to become of it, and the list of what
//! nobody wants.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::UnknownWord;
use crate::words::words;

/// The most resources that one inventory can list.
pub const MAX_RESOURCES: usize = 10_000;

words! {
    /// What is to become of a resource.
    Verdict {
        /// It is wanted, or may be: leave it alone.
        Keep = "keep",
        /// Nobody knows it: leave it alone for now. It is listed, and deleted after the pool's
        /// `quarantine_seconds`.
        Quarantine = "quarantine",
        /// No session wants it any more: delete it.
        Delete = "delete",
    }
}

words! {
    /// Why a resource is in the list of what nobody wants.
    LeftoverKind {
        /// A session left it behind, and it is deleted as soon as its domain has it in an inventory.
        Leftover = "leftover",
        /// An inventory has it and nobody knows it; it is deleted when its time is over.
        Quarantined = "quarantined",
    }
}

/// The body of an inventory: all that the agent sees of its domain. Never send a part of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The incarnation.
    pub incarnation: i64,
    /// How long ago the agent began to look: 0 to 86400.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 86400))]
    pub taken_seconds_ago: f64,
    /// What it sees: at most 10,000.
    #[serde(default)]
    pub resources: Vec<InventoryResource>,
}

/// A resource that an agent sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InventoryResource {
    /// The platform's name of it: 1 to 1024 bytes.
    pub platform_resource_id: String,
    /// The session that it is labelled with; null if it has no label.
    #[serde(default)]
    pub session_id: Option<Uuid>,
    /// The attempt that it is labelled with: 0 or more.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0))]
    pub attempt: Option<i32>,
    /// What the platform says of it, in its own words: at most 256 bytes.
    #[serde(default)]
    pub state: Option<String>,
}

impl InventoryResource {
    /// A resource with this name and no label.
    #[must_use]
    pub fn named(platform_resource_id: impl Into<String>) -> Self {
        Self {
            platform_resource_id: platform_resource_id.into(),
            session_id: None,
            attempt: None,
            state: None,
        }
    }

    /// The same, labelled with an attempt of a session.
    #[must_use]
    pub fn of(mut self, session_id: Uuid, attempt: i32) -> Self {
        self.session_id = Some(session_id);
        self.attempt = Some(attempt);
        self
    }
}

/// The answer to an inventory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdicts {
    /// In the order in which the resources were sent.
    pub verdicts: Vec<ResourceVerdict>,
}

/// What is to become of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResourceVerdict {
    /// The resource.
    pub platform_resource_id: String,
    /// What is to become of it.
    pub verdict: Verdict,
}

/// A resource that nobody wants, as far as is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Leftover {
    /// Its id in this list; opaque.
    #[cfg_attr(feature = "openapi", schema(example = "leftover-7"))]
    pub id: String,
    /// Whether it was left behind or is unknown.
    pub kind: LeftoverKind,
    /// The pool whose agents can delete it.
    pub pool: String,
    /// The domain in which it is.
    pub resource_domain: String,
    /// The session that it ran, or is labelled with; null where it has no label.
    pub session_id: Option<Uuid>,
    /// The attempt, likewise.
    pub attempt: Option<i32>,
    /// The platform's name of it; null where it was never known.
    pub platform_resource_id: Option<String>,
    /// Why it is here, for people.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When its quarantine ends; null for a leftover, which is deleted as soon as it is seen.
    pub delete_after: Option<DateTime<Utc>>,
}
