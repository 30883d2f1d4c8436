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

#[cfg(test)]
mod tests {
    use super::super::tests::{Platform, Says, run};

    #[tokio::test]
    async fn a_heartbeat_says_what_is_in_use_of_what_is_held() {
        let run = run(1.0, Platform::default(), |_| {}).await;
        run.until("a beat", |run| run.fake.with(|state| state.beats > 0))
            .await;
        assert!(
            run.fake.with(|state| state.activity.is_empty()),
            "nothing is held"
        );
        run.fake.assign(1, "start", 5, 1);
        run.until("activity", |run| {
            run.fake.with(|state| state.activity.len() > 1)
        })
        .await;
        let told = run.fake.with(|state| state.activity.clone());
        let first = serde_json::json!({
            "session_id": uuid::Uuid::from_u128(1), "idle_seconds": 5.0});
        assert!(told.iter().all(|item| *item == first), "{told:?}");
        run.shutdown.cancel();
    }

    #[tokio::test]
    async fn a_driver_that_hangs_or_panics_costs_no_lease() {
        for activity in [Says::Never, Says::Panic] {
            let run = run(1.0, Platform::that_says(activity), |_| {}).await;
            run.fake.assign(1, "start", 5, 1);
            run.until("beats", |run| run.fake.with(|state| state.beats > 4))
                .await;
            let seen = |state: &mut super::super::fake::FakeState| {
                (state.registered.len(), state.activity.len())
            };
            assert_eq!(run.fake.with(seen), (1, 0));
            run.shutdown.cancel();
        }
    }
}
