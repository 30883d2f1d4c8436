//! Fair shares between owners, their limits, and selectors.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lessor_client::Paging;
use lessor_protocol::{
    Assignment, Claimed, Labels, NewSession, NewSessions, Outcome, OwnerShare, ReportedState,
    Session, SessionState,
};
use serde_json::json;
use tokio_postgres::Client;

use crate::support::{TestAgent, TestServer, eventually, report, runbook};

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A session of an owner, changed before it is created.
pub(crate) async fn session(
    server: &TestServer,
    owner: &str,
    change: impl FnOnce(&mut NewSession),
) -> Session {
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.owner = Some(owner.to_owned());
    change(&mut new);
    let made = server.client.create_session(&new, None).await;
    made.expect("it is made")
}

/// Many sessions of an owner.
async fn sessions(server: &TestServer, owner: &str, count: usize) {
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.owner = Some(owner.to_owned());
    let batch = NewSessions {
        sessions: vec![new; count],
    };
    let made = server.client.create_sessions(&batch, None).await;
    assert_eq!(made.expect("they are made").items.len(), count);
}

/// A backlog that nobody would create call by call.
async fn backlog(client: &Client, owner: &str, requires: &str, count: i64) {
    let text = format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at, owner, requires)
         SELECT gen_random_uuid(), 'p', 'process', '{{}}', 'running', 'pending', 'on_failure',
             now(), now(), now() - interval '1 hour' + n * interval '1 microsecond', '{owner}', '{requires}'
         FROM generate_series(1, {count}) n"
    );
    client.batch_execute(&text).await.expect("a backlog");
}

pub(crate) async fn share(server: &TestServer, owner: &str, weight: f64, max_running: Option<i32>) {
    let share = OwnerShare {
        weight,
        max_running,
    };
    let put = server.client.put_owner("p", owner, &share).await;
    put.expect("it is set");
}

/// An agent with labels.
async fn labelled(
    server: &TestServer,
    name: &str,
    capacity: i32,
    of: &[(&str, &str)],
) -> TestAgent {
    let mut agent = server.agent(name, "p", name, capacity).await;
    relabel(&mut agent, of).await;
    agent
}

pub(crate) async fn relabel(agent: &mut TestAgent, of: &[(&str, &str)]) {
    let mut body = agent.registration(&[]);
    body.labels = labels(of);
    let registered = agent.client.register_agent(&agent.name, &body).await;
    agent.incarnation = registered.expect("it registers").incarnation;
}

/// Claims and accepts, so that what was given is not given again.
pub(crate) async fn takes(agent: &TestAgent, most: i32) -> Vec<Assignment> {
    let given = agent.claim(most, 5.0).await;
    let reports = given
        .iter()
        .map(|assignment| report(assignment, ReportedState::Starting))
        .collect();
    let results = agent.try_report(reports).await.expect("it may report");
    assert!(
        results.iter().all(|r| r.outcome == Outcome::Accepted),
        "{results:?}"
    );
    given
}

/// Waits until an agent's next claim has come, at whichever server.
async fn park(server: &TestServer, agent: &TestAgent, most: i32) -> Parked {
    let client = server.database.client().await;
    let number = || async {
        let text = "SELECT claim_number FROM agents WHERE name = $1";
        let row = client.query_one(text, &[&agent.name]).await;
        row.expect("the agent").get::<_, i64>(0)
    };
    let before = number().await;
    let parked = agent.park(most, 20.0);
    eventually("it has claimed", || async { number().await > before }).await;
    parked
}

type Parked = tokio::task::JoinHandle<Result<Claimed, lessor_client::Error>>;

pub(crate) fn by_owner(assignments: &[Assignment]) -> HashMap<String, usize> {
    let mut got = HashMap::new();
    for assignment in assignments {
        let owner = assignment.session.owner.clone().unwrap_or_default();
        *got.entry(owner).or_default() += 1;
    }
    got
}

/// A server with a pool whose offers and leases last for longer than any test.
pub(crate) async fn start() -> TestServer {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 600.0;
            pool.accept_timeout_seconds = 600.0;
        })
        .await;
    server
}

