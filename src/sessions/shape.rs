//! Which columns a change writes: all that may change, or the few that claims and reports change.
//!
//! Most changes are of the few, and the cost of a statement is that of its columns more than of its
//! rows. Both are the same statement, `write.sql`, so that neither can leave out what belongs to a
//! change.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use lessor_protocol::{Action, Endpoint, RawJson, SessionState};
use uuid::Uuid;

use super::row::SessionRow;

/// The text of `write.sql` for all columns that may change.
pub static ALL: LazyLock<String> = LazyLock::new(|| {
    text(
        "arg_session",
        // What a session has of its pool follows it there.
        "agent_pool = c.agent_pool,
        platform = CASE WHEN s.agent_pool = c.agent_pool THEN s.platform
            ELSE (SELECT p.platform FROM pools p WHERE p.name = c.agent_pool) END,
        region = CASE WHEN s.agent_pool = c.agent_pool THEN s.region
            ELSE (SELECT p.region FROM pools p WHERE p.name = c.agent_pool) END,
        labels = c.labels, priority = c.priority,
        desired_state = c.desired_state, state = c.state,
        generation = c.generation, observed_generation = c.observed_generation,
        lease_epoch = c.lease_epoch, assigned_agent_id = c.assigned_agent_id,
        assigned_incarnation = c.assigned_incarnation, assigned_action = c.assigned_action,
        offered_until = c.offered_until, deliver_at = c.deliver_at, deliveries = c.deliveries,
        resource_domain = c.resource_domain, platform_resource_id = c.platform_resource_id,
        platform_metadata = c.platform_metadata, endpoint = c.endpoint,
        attempt = c.attempt, attempts_used = c.attempts_used, not_before = c.not_before,
        held_back_until = c.held_back_until, domain_lost = c.domain_lost,
        offers_lapsed = c.offers_lapsed, avoid_agent = c.avoid_agent, avoid_until = c.avoid_until,
        phase_deadline_at = c.phase_deadline_at, start_timeout_seconds = c.start_timeout_seconds,
        terminate_timeout_seconds = c.terminate_timeout_seconds,
        idle_timeout_seconds = c.idle_timeout_seconds,
        grace_seconds = c.grace_seconds, delete_data = c.delete_data,
        failure = c.failure, termination_reason = c.termination_reason,
        updated_at = c.updated_at, queued_at = c.queued_at,
        started_at = c.started_at, ended_at = c.ended_at, version = c.version,
        handing_over = c.handing_over,
        reserved_for = c.reserved_for, reserved_until = c.reserved_until,
        first_started_at = c.first_started_at,
        start_domain = c.start_domain,
        migrating_from_pool = c.migrating_from_pool, migrating_from_domain = c.migrating_from_domain,
        start_metadata = c.start_metadata,
        stopping_attempt = c.stopping_attempt, stopping_lease_until = c.stopping_lease_until",
    )
});

/// The text of `write.sql` for a [`Few`].
pub static FEW: LazyLock<String> = LazyLock::new(|| {
    text(
        "arg_session_few",
        "state = c.state, observed_generation = c.observed_generation, lease_epoch = c.lease_epoch,
        assigned_agent_id = c.assigned_agent_id, assigned_incarnation = c.assigned_incarnation,
        assigned_action = c.assigned_action, offered_until = c.offered_until,
        deliver_at = c.deliver_at, deliveries = c.deliveries,
        resource_domain = c.resource_domain, platform_resource_id = c.platform_resource_id,
        platform_metadata = coalesce(c.platform_metadata, s.platform_metadata), endpoint = c.endpoint,
        offers_lapsed = c.offers_lapsed, phase_deadline_at = c.phase_deadline_at,
        updated_at = c.updated_at, started_at = c.started_at, first_started_at = c.first_started_at,
        version = c.version",
    )
});

/// What of `write.sql` changes the counters of agents, alone and by name; its one argument is `$1`.
pub static COUNT: LazyLock<String> = LazyLock::new(|| {
    let by_name = count(
        "unnest((SELECT $1::arg_agent[])) AS e",
        "a.name = ANY (ARRAY[e.agent])",
    );
    format!("-- sessions::count\n{by_name}")
});

/// The texts of the statements, so that tests can look at their plans: that for all columns, that for a [`Few`],
/// and that which counts alone.
#[must_use]
pub fn texts() -> [&'static str; 3] {
    [&ALL, &FEW, &COUNT]
}

fn text(row: &str, set: &str) -> String {
    include_str!("write.sql")
        .replace("{row}", row)
        .replace("{set}", set)
        .replace("{count}", &count("effects AS e", "a.ctid = e.place"))
}

fn count(effects: &str, found: &str) -> String {
    include_str!("count.sql")
        .replace("{effects}", effects)
        .replace("{found}", found)
}

