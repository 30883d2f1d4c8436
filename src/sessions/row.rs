//! A session as its row has it.

use chrono::{DateTime, Utc};
use diesel::dsl::{AsSelect, SqlTypeOf};
use diesel::pg::Pg;
use diesel::prelude::*;
use lessor_protocol::{
    Action, DesiredState, Endpoint, Failure, IdleAction, Labels, RawJson, RestartPolicy, Session,
    SessionState,
};
use uuid::Uuid;

use super::state::{Next, Situation, next, startable_elsewhere};
use crate::store::schema::sessions;
use crate::store::{JsonText, LabelsColumn, MaybeJson, MaybeJsonText, MaybeWord, Word};

/// A row of `sessions`, without the generated columns.
#[derive(Clone, Debug, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = sessions)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct SessionRow {
    pub id: Uuid,
    pub name: Option<String>,
    pub agent_pool: String,
    pub platform: String,
    pub region: Option<String>,
    pub owner: Option<String>,
    #[diesel(deserialize_as = LabelsColumn)]
    pub labels: Labels,
    pub priority: i32,
    #[diesel(deserialize_as = JsonText)]
    pub spec: RawJson,
    #[diesel(deserialize_as = Word<DesiredState>)]
    pub desired_state: DesiredState,
    #[diesel(deserialize_as = Word<SessionState>)]
    pub state: SessionState,
    pub generation: i64,
    pub observed_generation: i64,
    pub lease_epoch: i64,
    pub assigned_agent_id: Option<String>,
    pub assigned_incarnation: Option<i64>,
    #[diesel(deserialize_as = MaybeWord<Action>)]
    pub assigned_action: Option<Action>,
    pub offered_until: Option<DateTime<Utc>>,
    pub deliver_at: Option<DateTime<Utc>>,
    pub deliveries: i32,
    pub resource_domain: Option<String>,
    pub platform_resource_id: Option<String>,
    #[diesel(deserialize_as = JsonText)]
    pub platform_metadata: RawJson,
    #[diesel(deserialize_as = MaybeJson<Endpoint>)]
    pub endpoint: Option<Endpoint>,
    #[diesel(deserialize_as = LabelsColumn)]
    pub requires: Labels,
    #[diesel(deserialize_as = LabelsColumn)]
    pub prefers: Labels,
    pub attempt: i32,
    pub attempts_used: i32,
    pub not_before: Option<DateTime<Utc>>,
    pub held_back_until: Option<DateTime<Utc>>,
    pub domain_lost: bool,
    pub offers_lapsed: i32,
    pub avoid_agent: Option<String>,
    pub avoid_until: Option<DateTime<Utc>>,
    pub phase_deadline_at: Option<DateTime<Utc>>,
    #[diesel(deserialize_as = Word<RestartPolicy>)]
    pub restart: RestartPolicy,
    pub start_timeout_seconds: Option<f64>,
    pub terminate_timeout_seconds: Option<f64>,
    pub idle_timeout_seconds: Option<f64>,
    #[diesel(deserialize_as = Word<IdleAction>)]
    pub idle_action: IdleAction,
    pub max_duration_seconds: Option<f64>,
    pub grace_seconds: Option<f64>,
    pub delete_data: bool,
    #[diesel(deserialize_as = MaybeJson<Failure>)]
    pub failure: Option<Failure>,
    pub termination_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub queued_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub first_started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub version: i64,
    pub handing_over: bool,
    pub reserved_for: Option<String>,
    pub reserved_until: Option<DateTime<Utc>>,
    pub start_domain: Option<String>,
    pub migrating_from_pool: Option<String>,
    pub migrating_from_domain: Option<String>,
    #[diesel(deserialize_as = MaybeJsonText)]
    pub start_metadata: Option<RawJson>,
    pub stopping_attempt: Option<i32>,
    pub stopping_lease_until: Option<DateTime<Utc>>,
}

/// The SQL types of its columns, in their order.
pub(super) type SqlColumns = SqlTypeOf<AsSelect<SessionRow, Pg>>;

impl SessionRow {
    /// What the rules need to know of it.
    #[must_use]
    pub fn situation(&self) -> Situation {
        Situation {
            desired: self.desired_state,
            state: self.state,
            has_domain: self.resource_domain.is_some(),
            assigned: self.assigned_agent_id.is_some(),
            domain_lost: self.domain_lost,
            handing_over: self.handing_over,
        }
    }

    /// What there is to do with it.
    #[must_use]
    pub fn next(&self) -> Next {
        next(self.situation())
    }

    /// Whether an agent holds it: assigned, and the offer accepted.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.assigned_agent_id.is_some() && self.offered_until.is_none()
    }

    /// Whether it is offered and not yet accepted.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.offered_until.is_some()
    }

    /// Whether it counts against its agent's slots: assigned, offers included, and neither
    /// terminating nor hibernating.
    #[must_use]
    pub fn uses_slot(&self) -> bool {
        self.assigned_agent_id.is_some()
            && !matches!(
                self.state,
                SessionState::Terminating | SessionState::Hibernating
            )
    }

    /// Whether it counts against its owner's `max_running`; the schema's `takes_place` says the same.
    #[must_use]
    pub fn takes_place(&self) -> bool {
        use SessionState as S;
        let assigned = self.assigned_agent_id.is_some();
        match self.state {
            S::Pending | S::Hibernated => assigned,
            S::Starting | S::Running | S::Waking | S::Hibernating | S::Terminating => {
                assigned || !self.domain_lost
            }
            S::Terminated | S::Failed => false,
        }
    }

    /// Whether its domain was lost and agents of others may start it.
    #[must_use]
    pub fn is_startable_elsewhere(&self) -> bool {
        startable_elsewhere(self.situation())
    }
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            pool: row.agent_pool,
            platform: row.platform,
            region: row.region,
            owner: row.owner,
            labels: row.labels,
            priority: row.priority,
            spec: row.spec,
            desired_state: row.desired_state,
            state: row.state,
            generation: row.generation,
            observed_generation: row.observed_generation,
            lease_epoch: row.lease_epoch,
            assigned_agent_id: row.assigned_agent_id,
            offered_until: row.offered_until,
            resource_domain: row.resource_domain,
            platform_resource_id: row.platform_resource_id,
            platform_metadata: row.platform_metadata,
            endpoint: row.endpoint,
            requires: row.requires,
            prefers: row.prefers,
            attempt: row.attempt,
            not_before: row.not_before,
            restart: row.restart,
            start_timeout_seconds: row.start_timeout_seconds,
            terminate_timeout_seconds: row.terminate_timeout_seconds,
            idle_timeout_seconds: row.idle_timeout_seconds,
            idle_action: row.idle_action,
            max_duration_seconds: row.max_duration_seconds,
            grace_seconds: row.grace_seconds,
            delete_data: row.delete_data,
            failure: row.failure,
            termination_reason: row.termination_reason,
            last_activity_at: None,
            created_at: row.created_at,
            updated_at: row.updated_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
            version: row.version,
        }
    }
}
