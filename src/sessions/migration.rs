//! Migrations, pure: a session is stopped where it is and started elsewhere, in another pool or
//! another resource domain.
//!
//! The hold is taken, what runs there becomes a leftover, and the session is `pending` in the target
//! under a new attempt. `spec` stays, and so does `platform_metadata`: it says where the session's data
//! is. Until the session has come up in the target, the row says where it was. One attempt there that
//! fails brings it back. An operator's move is no failure of the session: it uses up no attempt.
//!
//! The start may be held back until what ran before is known to be gone, for data that must not be
//! mounted twice.

use chrono::{DateTime, Utc};
use lessor_protocol::{DesiredState, EndReason, Failure, SessionState, empty_object};
use serde_json::{Value, json};

use super::draft::{Context, Draft};
use super::row::SessionRow;
use super::transitions::failure;

/// Where a session is to go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The pool.
    pub pool: String,
    /// The pool's platform.
    pub platform: String,
    /// The pool's region.
    pub region: Option<String>,
    /// The domain whose agents alone may start it; none: any agent of the pool.
    pub resource_domain: Option<String>,
}

/// What a migration is to the one that is under way, if one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// There was none.
    Begin,
    /// To another target; where it comes back to stays.
    Retarget,
    /// Back where it was.
    Recall,
}

impl Way {
    /// Its word in events and in the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begun",
            Self::Retarget => "retargeted",
            Self::Recall => "recalled",
        }
    }
}

impl SessionRow {
    /// Whether it is on its way to another place and has not come up there.
    #[must_use]
    pub fn is_migrating(&self) -> bool {
        self.migrating_from_pool.is_some()
    }

    /// The domain it is in, or is to be started in.
    #[must_use]
    pub fn domain_or_target(&self) -> Option<&String> {
        self.resource_domain.as_ref().or(self.start_domain.as_ref())
    }
}

/// A place in words: names have no slash.
fn words(pool: &str, domain: Option<&String>) -> String {
    domain.map_or_else(|| pool.to_owned(), |domain| format!("{pool}/{domain}"))
}

fn place(pool: &str, domain: Option<&String>) -> Value {
    json!({ "pool": pool, "resource_domain": domain })
}

impl Draft {
    /// Moves the session to another place. Whether that is allowed has been checked. The lease is that
    /// of its holder, if it has one. With `stop_first` the start waits until what runs now is known to
    /// be gone, for as long as an end may take.
    pub fn migrate(
        &mut self,
        ctx: &Context<'_>,
        to: &Destination,
        way: Way,
        stop_first: bool,
        lease_expires_at: DateTime<Utc>,
    ) {
        let row = &self.row;
        let (from_pool, from_domain) = (row.agent_pool.clone(), row.domain_or_target().cloned());
        let has_resource = row.resource_domain.is_some();
        let stopping = if has_resource {
            Some(row.attempt)
        } else {
            row.stopping_attempt
        };
        let stopping = stopping.filter(|_| stop_first);
        let held_until = self.let_go_to_migrate(ctx, lease_expires_at);
        let patience = self
            .row
            .terminate_timeout_seconds
            .unwrap_or(ctx.pool.terminate_timeout_seconds);
        let give_up_at = stopping.map(|_| ctx.after(patience));

        self.row.generation += 1;
        let event = self.record(ctx, "session.requeued");
        event.from_value = Some(words(&from_pool, from_domain.as_ref()));
        event.to_value = Some(words(&to.pool, to.resource_domain.as_ref()));
        event.reason = Some("migrate".to_owned());
        event.data = json!({
            "migration": way.as_str(),
            "from": place(&from_pool, from_domain.as_ref()),
            "to": place(&to.pool, to.resource_domain.as_ref()),
            "waits_for_stop_of_attempt": stopping,
            "waits_until": give_up_at.or(held_until),
        });
        self.migrations.push(way.as_str());

        self.leave_behind("the session migrated");
        self.clear_assignment(ctx);
        match way {
            Way::Begin => {
                self.row.migrating_from_pool = Some(from_pool);
                self.row.migrating_from_domain = from_domain;
                // Where it has just failed to come up, the attempt's own is not what counts.
                let known = self.row.platform_metadata.clone();
                self.row.start_metadata.get_or_insert(known);
            }
            Way::Retarget => {}
            Way::Recall => {
                self.row.migrating_from_pool = None;
                self.row.migrating_from_domain = None;
            }
        }
        self.begin_anew(ctx, "migrate");
        self.row.agent_pool.clone_from(&to.pool);
        self.row.platform.clone_from(&to.platform);
        self.row.region.clone_from(&to.region);
        self.row.start_domain.clone_from(&to.resource_domain);
        self.row.held_back_until = give_up_at.or(held_until);
        self.row.stopping_attempt = stopping;
        self.row.stopping_lease_until = stopping.and(held_until);
    }

    /// Ends the assignment, if there is one, and says until when the session cannot be claimed: while
    /// whoever held it may still act, and before its time.
    fn let_go_to_migrate(
        &mut self,
        ctx: &Context<'_>,
        lease_expires_at: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let mut until = if self.row.stopping_attempt.is_some() {
            self.row.stopping_lease_until.max(self.row.not_before)
        } else {
            self.row.held_back_until
        };
        let holder = self
            .row
            .assigned_agent_id
            .clone()
            .zip(self.row.assigned_incarnation);
        match holder {
            // What was only offered has had no effect: nobody has to be waited for.
            Some(_) if self.row.is_offered() => self.ledger_ended(ctx, EndReason::Superseded),
            Some((agent, incarnation)) => {
                self.remember_lost(&agent, incarnation, lease_expires_at);
                self.ledger_ended(ctx, EndReason::Forced);
                until = until.max(Some(lease_expires_at));
            }
            None => {}
        }
        until.filter(|at| *at > ctx.now)
    }