/// What claims and reports change of most sessions.
#[derive(Debug)]
pub struct Few<'a> {
    pub(super) id: Uuid,
    pub(super) state: SessionState,
    pub(super) observed_generation: i64,
    pub(super) lease_epoch: i64,
    pub(super) assigned_agent_id: Option<&'a str>,
    pub(super) assigned_incarnation: Option<i64>,
    pub(super) assigned_action: Option<Action>,
    pub(super) offered_until: Option<DateTime<Utc>>,
    pub(super) deliver_at: Option<DateTime<Utc>>,
    pub(super) deliveries: i32,
    pub(super) resource_domain: Option<&'a str>,
    pub(super) platform_resource_id: Option<&'a str>,
    /// Left out where it is as before: it may be large.
    pub(super) platform_metadata: Option<&'a RawJson>,
    pub(super) endpoint: Option<&'a Endpoint>,
    pub(super) offers_lapsed: i32,
    pub(super) phase_deadline_at: Option<DateTime<Utc>>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) first_started_at: Option<DateTime<Utc>>,
    pub(super) version: i64,
}

impl<'a> Few<'a> {
    /// The change from `before` to `row`, if nothing but the few has changed.
    ///
    /// Every column of a row stands here once, by name: one that is added to it has to be put on one
    /// side or the other before this compiles.
    pub fn of(before: &SessionRow, row: &'a SessionRow) -> Option<Self> {
        let SessionRow {
            id,
            state,
            observed_generation,
            lease_epoch,
            assigned_agent_id,
            assigned_incarnation,
            assigned_action,
            offered_until,
            deliver_at,
            deliveries,
            resource_domain,
            platform_resource_id,
            platform_metadata,
            endpoint,
            offers_lapsed,
            phase_deadline_at,
            updated_at,
            started_at,
            first_started_at,
            version,
            // What is not written then, so it has to be as it was.
            name,
            agent_pool,
            labels,
            priority,
            desired_state,
            generation,
            attempt,
            attempts_used,
            not_before,
            held_back_until,
            domain_lost,
            avoid_agent,
            avoid_until,
            start_timeout_seconds,
            terminate_timeout_seconds,
            idle_timeout_seconds,
            grace_seconds,
            delete_data,
            failure,
            termination_reason,
            queued_at,
            ended_at,
            handing_over,
            reserved_for,
            reserved_until,
            start_domain,
            migrating_from_pool,
            migrating_from_domain,
            start_metadata,
            stopping_attempt,
            stopping_lease_until,
            // What `write.sql` never changes, or has from the pool.
            platform: _,
            region: _,
            owner: _,
            spec: _,
            requires: _,
            prefers: _,
            restart: _,
            idle_action: _,
            max_duration_seconds: _,
            created_at: _,
        } = row;
        let text = |json: &Option<RawJson>| json.as_ref().map(|json| json.get().to_owned());
        let is_as_before = *name == before.name
            && *agent_pool == before.agent_pool
            && *labels == before.labels
            && *priority == before.priority
            && *desired_state == before.desired_state
            && *generation == before.generation
            && *attempt == before.attempt
            && *attempts_used == before.attempts_used
            && *not_before == before.not_before
            && *held_back_until == before.held_back_until
            && *domain_lost == before.domain_lost
            && *avoid_agent == before.avoid_agent
            && *avoid_until == before.avoid_until
            && *start_timeout_seconds == before.start_timeout_seconds
            && *terminate_timeout_seconds == before.terminate_timeout_seconds
            && *idle_timeout_seconds == before.idle_timeout_seconds
            && *grace_seconds == before.grace_seconds
            && *delete_data == before.delete_data
            && *failure == before.failure
            && *termination_reason == before.termination_reason
            && *queued_at == before.queued_at
            && *ended_at == before.ended_at
            && *handing_over == before.handing_over
            && *reserved_for == before.reserved_for
            && *reserved_until == before.reserved_until
            && *start_domain == before.start_domain
            && *migrating_from_pool == before.migrating_from_pool
            && *migrating_from_domain == before.migrating_from_domain
            && text(start_metadata) == text(&before.start_metadata)
            && *stopping_attempt == before.stopping_attempt
            && *stopping_lease_until == before.stopping_lease_until;
        let metadata_is_new = platform_metadata.get() != before.platform_metadata.get();
        is_as_before.then(|| Self {
            id: *id,
            state: *state,
            observed_generation: *observed_generation,
            lease_epoch: *lease_epoch,
            assigned_agent_id: assigned_agent_id.as_deref(),
            assigned_incarnation: *assigned_incarnation,
            assigned_action: *assigned_action,
            offered_until: *offered_until,
            deliver_at: *deliver_at,
            deliveries: *deliveries,
            resource_domain: resource_domain.as_deref(),
            platform_resource_id: platform_resource_id.as_deref(),
            platform_metadata: metadata_is_new.then_some(platform_metadata),
            endpoint: endpoint.as_ref(),
            offers_lapsed: *offers_lapsed,
            phase_deadline_at: *phase_deadline_at,
            updated_at: *updated_at,
            started_at: *started_at,
            first_started_at: *first_started_at,
            version: *version,
        })
    }
}
