//! A new session: the one place that says what its row and its first event are.

use chrono::{DateTime, TimeDelta, Utc};
use lessor_protocol::{Actor, DesiredState, IdleAction, NewSession, SessionState, empty_object};
use uuid::Uuid;

use super::draft::Draft;
use super::row::SessionRow;
use crate::events::NewEvent;

impl Draft {
    /// A session that is to be made. Where it is and when are not known yet: [`Draft::place`] says it.
    /// All that is recorded of it until it is written belongs to its first version.
    #[must_use]
    pub fn fresh(new: &NewSession, actor: &Actor) -> Self {
        let row = row_of(new);
        let created = event_of(&row, actor);
        let mut draft = Self::of(row);
        draft.events.push(created);
        draft
    }

    /// Says where a new session is and when it was made: the `index`th of those that are made
    /// together. They are a microsecond apart, so that they are claimed in the order in which they
    /// were sent.
    pub fn place(&mut self, home: &Home, now: DateTime<Utc>, index: usize) {
        let row = &mut self.row;
        row.agent_pool.clone_from(&home.name);
        row.platform.clone_from(&home.platform);
        row.region.clone_from(&home.region);
        row.created_at = now;
        row.updated_at = now;
        row.queued_at = now + TimeDelta::microseconds(i64::try_from(index).unwrap_or(0));
        row.held_back_until = row.not_before.filter(|at| *at > now);
        for event in &mut self.events {
            event.at = now;
            event.pool.clone_from(&home.name);
        }
    }

    /// Whether a new session that is not placed yet may be there: on the platform and in the region that it asks for,
    /// if it does.
    #[must_use]
    pub fn may_be_in(&self, home: &Home) -> bool {
        let row = &self.row;
        (row.platform.is_empty() || row.platform == home.platform)
            && (row.region.is_none() || row.region == home.region)
    }

    /// Whether any agent of its pool may start it now, whatever its labels.
    #[must_use]
    pub fn starts_anywhere(&self) -> bool {
        let row = &self.row;
        row.desired_state == DesiredState::Running
            && row.requires.is_empty()
            && row.prefers.is_empty()
            && row.start_domain.is_none()
            && row.not_before.is_none()
    }
}

/// The pool that a session goes to.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its name.
    pub name: String,
    /// Its platform.
    pub platform: String,
    /// Its region.
    pub region: Option<String>,
}

fn row_of(new: &NewSession) -> SessionRow {
    let unknown = DateTime::UNIX_EPOCH;
    SessionRow {
        id: Uuid::now_v7(),
        name: new.name.clone(),
        agent_pool: new.pool.clone().unwrap_or_default(),
        platform: new.platform.clone().unwrap_or_default(),
        region: new.region.clone(),
        owner: new.owner.clone(),
        labels: new.labels.clone(),
        priority: new.priority,
        spec: new.spec.clone(),
        desired_state: new.desired_state,
        state: SessionState::Pending,
        generation: 1,
        observed_generation: 0,
        lease_epoch: 0,
        assigned_agent_id: None,
        assigned_incarnation: None,
        assigned_action: None,
        offered_until: None,
        deliver_at: None,
        deliveries: 0,
        resource_domain: None,
        platform_resource_id: None,
        platform_metadata: empty_object(),
        endpoint: None,
        requires: new.requires.clone(),
        prefers: new.prefers.clone(),
        attempt: 1,
        attempts_used: 0,
        not_before: new.not_before,
        held_back_until: None,
        domain_lost: false,
        offers_lapsed: 0,
        avoid_agent: None,
        avoid_until: None,
        phase_deadline_at: None,
        restart: new.restart,
        start_timeout_seconds: new.start_timeout_seconds,
        terminate_timeout_seconds: new.terminate_timeout_seconds,
        idle_timeout_seconds: new.idle_timeout_seconds,
        idle_action: new.idle_action.unwrap_or(IdleAction::Hibernate),
        max_duration_seconds: new.max_duration_seconds,
        grace_seconds: new.grace_seconds,
        delete_data: new.delete_data,
        failure: None,
        termination_reason: None,
        created_at: unknown,
        updated_at: unknown,
        queued_at: unknown,
        started_at: None,
        first_started_at: None,
        ended_at: None,
        version: 1,
        handing_over: false,
        reserved_for: None,
        reserved_until: None,
        start_domain: None,
        migrating_from_pool: None,
        migrating_from_domain: None,
        start_metadata: None,
        stopping_attempt: None,
        stopping_lease_until: None,
    }
}

fn event_of(row: &SessionRow, actor: &Actor) -> NewEvent {
    NewEvent {
        kind: "session.created",
        at: row.created_at,
        pool: row.agent_pool.clone(),
        owner: row.owner.clone(),
        session_id: Some(row.id),
        agent: None,
        incarnation: None,
        lease_epoch: Some(row.lease_epoch),
        generation: Some(row.generation),
        actor_type: actor.actor_type,
        actor_name: actor.name.clone(),
        from_value: None,
        to_value: Some(row.state.to_string()),
        reason: None,
        data: serde_json::json!({}),
    }
}
