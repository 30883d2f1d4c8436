//! What becomes of a session whose time limit is reached, pure; and since when its limits are to be
//! looked at. Whether one is reached is judged by the room `limits`.

use chrono::{DateTime, Utc};
use lessor_protocol::{DesiredState, IdleAction, SessionState};

use super::draft::{Context, Draft, duration};
use super::row::SessionRow;

impl Draft {
    /// Nobody has used it for its idle timeout: its `idle_action` is wanted.
    pub fn found_idle(&mut self, ctx: &Context<'_>) {
        match self.row.idle_action {
            IdleAction::Hibernate => {
                self.want_because(ctx, DesiredState::Hibernated, Some("idle"));
            }
            IdleAction::Terminate => self.end_because(ctx, "idle"),
        }
    }

    /// Its longest life is over: its end is wanted.
    pub fn outlived(&mut self, ctx: &Context<'_>) {
        self.end_because(ctx, "max_duration");
    }

    /// When its limits are to be looked at, if this change makes one run, or run to another time.
    pub(super) fn limits_changed(&self) -> Option<DateTime<Utc>> {
        let to = self.row.limits_run_to();
        to.filter(|_| to != self.was.limits_ran_to)
    }

    fn end_because(&mut self, ctx: &Context<'_>, reason: &str) {
        self.row.termination_reason = Some(reason.to_owned());
        self.want_because(ctx, DesiredState::Terminated, Some(reason));
    }
}

impl SessionRow {
    /// From when on its limits are worth a look: the soonest that one of them can be reached,
    /// whatever activity there may be. None while no limit runs.
    #[must_use]
    pub(super) fn limits_run_to(&self) -> Option<DateTime<Utc>> {
        let after =
            |at: Option<DateTime<Utc>>, seconds: Option<f64>| Some(at? + duration(seconds?));
        let over = self.desired_state == DesiredState::Terminated
            || matches!(self.state, SessionState::Terminated | SessionState::Failed);
        let used = self.desired_state == DesiredState::Running
            && self.state == SessionState::Running
            && self.is_held();
        let end = after(self.first_started_at, self.max_duration_seconds).filter(|_| !over);
        let idle = after(self.started_at, self.idle_timeout_seconds).filter(|_| used);
        end.into_iter().chain(idle).min()
    }
}
