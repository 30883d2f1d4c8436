//! The changes of a session, pure: each verb turns a draft into the next one and records the
//! history that goes with it. What agents report is in `reporting.rs`, moves to other places in
//! `migration.rs`.

use chrono::{DateTime, Utc};
use lessor_protocol::{Action, DesiredState, EndReason, Failure, RestartPolicy, SessionState};

use super::draft::{AgentEffect, Assignee, Context, Draft};
use super::row::SessionRow;
use super::state::Next;

/// Lapsed offers in a row after which one counts as an attempt.
const LAPSES_PER_ATTEMPT: i32 = 5;

impl Draft {
    /// Offers the session to an agent: a new lease epoch, which stands until it is accepted or
    /// lapses. The agent may not touch the platform before its acceptance.
    pub fn offer(&mut self, ctx: &Context<'_>, agent: &Assignee, action: Action) {
        self.assign(ctx, agent, action);
        self.row.offered_until = Some(ctx.after(ctx.pool.accept_timeout_seconds));
        // Delivered with this answer; the first repetition is due at once.
        self.row.deliver_at = Some(ctx.now);
        self.row.deliveries = 1;
        self.open_ledger(ctx, agent, action, false);
        self.record(ctx, "session.offered").to_value = Some(action.to_string());
    }

    /// Keeps the session with an agent that registered anew and still drives it: a new assignment,
    /// accepted at once.
    pub fn keep(&mut self, ctx: &Context<'_>, agent: &Assignee) {
        if self.row.assigned_agent_id.is_some() {
            self.ledger_ended(ctx, EndReason::Superseded);
        }
        let action = self.row.next().action().unwrap_or(Action::Adopt);
        self.assign(ctx, agent, action);
        self.row.offered_until = None;
        self.row.resource_domain = Some(agent.resource_domain.clone());
        self.row.domain_lost = false;
        self.row.offers_lapsed = 0;
        let must_act =
            self.row.next() != Next::Nothing || self.row.observed_generation < self.row.generation;
        self.row.deliver_at = must_act.then_some(ctx.now);
        self.row.deliveries = 0;
        self.set_phase_deadline(ctx);
        self.open_ledger(ctx, agent, action, true);
        self.record(ctx, "session.accepted").reason = Some("kept".to_owned());
    }

    fn assign(&mut self, ctx: &Context<'_>, agent: &Assignee, action: Action) {
        self.row.lease_epoch = (self.row.lease_epoch + 1).max(ctx.epoch_floor);
        self.row.assigned_agent_id = Some(agent.name.clone());
        self.row.assigned_incarnation = Some(agent.incarnation);
        self.row.assigned_action = Some(action);
        self.row.held_back_until = None;
        self.row.phase_deadline_at = None;
        self.forget_hand_over();
    }

    /// Notes that the assignee was told once more what to do, and when it is to be told again:
    /// after 1, 2, 4 … s, at the latest at the pool's accept timeout.
    pub fn deliver(&mut self, ctx: &Context<'_>) {
        // An offer stands as it was made: what is wanted has not changed since, or it would be void. Where it is
        // made to an agent of another domain, it is not what the state alone would ask for.
        if self.row.is_held() {
            self.row.assigned_action = Some(self.row.next().action().unwrap_or(Action::Adopt));
        }
        let doublings = self.row.deliveries.saturating_sub(1).clamp(0, 12);
        let pause = if self.row.deliveries == 0 {
            0.0
        } else {
            2f64.powi(doublings)
        };
        self.row.deliver_at = Some(ctx.after(pause.min(ctx.pool.accept_timeout_seconds)));
        self.row.deliveries = self.row.deliveries.saturating_add(1);
        self.touched = true;
    }

    /// Ends the assignment, held or only offered, and puts the session back where it can be
    /// claimed. `kind` is the event.
    pub fn unassign(&mut self, ctx: &Context<'_>, reason: EndReason, kind: &'static str) {
        self.ledger_ended(ctx, reason);
        let event = self.record(ctx, kind);
        event.reason = Some(reason.to_string());
        self.clear_assignment(ctx);
        if self.row.state == SessionState::Pending && self.row.resource_domain.is_some() {
            // Accepted, and nothing reported since: something may have been made under this
            // attempt's name, so the next one gets another name.
            self.leave_behind("the attempt was given up before it was seen");
            self.row.attempt += 1;
            self.forget_resource();
        }
        self.end_if_over(ctx);
    }

