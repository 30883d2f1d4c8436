//! Sessions: what a user runs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    DesiredState, Endpoint, IdleAction, Labels, RawJson, RestartPolicy, SessionState, merge,
};

/// A session. `desired_state` is what is wanted of it, `state` what was last observed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// A UUID, version 7.
    pub id: Uuid,
    /// A second name, unique among the sessions that are kept.
    pub name: Option<String>,
    /// The pool it is bound to.
    #[cfg_attr(feature = "openapi", schema(example = "local"))]
    pub pool: String,
    /// The pool's platform.
    pub platform: String,
    /// The pool's region.
    pub region: Option<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Higher goes first.
    pub priority: i32,
    /// What to run, in the words of the pool's agents; opaque to Lessor.
    #[cfg_attr(feature = "openapi", schema(value_type = Value, example = json!({"command": ["sleep", "600"]})))]
    pub spec: RawJson,
    /// What is wanted.
    pub desired_state: DesiredState,
    /// What was last observed.
    pub state: SessionState,
    /// Rises when what is wanted changes.
    pub generation: i64,
    /// The newest generation that its agent has reported on.
    pub observed_generation: i64,
    /// The fencing token: rises with every assignment.
    pub lease_epoch: i64,
    /// The agent it is assigned to at present.
    pub assigned_agent_id: Option<String>,
    /// When the offer lapses; null once accepted or without one.
    pub offered_until: Option<DateTime<Utc>>,
    /// The cluster or host whose agents can reach its resource.
    pub resource_domain: Option<String>,
    /// The pod, container or process that runs it.
    pub platform_resource_id: Option<String>,
    /// What its agent keeps about the resource.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub platform_metadata: RawJson,
    /// Where users reach it.
    pub endpoint: Option<Endpoint>,
    /// Labels that an agent must have.
    pub requires: Labels,
    /// Labels that an agent should have.
    pub prefers: Labels,
    /// The number of the present attempt, from 1; it names resources and only rises.
    pub attempt: i32,
    /// It is not started before this time.
    pub not_before: Option<DateTime<Utc>>,
    /// Whether it is tried again when it fails.
    pub restart: RestartPolicy,
    /// How long `starting` and `waking` may last; null: as the pool says.
    pub start_timeout_seconds: Option<f64>,
    /// How long `terminating` and `hibernating` may last; null: as the pool says.
    pub terminate_timeout_seconds: Option<f64>,
    /// After how long without use `idle_action` is taken; null: never.
    pub idle_timeout_seconds: Option<f64>,
    /// What is done with an idle session.
    pub idle_action: IdleAction,
    /// How long after it first ran its end is wanted, in whatever state it is then; null: never.
    pub max_duration_seconds: Option<f64>,
    /// How long its resource has to end by itself; null: as the agent decides.
    pub grace_seconds: Option<f64>,
    /// Whether its data goes with it.
    pub delete_data: bool,
    /// Why it failed, the last time it did.
    pub failure: Option<Failure>,
    /// Why it was ended.
    pub termination_reason: Option<String>,
    /// When it was last used, as its agents have said; null until one has, and in assignments.
    pub last_activity_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it first ran in this attempt.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Rises with every change that appends an event.
    pub version: i64,
}

/// Why a session failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// A word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The exit code, where there is one.
    pub exit_code: Option<i32>,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// When.
    pub at: DateTime<Utc>,
}

/// A session to create: a `spec`, and a pool, or a platform with or without a region.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// What to run: any JSON of at most 64 KiB, kept as it is.
    #[cfg_attr(feature = "openapi", schema(value_type = Value, example = json!({"command": ["sleep", "600"]})))]
    pub spec: RawJson,
    /// The pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "local"))]
    pub pool: Option<String>,
    /// The platform, if no pool is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The region, if no pool is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A second name: as a pool's, unique among the sessions kept, never the form of a UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is: 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Higher goes first: -1000 to 1000.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = -1000, maximum = 1000))]
    pub priority: i32,
    /// What is wanted at first: `running` or `hibernated`.
    #[serde(default = "running")]
    pub desired_state: DesiredState,
    /// Labels that an agent must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub requires: Labels,
    /// Labels that an agent should have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub prefers: Labels,
    /// It is not started before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// Whether it is tried again when it fails.
    #[serde(default = "on_failure")]
    pub restart: RestartPolicy,
    /// How long `starting` and `waking` may last: 1 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub start_timeout_seconds: Option<f64>,
    /// How long `terminating` and `hibernating` may last: 1 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub terminate_timeout_seconds: Option<f64>,
    /// After how long without use `idle_action` is taken: 1 to 31536000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31536000))]
    pub idle_timeout_seconds: Option<f64>,
    /// What is done with an idle session; `hibernate` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_action: Option<IdleAction>,
    /// How long after it first ran its end is wanted, in whatever state it is then: 1 to 31536000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31536000))]
    pub max_duration_seconds: Option<f64>,
    /// How long its resource has to end by itself: 0 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 86400))]
    pub grace_seconds: Option<f64>,
    /// Whether its data goes with it.
    #[serde(default)]
    pub delete_data: bool,
}

fn running() -> DesiredState {
    DesiredState::Running
}

fn on_failure() -> RestartPolicy {
    RestartPolicy::OnFailure
}

impl NewSession {
    /// A session of `pool` with every default.
    ///
    /// # Errors
    /// When `spec` cannot be written as JSON.
    pub fn in_pool(pool: &str, spec: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            spec: serde_json::value::to_raw_value(spec)?,
            pool: Some(pool.to_owned()),
            platform: None,
            region: None,
            name: None,
            owner: None,
            labels: Labels::new(),
            priority: 0,
            desired_state: running(),
            requires: Labels::new(),
            prefers: Labels::new(),
            not_before: None,
            restart: on_failure(),
            start_timeout_seconds: None,
            terminate_timeout_seconds: None,
            idle_timeout_seconds: None,
            idle_action: None,
            max_duration_seconds: None,
            grace_seconds: None,
            delete_data: false,
        })
    }
}

/// Where a session is to go: to another pool, another resource domain, or both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The pool; null: the one that it is in.
    #[serde(default)]
    pub pool: Option<String>,
    /// The domain whose agents alone may start it there, of which the pool must have at least one; null:
    /// any agent of the pool.
    #[serde(default)]
    pub resource_domain: Option<String>,
    /// Whether it is started there only when what runs now is known to be gone. If that is not known
    /// within the session's terminate timeout, the migration has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_first: bool,
}

/// Sessions to create, all or nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSessions {
    /// 1 to 1000 of them.
    pub sessions: Vec<NewSession>,
}

/// The sessions that were created, in the order in which they were given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedSessions {
    /// The sessions.
    pub items: Vec<Session>,
}

/// A change of a session: what is left out stays, null clears, `labels` are merged key by key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionPatch {
    /// What is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<DesiredState>,
    /// Labels to set, and with null to remove.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, Option<String>>>))]
    pub labels: Option<Option<std::collections::BTreeMap<String, Option<String>>>>,
    /// Higher goes first: -1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = -1000, maximum = 1000))]
    pub priority: Option<i32>,
    /// How long `starting` and `waking` may last: 1 to 86400.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 1, maximum = 86400))]
    pub start_timeout_seconds: Option<Option<f64>>,
    /// How long `terminating` and `hibernating` may last: 1 to 86400.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 1, maximum = 86400))]
    pub terminate_timeout_seconds: Option<Option<f64>>,
    /// After how long without use `idle_action` is taken: 1 to 31536000.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 1, maximum = 31536000))]
    pub idle_timeout_seconds: Option<Option<f64>>,
}
