//! What callers do to a session, be it one or one of many: end it, try it again, want another state.
//! Each works on a draft, so the row is locked.

use lessor_protocol::{DesiredState, SessionState};

use super::draft::{Context, Draft};
use crate::error::{Error, Result};

/// How a session is to be ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    /// Why, for people.
    pub reason: Option<String>,
    /// How long its resource has to end by itself.
    pub grace_seconds: Option<f64>,
    /// Whether its data goes with it.
    pub delete_data: Option<bool>,
    /// Whether a lost domain is not waited for.
    pub force: bool,
}

/// What is done to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Its end is wanted. Again is no change.
    End(Ending),
    /// A dead letter gets another attempt.
    Retry,
    /// Another state is wanted.
    Want(DesiredState),
}

impl Change {
    /// Changes a session. What it answers is whether the end of one in a lost domain is not to wait:
    /// whoever calls sees to that.
    ///
    /// # Errors
    /// `SessionNotFailed`, `TransitionNotAllowed`; then nothing was changed.
    pub fn apply(&self, draft: &mut Draft, ctx: &Context<'_>) -> Result<bool> {
        match self {
            Self::End(ending) => {
                end(draft, ctx, ending);
                Ok(ending.force)
            }
            Self::Retry => retry(draft, ctx).map(|()| false),
            Self::Want(desired) => want(draft, ctx, *desired).map(|()| false),
        }
    }
}

fn end(draft: &mut Draft, ctx: &Context<'_>, ending: &Ending) {
    if draft.row.desired_state == DesiredState::Terminated {
        return;
    }
    draft.row.termination_reason.clone_from(&ending.reason);
    draft.row.grace_seconds = ending.grace_seconds.or(draft.row.grace_seconds);
    draft.row.delete_data = ending.delete_data.unwrap_or(draft.row.delete_data);
    draft.want_because(ctx, DesiredState::Terminated, ending.reason.as_deref());
}

fn retry(draft: &mut Draft, ctx: &Context<'_>) -> Result<()> {
    let row = &draft.row;
    if row.state != SessionState::Failed || row.desired_state == DesiredState::Terminated {
        return Err(Error::SessionNotFailed(row.id, row.state.to_string()));
    }
    draft.retry(ctx);
    Ok(())
}

fn want(draft: &mut Draft, ctx: &Context<'_>, desired: DesiredState) -> Result<()> {
    let row = &draft.row;
    if row.desired_state == desired && row.state != SessionState::Failed {
        return Ok(());
    }
    let ended = matches!(row.state, SessionState::Failed | SessionState::Terminated)
        || row.desired_state == DesiredState::Terminated;
    if ended && desired != DesiredState::Terminated {
        return Err(Error::TransitionNotAllowed(format!(
            "session {} is `{}` and wanted `{}`; it cannot be `{desired}` again",
            row.id, row.state, row.desired_state
        )));
    }
    draft.want(ctx, desired);
    Ok(())
}
