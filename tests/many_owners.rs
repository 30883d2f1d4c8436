//! Pools with so many owners that rounds go on with what a walk over their queues has found.

use std::collections::{BTreeSet, HashMap};

use lessor_protocol::ReportedState;

use crate::shares::{by_owner, relabel, session, share, start, takes};
use crate::support::{TestAgent, TestServer};

/// How many owners; enough for what was found to be remembered.
const OWNERS: usize = 200;

/// Sessions of many owners, none of them oldest by much.
async fn backlog(server: &TestServer, each: usize) {
    let text = format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at, owner)
         SELECT gen_random_uuid(), 'p', 'process', '{{}}', 'running', 'pending', 'on_failure',
             now(), now(), now() - interval '1 hour' + n * interval '1 microsecond',
             'o' || lpad((n % {OWNERS})::text, 4, '0')
         FROM generate_series(0, {OWNERS} * {each} - 1) n"
    );
    let client = server.database.client().await;
    client.batch_execute(&text).await.expect("a backlog");
}

/// What waits is gone, and nobody was told.
async fn clear(server: &TestServer) {
    let text = "DELETE FROM sessions WHERE assigned_agent_id IS NULL";
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("they are gone");
}

async fn walks(server: &TestServer) -> f64 {
    server.metric("lessor_queue_walks_total").await
}

/// What one claim after the other is given, one session each.
async fn one_by_one(agents: &[&TestAgent], claims: usize) -> HashMap<String, usize> {
    let mut got = HashMap::new();
    for turn in 0..claims {
        for (owner, count) in by_owner(&takes(agents[turn % agents.len()], 1).await) {
            *got.entry(owner).or_default() += count;
        }
    }
    got
}

#[tokio::test]
async fn everybody_has_a_turn_before_anybody_has_two_and_few_walks_are_made() {
    let server = start().await;
    backlog(&server, 2).await;
    // Of two kinds, for each of which what was found is remembered.
    let mut agents = [
        server.agent("a", "p", "a", 1_000).await,
        server.agent("b", "p", "b", 1_000).await,
    ];
    relabel(&mut agents[1], &[("kind", "other")]).await;
    let before = walks(&server).await;
    let got = one_by_one(&[&agents[0], &agents[1]], OWNERS).await;
    assert_eq!(got.len(), OWNERS, "{got:?}");
    let walked = walks(&server).await - before;
    println!("{walked} walks for {OWNERS} claims");
    assert!(walked >= 2.0, "each kind of agent has its own");
    assert!(walked <= OWNERS as f64 / 2.0);
}

#[tokio::test]
async fn who_is_new_does_not_wait_for_a_walk_while_an_agent_is_idle() {
    let server = start().await;
    backlog(&server, 1).await;
    let agent = server.agent("a", "p", "a", 1_000).await;
    assert_eq!(takes(&agent, 1).await.len(), 1);
    // What is remembered is not there any more, and what is there is not remembered.
    clear(&server).await;
    session(&server, "new", |_| {}).await;
    let given = agent.claim(1, 2.0).await;
    assert_eq!(given.len(), 1, "before the next safety poll");
    assert_eq!(given[0].session.owner.as_deref(), Some("new"));
}

#[tokio::test]
async fn limits_hold_whatever_is_remembered_and_a_place_that_comes_free_is_taken() {
    let server = start().await;
    backlog(&server, 2).await;
    for n in 0..OWNERS {
        // Some may have one, and others none.
        let places = i32::from(n % 4 != 0);
        share(&server, &format!("o{n:04}"), 1.0, Some(places)).await;
    }
    let agent = server.agent("a", "p", "a", 1_000).await;
    let mut held = Vec::new();
    loop {
        let given = takes(&agent, 1).await;
        if given.is_empty() {
            break;
        }
        held.extend(given);
    }
    let got = by_owner(&held);
    assert_eq!(got.len(), OWNERS / 4 * 3, "all who may have one");
    assert!(got.values().all(|count| *count == 1), "{got:?}");
    let ended = &held[7];
    agent.accepts(ended, ReportedState::Terminated).await;
    let given = takes(&agent, 1).await;
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].session.owner, ended.session.owner);
}

#[tokio::test]
async fn a_limit_that_was_just_set_counts_for_the_next_claim() {
    let server = start().await;
    backlog(&server, 2).await;
    let agent = server.agent("a", "p", "a", 1_000).await;
    let before: BTreeSet<String> = one_by_one(&[&agent], 3).await.into_keys().collect();
    assert_eq!(before.len(), 3);
    // Those whose turn is next, not by a call: no hint says that something has changed.
    let text = "INSERT INTO pool_owners (pool, owner, weight, max_running, created_at)
        SELECT 'p', 'o' || lpad(n::text, 4, '0'), 1, 0, now() FROM generate_series(3, 20) n";
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("they are limited");
    let next = one_by_one(&[&agent], 10).await;
    let expected: Vec<String> = (21..31).map(|n| format!("o{n:04}")).collect();
    assert_eq!(
        BTreeSet::from_iter(next.into_keys()),
        BTreeSet::from_iter(expected)
    );
}
