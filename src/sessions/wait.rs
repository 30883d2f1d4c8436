//! Waiting for a session to reach a state.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{DesiredState, SessionState};
use tokio::time::Instant;

use super::row::SessionRow;
use super::verbs;
use crate::app::App;
use crate::error::Result;

/// How frequently a waiter looks for itself: a wake-up is a hint.
const SAFETY: Duration = Duration::from_secs(2);

/// What is waited for, and for how long.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Any of these states.
    pub states: Vec<SessionState>,
    /// At most for this long.
    pub wait: Duration,
}

/// Waits until a session is in one of the states at its current generation, can never be, or time
/// is over; then gives it as it is.
///
/// # Errors
/// `SessionNotFound`, `DatabaseUnavailable`.
pub async fn wait_for(app: &Arc<App>, id_or_name: &str, wanted: &Wanted) -> Result<SessionRow> {
    let deadline = Instant::now() + wanted.wait;
    let first = verbs::get(app, id_or_name).await?;
    if is_over(&first, wanted) || wanted.wait.is_zero() {
        return Ok(first);
    }
    let watch = app.hub.watchers.watch(first.id);
    loop {
        // Register, then query, then wait.
        let changed = watch.changed();
        let row = verbs::get(app, &first.id.to_string()).await?;
        let now = Instant::now();
        if is_over(&row, wanted) || now >= deadline || app.stop.is_cancelled() {
            return Ok(row);
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(deadline.min(now + SAFETY)) => {}
            () = app.stop.cancelled() => {}
        }
    }
}

fn is_over(row: &SessionRow, wanted: &Wanted) -> bool {
    let reached = wanted.states.contains(&row.state)
        && (row.observed_generation >= row.generation || settles_by_itself(row));
    reached || !can_be_reached(row, &wanted.states)
}

/// States that no agent acknowledges: nobody was needed to get there, or nobody holds it any more.
fn settles_by_itself(row: &SessionRow) -> bool {
    matches!(
        row.state,
        SessionState::Pending | SessionState::Terminated | SessionState::Failed
    )
}

/// Whether any of the states can still come without somebody changing what is wanted.
fn can_be_reached(row: &SessionRow, states: &[SessionState]) -> bool {
    match (row.state, row.desired_state) {
        (SessionState::Terminated, _) => states.contains(&SessionState::Terminated),
        (SessionState::Failed, DesiredState::Running | DesiredState::Hibernated) => {
            states.contains(&SessionState::Failed)
        }
        (_, DesiredState::Terminated) => states.iter().any(|state| {
            matches!(
                state,
                SessionState::Terminating | SessionState::Terminated | SessionState::Failed
            )
        }),
        _ => true,
    }
}
