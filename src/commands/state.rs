//! What can become of a command, pure.
//!
//! ```text
//! pending ─ delivered ─ running ─ succeeded | failed
//!    any of the first three: expired (its deadline), cancelled (somebody's wish)
//!    pending: cancelled with its session's end
//!    delivered, running: interrupted with the epoch's end, or pending again if it may be redelivered
//! ```

use chrono::{DateTime, TimeDelta, Utc};
use lessor_protocol::{
    Actor, CommandResult, CommandResultCode, CommandStatus, Failure, Outcome, SessionState,
};

use super::row::CommandRow;
use crate::events::NewEvent;
use crate::sessions::SessionRow;

/// The most bytes of a payload, and of a result.
pub const MAX_JSON_BYTES: usize = 64 * 1024;

/// What every change is made under. The session's row is locked.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// The session as it is now.
    pub session: &'a SessionRow,
    /// Who causes the change.
    pub actor: &'a Actor,
}

impl Context<'_> {
    /// Who holds the session, and under which epoch; an offer is no hold.
    fn hold(&self) -> Option<(&str, i64)> {
        let agent = self.session.assigned_agent_id.as_deref();
        agent
            .filter(|_| self.session.is_held())
            .map(|agent| (agent, self.session.lease_epoch))
    }

    fn session_has_ended(&self) -> bool {
        has_ended(self.session.state)
    }
}

/// Whether a session in this state takes no commands.
#[must_use]
pub fn has_ended(state: SessionState) -> bool {
    matches!(state, SessionState::Terminated | SessionState::Failed)
}

/// A command while a transaction changes it: the row, and the events that go with the change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The row as it will be written.
    pub row: CommandRow,
    /// What it was when its session was locked: the guard of the write.
    pub was: CommandStatus,
    /// What it became on the way, with the events that say so.
    pub events: Vec<NewEvent>,
    /// Every status it was given.
    pub reached: Vec<CommandStatus>,
    touched: bool,
}

impl Change {
    /// Begins to change a command whose session is locked.
    #[must_use]
    pub fn of(row: CommandRow) -> Self {
        Self {
            was: row.status,
            row,
            events: Vec::new(),
            reached: Vec::new(),
            touched: false,
        }
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.touched || !self.events.is_empty()
    }

    /// It has just been created: its holder, if there is one, is to be told at once.
    pub fn create(&mut self, ctx: &Context<'_>) {
        self.tell(ctx.hold().map(|(agent, _)| agent), ctx.now);
        self.record(ctx, "command.created", None, CommandStatus::Pending, None);
    }

    /// Notes that the holder is told of it with this answer, and when it is told again: at once
    /// the first time, then after 1, 2, 4 … s, at most `longest_pause_seconds`.
    pub fn deliver(&mut self, ctx: &Context<'_>, longest_pause_seconds: f64) {
        let Some((agent, epoch)) = ctx.hold() else {
            return;
        };
        if self.row.status == CommandStatus::Pending {
            self.row.lease_epoch = Some(epoch);
            self.row.agent = Some(agent.to_owned());
            self.row.delivered_at = Some(ctx.now);
            self.row.status = CommandStatus::Delivered;
            self.row.deliveries = 0;
            let (from, to) = (CommandStatus::Pending, CommandStatus::Delivered);
            self.record(ctx, "command.delivered", Some(from), to, None);
        }
        let pause = match self.row.deliveries {
            0 => 0.0,
            told => 2f64.powi((told - 1).clamp(0, 12)),
        };
        let pause = crate::sessions::duration(pause.min(longest_pause_seconds));
        self.row.deliver_at = Some(ctx.now + pause);
        self.row.deliveries = self.row.deliveries.saturating_add(1);
        self.touched = true;
    }