    /// Ends an offer that was not accepted in time. No attempt is used up, but every fifth in a
    /// row counts as one, so that a session nobody accepts is not offered for ever.
    pub fn lapse(&mut self, ctx: &Context<'_>) {
        let Some(agent) = self.row.assigned_agent_id.clone() else {
            return;
        };
        self.effects.push(AgentEffect::Lapsed(agent.clone()));
        self.hand_back(ctx, &agent, EndReason::OfferLapsed, "session.offer_lapsed");
    }

    /// Takes back an offer whose client is known to have gone; it counts against nobody.
    pub fn unoffer(&mut self, ctx: &Context<'_>) {
        self.unassign(ctx, EndReason::OfferLapsed, "session.offer_lapsed");
        if let Some(event) = self.events.first_mut() {
            event.data = serde_json::json!({ "client_gone": true });
        }
    }

    /// Ends an offer that its agent declined.
    pub fn decline(&mut self, ctx: &Context<'_>, why: Option<String>) {
        let Some(agent) = self.row.assigned_agent_id.clone() else {
            return;
        };
        let at = self.events.len();
        self.hand_back(ctx, &agent, EndReason::Declined, "session.requeued");
        if let (Some(why), Some(event)) = (why, self.events.get_mut(at)) {
            event.data = serde_json::json!({ "declined": why });
        }
    }

    fn hand_back(&mut self, ctx: &Context<'_>, agent: &str, reason: EndReason, kind: &'static str) {
        let action = self.row.assigned_action;
        self.unassign(ctx, reason, kind);
        self.row.offers_lapsed += 1;
        let lapses = self.row.offers_lapsed;
        // Another agent first, if there is one: this one only after a pause.
        self.avoid(ctx, agent, 2f64.powi((lapses - 1).clamp(0, 10)));
        if lapses >= LAPSES_PER_ATTEMPT {
            self.row.offers_lapsed = 0;
            let starting = matches!(action, Some(Action::Start | Action::Wake));
            let not_accepted = failure(ctx, "not_accepted", "no agent accepted it");
            if starting && self.come_back(ctx, &not_accepted) {
                return;
            }
            self.row.attempts_used += 1;
            if starting && self.row.attempts_used >= ctx.pool.max_attempts {
                self.dead_letter(ctx, not_accepted);
            }
        }
    }

    pub(super) fn avoid(&mut self, ctx: &Context<'_>, agent: &str, seconds: f64) {
        self.row.avoid_agent = Some(agent.to_owned());
        self.row.avoid_until = Some(ctx.after(seconds));
    }

    /// Takes a hold away from an agent that did not give it up. Its reports are fenced at once;
    /// others can claim the session when the agent has acknowledged, or when the lease that it has
    /// now would have run out.
    pub fn take(&mut self, ctx: &Context<'_>, reason: EndReason, lease_expires_at: DateTime<Utc>) {
        if let (Some(agent), Some(incarnation)) = (
            self.row.assigned_agent_id.clone(),
            self.row.assigned_incarnation,
        ) {
            self.remember_lost(&agent, incarnation, lease_expires_at);
            self.unassign(ctx, reason, "session.requeued");
            // Whoever it was taken from does not hold on to it by a registration either.
            self.avoid(ctx, &agent, ctx.pool.lease_ttl_seconds);
            if self.row.state != SessionState::Terminated && lease_expires_at > ctx.now {
                self.row.held_back_until = Some(lease_expires_at);
            }
        }
    }

    /// The database is in the past of whoever acts on it. The assignee may keep what it still drives
    /// by registering anew; others wait until every lease of that past would have ended.
    pub fn release_after_restore(&mut self, ctx: &Context<'_>) {
        let held = self.row.is_held();
        self.unassign(ctx, EndReason::LeaseExpired, "session.requeued");
        if let Some(event) = self.events.last_mut() {
            event.reason = Some("restored".to_owned());
        }
        if held && self.row.state != SessionState::Terminated {
            self.row.held_back_until = Some(ctx.after(ctx.pool.lease_ttl_seconds));
        }
    }

