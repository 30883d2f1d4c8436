//! What becomes of an agent's report on a session, pure.
//!
//! A report is taken if and only if the session is assigned to this run of the agent under this
//! very epoch and the state can follow. The lease itself is checked by the caller, who has locked
//! the agent's row.

use lessor_protocol::{
    Action, DesiredState, EndReason, Failure, Outcome, Report, ReportCode, SessionState,
};

use super::draft::{AgentEffect, Assignee, Context, Draft};
use super::state::allowed;

/// Why a report was not taken.
pub type Refusal = (Outcome, ReportCode);

impl Draft {
    /// Takes a report, or says why not; a report that is refused changes nothing. Offers to its agent may
    /// have lapsed since it took one: then the first report that is taken ends that.
    ///
    /// # Errors
    /// The outcome and code for the answer.
    pub fn report(
        &mut self,
        ctx: &Context<'_>,
        (agent, has_let_lapse): (&Assignee, bool),
        report: &Report,
    ) -> Result<(), Refusal> {
        let fenced = |code| Err((Outcome::Fenced, code));
        let rejected = |code| Err((Outcome::Rejected, code));
        if report.lease_epoch != self.row.lease_epoch {
            return fenced(ReportCode::LeaseEpochStale);
        }
        if self.row.assigned_agent_id.as_deref() != Some(&agent.name)
            || self.row.assigned_incarnation != Some(agent.incarnation)
        {
            return fenced(ReportCode::NotAssigned);
        }
        if report.observed_generation > self.row.generation || report.observed_generation < 0 {
            return rejected(ReportCode::GenerationUnknown);
        }
        let Some(to) = report.state.state() else {
            if !self.row.is_offered() {
                return rejected(ReportCode::TransitionNotAllowed);
            }
            let why = report
                .failure
                .clone()
                .flatten()
                .map(|failure| failure.reason);
            self.decline(ctx, why);
            return Ok(());
        };
        let elsewhere = self
            .row
            .resource_domain
            .as_ref()
            .is_some_and(|domain| *domain != agent.resource_domain);
        let from = if elsewhere {
            SessionState::Pending
        } else {
            self.row.state
        };
        if !self.may_follow(from, to, report) {
            return rejected(ReportCode::TransitionNotAllowed);
        }
        if self.row.is_offered() {
            self.accept(ctx, agent, elsewhere);
            if has_let_lapse {
                self.effects.push(AgentEffect::Accepted(agent.name.clone()));
            }
        }
        self.take_facts(ctx, report);
        self.acknowledge(report.observed_generation);
        self.observe(ctx, to, report);
        // The present state at the generation that asked for it: that is the answer to a release.
        if self.row.handing_over
            && to == SessionState::Running
            && report.observed_generation == self.row.generation
        {
            self.released(ctx, &agent.name);
        }
        Ok(())
    }

    /// A state on the way of what the agent was told to do, or of what is wanted now; and where it
    /// has not seen the newest generation, on any way: what is wanted forbids nothing that was
    /// observed.
    fn may_follow(&self, from: SessionState, to: SessionState, report: &Report) -> bool {
        if self.row.is_held() && report.observed_generation < self.row.generation {
            return Action::ALL.iter().any(|action| allowed(*action, from, to));
        }
        let told = self
            .row
            .assigned_action
            .is_some_and(|action| allowed(action, from, to));
        told || self
            .row
            .next()
            .action()
            .is_some_and(|action| allowed(action, from, to))
    }

    /// The first report that is taken under an epoch makes the offer a hold, in the agent's domain.
    fn accept(&mut self, ctx: &Context<'_>, agent: &Assignee, elsewhere: bool) {
        if elsewhere {
            // The session's own domain was given up, and this agent is of another one. What still
            // runs there is not the session's any more; the new resource has a new name.
            self.leave_behind("the session was started in another domain");
            self.forget_resource();
            self.row.attempt += 1;
            self.row.started_at = None;
            self.move_to(ctx, SessionState::Pending, Some("domain_lost"));
        }
        self.row.resource_domain = Some(agent.resource_domain.clone());
        self.row.domain_lost = false;
        self.row.offered_until = None;
        self.row.offers_lapsed = 0;
        self.row.avoid_agent = None;
        self.row.avoid_until = None;
        self.ledger_accepted(ctx);
        let adopted = self.row.assigned_action == Some(Action::Adopt);
        self.record(
            ctx,
            if adopted {
                "session.adopted"
            } else {
                "session.accepted"
            },
        );
        // Work of a newer generation than the one reported on is told at once.
        self.row.deliver_at = Some(ctx.now);
        self.row.deliveries = 0;
        self.set_phase_deadline(ctx);
    }