    /// Takes a result, or says why not. The agent's lease and incarnation have been checked on its
    /// locked row.
    ///
    /// # Errors
    /// The outcome and code for the answer. A holder that answers for what was cancelled has heard
    /// of that, and is told no more.
    pub fn report(
        &mut self,
        ctx: &Context<'_>,
        (agent, incarnation): (&str, i64),
        told: &CommandResult,
    ) -> Result<(), (Outcome, CommandResultCode)> {
        let fenced = |code| Err((Outcome::Fenced, code));
        let rejected = |code| Err((Outcome::Rejected, code));
        if !is_valid(told) {
            return rejected(CommandResultCode::ValidationFailed);
        }
        if told.lease_epoch != ctx.session.lease_epoch {
            return fenced(CommandResultCode::LeaseEpochStale);
        }
        let held = ctx.hold().is_some_and(|(holder, _)| holder == agent);
        if !held || ctx.session.assigned_incarnation != Some(incarnation) {
            return fenced(CommandResultCode::NotAssigned);
        }
        match self.row.lease_epoch {
            Some(epoch) if epoch == told.lease_epoch => {}
            // It was interrupted under an earlier epoch.
            Some(_) => return fenced(CommandResultCode::LeaseEpochStale),
            None => return rejected(CommandResultCode::TransitionNotAllowed),
        }
        let to = CommandStatus::from(told.status);
        match (self.row.status, to) {
            (CommandStatus::Delivered, _)
            | (CommandStatus::Running, CommandStatus::Succeeded | CommandStatus::Failed) => {
                self.row.result.clone_from(&told.result);
                self.row.failure = failure_of(told, ctx.now);
                let reason = self.row.failure.as_ref().map(|f| f.reason.clone());
                self.move_to(ctx, to, reason.as_deref());
                Ok(())
            }
            (CommandStatus::Running, _) => Ok(()),
            (now, to) if now == to && self.says_the_same(told) => Ok(()),
            (CommandStatus::Cancelled, _) => {
                self.tell(None, ctx.now);
                rejected(CommandResultCode::TransitionNotAllowed)
            }
            _ => rejected(CommandResultCode::TransitionNotAllowed),
        }
    }

    fn says_the_same(&self, told: &CommandResult) -> bool {
        let text =
            |json: &Option<lessor_protocol::RawJson>| json.as_ref().map(|j| j.get().to_owned());
        let then = self
            .row
            .failure
            .as_ref()
            .map_or_else(Utc::now, |failure| failure.at);
        text(&self.row.result) == text(&told.result) && self.row.failure == failure_of(told, then)
    }

    /// Brings it in line with its session: whoever holds that now is to be told of what is
    /// pending; what was delivered under an epoch that is over is interrupted or pending again;
    /// nothing waits for a session that has ended.
    pub fn follow(&mut self, ctx: &Context<'_>) {
        let epoch = ctx.hold().map(|(_, epoch)| epoch);
        let over = self.row.lease_epoch.is_some() && self.row.lease_epoch != epoch;
        match self.row.status {
            CommandStatus::Delivered | CommandStatus::Running if over => {
                if self.row.redeliver && !ctx.session_has_ended() {
                    let from = self.row.status;
                    self.row.status = CommandStatus::Pending;
                    self.row.lease_epoch = None;
                    self.row.agent = None;
                    self.row.delivered_at = None;
                    self.tell(ctx.hold().map(|(agent, _)| agent), ctx.now);
                    let (from, to) = (Some(from), CommandStatus::Pending);
                    self.record(ctx, "command.requeued", from, to, Some("epoch_ended"));
                } else {
                    let message = "the agent's hold ended before it was finished";
                    self.row.failure = Some(failure(ctx.now, "epoch_ended", message));
                    self.move_to(ctx, CommandStatus::Interrupted, Some("epoch_ended"));
                }
            }
            CommandStatus::Pending if ctx.session_has_ended() => {
                let message = "the session ended before it was delivered";
                self.row.failure = Some(failure(ctx.now, "session_ended", message));
                self.move_to(ctx, CommandStatus::Cancelled, Some("session_ended"));
            }
            CommandStatus::Pending => {
                let holder = ctx.hold().map(|(agent, _)| agent);
                if self.row.holder.as_deref() != holder {
                    self.tell(holder, ctx.now);
                }
            }
            // Whoever was to hear that it is cancelled acts on it no more.
            CommandStatus::Cancelled if over => self.tell(None, ctx.now),
            _ => {}
        }
    }

    /// Its deadline has passed.
    pub fn expire(&mut self, ctx: &Context<'_>) {
        if self.row.status.is_finished() {
            self.tell(None, ctx.now);
            return;
        }
        let message = "its deadline passed before it was finished";
        self.row.failure = Some(failure(ctx.now, "deadline_passed", message));
        self.move_to(ctx, CommandStatus::Expired, Some("deadline_passed"));
    }