/// How many sessions wait where backlogs are long.
fn long() -> i64 {
    std::env::var("LESSOR_TEST_BACKLOG")
        .ok()
        .map(|text| text.parse().expect("LESSOR_TEST_BACKLOG is a number"))
        .unwrap_or(200_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_owners_get_their_shares_and_a_fourth_is_next() {
    let server = start().await;
    let second = server.beside().await;
    let client = server.database.client().await;
    for (owner, weight) in [("one", 1.0), ("two", 2.0), ("four", 4.0)] {
        share(&server, owner, weight, None).await;
    }
    backlog(&client, "one", "{}", long()).await;
    backlog(&client, "two", "{}", 2_000).await;
    backlog(&client, "four", "{}", 2_000).await;
    let agents = [
        server.agent("a", "p", "a", 100_000).await,
        server.agent("b", "p", "b", 100_000).await.at(&second),
    ];
    let mut got: HashMap<String, usize> = HashMap::new();
    let (mut all, mut slowest) = (0, Duration::ZERO);
    // Claims of every size, at two servers.
    for round in 0..120 {
        let most = [1, 2, 3, 7, 16][round % 5];
        let begun = Instant::now();
        let given = takes(&agents[round % 2], most).await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(given.len(), most as usize, "as many as it asked for");
        all += given.len();
        for (owner, count) in by_owner(&given) {
            *got.entry(owner).or_default() += count;
        }
    }
    for (owner, weight) in [("one", 1.0), ("two", 2.0), ("four", 4.0)] {
        let (got, share) = (got[owner] as f64, all as f64 * weight / 7.0);
        println!("{owner}: got {got} of {all}, its share is {share:.1}");
        assert!(
            (got / share - 1.0).abs() < 0.05,
            "{owner}: {got} of {share}"
        );
    }
    let lone = session(&server, "fourth", |_| {}).await;
    let begun = Instant::now();
    let next = agents[0].claim(1, 5.0).await;
    let waited = begun.elapsed();
    println!(
        "behind {} waiting: a lone session waited {waited:?}, the slowest claim took {slowest:?}",
        long()
    );
    assert_eq!(next[0].session.id, lone.id, "it is in the very next round");
    // Owners that share show in one row each, and what they have is counted.
    let one = server
        .client
        .get_owner("p", "one")
        .await
        .expect("its share");
    assert_eq!(one.running, got["one"] as i64);
    assert_eq!(one.waiting, long() - one.running);
}

#[tokio::test]
async fn all_that_an_agent_asks_for_is_given_however_it_is_spread_over_owners() {
    let server = start().await;
    let agent = server.agent("a", "p", "a", 1_000).await;
    sessions(&server, "few", 2).await;
    sessions(&server, "more", 5).await;
    sessions(&server, "many", 60).await;
    server.sessions("p", 3).await;
    let got = by_owner(&agent.claim(50, 5.0).await);
    assert_eq!(
        (got["few"], got["more"], got[""], got["many"]),
        (2, 5, 3, 40)
    );
}

#[tokio::test]
async fn a_lone_owner_writes_no_turns_and_an_owner_that_was_away_has_saved_up_none() {
    let server = start().await;
    let client = server.database.client().await;
    let agent = server.agent("a", "p", "a", 10_000).await;
    let turns = || async {
        let text = "SELECT (SELECT count(*) FROM owner_turns) + (SELECT count(*) FROM pool_turns)";
        client
            .query_one(text, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
    };
    sessions(&server, "early", 500).await;
    takes(&agent, 100).await;
    assert_eq!(turns().await, 0, "a lone owner pays nothing");
    sessions(&server, "late", 500).await;
    let got = by_owner(&agent.claim(100, 5.0).await);
    assert_eq!((got["early"], got["late"]), (50, 50));
    assert_eq!(turns().await, 3);
}

#[tokio::test]
async fn priority_counts_within_an_owner_and_not_between_owners() {
    let server = start().await;
    let agent = server.agent("a", "p", "a", 1_000).await;
    let low = session(&server, "x", |_| {}).await;
    let high = session(&server, "x", |new| new.priority = 10).await;
    // A queue of its own by its selector, and still in the order of its owner's.
    let highest = session(&server, "x", |new| {
        new.priority = 20;
        new.requires = labels(&[("gpu", "yes")]);
    })
    .await;
    for _ in 0..5 {
        session(&server, "loud", |new| new.priority = 1_000).await;
    }
    let agent = {
        let mut agent = agent;
        relabel(&mut agent, &[("gpu", "yes")]).await;
        agent
    };
    let given = agent.claim(6, 5.0).await;
    assert_eq!(by_owner(&given)["x"], 3, "each in turn");
    let of_x: Vec<_> = given
        .iter()
        .filter(|a| a.session.owner.as_deref() == Some("x"))
        .map(|a| a.session.id)
        .collect();
    assert_eq!(of_x, [highest.id, high.id, low.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_running_holds_over_three_servers_and_a_freed_place_is_taken_at_once() {
    let server = start().await;
    let others = [server.beside().await, server.beside().await];
    let servers = [&server, &others[0], &others[1]];
    share(&server, "capped", 1.0, Some(4)).await;
    sessions(&server, "capped", 60).await;
    sessions(&server, "free", 30).await;
    let mut agents = Vec::new();
    for (n, at) in servers.iter().cycle().take(9).enumerate() {
        let name = format!("a{n}");
        agents.push(server.agent(&name, "p", &name, 20).await.at(at));
    }
    let parked: Vec<_> = agents.iter().map(|agent| agent.park(9, 5.0)).collect();
    let mut held = Vec::new();
    for (agent, parked) in agents.iter().zip(parked) {
        let claimed = parked.await.expect("it ends").expect("it may claim");
        for assignment in claimed.assignments {
            agent.accepts(&assignment, ReportedState::Running).await;
            held.push((agent.clone(), assignment));
        }
    }
    let capped: Vec<_> = held
        .iter()
        .filter(|(_, a)| a.session.owner.as_deref() == Some("capped"))
        .collect();
    assert_eq!(capped.len(), 4, "as many as may run");
    assert_eq!(held.len(), 34, "the other owner is not held up");
    let shown = server.client.get_owner("p", "capped").await.expect("it");
    assert_eq!((shown.running, shown.waiting), (4, 56));
    // Nobody gets a fifth; a place that comes free is taken by a poll that is parked elsewhere.
    for (n, (holder, assignment)) in capped.into_iter().enumerate() {
        let taker = agents.iter().find(|a| a.name != holder.name).expect("one");
        let waits = park(&server, taker, 1).await;
        assert!(!waits.is_finished());
        let begun = Instant::now();
        holder.accepts(assignment, ReportedState::Terminated).await;
        let claimed = waits.await.expect("it ends").expect("it may claim");
        assert_eq!(claimed.assignments.len(), 1, "place {n}");
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "by a hint, not the safety poll"
        );
        assert_eq!(
            claimed.assignments[0].session.owner.as_deref(),
            Some("capped")
        );
        taker
            .accepts(&claimed.assignments[0], ReportedState::Running)
            .await;
        let shown = server.client.get_owner("p", "capped").await.expect("it");
        assert_eq!(shown.running, 4);
    }
    // More places by a changed limit; all of them by none.
    let waits = park(&server, &agents[0], 2).await;
    share(&server, "capped", 1.0, Some(6)).await;
    let claimed = waits.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 2);
    server
        .client
        .delete_owner("p", "capped")
        .await
        .expect("it is gone");
    // By one that has all its slots free, however the others came to share the rest.
    let fresh = server.agent("fresh", "p", "fresh", 20).await;
    assert_eq!(fresh.claim(9, 5.0).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_running_is_never_exceeded_while_three_servers_race() {
    let server = start().await;
    let others = [server.beside().await, server.beside().await];
    share(&server, "capped", 3.0, Some(5)).await;
    sessions(&server, "capped", 120).await;
    sessions(&server, "other", 60).await;
    let mut workers = Vec::new();
    for n in 0..6 {
        let name = format!("a{n}");
        let at = [&server, &others[0], &others[1]][n % 3];
        let agent = server.agent(&name, "p", &name, 50).await.at(at);
        workers.push(tokio::spawn(async move {
            let mut done = 0;
            loop {
                let given = agent.claim(3, 0.5).await;
                if given.is_empty() && done > 0 {
                    return done;
                }
                for assignment in &given {
                    agent.accepts(assignment, ReportedState::Running).await;
                }
                for assignment in &given {
                    agent.accepts(assignment, ReportedState::Terminated).await;
                }
                done += given.len();
            }
        }));
    }
    let client = server.database.client().await;
    let text = "SELECT count(*) FROM sessions WHERE owner = 'capped'
        AND (assigned_agent_id IS NOT NULL OR state IN ('starting', 'running'))";
    let (mut looks, mut most) = (0, 0);
    while !workers.iter().all(tokio::task::JoinHandle::is_finished) {
        let running: i64 = client.query_one(text, &[]).await.expect("a count").get(0);
        assert!(running <= 5, "{running} of 5");
        most = most.max(running);
        looks += 1;
        tokio::task::yield_now().await;
    }
    println!("looked {looks} times, saw at most {most} of 5");
    assert_eq!(most, 5, "its places were used");
    let waiting = "SELECT count(*) FROM sessions WHERE state <> 'terminated'";
    eventually("all have run", || async {
        client
            .query_one(waiting, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            == 0
    })
    .await;
}

#[tokio::test]
async fn selectors_are_met_wherever_the_agent_polls() {
    let server = start().await;
    let second = server.beside().await;
    let plain = labelled(&server, "a-plain", 10, &[("zone", "a")]).await;
    let gpu = labelled(&server, "gpu", 10, &[("gpu", "yes"), ("zone", "b")]).await;
    let gpu = gpu.at(&second);
    let (at_plain, at_gpu) = (park(&server, &plain, 1).await, park(&server, &gpu, 1).await);
    let wants = |of: &'static [(&str, &str)]| move |new: &mut NewSession| new.requires = labels(of);
    let made = session(&server, "x", wants(&[("gpu", "yes")])).await;
    let claimed = at_gpu.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, made.id);
    gpu.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert_eq!(
        claimed.assignments[0].session.requires,
        labels(&[("gpu", "yes")])
    );
    // Another value, or one label of two, is not enough; the plain one still waits.
    session(&server, "x", wants(&[("gpu", "no")])).await;
    session(&server, "x", wants(&[("gpu", "yes"), ("zone", "a")])).await;
    assert!(gpu.claim(5, 0.0).await.is_empty());
    assert!(!at_plain.is_finished());
    // Labels that are changed while a claim is parked count at once.
    let mut plain = plain;
    relabel(&mut plain, &[("zone", "a"), ("gpu", "yes")]).await;
    let claimed = at_plain.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.requires.len(), 2);
}

#[tokio::test]
async fn what_already_runs_is_adopted_without_the_labels() {
    let server = start().await;
    let gpu = server.agent("gpu", "p", "d", 10).await;
    let mut gpu = gpu;
    relabel(&mut gpu, &[("gpu", "yes")]).await;
    let other = server.agent("other", "p", "d", 10).await;
    let made = session(&server, "x", |new| new.requires = labels(&[("gpu", "yes")])).await;
    gpu.runs_one().await;
    server
        .client
        .deregister_agent("gpu", Some(gpu.incarnation), false)
        .await
        .expect("it goes");
    let given = other.claim(1, 5.0).await;
    assert_eq!(given[0].session.id, made.id);
    assert_eq!(given[0].action, lessor_protocol::Action::Adopt);
}

#[tokio::test]
async fn a_huge_queue_that_nobody_can_serve_delays_nobody() {
    let server = start().await;
    let client = server.database.client().await;
    backlog(&client, "greedy", "{\"gpu\": \"yes\"}", long()).await;
    // More selectors than a walk sees at once stand in front of nothing either.
    let many = "UPDATE sessions SET requires = jsonb_build_object('k', n::text) FROM (
            SELECT id, row_number() OVER () AS n FROM sessions LIMIT 1500) q WHERE q.id = sessions.id";
    client.batch_execute(many).await.expect("selectors");
    let agent = server.agent("a", "p", "a", 100).await;
    let first = session(&server, "x", |_| {}).await;
    let begun = Instant::now();
    let given = takes(&agent, 1).await;
    println!(
        "behind {} that nobody can serve: {:?}",
        long(),
        begun.elapsed()
    );
    assert_eq!(given[0].session.id, first.id);
    // And the poll that is parked is woken by the next one, long before the safety poll.
    let parked = agent.park(1, 20.0);
    server.has_parked("p", 1).await;
    let begun = Instant::now();
    let second = session(&server, "x", |_| {}).await;
    let claimed = parked.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, second.id);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // What can be served beyond the first thousand selectors is found too.
    let far = labelled(&server, "far", 5, &[("k", "1"), ("gpu", "no")]).await;
    let of_k = session(&server, "y", |new| new.requires = labels(&[("gpu", "no")])).await;
    let mut given = far.claim(3, 5.0).await;
    for _ in 0..3 {
        given.extend(far.claim(3, 0.0).await);
    }
    let ids: Vec<_> = given.iter().map(|a| a.session.id).collect();
    assert!(ids.contains(&of_k.id), "{ids:?}");
}

#[tokio::test]
async fn more_owners_than_one_walk_sees_are_served_in_turn() {
    let server = start().await;
    let client = server.database.client().await;
    backlog(&client, "o", "{}", 2_500).await;
    let many = "UPDATE sessions SET owner = 'o' || n FROM (
            SELECT id, row_number() OVER () AS n FROM sessions) q WHERE q.id = sessions.id";
    client.batch_execute(many).await.expect("owners");
    let agent = server.agent("a", "p", "a", 10_000).await;
    let mut given = 0;
    while given < 2_500 {
        let some = agent.claim(1_000, 2.0).await.len();
        assert!(some > 0, "{given} were given");
        given += some;
        let accept = "UPDATE sessions SET deliver_at = NULL WHERE assigned_agent_id = 'a'";
        client
            .batch_execute(accept)
            .await
            .expect("nothing is told again");
    }
}

#[tokio::test]
async fn preferred_labels_come_before_placement() {
    let server = start().await;
    let (bare, one, two) = (
        labelled(&server, "a-bare", 10, &[]).await,
        labelled(&server, "b-one", 10, &[("ssd", "yes")]).await,
        labelled(&server, "c-two", 1, &[("ssd", "yes"), ("net", "fast")]).await,
    );
    let parked = [bare.park(5, 20.0), one.park(5, 20.0), two.park(5, 20.0)];
    server.has_parked("p", 3).await;
    for agent in ["c-two", "b-one", "a-bare"] {
        let made = session(&server, "x", |new| {
            new.prefers = labels(&[("ssd", "yes"), ("net", "fast")]);
        })
        .await;
        eventually("it is given", || async {
            server.get(made.id).await.assigned_agent_id.is_some()
        })
        .await;
        // Who was answered is not parked any more, so the next best is next.
        assert_eq!(
            server.get(made.id).await.assigned_agent_id.as_deref(),
            Some(agent)
        );
    }
    for claim in parked {
        assert_eq!(
            claim
                .await
                .expect("it ends")
                .expect("it may")
                .assignments
                .len(),
            1
        );
    }
}

#[tokio::test]
async fn shares_are_set_shown_listed_and_taken_back() {
    let server = start().await;
    let odd = "Physics & co/ü %41";
    let put = OwnerShare {
        weight: 2.5,
        max_running: Some(3),
    };
    let shown = server
        .client
        .put_owner("p", odd, &put)
        .await
        .expect("it is set");
    assert_eq!(
        (shown.owner.as_str(), shown.weight, shown.max_running),
        (odd, 2.5, Some(3))
    );
    sessions(&server, odd, 5).await;
    let agent = server.agent("a", "p", "a", 10).await;
    let given = agent.claim(9, 5.0).await;
    assert_eq!(given.len(), 3);
    let shown = server.client.get_owner("p", odd).await.expect("it");
    assert_eq!((shown.running, shown.waiting), (3, 2));
    agent.accepts(&given[0], ReportedState::Running).await;
    server
        .reaches(given[0].session.id, SessionState::Running)
        .await;
    assert_eq!(
        server.client.get_owner("p", odd).await.expect("it").running,
        3
    );
    server
        .client
        .put_owner("p", "b", &OwnerShare::default())
        .await
        .expect("it is set");
    let page = Paging {
        limit: Some(1),
        cursor: None,
    };
    let first = server.client.list_owners("p", &page).await.expect("a page");
    assert_eq!(first.items[0].owner, "b", "newest first");
    let page = Paging {
        limit: Some(1),
        cursor: first.next_cursor,
    };
    let next = server.client.list_owners("p", &page).await.expect("a page");
    assert_eq!(
        (next.items[0].owner.as_str(), next.next_cursor),
        (odd, None)
    );
    server
        .client
        .delete_owner("p", odd)
        .await
        .expect("it is taken back");
    for gone in [
        server.client.get_owner("p", odd).await.map(|_| ()),
        server.client.delete_owner("p", odd).await,
    ] {
        assert_eq!(problem(gone), (404, "not_found".to_owned()));
    }
    let elsewhere = server.client.get_owner("nowhere", odd).await.map(|_| ());
    assert_eq!(problem(elsewhere), (404, "pool_not_found".to_owned()));
    let elsewhere = server
        .client
        .put_owner("nowhere", odd, &put)
        .await
        .map(|_| ());
    assert_eq!(problem(elsewhere), (404, "pool_not_found".to_owned()));
}

fn problem(result: Result<(), lessor_client::Error>) -> (u16, String) {
    let error = result.expect_err("it is refused");
    let lessor_client::Error::Problem { problem, .. } = error else {
        panic!("no problem: {error}");
    };
    (problem.status, problem.code.to_string())
}

#[tokio::test]
async fn bad_shares_are_refused() {
    let server = start().await;
    let http = reqwest::Client::new();
    let put = |owner: String, body: &'static str| {
        let url = format!("{}/v1/pools/p/owners/{owner}", server.url);
        let call = http
            .put(url)
            .header("content-type", "application/json")
            .body(body);
        async move {
            let answer = call.send().await.expect("an answer");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        }
    };
    for body in [
        r#"{"weight": 0}"#,
        r#"{"weight": -1}"#,
        r#"{"weight": 1000.5}"#,
        r#"{"weight": 1e400}"#,
        r#"{"weight": "2"}"#,
        r#"{"weight": null}"#,
        r#"{"max_running": -1}"#,
        r#"{"max_running": 1000001}"#,
        r#"{"max_running": 1.5}"#,
        r#"{"max_running": 99999999999}"#,
        r#"{"wieght": 2}"#,
        "[]",
    ] {
        let (status, text) = put("x".to_owned(), body).await;
        assert_eq!(status, 422, "{body}: {text}");
        assert!(text.contains("validation_failed"), "{body}: {text}");
    }
    assert_eq!(put("x".to_owned(), "{").await.0, 400);
    assert_eq!(put("x".repeat(257), "{}").await.0, 422);
    for owner in ["%00", "a%00b", "%ff", ""] {
        assert_eq!(put(owner.to_owned(), "{}").await.0, 404, "{owner}");
    }
    for (owner, body) in [
        (
            "x".repeat(256),
            r#"{"weight": 1000, "max_running": 1000000}"#,
        ),
        ("%20".to_owned(), r#"{"weight": 1e-9, "max_running": 0}"#),
        ("..%2f".to_owned(), "{}"),
    ] {
        let (status, text) = put(owner, body).await;
        assert_eq!(status, 200, "{text}");
    }
    // Nothing of it keeps a claim from being answered.
    session(&server, " ", |_| {}).await;
    let made = session(&server, "x", |_| {}).await;
    let agent = server.agent("a", "p", "a", 10).await;
    let given = agent.claim(5, 5.0).await;
    assert_eq!(
        given.iter().map(|a| a.session.id).collect::<Vec<_>>(),
        [made.id]
    );
}

#[tokio::test]
async fn the_page_on_shares_can_be_followed() {
    let server = TestServer::start().await;
    let said = runbook::run("shares.md", &server.url).await;
    assert!(said.contains("\"max_running\":2"), "{said}");
}
