//! A session while a transaction changes it: the row, and the history that goes with the change.
//!
//! Invariant: nothing else changes a session's row. A [`Draft`] is made from a row that this
//! transaction has locked (and whose agents it has locked before), changed by the verbs in
//! `transitions.rs` and `reporting.rs`, and written with its events, ledger entries, leftovers and
//! slot counts by one statement.

use chrono::{DateTime, TimeDelta, Utc};
use lessor_protocol::{Action, Actor, ActorType, EndReason, PoolSpec};
use uuid::Uuid;

use super::row::SessionRow;
use crate::events::NewEvent;

/// What every change is made under.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// The session's pool.
    pub pool: &'a PoolSpec,
    /// Who causes the change.
    pub actor: &'a Actor,
    /// No new lease epoch is below this.
    pub epoch_floor: i64,
}

impl Context<'_> {
    /// A number of seconds from now.
    #[must_use]
    pub fn after(&self, seconds: f64) -> DateTime<Utc> {
        self.now + duration(seconds)
    }

    /// The pause before try number `tries` + 1: the pool's first pause, doubled each time, capped.
    #[must_use]
    pub fn backoff(&self, tries: i32) -> f64 {
        backoff(self.pool, tries)
    }
}

/// The pause after `tries` failed tries: `min(initial * 2^(tries - 1), max)` seconds.
#[must_use]
pub fn backoff(pool: &PoolSpec, tries: i32) -> f64 {
    let doublings = tries.saturating_sub(1).clamp(0, 60);
    (pool.backoff_initial_seconds * 2f64.powi(doublings)).min(pool.backoff_max_seconds)
}

/// Seconds as a duration; microseconds are as fine as the database keeps time.
#[must_use]
pub fn duration(seconds: f64) -> TimeDelta {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a saturating cast is what is meant"
    )]
    TimeDelta::microseconds((seconds * 1e6) as i64)
}

/// The actor of what Lessor does by itself.
#[must_use]
pub fn system(name: &str) -> Actor {
    Actor {
        actor_type: ActorType::System,
        name: name.to_owned(),
    }
}

/// The agent that a session is given to.
#[derive(Clone, Debug)]
pub struct Assignee {
    /// Its name.
    pub name: String,
    /// Its current incarnation.
    pub incarnation: i64,
    /// Its resource domain.
    pub resource_domain: String,
}

/// A line of the ledger that begins.
#[derive(Clone, Debug)]
pub struct LedgerOpened {
    pub(super) session_id: Uuid,
    pub(super) lease_epoch: i64,
    pub(super) agent: String,
    pub(super) incarnation: i64,
    pub(super) action: Action,
    pub(super) offered_at: DateTime<Utc>,
    pub(super) accepted_at: Option<DateTime<Utc>>,
}

/// A line of the ledger that is accepted or ends.
#[derive(Clone, Debug)]
pub struct LedgerChanged {
    pub(super) session_id: Uuid,
    pub(super) lease_epoch: i64,
    pub(super) accepted_at: Option<DateTime<Utc>>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) end_reason: Option<EndReason>,
}

/// A resource that no session wants any more.
#[derive(Clone, Debug)]
pub struct NewLeftover {
    pub(super) pool: String,
    pub(super) resource_domain: String,
    pub(super) session_id: Uuid,
    pub(super) attempt: i32,
    pub(super) platform_resource_id: Option<String>,
    pub(super) platform_metadata: lessor_protocol::RawJson,
    pub(super) reason: String,
}

/// A hold that was taken from a live agent.
#[derive(Clone, Debug)]
pub struct LostHold {
    pub(super) agent: String,
    pub(super) incarnation: i64,
    pub(super) session_id: Uuid,
    pub(super) lease_epoch: i64,
    pub(super) lease_expires_at: DateTime<Utc>,
}

/// What a draft does to its agents' counters.
#[derive(Clone, Debug)]
pub enum AgentEffect {
    /// It accepted something: its lapses in a row are over.
    Accepted(String),
    /// It let an offer lapse.
    Lapsed(String),
}

/// A session while it is changed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The row as it will be written.
    pub row: SessionRow,
    pub(super) was: Was,
    /// The row as it was locked: it says which columns have changed.
    pub(super) before: Box<SessionRow>,
    pub(super) events: Vec<NewEvent>,
    pub(super) opened: Option<LedgerOpened>,
    pub(super) changed: Vec<LedgerChanged>,
    pub(super) leftovers: Vec<NewLeftover>,
    pub(super) lost: Option<LostHold>,
    pub(super) effects: Vec<AgentEffect>,
    /// What became of migrations, for the metric.
    pub(super) migrations: Vec<&'static str>,
    pub(super) touched: bool,
}

/// What the row was when it was locked: the guard of the write, and the slot it used.
#[derive(Clone, Debug)]
pub struct Was {
    /// Its version.
    pub was_version: i64,
    /// Its lease epoch.
    pub was_lease_epoch: i64,
    /// Its assignee.
    pub was_agent: Option<String>,
    pub(super) pool: String,
    pub(super) used_slot: bool,
    pub(super) limits_ran_to: Option<DateTime<Utc>>,
    pub(super) took_place: bool,
}