    fn take_facts(&mut self, ctx: &Context<'_>, report: &Report) {
        let mut changed = false;
        if let Some(id) = &report.platform_resource_id
            && *id != self.row.platform_resource_id
        {
            self.row.platform_resource_id.clone_from(id);
            changed = true;
        }
        if let Some(metadata) = &report.platform_metadata {
            let metadata = metadata
                .clone()
                .unwrap_or_else(lessor_protocol::empty_object);
            if metadata.get() != self.row.platform_metadata.get() {
                self.row.platform_metadata = metadata;
                changed = true;
            }
        }
        if let Some(endpoint) = &report.endpoint
            && *endpoint != self.row.endpoint
        {
            self.row.endpoint.clone_from(endpoint);
            changed = true;
        }
        // A new state has its own event; facts alone need one, since the version must rise.
        if changed && report.state.state() == Some(self.row.state) && self.events.is_empty() {
            let state = self.row.state.to_string();
            let event = self.record(ctx, "session.state_changed");
            event.from_value = Some(state.clone());
            event.to_value = Some(state);
            event.reason = Some("facts".to_owned());
        }
    }

    fn acknowledge(&mut self, generation: i64) {
        if generation > self.row.observed_generation {
            self.row.observed_generation = generation;
            self.touched = true;
        }
        if generation == self.row.generation && self.row.deliver_at.is_some() {
            self.row.deliver_at = None;
            self.row.deliveries = 0;
            self.touched = true;
        }
    }

    fn observe(&mut self, ctx: &Context<'_>, to: SessionState, report: &Report) {
        match to {
            // A failure ends the hold, also where the session has failed before and its end fails
            // once more. Without one, it is only the present state again.
            SessionState::Failed
                if self.row.state != SessionState::Failed || tells_a_failure(report) =>
            {
                let failure = failure_of(ctx, report);
                self.fail(ctx, failure);
            }
            SessionState::Terminated if self.row.state != SessionState::Terminated => {
                if self.row.desired_state != DesiredState::Terminated {
                    self.end_by_itself(ctx);
                }
                self.end_hold(ctx, EndReason::Terminated);
                self.move_to(ctx, SessionState::Terminated, None);
            }
            SessionState::Hibernated => {
                self.end_hold(ctx, EndReason::Hibernated);
                self.move_to(ctx, SessionState::Hibernated, None);
            }
            _ if to == self.row.state => {}
            _ => {
                self.move_to(ctx, to, None);
                if to == SessionState::Running {
                    self.row.not_before = None;
                }
                self.set_phase_deadline(ctx);
            }
        }
    }

    /// Its resource ended by itself, well: what is wanted follows.
    fn end_by_itself(&mut self, ctx: &Context<'_>) {
        let from = self.row.desired_state;
        self.row.desired_state = DesiredState::Terminated;
        self.row.generation += 1;
        self.row.observed_generation = self.row.generation;
        self.row.termination_reason = Some("completed".to_owned());
        let event = self.record(ctx, "session.desired_changed");
        event.from_value = Some(from.to_string());
        event.to_value = Some(DesiredState::Terminated.to_string());
        event.reason = Some("completed".to_owned());
    }
}

fn tells_a_failure(report: &Report) -> bool {
    matches!(report.failure, Some(Some(_)))
}

fn failure_of(ctx: &Context<'_>, report: &Report) -> Failure {
    let told = report.failure.clone().flatten();
    told.map_or_else(
        || Failure {
            reason: "unknown".to_owned(),
            message: "the agent gave no reason".to_owned(),
            exit_code: None,
            retryable: true,
            at: ctx.now,
        },
        |told| Failure {
            reason: told.reason,
            message: told.message,
            exit_code: told.exit_code,
            retryable: told.retryable,
            at: told.at.unwrap_or(ctx.now),
        },
    )
}

/// Whether a report's own values are within their limits; the caller answers `validation_failed`.
#[must_use]
pub fn is_valid(report: &Report) -> bool {
    const MAX_ID_BYTES: usize = 1024;
    const MAX_METADATA_BYTES: usize = 16 * 1024;
    const MAX_TEXT_BYTES: usize = 16 * 1024;
    let text = |text: &str, max: usize| text.len() <= max && !text.contains('\0');
    let id = report
        .platform_resource_id
        .as_ref()
        .and_then(Option::as_ref);
    let metadata = report.platform_metadata.as_ref().and_then(Option::as_ref);
    let endpoint = report.endpoint.as_ref().and_then(Option::as_ref);
    let failure = report.failure.as_ref().and_then(Option::as_ref);
    id.is_none_or(|id| !id.is_empty() && text(id, MAX_ID_BYTES))
        && metadata.is_none_or(|json| {
            json.get().len() <= MAX_METADATA_BYTES && json.get().trim_start().starts_with('{')
        })
        && endpoint.is_none_or(|endpoint| {
            text(&endpoint.protocol, 64)
                && !endpoint.protocol.is_empty()
                && endpoint.host.as_deref().is_none_or(|host| text(host, 256))
                && endpoint.path.as_deref().is_none_or(|path| text(path, 2048))
        })
        && failure.is_none_or(|failure| {
            text(&failure.reason, 256)
                && !failure.reason.is_empty()
                && text(&failure.message, MAX_TEXT_BYTES)
                && failure.at.is_none_or(crate::http::is_moment)
        })
}
