//! Pools: named sets of interchangeable agents.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Approval, Labels, OnLost, Placement};

/// A pool as it is wanted: the body of PUT, and what a PATCH is merged into.
///
/// Everything but `platform` may be left out and then takes its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// What its agents drive: `kubernetes`, `docker`, `process`, … Fixed once the pool exists.
    #[cfg_attr(feature = "openapi", schema(example = "process"))]
    pub platform: String,
    /// Where its agents are.
    #[serde(default)]
    pub region: Option<String>,
    /// How long an agent's lease lasts without a heartbeat: 2 to 3600.
    #[serde(default = "defaults::lease_ttl_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 2, maximum = 3600))]
    pub lease_ttl_seconds: f64,
    /// How long an offer stands before it lapses: 1 to 3600.
    #[serde(default = "defaults::accept_timeout_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 3600))]
    pub accept_timeout_seconds: f64,
    /// How sessions are shared out.
    #[serde(default = "defaults::placement")]
    pub placement: Placement,
    /// What happens to the sessions of a lost resource domain.
    #[serde(default = "defaults::on_lost")]
    pub on_lost: OnLost,
    /// How long a domain may be without a live agent before `on_lost` decides: 0 to 31536000.
    #[serde(default = "defaults::adopt_timeout_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 31536000))]
    pub adopt_timeout_seconds: f64,
    /// How many attempts a session has before it is a dead letter: 1 to 1000.
    #[serde(default = "defaults::max_attempts")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_attempts: i32,
    /// After how long of running the count of attempts begins anew: 0 to 31536000.
    #[serde(default = "defaults::attempt_reset_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 31536000))]
    pub attempt_reset_seconds: f64,
    /// The first pause before a failed session is tried again; it doubles each time: 0 to 86400.
    #[serde(default = "defaults::backoff_initial_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 86400))]
    pub backoff_initial_seconds: f64,
    /// The longest such pause: 0 to 86400, and not below the first.
    #[serde(default = "defaults::backoff_max_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 86400))]
    pub backoff_max_seconds: f64,
    /// How long `starting` and `waking` may last: 1 to 86400.
    #[serde(default = "defaults::start_timeout_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub start_timeout_seconds: f64,
    /// How long `terminating` and `hibernating` may last: 1 to 86400.
    #[serde(default = "defaults::terminate_timeout_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub terminate_timeout_seconds: f64,
    /// How frequently agents report what they see on the platform: 1 to 86400.
    #[serde(default = "defaults::inventory_every_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub inventory_every_seconds: f64,
    /// How long an unknown resource is kept before it is deleted: 0 to 31536000.
    #[serde(default = "defaults::quarantine_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 31536000))]
    pub quarantine_seconds: f64,
    /// How long an ended session is kept: 0 to 315360000.
    #[serde(default = "defaults::keep_ended_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 315360000))]
    pub keep_ended_seconds: f64,
    /// How long an expired agent stays in the list: 0 to 315360000.
    #[serde(default = "defaults::agent_retention_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 315360000))]
    pub agent_retention_seconds: f64,
    /// The slots an agent is expected to bring, for scaling from zero: 1 to 1000000.
    #[serde(default = "defaults::slots_per_agent")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000000))]
    pub slots_per_agent: i32,
    /// Rebalance by itself, once the most and the least utilised agent of a domain have been further
    /// apart than so many sessions for a while: 2 to 1000000; null: only when asked to.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 2, maximum = 1000000))]
    pub rebalance_min_gain: Option<i32>,
    /// Whether its agents may register at once, or each when it was approved. It does not end what is
    /// registered.
    #[serde(default = "defaults::approval")]
    pub approval: Approval,
    /// Labels for people and filters.
    #[serde(default)]
    pub labels: Labels,
}

mod defaults {
    use crate::{Approval, OnLost, Placement};
    macro_rules! defaults {
        ($($name:ident: $type:ty = $value:expr),+ $(,)?) => { $(pub(super) fn $name() -> $type { $value })+ };
    }
    defaults! {
        lease_ttl_seconds: f64 = 30.0,
        accept_timeout_seconds: f64 = 10.0,
        placement: Placement = Placement::Spread,
        on_lost: OnLost = OnLost::Wait,
        adopt_timeout_seconds: f64 = 120.0,
        max_attempts: i32 = 5,
        attempt_reset_seconds: f64 = 600.0,
        backoff_initial_seconds: f64 = 1.0,
        backoff_max_seconds: f64 = 300.0,
        start_timeout_seconds: f64 = 300.0,
        terminate_timeout_seconds: f64 = 120.0,
        inventory_every_seconds: f64 = 300.0,
        quarantine_seconds: f64 = 3600.0,
        keep_ended_seconds: f64 = 604_800.0,
        agent_retention_seconds: f64 = 86_400.0,
        slots_per_agent: i32 = 10,
        approval: Approval = Approval::Auto,
    }
}