impl Draft {
    /// Begins to change a row that this transaction has locked.
    #[must_use]
    pub fn of(row: SessionRow) -> Self {
        let was = Was {
            was_version: row.version,
            was_lease_epoch: row.lease_epoch,
            was_agent: row.assigned_agent_id.clone(),
            pool: row.agent_pool.clone(),
            used_slot: row.uses_slot(),
            limits_ran_to: row.limits_run_to(),
            took_place: row.takes_place(),
        };
        Self {
            before: Box::new(row.clone()),
            row,
            was,
            events: Vec::new(),
            opened: None,
            changed: Vec::new(),
            leftovers: Vec::new(),
            lost: None,
            effects: Vec::new(),
            migrations: Vec::new(),
            touched: false,
        }
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.touched || !self.events.is_empty()
    }

    /// By how much each agent's used slots change.
    pub(super) fn slot_changes(&self) -> impl Iterator<Item = (&str, i32)> {
        let before = self
            .was
            .was_agent
            .as_deref()
            .filter(|_| self.was.used_slot)
            .map(|a| (a, -1));
        let after = self
            .row
            .assigned_agent_id
            .as_deref()
            .filter(|_| self.row.uses_slot());
        before.into_iter().chain(after.map(|agent| (agent, 1)))
    }

    /// The agent from which the hold was taken, and which does not know it yet.
    pub(super) fn taken_from(&self) -> Option<&str> {
        self.lost.as_ref().map(|lost| lost.agent.as_str())
    }

    /// The owner that has one session less in its pool than before, if it has a name.
    pub(super) fn freed_place_of(&self) -> Option<(String, String)> {
        let owner = self.row.owner.as_ref()?;
        (self.was.took_place && !self.row.takes_place())
            .then(|| (self.was.pool.clone(), owner.clone()))
    }

    /// The agent that has a slot more than before.
    pub(super) fn freed_slot_of(&self) -> Option<&str> {
        let before = self.was.was_agent.as_deref();
        let uses = self.row.uses_slot() && self.row.assigned_agent_id.as_deref() == before;
        before.filter(|_| self.was.used_slot && !uses)
    }

    /// Appends an event; the version rises once per transaction, with the first of them.
    pub(super) fn record(&mut self, ctx: &Context<'_>, kind: &'static str) -> &mut NewEvent {
        if self.events.is_empty() {
            self.row.version = self.was.was_version + 1;
        }
        self.row.updated_at = ctx.now;
        self.events.push(NewEvent {
            kind,
            at: ctx.now,
            pool: self.row.agent_pool.clone(),
            owner: self.row.owner.clone(),
            session_id: Some(self.row.id),
            agent: self.row.assigned_agent_id.clone(),
            incarnation: self.row.assigned_incarnation,
            lease_epoch: Some(self.row.lease_epoch),
            generation: Some(self.row.generation),
            actor_type: ctx.actor.actor_type,
            actor_name: ctx.actor.name.clone(),
            from_value: None,
            to_value: None,
            reason: None,
            data: serde_json::json!({}),
        });
        let last = self.events.len() - 1;
        &mut self.events[last]
    }

    pub(super) fn open_ledger(
        &mut self,
        ctx: &Context<'_>,
        agent: &Assignee,
        action: Action,
        accepted: bool,
    ) {
        // A transaction's time is that of its beginning: it may have begun before the one that ended
        // the last assignment, and have waited for it.
        let at = if self.was.was_lease_epoch > 0 {
            ctx.now.max(self.row.queued_at)
        } else {
            ctx.now
        };
        self.opened = Some(LedgerOpened {
            session_id: self.row.id,
            lease_epoch: self.row.lease_epoch,
            agent: agent.name.clone(),
            incarnation: agent.incarnation,
            action,
            offered_at: at,
            accepted_at: accepted.then_some(at),
        });
    }

    pub(super) fn ledger_accepted(&mut self, ctx: &Context<'_>) {
        self.changed.push(LedgerChanged {
            session_id: self.row.id,
            lease_epoch: self.row.lease_epoch,
            accepted_at: Some(ctx.now),
            ended_at: None,
            end_reason: None,
        });
    }

    pub(super) fn ledger_ended(&mut self, ctx: &Context<'_>, reason: EndReason) {
        let epoch = self.row.lease_epoch;
        // Accepted and ended by one report: one line of the ledger changes once.
        if let Some(line) = self
            .changed
            .iter_mut()
            .find(|line| line.lease_epoch == epoch)
        {
            line.ended_at = Some(ctx.now);
            line.end_reason = Some(reason);
            return;
        }
        self.changed.push(LedgerChanged {
            session_id: self.row.id,
            lease_epoch: epoch,
            accepted_at: None,
            ended_at: Some(ctx.now),
            end_reason: Some(reason),
        });
    }

    /// Records what the session may have left in its domain, as something to delete.
    pub(super) fn leave_behind(&mut self, reason: &str) {
        let Some(domain) = self.row.resource_domain.clone() else {
            return;
        };
        self.leftovers.push(NewLeftover {
            pool: self.row.agent_pool.clone(),
            resource_domain: domain,
            session_id: self.row.id,
            attempt: self.row.attempt,
            platform_resource_id: self.row.platform_resource_id.clone(),
            platform_metadata: self.row.platform_metadata.clone(),
            reason: reason.to_owned(),
        });
    }

    pub(super) fn remember_lost(
        &mut self,
        agent: &str,
        incarnation: i64,
        lease_expires_at: DateTime<Utc>,
    ) {
        self.lost = Some(LostHold {
            agent: agent.to_owned(),
            incarnation,
            session_id: self.row.id,
            lease_epoch: self.row.lease_epoch,
            lease_expires_at,
        });
    }
}
