//! Tokens: who may do what.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Actor, Role, Secret};

/// How every token begins, so that scanners for secrets find it. After it comes a word for its role.
pub const TOKEN_PREFIX: &str = "lessor_";

/// A token to create. Which of the parts of its scope are needed and which are not allowed, its role
/// decides.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it, and what events and the audit call its bearer: 1 to 128 bytes.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Role `enroll`: the pools that agents may be registered in, 1 to 100. Role `agent`: its one pool.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Role `agent`: the agent's name.
    #[serde(default)]
    pub agent: Option<String>,
    /// Role `user`: whose sessions, 1 to 256 bytes.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only what belongs to this tenant; not with roles `enroll` and `agent`, whose pools say it.
    #[serde(default)]
    pub tenant: Option<String>,
    /// After how long it expires: 1 to 315360000 (ten years); null: never.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 315_360_000))]
    pub expires_in_seconds: Option<f64>,
}

/// A token, without its secret: that is shown once, when it is created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    /// Its id: what revokes and rotates it, and what the audit names.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// How its secret begins.
    #[cfg_attr(feature = "openapi", schema(example = "lessor_user_3kTf"))]
    pub prefix: String,
    /// What it allows.
    pub role: Role,
    /// The pools that it is for; empty: its role does not need any.
    pub pools: Vec<String>,
    /// The agent that it is for.
    pub agent: Option<String>,
    /// Whose sessions it is for.
    pub owner: Option<String>,
    /// The tenant whose it is.
    pub tenant: Option<String>,
    /// Whether an agent's registration made it; it ends with the agent.
    pub enrolled: bool,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to a minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The token that it came in the place of.
    pub replaces: Option<Uuid>,
    /// Rises when it is revoked, and when another one comes in its place.
    pub version: i64,
}

/// A token that was just created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedToken {
    /// The token.
    pub token: Token,
    /// The secret, as it is sent in `Authorization: Bearer`. It is not kept and never shown again.
    #[cfg_attr(
        feature = "openapi",
        schema(value_type = String, example = "lessor_user_3kTf0000000000000000000000000000000000000000")
    )]
    pub secret: Secret,
}

/// How a token is replaced by a new one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// For how long the old one still works beside it: 0 to 2592000 (30 days). By default an hour.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 2_592_000))]
    pub overlap_seconds: Option<f64>,
}

/// A change that somebody asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number; numbers rise, and may have holes.
    pub id: i64,
    /// `audit.` and the operation.
    #[cfg_attr(feature = "openapi", schema(example = "audit.delete_session"))]
    pub kind: String,
    /// When it was begun.
    pub at: DateTime<Utc>,
    /// Who asked.
    pub actor: Actor,
    /// With which token; null for the admin token of the service's settings.
    pub token_id: Option<Uuid>,
    /// The address that the call came from.
    pub from: Option<String>,
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The request's id, as in the log.
    pub request_id: String,
    /// The status of the answer: below 300 it was done. Null: it is under way, or the server that did it
    /// ended before it could say.
    pub status: Option<i32>,
    /// When it was answered.
    pub finished_at: Option<DateTime<Utc>>,
}
