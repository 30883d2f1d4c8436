//! What the driver says about the use of sessions, for the next heartbeat.
//!
//! Invariant: a driver that hangs or panics costs its sessions' activity, never the lease.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use lessor_protocol::Activity;
use tokio::time::timeout;

use super::Agent;
use super::driver::Driver;

/// The most items of a heartbeat.
const MAX_ITEMS: usize = 10_000;
/// The longest wait for the driver.
const PATIENCE: Duration = Duration::from_millis(500);

impl<D: Driver> Agent<D> {
    /// For how long the sessions in hand have been idle; empty if the driver does not say so within
    /// a tenth of the time between renewals.
    pub(super) async fn activity(&self, renew_after: Duration) -> Vec<Activity> {
        let limit = (renew_after / 10).min(PATIENCE);
        let told = AssertUnwindSafe(self.driver.activity()).catch_unwind();
        let told = match timeout(limit, told).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => {
                tracing::error!("the driver panicked in activity");
                return Vec::new();
            }
            Err(_) => {
                tracing::warn!("the driver did not say in time what is in use");
                return Vec::new();
            }
        };
        let state = self.shared.lock();
        let in_hand = told
            .into_iter()
            .filter(|(id, _)| state.book.get(*id).is_some_and(|slot| slot.held));
        let items = in_hand.map(|(session_id, idle)| Activity {
            session_id,
            idle_seconds: idle.as_secs_f64(),
        });
        items.take(MAX_ITEMS).collect()
    }
}
