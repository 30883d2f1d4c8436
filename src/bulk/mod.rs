//! Bulk: to all sessions or agents that a filter matches is done what the single calls do to one.
//!
//! Invariants:
//! - Each session and each agent changes as by the single call: by the same rule, with its own event,
//!   version and generation. Where the single call would refuse, it stays as it is.
//! - An empty filter is refused: nobody ends everything by leaving something out.
//! - The same again changes nothing, so that a call that was cut short is simply repeated.
//! - A call has limits: so many changes in small transactions, and so much time. Past them it answers
//!   that there is more. What has been done by then stays done.
//! - A dry run is one snapshot, and locks and writes nothing.
//!
//! What it does not do: keep answers under an `Idempotency-Key`. It creates nothing, and its many
//! transactions have no single one in which to keep an answer.

pub mod http;
mod of_agents;
mod of_sessions;

use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;

pub use of_agents::agents;
pub use of_sessions::sessions;

/// After this long no call begins another transaction: an answer comes before clients give up.
const LONGEST: Duration = Duration::from_secs(8);

/// Until when a call may begin something.
struct Patience(Instant);

impl Patience {
    fn new() -> Self {
        Self(Instant::now() + LONGEST)
    }

    /// Whether nothing more should be begun: it took long, or the service is stopping.
    fn is_over(&self, app: &App) -> bool {
        app.stop.is_cancelled() || Instant::now() >= self.0
    }
}

fn count(changed: usize) -> i64 {
    i64::try_from(changed).unwrap_or(i64::MAX)
}

/// Counts what was changed, once it has been committed.
fn tell(action: &'static str, changed: usize) {
    let changed = u64::try_from(changed).unwrap_or(u64::MAX);
    metrics::counter!("lessor_bulk_changed_total", "action" => action).increment(changed);
}
