//! What the statements of this room are given: how a row of each kind is written. The types are in the migrations;
//! what a column means is said where it is kept.

use diesel::sql_types::{
    BigInt, Bool, Double, Integer, Json, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};

use super::draft::{LedgerChanged, LedgerOpened, LostHold, NewLeftover};
use super::row::SessionRow;
use super::shape::Few;
use super::write::{AgentChange, ChangedRow};
use crate::events::NewEvent;
use crate::store::{AsJson, Columns, arg_row, columns_of};

/// The names and columns of all types of rows with which sessions and their history are written, so that tests can
/// compare them with the schema.
#[must_use]
pub fn arg_rows() -> [Columns; 9] {
    [
        columns_of::<NewEvent>(),
        columns_of::<SessionRow>(),
        columns_of::<ChangedRow<'_, &SessionRow>>(),
        columns_of::<ChangedRow<'_, Few<'_>>>(),
        columns_of::<AgentChange<'_>>(),
        columns_of::<LedgerOpened>(),
        columns_of::<LedgerChanged>(),
        columns_of::<NewLeftover>(),
        columns_of::<LostHold>(),
    ]
}

arg_row! {
    /// A session that is to be made. Where its pool's platform or region is asked for, it has that already.
    pub ArgNewSession("arg_new_session") of SessionRow, |row| {
        id: SqlUuid = row.id,
        name: Nullable<Text> = row.name.as_deref(),
        agent_pool: Text = &row.agent_pool,
        // None: whatever the pool's is.
        asked_platform: Nullable<Text> =
            Some(row.platform.as_str()).filter(|platform| !platform.is_empty()),
        asked_region: Nullable<Text> = row.region.as_deref(),
        owner: Nullable<Text> = row.owner.as_deref(),
        labels: Jsonb = AsJson(&row.labels),
        priority: Integer = row.priority,
        spec: Json = AsJson(&row.spec),
        desired_state: Text = row.desired_state.as_str(),
        state: Text = row.state.as_str(),
        attempt: Integer = row.attempt,
        not_before: Nullable<Timestamptz> = row.not_before,
        held_back_until: Nullable<Timestamptz> = row.held_back_until,
        restart: Text = row.restart.as_str(),
        start_timeout_seconds: Nullable<Double> = row.start_timeout_seconds,
        terminate_timeout_seconds: Nullable<Double> = row.terminate_timeout_seconds,
        idle_timeout_seconds: Nullable<Double> = row.idle_timeout_seconds,
        idle_action: Text = row.idle_action.as_str(),
        max_duration_seconds: Nullable<Double> = row.max_duration_seconds,
        grace_seconds: Nullable<Double> = row.grace_seconds,
        delete_data: Bool = row.delete_data,
        requires: Jsonb = AsJson(&row.requires),
        prefers: Jsonb = AsJson(&row.prefers),
        lease_epoch: BigInt = row.lease_epoch,
        assigned_agent_id: Nullable<Text> = row.assigned_agent_id.as_deref(),
        assigned_incarnation: Nullable<BigInt> = row.assigned_incarnation,
        assigned_action: Nullable<Text> = row.assigned_action.map(|action| action.as_str()),
        offered_until: Nullable<Timestamptz> = row.offered_until,
        deliver_at: Nullable<Timestamptz> = row.deliver_at,
        deliveries: Integer = row.deliveries,
    }
}

