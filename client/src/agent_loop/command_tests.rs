//! Commands in the loop, against the small fake of the service.

#![allow(clippy::unwrap_used)]

use uuid::Uuid;

use super::tests::{Platform, Run, run};

/// An agent that runs session 1 under epoch 5.
async fn running(ttl: f64) -> Run {
    let run = run(ttl, Platform::default(), |_| {}).await;
    run.fake.assign(1, "start", 5, 1);
    run.until("remembered", |run| run.platform.logged("remember 5") == 1)
        .await;
    run
}

impl Run {
    async fn answered(&self, n: u128, expected: &[&str]) {
        let what = format!("{n} is answered with {expected:?}");
        self.until(&what, |run| run.fake.answers(n) == expected)
            .await;
    }

    async fn logs(&self, what: &str) {
        self.until(what, |run| run.platform.logged(what) == 1).await;
    }
}

#[tokio::test]
async fn they_run_one_after_another_and_each_is_acknowledged_first() {
    let run = running(30.0).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.fake.command(12, "two", 5, "delivered");
    run.logs("begin slow-1").await;
    run.answered(11, &["running"]).await;
    // The same again, while one is under way and the other waits: neither is begun twice.
    run.fake.command(11, "slow-1", 5, "delivered");
    run.fake.command(12, "two", 5, "delivered");
    run.fake.command(13, "huge", 5, "delivered");
    run.until("it was taken", |run| {
        run.fake.with(|state| state.commands.is_empty())
    })
    .await;
    assert_eq!(run.platform.logged("begin two"), 0);
    run.platform.gate.notify_one();
    run.answered(11, &["running", "succeeded"]).await;
    run.answered(12, &["running", "succeeded"]).await;
    run.answered(13, &["running", "result_too_large"]).await;
    for kind in ["slow-1", "two", "huge"] {
        assert_eq!(run.platform.logged(&format!("begin {kind}")), 1, "{kind}");
    }
    // What is done is answered again when it is asked for again.
    run.fake.command(12, "two", 5, "delivered");
    run.answered(12, &["running", "succeeded", "succeeded"])
        .await;
    assert_eq!(run.platform.logged("begin two"), 1);
    run.shutdown.cancel();
    run.agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancelled_one_is_dropped_and_the_next_goes_on() {
    let run = running(30.0).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.fake.command(12, "slow-2", 5, "delivered");
    run.fake.command(13, "three", 5, "delivered");
    run.logs("begin slow-1").await;
    run.fake.command(12, "slow-2", 5, "cancelled");
    run.fake.command(11, "slow-1", 5, "cancelled");
    run.logs("cut off slow-1").await;
    run.answered(11, &["running", "cancelled"]).await;
    run.answered(12, &["cancelled"]).await;
    run.answered(13, &["running", "succeeded"]).await;
    assert_eq!(run.platform.logged("begin slow-2"), 0);
}

#[tokio::test]
async fn a_lost_session_drops_its_commands_without_an_answer() {
    let run = running(30.0).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.fake.command(12, "two", 5, "delivered");
    run.logs("begin slow-1").await;
    run.fake.with(|state| state.lost = vec![Uuid::from_u128(1)]);
    run.logs("cut off slow-1").await;
    run.until("acknowledged", |run| {
        run.fake.with(|state| !state.dropped.is_empty())
    })
    .await;
    assert_eq!(run.platform.logged("begin two"), 0);
    assert_eq!(run.fake.answers(11), ["running"]);
}

#[tokio::test]
async fn a_fenced_agent_drops_what_it_was_at() {
    let run = running(1.5).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.logs("begin slow-1").await;
    let refuse = ("heartbeat", 503, "database_unavailable");
    run.fake.with(|state| state.problems.extend([refuse; 4]));
    run.logs("cut off slow-1").await;
    run.answered(11, &["running", "fenced"]).await;
}

#[tokio::test]
async fn under_a_new_epoch_it_is_another_delivery() {
    let run = running(30.0).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.logs("begin slow-1").await;
    run.fake.with(|state| {
        state.keep.insert(Uuid::from_u128(1).to_string(), 9);
        state.problems.push(("claim", 409, "lease_expired"));
        state.lost = vec![Uuid::from_u128(77)]; // ends the parked claim; nobody knows it
    });
    run.logs("cut off slow-1").await;
    run.logs("remember 9").await;
    run.fake.command(11, "slow-1", 9, "delivered");
    run.until("begun again", |run| {
        run.platform.logged("begin slow-1") == 2
    })
    .await;
    run.platform.gate.notify_one();
    // The first answer is under the epoch that is over, and the service will not take it.
    run.answered(11, &["running", "fenced", "running", "succeeded"])
        .await;
    let epochs: Vec<i64> = run.fake.with(|state| {
        let of = state.command_results.iter().map(|(_, epoch, ..)| *epoch);
        of.collect()
    });
    assert_eq!(epochs, [5, 5, 9, 9]);
}

#[tokio::test]
async fn a_shutdown_drops_what_runs() {
    let run = running(30.0).await;
    run.fake.command(11, "slow-1", 5, "delivered");
    run.logs("begin slow-1").await;
    run.shutdown.cancel();
    let platform = std::sync::Arc::clone(&run.platform);
    run.agent.await.unwrap().unwrap();
    assert_eq!(platform.logged("cut off slow-1"), 1);
}