    /// Takes the hold away from an agent that made no progress by its phase deadline: an attempt
    /// counts, and another agent is preferred.
    pub fn time_out(&mut self, ctx: &Context<'_>, lease_expires_at: DateTime<Utc>) {
        let Some(agent) = self.row.assigned_agent_id.clone() else {
            return;
        };
        let action = self.row.next().action();
        let starting = matches!(action, Some(Action::Start | Action::Wake));
        let what = format!("{} took longer than its timeout allows", self.row.state);
        let timed_out = failure(ctx, "timed_out", &what);
        self.take(ctx, EndReason::TimedOut, lease_expires_at);
        if starting && self.come_back(ctx, &timed_out) {
            return;
        }
        self.row.attempts_used += 1;
        self.avoid(ctx, &agent, ctx.pool.accept_timeout_seconds);
        let pause = if self.row.attempts_used > 1 {
            ctx.backoff(self.row.attempts_used - 1)
        } else {
            0.0
        };
        if starting && self.row.attempts_used >= ctx.pool.max_attempts {
            self.dead_letter(ctx, timed_out);
        } else if !starting {
            metrics::counter!("lessor_phase_timeouts_total", "phase" => "terminate").increment(1);
            tracing::warn!(session = %self.row.id, agent, "an end takes longer than its timeout allows");
        }
        if self.row.state != SessionState::Terminated {
            self.row.held_back_until = Some(lease_expires_at.max(ctx.after(pause)));
        }
    }

    /// The agent that it was taken from has stopped acting on it: others need not wait for the
    /// end of that lease any more.
    pub fn acknowledge_loss(&mut self, ctx: &Context<'_>) {
        if self.row.assigned_agent_id.is_some() || self.row.held_back_until.is_none() {
            return;
        }
        if self.row.stopping_attempt.is_some() {
            // It waits for what that agent ran to be gone, too.
            self.row.stopping_lease_until = None;
            self.touched = true;
            return;
        }
        // To move it was no failure.
        let pause = if self.row.attempts_used > 1 && !self.row.is_migrating() {
            ctx.backoff(self.row.attempts_used - 1)
        } else {
            0.0
        };
        let pause = (pause > 0.0).then(|| ctx.after(pause));
        // It may have failed since, with a pause of its own.
        let not_before = self.row.not_before.filter(|at| *at > ctx.now);
        let until = pause.max(not_before);
        // An acknowledgment never makes it later.
        self.row.held_back_until =
            until.and_then(|until| self.row.held_back_until.map(|at| at.min(until)));
        self.touched = true;
    }

    /// A new generation, which a holder is told of.
    pub(super) fn want_anew(
        &mut self,
        ctx: &Context<'_>,
        desired: DesiredState,
        reason: Option<&str>,
    ) {
        let from = self.row.desired_state;
        self.row.desired_state = desired;
        self.row.generation += 1;
        let event = self.record(ctx, "session.desired_changed");
        event.from_value = Some(from.to_string());
        event.to_value = Some(desired.to_string());
        event.reason = reason.map(ToOwned::to_owned);
        if self.row.is_held() {
            self.row.deliver_at = Some(ctx.now);
            self.row.deliveries = 0;
            self.set_phase_deadline(ctx);
        } else {
            self.row.queued_at = ctx.now;
        }
    }

    /// Labels, priority or time-outs were changed: the version rises, the generation does not.
    pub fn settings_changed(&mut self, ctx: &Context<'_>) {
        let state = self.row.state.to_string();
        let event = self.record(ctx, "session.state_changed");
        event.from_value = Some(state.clone());
        event.to_value = Some(state);
        event.reason = Some("settings".to_owned());
    }

    /// Another try for a dead letter, with a new attempt number and a clean count.
    pub fn retry(&mut self, ctx: &Context<'_>) {
        self.leave_behind("the attempt failed");
        self.forget_resource();
        self.row.attempt += 1;
        self.row.attempts_used = 0;
        self.row.offers_lapsed = 0;
        self.row.generation += 1;
        self.row.not_before = None;
        self.row.held_back_until = None;
        (self.row.started_at, self.row.first_started_at) = (None, None);
        self.row.queued_at = ctx.now;
        self.move_to(ctx, SessionState::Pending, Some("retried"));
    }

    /// A failure: another attempt while there is one, otherwise a dead letter. Ends the hold.
    pub(super) fn fail(&mut self, ctx: &Context<'_>, failure: Failure) {
        let ran_long = self.row.started_at.is_some_and(|since| {
            self.row.state == SessionState::Running
                && ctx.now - since >= super::draft::duration(ctx.pool.attempt_reset_seconds)
        });
        if self.row.assigned_agent_id.is_some() {
            self.end_hold(ctx, EndReason::Failed);
        }
        if self.come_back(ctx, &failure) {
            return;
        }
        if ran_long {
            self.row.attempts_used = 0;
        }
        self.row.attempts_used += 1;
        let tries = self.row.attempts_used;
        let again = failure.retryable
            && self.row.restart == RestartPolicy::OnFailure
            && tries < ctx.pool.max_attempts;
        if self.row.desired_state == DesiredState::Terminated {
            // A wanted end is never given up: another agent tries, after a pause.
            self.row.failure = Some(failure);
            if self.row.state == SessionState::Failed {
                self.record(ctx, "session.requeued").reason = Some("end_failed".to_owned());
            }
            self.move_to(ctx, SessionState::Failed, Some("end_failed"));
            self.row.held_back_until = Some(ctx.after(ctx.backoff(tries)));
            self.end_if_over(ctx);
        } else if again {
            self.leave_behind("the attempt failed");
            self.forget_resource();
            self.row.attempt += 1;
            self.row.started_at = None;
            let reason = failure.reason.clone();
            self.row.failure = Some(failure);
            self.move_to(ctx, SessionState::Pending, Some(&reason));
            let at = ctx.after(ctx.backoff(tries));
            self.row.not_before = Some(at);
            self.row.held_back_until = Some(at);
            let event = self.record(ctx, "session.requeued");
            event.reason = Some(reason);
        } else {
            self.dead_letter(ctx, failure);
        }
    }