arg_row! {
    /// A session of which anything may have changed.
    pub ArgSession("arg_session") of ChangedRow<'_, &SessionRow>, |changed| {
        id: SqlUuid = changed.row.id,
        was_version: BigInt = changed.was.was_version,
        was_lease_epoch: BigInt = changed.was.was_lease_epoch,
        was_agent: Nullable<Text> = changed.was.was_agent.as_deref(),
        agent_pool: Text = &changed.row.agent_pool,
        labels: Jsonb = AsJson(&changed.row.labels),
        priority: Integer = changed.row.priority,
        desired_state: Text = changed.row.desired_state.as_str(),
        state: Text = changed.row.state.as_str(),
        generation: BigInt = changed.row.generation,
        observed_generation: BigInt = changed.row.observed_generation,
        lease_epoch: BigInt = changed.row.lease_epoch,
        assigned_agent_id: Nullable<Text> = changed.row.assigned_agent_id.as_deref(),
        assigned_incarnation: Nullable<BigInt> = changed.row.assigned_incarnation,
        assigned_action: Nullable<Text> = changed.row.assigned_action.map(|action| action.as_str()),
        offered_until: Nullable<Timestamptz> = changed.row.offered_until,
        deliver_at: Nullable<Timestamptz> = changed.row.deliver_at,
        deliveries: Integer = changed.row.deliveries,
        resource_domain: Nullable<Text> = changed.row.resource_domain.as_deref(),
        platform_resource_id: Nullable<Text> = changed.row.platform_resource_id.as_deref(),
        platform_metadata: Json = AsJson(&changed.row.platform_metadata),
        endpoint: Nullable<Json> = changed.row.endpoint.as_ref().map(AsJson),
        attempt: Integer = changed.row.attempt,
        attempts_used: Integer = changed.row.attempts_used,
        not_before: Nullable<Timestamptz> = changed.row.not_before,
        held_back_until: Nullable<Timestamptz> = changed.row.held_back_until,
        domain_lost: Bool = changed.row.domain_lost,
        offers_lapsed: Integer = changed.row.offers_lapsed,
        avoid_agent: Nullable<Text> = changed.row.avoid_agent.as_deref(),
        avoid_until: Nullable<Timestamptz> = changed.row.avoid_until,
        phase_deadline_at: Nullable<Timestamptz> = changed.row.phase_deadline_at,
        start_timeout_seconds: Nullable<Double> = changed.row.start_timeout_seconds,
        terminate_timeout_seconds: Nullable<Double> = changed.row.terminate_timeout_seconds,
        idle_timeout_seconds: Nullable<Double> = changed.row.idle_timeout_seconds,
        grace_seconds: Nullable<Double> = changed.row.grace_seconds,
        delete_data: Bool = changed.row.delete_data,
        failure: Nullable<Json> = changed.row.failure.as_ref().map(AsJson),
        termination_reason: Nullable<Text> = changed.row.termination_reason.as_deref(),
        updated_at: Timestamptz = changed.row.updated_at,
        queued_at: Timestamptz = changed.row.queued_at,
        started_at: Nullable<Timestamptz> = changed.row.started_at,
        first_started_at: Nullable<Timestamptz> = changed.row.first_started_at,
        ended_at: Nullable<Timestamptz> = changed.row.ended_at,
        version: BigInt = changed.row.version,
        handing_over: Bool = changed.row.handing_over,
        reserved_for: Nullable<Text> = changed.row.reserved_for.as_deref(),
        reserved_until: Nullable<Timestamptz> = changed.row.reserved_until,
        start_domain: Nullable<Text> = changed.row.start_domain.as_deref(),
        migrating_from_pool: Nullable<Text> = changed.row.migrating_from_pool.as_deref(),
        migrating_from_domain: Nullable<Text> = changed.row.migrating_from_domain.as_deref(),
        start_metadata: Nullable<Json> = changed.row.start_metadata.as_ref().map(AsJson),
        stopping_attempt: Nullable<Integer> = changed.row.stopping_attempt,
        stopping_lease_until: Nullable<Timestamptz> = changed.row.stopping_lease_until,
        check_at: Nullable<Timestamptz> = changed.check_at,
    }
}

