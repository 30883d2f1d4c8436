//! Reports of many agents at the same time.

use std::sync::Arc;

use lessor_protocol::{Assignment, Claimed, Outcome, ProblemCode, ReportedState};
use tokio::task::JoinHandle;

use crate::creating::transactions;
use crate::support::checks::{WAIT_FOR_LOCKS, count, refused};
use crate::support::{TestAgent, TestServer, eventually, report};

/// What somebody else has locked keeps its own agent waiting, and nobody else, however many there are of
/// that kind.
#[tokio::test]
async fn no_agent_waits_for_another_ones_session() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut given = Vec::new();
    for n in 0..6 {
        let agent = server.agent(&format!("a{n}"), "p", "d", 1).await;
        server.session("p").await;
        let claimed = agent.claim(1, 5.0).await;
        given.push((Arc::new(agent), claimed[0].clone()));
    }
    let sql = server.database.client().await;
    sql.batch_execute("BEGIN").await.expect("it begins");
    let (free, locked) = given.split_last().expect("there are some");
    for (_, assignment) in locked {
        let lock = format!(
            "SELECT FROM sessions WHERE id = '{}' FOR UPDATE",
            assignment.session.id
        );
        sql.batch_execute(&lock).await.expect("it is locked");
    }
    let waiting: Vec<_> = locked
        .iter()
        .map(|(agent, assignment)| {
            let (agent, report) = (
                Arc::clone(agent),
                report(assignment, ReportedState::Running),
            );
            tokio::spawn(async move { agent.try_report(vec![report]).await })
        })
        .collect();
    // All of them are at it, which the database knows.
    let watching = Arc::new(server.database.client().await);
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock'";
    eventually("five wait for a lock", || {
        let watching = Arc::clone(&watching);
        async move {
            let count: i64 = watching
                .query_one(blocked, &[])
                .await
                .expect("a count")
                .get(0);
            count == 5
        }
    })
    .await;
    let (agent, assignment) = free;
    let results = agent
        .try_report(vec![report(assignment, ReportedState::Running)])
        .await
        .expect("it is taken");
    assert_eq!(results[0].outcome, Outcome::Accepted);
    assert!(
        waiting.iter().all(|task| !task.is_finished()),
        "the others wait"
    );
    sql.batch_execute("COMMIT").await.expect("it ends");
    for task in waiting {
        let results = task.await.expect("it ends well").expect("it is taken");
        assert_eq!(results[0].outcome, Outcome::Accepted);
    }
    server.stop().await;
}

/// An agent that was offered a session, and accepts it with its next claim.
async fn offered() -> (TestServer, TestAgent, Assignment) {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    server.session("p").await;
    let given = agent.claim(1, 5.0).await.remove(0);
    (server, agent, given)
}

fn claims_with_acceptance(
    agent: &TestAgent,
    given: &Assignment,
) -> JoinHandle<Result<Claimed, lessor_client::Error>> {
    let (agent, mut body) = (agent.clone(), agent.claim_body(1, 0.0));
    body.reports = vec![report(given, ReportedState::Starting)];
    tokio::spawn(async move { agent.client.claim(&agent.name, &body).await })
}

/// Has something locked until the claim waits for it; how many claims the agent's row knows of then, and at
/// the end. The report is accepted in any case.
async fn claims_noted(hold: impl FnOnce(&Assignment) -> String) -> (i64, i64) {
    const NOTED: &str = "SELECT claim_number FROM agents";
    let (server, agent, given) = offered().await;
    let before = count(&server, NOTED).await;
    let holder = server.database.client().await;
    let hold = format!("BEGIN; {}", hold(&given));
    holder.batch_execute(&hold).await.expect("it is locked");
    let claim = claims_with_acceptance(&agent, &given);
    eventually("the claim waits", || async {
        count(&server, WAIT_FOR_LOCKS).await > 0
    })
    .await;
    let waiting = count(&server, NOTED).await;
    holder.batch_execute("COMMIT").await.expect("it ends");
    let claimed = claim.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.results[0].outcome, Outcome::Accepted);
    let after = count(&server, NOTED).await;
    (waiting - before, after - before)
}