impl PoolSpec {
    /// A pool on `platform` with every default.
    #[must_use]
    pub fn on(platform: &str) -> Self {
        Self {
            platform: platform.to_owned(),
            region: None,
            lease_ttl_seconds: defaults::lease_ttl_seconds(),
            accept_timeout_seconds: defaults::accept_timeout_seconds(),
            placement: defaults::placement(),
            on_lost: defaults::on_lost(),
            adopt_timeout_seconds: defaults::adopt_timeout_seconds(),
            max_attempts: defaults::max_attempts(),
            attempt_reset_seconds: defaults::attempt_reset_seconds(),
            backoff_initial_seconds: defaults::backoff_initial_seconds(),
            backoff_max_seconds: defaults::backoff_max_seconds(),
            start_timeout_seconds: defaults::start_timeout_seconds(),
            terminate_timeout_seconds: defaults::terminate_timeout_seconds(),
            inventory_every_seconds: defaults::inventory_every_seconds(),
            quarantine_seconds: defaults::quarantine_seconds(),
            keep_ended_seconds: defaults::keep_ended_seconds(),
            agent_retention_seconds: defaults::agent_retention_seconds(),
            slots_per_agent: defaults::slots_per_agent(),
            rebalance_min_gain: None,
            approval: defaults::approval(),
            labels: Labels::new(),
        }
    }
}

/// A pool with its live counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pool {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(example = "local"))]
    pub name: String,
    /// What its agents drive.
    pub platform: String,
    /// Where its agents are.
    pub region: Option<String>,
    /// How long an agent's lease lasts without a heartbeat.
    pub lease_ttl_seconds: f64,
    /// How long an offer stands before it lapses.
    pub accept_timeout_seconds: f64,
    /// How sessions are shared out.
    pub placement: Placement,
    /// What happens to the sessions of a lost resource domain.
    pub on_lost: OnLost,
    /// How long a domain may be without a live agent before `on_lost` decides.
    pub adopt_timeout_seconds: f64,
    /// How many attempts a session has before it is a dead letter.
    pub max_attempts: i32,
    /// After how long of running the count of attempts begins anew.
    pub attempt_reset_seconds: f64,
    /// The first pause before a failed session is tried again.
    pub backoff_initial_seconds: f64,
    /// The longest such pause.
    pub backoff_max_seconds: f64,
    /// How long `starting` and `waking` may last.
    pub start_timeout_seconds: f64,
    /// How long `terminating` and `hibernating` may last.
    pub terminate_timeout_seconds: f64,
    /// How frequently agents report what they see on the platform.
    pub inventory_every_seconds: f64,
    /// How long an unknown resource is kept before it is deleted.
    pub quarantine_seconds: f64,
    /// How long an ended session is kept.
    pub keep_ended_seconds: f64,
    /// How long an expired agent stays in the list.
    pub agent_retention_seconds: f64,
    /// The slots an agent is expected to bring.
    pub slots_per_agent: i32,
    /// From which difference on it rebalances by itself; null: only when asked to.
    pub rebalance_min_gain: Option<i32>,
    /// Whether its agents may register at once, or each when it was approved.
    pub approval: Approval,
    /// Labels for people and filters.
    pub labels: Labels,
    /// Rises with every change of the pool's settings.
    pub version: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its settings were last changed.
    pub updated_at: DateTime<Utc>,
    /// The age of the oldest session that could be claimed; null if none waits.
    pub oldest_waiting_seconds: Option<f64>,
    /// Live counts.
    pub counts: PoolCounts,
    /// Set while `on_lost` is held because much of the pool is silent.
    pub brake: Option<Brake>,
}

/// Live counts of a pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolCounts {
    /// Its agents.
    pub agents: AgentCounts,
    /// Slots of its live agents.
    pub slots: SlotCounts,
    /// Its sessions.
    pub sessions: SessionCounts,
}

/// Agents of a pool by availability.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentCounts {
    /// With a lease that holds.
    pub live: i64,
    /// With a lease that ended.
    pub expired: i64,
    /// Live ones that are cordoned.
    pub cordoned: i64,
}

/// Slots of the live agents of a pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SlotCounts {
    /// The sum of their capacities.
    pub capacity: i64,
    /// In use, offers included.
    pub held: i64,
    /// Free on agents that are not cordoned.
    pub free: i64,
}

/// Sessions of a pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionCounts {
    /// That could be claimed, or will be after a pause.
    pub waiting: i64,
    /// Offered and not yet accepted.
    pub offered: i64,
    /// With a resource and no agent.
    pub unadopted: i64,
    /// By state; all nine are there.
    pub by_state: BTreeMap<String, i64>,
}

/// Why and since when `on_lost` is held.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Brake {
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(example = "2026-11-24T12:00:00Z"))]
    pub since: DateTime<Utc>,
    /// How many agents are silent.
    #[cfg_attr(feature = "openapi", schema(example = 12))]
    pub silent_agents: i64,
}