    /// It is to be started under a new attempt; of what it was only its data is known.
    fn begin_anew(&mut self, ctx: &Context<'_>, reason: &str) {
        self.forget_resource();
        self.row.attempt += 1;
        self.row.offers_lapsed = 0;
        self.row.avoid_agent = None;
        self.row.avoid_until = None;
        self.row.started_at = None;
        self.row.queued_at = ctx.now;
        self.move_to(ctx, SessionState::Pending, Some(reason));
    }

    /// What a session without a resource keeps of it: after a migration began, and until it has come up
    /// again, what says where its data is.
    pub(super) fn kept_metadata(&self) -> lessor_protocol::RawJson {
        let kept = self.row.start_metadata.clone();
        kept.unwrap_or_else(empty_object)
    }

    /// A migration that has failed: the session is `pending` where it was, and what the attempt may
    /// have left is a leftover. Whether it was one; the caller has ended the assignment.
    pub(super) fn come_back(&mut self, ctx: &Context<'_>, failure: &Failure) -> bool {
        if self.row.desired_state == DesiredState::Terminated {
            return false;
        }
        let Some(pool) = self.row.migrating_from_pool.take() else {
            return false;
        };
        let home = self.row.migrating_from_domain.take();
        let (from, from_domain) = (
            self.row.agent_pool.clone(),
            self.row.domain_or_target().cloned(),
        );
        let event = self.record(ctx, "session.requeued");
        event.from_value = Some(words(&from, from_domain.as_ref()));
        event.to_value = Some(words(&pool, home.as_ref()));
        event.reason = Some("migrate_failed".to_owned());
        event.data = json!({
            "migration": "returned",
            "from": place(&from, from_domain.as_ref()),
            "to": place(&pool, home.as_ref()),
            "failure": failure,
        });
        self.migrations.push("returned");
        self.leave_behind("its migration failed");
        self.begin_anew(ctx, "migrate_failed");
        self.row.agent_pool = pool;
        self.row.start_domain = home;
        self.row.failure = Some(failure.clone());
        true
    }

    /// No agent of the domain in which alone it may be started takes sessions. A migration has failed
    /// then; what has come back is started by any agent of its pool.
    pub fn give_up_start_domain(&mut self, ctx: &Context<'_>) {
        if self.come_back(ctx, &lost_target(ctx)) {
            return;
        }
        let domain = self.row.start_domain.take();
        let pool = self.row.agent_pool.clone();
        self.row.queued_at = ctx.now;
        let event = self.record(ctx, "session.requeued");
        event.from_value = Some(words(&pool, domain.as_ref()));
        event.to_value = Some(pool);
        event.reason = Some("domain_lost".to_owned());
    }

    /// Its domain was lost. Whether that is the end of a migration.
    pub(super) fn come_back_from_lost(&mut self, ctx: &Context<'_>) -> bool {
        self.row.is_migrating() && self.come_back(ctx, &lost_target(ctx))
    }

    /// It has come up, or has ended: wherever that is, it is there now. What is to be told of it.
    pub(super) fn arrive(&mut self, at: SessionState) -> Option<Value> {
        use SessionState as S;
        if !matches!(at, S::Running | S::Hibernated | S::Terminated | S::Failed) {
            return None;
        }
        if at != S::Failed {
            self.row.start_metadata = None;
        }
        let domain = self.row.migrating_from_domain.take();
        let pool = self.forget_migration()?;
        let is_up = matches!(at, S::Running | S::Hibernated);
        self.migrations
            .push(if is_up { "completed" } else { "ended" });
        is_up.then(|| json!({ "migrated_from": place(&pool, domain.as_ref()) }))
    }

    /// Its end is wanted: it goes nowhere any more, nor back.
    pub(super) fn end_migration(&mut self) {
        if self.forget_migration().is_some() {
            self.migrations.push("ended");
        }
    }

    fn forget_migration(&mut self) -> Option<String> {
        self.row.start_domain = None;
        self.row.migrating_from_domain = None;
        self.row.stopping_attempt = None;
        self.row.stopping_lease_until = None;
        self.row.migrating_from_pool.take()
    }

    /// What an attempt left is gone: if the start has waited for that, it waits no more, except for
    /// whoever held it and has not acknowledged.
    pub(super) fn has_stopped(&mut self, ctx: &Context<'_>, attempt: i32) {
        if self.row.stopping_attempt != Some(attempt) {
            return;
        }
        self.row.stopping_attempt = None;
        let lease = self.row.stopping_lease_until.take();
        let until = lease.max(self.row.not_before);
        self.row.held_back_until = until.filter(|at| *at > ctx.now);
        self.row.queued_at = ctx.now;
    }

    /// The time for which it was held back has come. If it waited for what ran before to be gone, that
    /// was in vain.
    pub fn release_held_back(&mut self, ctx: &Context<'_>) {
        self.row.queued_at = self.row.held_back_until.unwrap_or(self.row.queued_at);
        self.row.held_back_until = None;
        self.touched = true;
        if self.row.stopping_attempt.take().is_some() {
            // Whoever held it may act for longer than that.
            let lease = self.row.stopping_lease_until.take();
            self.row.held_back_until = lease.filter(|at| *at > ctx.now);
            let what = "what ran before it was not known to be gone in time";
            self.come_back(ctx, &failure(ctx, "not_stopped", what));
        }
    }
}

fn lost_target(ctx: &Context<'_>) -> Failure {
    failure(
        ctx,
        "domain_lost",
        "the target's domain has no agent to start it",
    )
}