    pub(super) fn dead_letter(&mut self, ctx: &Context<'_>, failure: Failure) {
        let reason = failure.reason.clone();
        self.row.failure = Some(failure);
        self.row.domain_lost = false;
        self.move_to(ctx, SessionState::Failed, Some(&reason));
        self.record(ctx, "session.dead_lettered").reason = Some(reason);
    }

    /// Ends an accepted hold because of what its agent reported. The event of the report says it.
    pub(super) fn end_hold(&mut self, ctx: &Context<'_>, reason: EndReason) {
        self.ledger_ended(ctx, reason);
        self.clear_assignment(ctx);
        self.touched = true;
    }

    pub(super) fn clear_assignment(&mut self, ctx: &Context<'_>) {
        self.row.assigned_agent_id = None;
        self.row.assigned_incarnation = None;
        self.row.assigned_action = None;
        self.row.offered_until = None;
        self.row.deliver_at = None;
        self.row.deliveries = 0;
        self.row.phase_deadline_at = None;
        self.forget_hand_over();
        self.row.queued_at = ctx.now;
    }

    /// Sets the observed state, with its event.
    pub(super) fn move_to(&mut self, ctx: &Context<'_>, to: SessionState, reason: Option<&str>) {
        let from = self.row.state;
        if from == to {
            return;
        }
        let arrived = self.arrive(to);
        let event = self.record(ctx, "session.state_changed");
        event.from_value = Some(from.to_string());
        event.to_value = Some(to.to_string());
        event.reason = reason.map(ToOwned::to_owned);
        if let Some(data) = arrived {
            event.data = data;
        }
        self.row.state = to;
        let ended = matches!(to, SessionState::Terminated | SessionState::Failed);
        self.row.ended_at = ended.then_some(ctx.now);
        if to == SessionState::Running && from != SessionState::Running {
            self.row.started_at = Some(ctx.now);
            self.row.first_started_at.get_or_insert(ctx.now);
        }
        if to == SessionState::Terminated {
            self.row.held_back_until = None;
            self.row.domain_lost = false;
        }
    }

    /// `terminated` in the same transaction, where nothing is left to do for it.
    pub(super) fn end_if_over(&mut self, ctx: &Context<'_>) {
        if self.row.next() == Next::End {
            self.move_to(ctx, SessionState::Terminated, None);
        }
    }

    pub(super) fn forget_resource(&mut self) {
        self.row.resource_domain = None;
        self.row.platform_resource_id = None;
        self.row.platform_metadata = self.kept_metadata();
        self.row.endpoint = None;
        self.row.domain_lost = false;
    }

    /// An acceptance without progress is not for ever: while the holder has something to do, a
    /// deadline runs, set anew at each step.
    pub(super) fn set_phase_deadline(&mut self, ctx: &Context<'_>) {
        let timeout = if self.row.is_held() {
            phase_timeout(&self.row, ctx)
        } else {
            None
        };
        self.row.phase_deadline_at = timeout.map(|seconds| ctx.after(seconds));
    }
}

fn phase_timeout(row: &SessionRow, ctx: &Context<'_>) -> Option<f64> {
    match row.next().action()? {
        Action::Start | Action::Wake => Some(
            row.start_timeout_seconds
                .unwrap_or(ctx.pool.start_timeout_seconds),
        ),
        Action::Terminate | Action::Hibernate => Some(
            row.terminate_timeout_seconds
                .unwrap_or(ctx.pool.terminate_timeout_seconds),
        ),
        Action::Adopt | Action::Release => None,
    }
}

pub(super) fn failure(ctx: &Context<'_>, reason: &str, message: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.to_owned(),
        exit_code: None,
        retryable: false,
        at: ctx.now,
    }
}
