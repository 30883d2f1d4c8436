//! The shapes of Lessor's protocol: one definition for the service, its client and its agents.
//!
//! JSON in snake_case; times in RFC 3339, UTC; durations are numbers of seconds in fields that end
//! in `_seconds`. Every field of a response is always there, null when empty. A request refuses
//! unknown fields, a client ignores them: that is why request types carry `deny_unknown_fields`
//! and response types do not.
//!
//! What this crate does not do: validate values (the service does) or talk to anything.

mod agents;
mod approvals;
mod bulk;
mod claims;
mod commands;
mod drains;
mod events;
mod explain;
mod filter;
mod inventory;
mod merge;
mod page;
mod pools;
mod problem;
mod rebalance;
mod reports;
mod scaling;
mod secret;
mod service;
mod sessions;
mod shares;
mod simulate;
mod tenants;
mod tokens;
mod webhooks;
mod words;

pub use agents::*;
pub use approvals::*;
pub use bulk::*;
pub use claims::*;
pub use commands::*;
pub use drains::*;
pub use events::*;
pub use explain::*;
pub use filter::*;
pub use inventory::*;
pub use page::*;
pub use pools::*;
pub use problem::*;
pub use rebalance::*;
pub use reports::*;
pub use scaling::*;
pub use secret::*;
pub use service::*;
pub use sessions::*;
pub use shares::*;
pub use simulate::*;
pub use tenants::*;
pub use tokens::*;
pub use webhooks::*;
pub use words::*;

use std::collections::BTreeMap;

/// Labels of a pool, agent or session: at most 64, keys and values at most 256 bytes.
pub type Labels = BTreeMap<String, String>;

/// JSON kept exactly as it was sent: key order, duplicate keys and long numbers survive.
pub type RawJson = Box<serde_json::value::RawValue>;

/// The versions of the agent's protocol that this crate speaks, newest last.
pub const PROTOCOL_VERSIONS: &[i32] = &[1];

/// The empty JSON object.
#[must_use]
pub fn empty_object() -> RawJson {
    serde_json::value::RawValue::from_string("{}".to_owned()).unwrap_or_default()
}