arg_row! {
    /// A session of which only the few have changed.
    pub ArgSessionFew("arg_session_few") of ChangedRow<'_, Few<'_>>, |changed| {
        id: SqlUuid = changed.row.id,
        was_version: BigInt = changed.was.was_version,
        was_lease_epoch: BigInt = changed.was.was_lease_epoch,
        was_agent: Nullable<Text> = changed.was.was_agent.as_deref(),
        state: Text = changed.row.state.as_str(),
        observed_generation: BigInt = changed.row.observed_generation,
        lease_epoch: BigInt = changed.row.lease_epoch,
        assigned_agent_id: Nullable<Text> = changed.row.assigned_agent_id,
        assigned_incarnation: Nullable<BigInt> = changed.row.assigned_incarnation,
        assigned_action: Nullable<Text> = changed.row.assigned_action.map(|action| action.as_str()),
        offered_until: Nullable<Timestamptz> = changed.row.offered_until,
        deliver_at: Nullable<Timestamptz> = changed.row.deliver_at,
        deliveries: Integer = changed.row.deliveries,
        resource_domain: Nullable<Text> = changed.row.resource_domain,
        platform_resource_id: Nullable<Text> = changed.row.platform_resource_id,
        platform_metadata: Nullable<Json> = changed.row.platform_metadata.map(AsJson),
        endpoint: Nullable<Json> = changed.row.endpoint.map(AsJson),
        offers_lapsed: Integer = changed.row.offers_lapsed,
        phase_deadline_at: Nullable<Timestamptz> = changed.row.phase_deadline_at,
        updated_at: Timestamptz = changed.row.updated_at,
        started_at: Nullable<Timestamptz> = changed.row.started_at,
        first_started_at: Nullable<Timestamptz> = changed.row.first_started_at,
        version: BigInt = changed.row.version,
        check_at: Nullable<Timestamptz> = changed.check_at,
    }
}

arg_row! {
    /// What becomes of an agent's counters.
    pub ArgAgent("arg_agent") of AgentChange<'_>, |change| {
        agent: Text = change.agent,
        slots: Integer = change.slots,
        lapsed: Integer = change.lapsed,
        accepted: Bool = change.accepted,
    }
}

arg_row! {
    /// A line of the ledger that begins.
    pub ArgLedgerOpened("arg_ledger_opened") of LedgerOpened, |line| {
        session_id: SqlUuid = line.session_id,
        lease_epoch: BigInt = line.lease_epoch,
        agent: Text = &line.agent,
        incarnation: BigInt = line.incarnation,
        action: Text = line.action.as_str(),
        offered_at: Timestamptz = line.offered_at,
        accepted_at: Nullable<Timestamptz> = line.accepted_at,
    }
}

arg_row! {
    /// A line of the ledger that is accepted or ends.
    pub ArgLedgerChanged("arg_ledger_changed") of LedgerChanged, |line| {
        session_id: SqlUuid = line.session_id,
        lease_epoch: BigInt = line.lease_epoch,
        accepted_at: Nullable<Timestamptz> = line.accepted_at,
        ended_at: Nullable<Timestamptz> = line.ended_at,
        end_reason: Nullable<Text> = line.end_reason.map(|reason| reason.as_str()),
    }
}

arg_row! {
    /// A resource that no session wants any more.
    pub ArgLeftover("arg_leftover") of NewLeftover, |leftover| {
        pool: Text = &leftover.pool,
        resource_domain: Text = &leftover.resource_domain,
        session_id: SqlUuid = leftover.session_id,
        attempt: Integer = leftover.attempt,
        platform_resource_id: Nullable<Text> = leftover.platform_resource_id.as_deref(),
        platform_metadata: Json = AsJson(&leftover.platform_metadata),
        reason: Text = &leftover.reason,
    }
}

arg_row! {
    /// A hold that was taken from a live agent.
    pub ArgLostHold("arg_lost_hold") of LostHold, |hold| {
        agent: Text = &hold.agent,
        incarnation: BigInt = hold.incarnation,
        session_id: SqlUuid = hold.session_id,
        lease_epoch: BigInt = hold.lease_epoch,
        lease_expires_at: Timestamptz = hold.lease_expires_at,
    }
}