#[tokio::test]
async fn a_claim_with_reports_is_renewed_in_the_transaction_that_takes_them() {
    let noted = claims_noted(|_| "LOCK TABLE lease_ledger IN SHARE MODE".to_owned()).await;
    assert_eq!(noted, (0, 1));
}

#[tokio::test]
async fn a_claim_whose_session_somebody_else_has_in_hand_is_renewed_before_it_waits_and_once() {
    let lock = |given: &Assignment| {
        let id = given.session.id;
        format!("SELECT FROM sessions WHERE id = '{id}' FOR UPDATE")
    };
    assert_eq!(claims_noted(lock).await, (1, 1));
}

#[tokio::test]
async fn a_claim_whose_agent_somebody_else_has_in_hand_is_renewed_and_its_report_taken_after_that()
{
    let lock = |_: &Assignment| "SELECT FROM agents FOR UPDATE".to_owned();
    assert_eq!(claims_noted(lock).await, (0, 1));
}

/// A lease hangs on nothing but the agent: its session is not taken from it for what its reports wait for.
#[tokio::test]
async fn a_claim_whose_reports_cannot_be_taken_renews_its_lease_all_the_same() {
    let (server, agent, given) = offered().await;
    let holder = server.database.client().await;
    let hold = "BEGIN; LOCK TABLE lease_ledger IN SHARE MODE";
    holder.batch_execute(hold).await.expect("it is locked");
    let claim = claims_with_acceptance(&agent, &given);
    let refusal = refused(claim.await.expect("the task"));
    assert_eq!(refusal, ProblemCode::DatabaseUnavailable);
    // Which took seconds.
    let renewed = "SELECT count(*) FROM agents WHERE last_heartbeat_at > now() - interval '2 s'";
    eventually("the lease is renewed", || async {
        count(&server, renewed).await == 1
    })
    .await;
    let claims = count(&server, "SELECT claim_number FROM agents").await;
    assert_eq!(
        claims, 1,
        "nobody waits for what a claim that failed is given"
    );
    holder.batch_execute("COMMIT").await.expect("it ends");
    let again = claims_with_acceptance(&agent, &given);
    let claimed = again.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.results[0].outcome, Outcome::Accepted);
}

/// What is not an agent's own is not locked with what is, but it is judged with it.
#[tokio::test]
async fn what_somebody_else_holds_is_judged_in_the_same_transaction() {
    let (server, agent, given) = offered().await;
    let other = server.agent("b", "p", "d", 1).await;
    let taken = || transactions(&server, "reports::take");
    let before = taken().await;
    let told = other
        .try_report(vec![report(&given, ReportedState::Running)])
        .await;
    let told = told.expect("it may report").remove(0);
    assert_eq!(told.outcome, Outcome::Fenced, "{told:?}");
    assert_eq!(taken().await, before + 1.0);
    agent.accepts(&given, ReportedState::Running).await;
    assert_eq!(taken().await, before + 2.0);
    server.stop().await;
}

/// Of one agent's claims the newest goes on, and the reports of each are taken.
#[tokio::test]
async fn claims_of_one_agent_at_the_same_time_are_each_renewed() {
    let (server, agent, given) = offered().await;
    let claims: Vec<_> = (0..8)
        .map(|_| claims_with_acceptance(&agent, &given))
        .collect();
    let mut answered = 0;
    for claim in claims {
        match claim.await.expect("the task") {
            Ok(claimed) => {
                assert_eq!(claimed.results[0].outcome, Outcome::Accepted);
                answered += 1;
            }
            Err(error) => assert!(error.to_string().contains("claim_superseded"), "{error}"),
        }
    }
    assert!(answered >= 1);
    let noted = "SELECT claim_number FROM agents";
    assert_eq!(count(&server, noted).await, 1 + 8);
}
