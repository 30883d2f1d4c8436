//! Waiting for a drain to be over.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{Drain, DrainStatus};
use tokio::time::Instant;

use super::{Target, get};
use crate::app::App;
use crate::error::Result;

/// How frequently a waiter looks for itself: a wake-up is a hint.
const SAFETY: Duration = Duration::from_secs(2);

/// What is waited for, and for how long.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Any of these.
    pub statuses: Vec<DrainStatus>,
    /// At most for this long.
    pub wait: Duration,
}

/// Waits until the newest drain has one of the statuses, can never have one, or time is over; then
/// gives it as it is.
///
/// # Errors
/// `NoDrain`, `DatabaseUnavailable`.
pub async fn wait_for(app: &Arc<App>, target: &Target, wanted: &Wanted) -> Result<Drain> {
    let deadline = Instant::now() + wanted.wait;
    loop {
        let (id, _) = get(app, target).await?;
        // Register, then query, then wait.
        let watch = app.hub.watchers.watch(id);
        let changed = watch.changed();
        let (_, drain) = get(app, target).await?;
        let now = Instant::now();
        let over =
            wanted.statuses.contains(&drain.status) || drain.status != DrainStatus::InProgress;
        if over || now >= deadline || app.stop.is_cancelled() {
            return Ok(drain);
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(deadline.min(now + SAFETY)) => {}
            () = app.stop.cancelled() => {}
        }
    }
}