    /// Cancels it; false if it is over. An agent that it was delivered to is told.
    #[must_use]
    pub fn cancel(&mut self, ctx: &Context<'_>) -> bool {
        if self.row.status.is_finished() {
            return false;
        }
        let delivered = self.row.status != CommandStatus::Pending;
        self.move_to(ctx, CommandStatus::Cancelled, None);
        let holder = ctx.hold().filter(|_| delivered).map(|(agent, _)| agent);
        self.tell(holder, ctx.now);
        true
    }

    fn tell(&mut self, holder: Option<&str>, now: DateTime<Utc>) {
        self.row.holder = holder.map(ToOwned::to_owned);
        self.row.deliver_at = holder.map(|_| now);
        self.row.deliveries = 0;
        self.touched = true;
    }

    fn move_to(&mut self, ctx: &Context<'_>, to: CommandStatus, reason: Option<&str>) {
        let from = self.row.status;
        self.row.status = to;
        self.row.finished_at = to.is_finished().then_some(ctx.now);
        self.tell(None, ctx.now);
        self.record(ctx, kind_of(to), Some(from), to, reason);
    }

    fn record(
        &mut self,
        ctx: &Context<'_>,
        kind: &'static str,
        from: Option<CommandStatus>,
        to: CommandStatus,
        reason: Option<&str>,
    ) {
        self.reached.push(to);
        let session = ctx.session;
        self.events.push(NewEvent {
            kind,
            at: ctx.now,
            pool: session.agent_pool.clone(),
            owner: session.owner.clone(),
            session_id: Some(session.id),
            agent: self.row.agent.clone(),
            incarnation: session.assigned_incarnation.filter(|_| {
                self.row.agent.is_some() && self.row.agent == session.assigned_agent_id
            }),
            lease_epoch: self.row.lease_epoch,
            generation: Some(session.generation),
            actor_type: ctx.actor.actor_type,
            actor_name: ctx.actor.name.clone(),
            from_value: from.map(|from| from.to_string()),
            to_value: Some(to.to_string()),
            reason: reason.map(ToOwned::to_owned),
            data: serde_json::json!({ "command_id": self.row.id, "kind": self.row.kind }),
        });
    }
}

fn kind_of(status: CommandStatus) -> &'static str {
    match status {
        CommandStatus::Pending => "command.requeued",
        CommandStatus::Delivered => "command.delivered",
        CommandStatus::Running => "command.running",
        CommandStatus::Succeeded => "command.succeeded",
        CommandStatus::Failed => "command.failed",
        CommandStatus::Expired => "command.expired",
        CommandStatus::Cancelled => "command.cancelled",
        CommandStatus::Interrupted => "command.interrupted",
    }
}

fn failure(at: DateTime<Utc>, reason: &str, message: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.to_owned(),
        exit_code: None,
        retryable: false,
        at,
    }
}

/// Microseconds are as fine as the database keeps time; what was kept must compare equal.
fn to_micros(at: DateTime<Utc>) -> DateTime<Utc> {
    let beyond = i64::from(at.timestamp_subsec_nanos() % 1_000);
    at - TimeDelta::nanoseconds(beyond)
}

fn failure_of(told: &CommandResult, now: DateTime<Utc>) -> Option<Failure> {
    if CommandStatus::from(told.status) != CommandStatus::Failed {
        return None;
    }
    Some(told.failure.clone().map_or_else(
        || failure(now, "unknown", "the agent gave no reason"),
        |told| Failure {
            reason: told.reason,
            message: told.message,
            exit_code: told.exit_code,
            retryable: told.retryable,
            at: to_micros(told.at.unwrap_or(now)),
        },
    ))
}

/// Whether a result's own values are within their limits.
fn is_valid(told: &CommandResult) -> bool {
    const MAX_TEXT_BYTES: usize = 16 * 1024;
    let status = CommandStatus::from(told.status);
    let text = |text: &str, max: usize| text.len() <= max && !text.contains('\0');
    let fits = |json: &lessor_protocol::RawJson| {
        json.get().len() <= MAX_JSON_BYTES && status != CommandStatus::Running
    };
    told.result.as_ref().is_none_or(fits)
        && told.failure.as_ref().is_none_or(|failure| {
            status == CommandStatus::Failed
                && text(&failure.reason, 256)
                && !failure.reason.is_empty()
                && text(&failure.message, MAX_TEXT_BYTES)
                && failure
                    .at
                    .is_none_or(|at| (1..=9999).contains(&chrono::Datelike::year(&at)))
        })
}
