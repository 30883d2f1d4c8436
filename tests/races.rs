//! Many agents, several servers, one database; servers that are killed, agents that vanish, come
//! back and are cordoned, all at once. What must hold at every moment is sampled meanwhile, and at
//! the end the ledger has to agree with the sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lessor_client::Client;
use lessor_protocol::{
    Action, Assignment, CordonRequest, HeldSession, NewSession, NewSessions, Outcome, Report,
    ReportedState,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::process::ServerProcess;
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, report};

const PATIENCE: Duration = Duration::from_secs(60);

/// Looks, again and again, for what must never be, until it is told to end; how often it looked.
async fn watch(database: Arc<TestDatabase>, over: Arc<AtomicBool>) -> usize {
    let client = database.client().await;
    let mut epochs: HashMap<String, i64> = HashMap::new();
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        let above = client
            .query("SELECT name FROM agents WHERE slots_used > capacity", &[])
            .await
            .expect("agents");
        assert!(above.is_empty(), "above capacity: {above:?}");
        assert_counted(&client).await;
        let rows = client
            .query("SELECT id::text, lease_epoch FROM sessions", &[])
            .await
            .expect("sessions");
        for row in rows {
            let (id, now): (String, i64) = (row.get(0), row.get(1));
            let before = epochs.insert(id, now).unwrap_or(0);
            assert!(before <= now, "a session fell from epoch {before} to {now}");
        }
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    looks
}

/// The counters of slots are what a count says, in one snapshot.
async fn assert_counted(client: &tokio_postgres::Client) {
    let wrong = client
        .query(
            "SELECT a.name, a.slots_used, coalesce(n.count, 0) FROM agents a LEFT JOIN (
                 SELECT assigned_agent_id, count(*) FROM sessions
                 WHERE assigned_agent_id IS NOT NULL AND state NOT IN ('terminating', 'hibernating')
                 GROUP BY 1) n ON n.assigned_agent_id = a.name
             WHERE a.slots_used <> coalesce(n.count, 0)",
            &[],
        )
        .await
        .expect("slots");
    assert!(wrong.is_empty(), "slots are counted wrong: {wrong:?}");
}

/// The ledger and the sessions agree, and assignments are to the present run of a live agent.
async fn assert_consistent(database: &TestDatabase) {
    let client = database.client().await;
    assert_counted(&client).await;
    for (what, text) in [
        (
            "an assigned session has one open line in the ledger, any other none",
            "SELECT s.id FROM sessions s WHERE
                 (SELECT count(*) FROM lease_ledger l WHERE l.session_id = s.id AND l.ended_at IS NULL)
                 <> CASE WHEN s.assigned_agent_id IS NULL THEN 0 ELSE 1 END",
        ),
        (
            "the open line is the assignment",
            "SELECT s.id FROM sessions s JOIN lease_ledger l ON l.session_id = s.id AND l.ended_at IS NULL
             WHERE (l.lease_epoch, l.agent, l.incarnation, l.accepted_at IS NULL)
                 IS DISTINCT FROM (s.lease_epoch, s.assigned_agent_id, s.assigned_incarnation, s.offered_until IS NOT NULL)",
        ),
        (
            "epochs rise by one with each line",
            "SELECT s.id FROM sessions s WHERE s.lease_epoch <>
                 (SELECT count(*) FROM lease_ledger l WHERE l.session_id = s.id)",
        ),
        (
            "one offer or acceptance a line",
            "SELECT session_id FROM event_history WHERE kind = 'session.offered'
             GROUP BY session_id, lease_epoch HAVING count(*) > 1",
        ),
        (
            "whoever is assigned lives",
            "SELECT s.id FROM sessions s LEFT JOIN agents a ON a.name = s.assigned_agent_id
             WHERE s.assigned_agent_id IS NOT NULL
                 AND (a.name IS NULL OR NOT a.live OR a.incarnation <> s.assigned_incarnation)",
        ),
    ] {
        let wrong = client.query(text, &[]).await.expect(what);
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
}

async fn count(client: &tokio_postgres::Client, condition: &str) -> i64 {
    let text = format!("SELECT count(*) FROM sessions WHERE {condition}");
    client.query_one(&text, &[]).await.expect("a count").get(0)
}

/// Claims, accepts, runs and ends sessions until told to stop, at whichever server answers.
async fn work(
    mut agent: TestAgent,
    servers: Arc<Vec<Client>>,
    random: Random,
    over: Arc<AtomicBool>,
) {
    let mut running: HashMap<Uuid, Assignment> = HashMap::new();
    while !over.load(Ordering::Relaxed) {
        agent.client = random.pick(&servers).clone();
        // With something to do it does not wait long for more.
        let wait_seconds = if running.is_empty() { 0.5 } else { 0.05 };
        let Ok(claimed) = agent.try_claim(4, wait_seconds).await else {
            // Its server is being killed: another one, soon.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for given in claimed.assignments {
            running.insert(given.session.id, given);
        }
        let reports: Vec<Report> = running
            .values()
            .map(|held| {
                let ended = held.action == Action::Terminate || random.percent(60);
                let state = if ended {
                    ReportedState::Terminated
                } else {
                    ReportedState::Running
                };
                report(held, state)
            })
            .collect();
        let ended: Vec<bool> = reports
            .iter()
            .map(|report| report.state == ReportedState::Terminated)
            .collect();
        if reports.is_empty() {
            continue;
        }
        // Lost answers are harmless: the same is reported again.
        if let Ok(results) = agent.try_report(reports).await {
            for (result, ended) in results.into_iter().zip(ended) {
                let gone = result.outcome == Outcome::Fenced;
                if gone || (ended && result.outcome == Outcome::Accepted) {
                    running.remove(&result.session_id);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sessions_pass_through_three_servers_of_which_one_is_killed() {
    const SESSIONS: usize = 2_000;
    let random = Random::seeded();
    let first = TestServer::start().await;
    let second = first.beside().await;
    let mut third = ServerProcess::start(&first.database.url).await;
    first.pool("p", |_| {}).await;
    let clients = vec![
        first.client.clone(),
        second.client.clone(),
        third.client.clone(),
    ];
    let clients = Arc::new(clients);
    let over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(Arc::clone(&first.database), Arc::clone(&over)));
    let mut working = Vec::new();
    for n in 0..32 {
        let capacity = 1 + n % 6;
        let domain = format!("d{}", n % 4);
        let agent = first.agent(&format!("a{n}"), "p", &domain, capacity).await;
        let (clients, over) = (Arc::clone(&clients), Arc::clone(&over));
        working.push(tokio::spawn(work(agent, clients, random.split(), over)));
    }
    let creating = {
        let client = second.client.clone();
        let new = lessor_protocol::NewSession::in_pool("p", &serde_json::json!({}));
        let new = new.expect("a spec");
        tokio::spawn(async move {
            for _ in 0..SESSIONS / 50 {
                let batch = lessor_protocol::NewSessions {
                    sessions: vec![new.clone(); 50],
                };
                client
                    .create_sessions(&batch, None)
                    .await
                    .expect("they are made");
            }
        })
    };
    let sql = first.database.client().await;
    let until = Instant::now() + PATIENCE;
    let mut kill_at = vec![1_300, 600, 200];
    loop {
        let ended = usize::try_from(count(&sql, "state = 'terminated'").await).expect("a count");
        if ended == SESSIONS {
            break;
        }
        if kill_at.last().is_some_and(|at| ended >= *at) {
            kill_at.pop();
            third.kill().await;
            third.start_again().await;
        }
        assert!(Instant::now() < until, "only {ended} sessions have ended");
        assert!(!watching.is_finished(), "the watch has ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(kill_at.is_empty(), "it was not killed three times");
    creating.await.expect("all were made");
    over.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.expect("the worker ends well");
    }
    let looks = watching.await.expect("what must never be was seen");
    assert!(looks > 10, "only {looks} looks");
    assert_consistent(&first.database).await;
    let unclaimed = "NOT EXISTS (SELECT FROM lease_ledger l WHERE l.session_id = id AND l.accepted_at IS NOT NULL)";
    assert_eq!(count(&sql, unclaimed).await, 0);
    first.stop().await;
    second.stop().await;
}

/// An agent that claims and accepts, and now and then falls silent, comes back as another run with
/// or without what it held, says goodbye or is cordoned.
async fn misbehave(
    mut agent: TestAgent,
    servers: [Client; 2],
    random: Random,
    over: Arc<AtomicBool>,
) {
    let mut held: HashMap<Uuid, HeldSession> = HashMap::new();
    while !over.load(Ordering::Relaxed) {
        agent.client = random.pick(&servers).clone();
        match random.below(100) {
            0..4 => {
                // Longer than its lease.
                tokio::time::sleep(Duration::from_millis(2_600)).await;
            }
            4..10 => {
                agent.instance = Uuid::new_v4().to_string();
                if random.percent(50) {
                    held.clear();
                }
                register(&mut agent, &mut held).await;
            }
            10..14 => {
                let _ = agent
                    .client
                    .deregister_agent(&agent.name, Some(agent.incarnation), false)
                    .await;
                held.clear();
            }
            14..20 => {
                let request = CordonRequest {
                    reason: None,
                    until: None,
                };
                let _ = agent.client.cordon_agent(&agent.name, &request).await;
            }
            20..30 => {
                let _ = agent.client.uncordon_agent(&agent.name).await;
            }
            _ => {}
        }
        let max_sessions = i32::try_from(random.below(4)).expect("small");
        let claimed = match agent.try_claim(max_sessions, 0.1).await {
            Ok(claimed) => claimed,
            Err(_) => {
                // Expired, superseded or gone: it registers as a new run.
                agent.instance = Uuid::new_v4().to_string();
                register(&mut agent, &mut held).await;
                continue;
            }
        };
        for lost in claimed.lost {
            held.remove(&lost);
        }
        if random.percent(20) {
            // Never says a word about these.
            continue;
        }
        let reports: Vec<Report> = claimed
            .assignments
            .iter()
            .map(|given| {
                let state = match given.action {
                    Action::Terminate => ReportedState::Terminated,
                    _ if random.percent(10) => ReportedState::Terminated,
                    _ if random.percent(20) => ReportedState::Starting,
                    _ => ReportedState::Running,
                };
                report(given, state)
            })
            .collect();
        let Ok(results) = agent.try_report(reports).await else {
            continue;
        };
        for (given, result) in claimed.assignments.iter().zip(results) {
            if result.outcome == Outcome::Accepted {
                held.insert(
                    given.session.id,
                    HeldSession {
                        session_id: given.session.id,
                        lease_epoch: given.lease_epoch,
                    },
                );
            }
        }
    }
}

async fn register(agent: &mut TestAgent, held: &mut HashMap<Uuid, HeldSession>) {
    let list: Vec<HeldSession> = held.values().cloned().collect();
    let body = agent.registration(&list);
    let registered = agent
        .client
        .register_agent(&agent.name, &body)
        .await
        .expect("a new run may register");
    agent.incarnation = registered.incarnation;
    held.clear();
    held.extend(registered.keep.into_iter().map(|h| (h.session_id, h)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_race_with_expiry_cordon_goodbye_and_registration_without_harm() {
    let random = Random::seeded();
    let first = TestServer::start().await;
    let second = first.beside().await;
    first
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 0.05;
            pool.backoff_max_seconds = 0.2;
            pool.max_attempts = 1_000;
        })
        .await;
    let sessions = first.sessions("p", 300).await;
    let over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch_counts(Arc::clone(&first.database), Arc::clone(&over)));
    let mut working = Vec::new();
    for n in 0..16 {
        let agent = first
            .agent(&format!("a{n}"), "p", &format!("d{}", n % 3), 20)
            .await;
        let clients = [first.client.clone(), second.client.clone()];
        let task = misbehave(agent, clients, random.split(), Arc::clone(&over));
        working.push(tokio::spawn(task));
    }
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert!(!watching.is_finished(), "the watch has ended");
        // Ends are wanted all the while.
        let session = random.pick(&sessions).id.to_string();
        let client = random
            .pick(&[first.client.clone(), second.client.clone()])
            .clone();
        client
            .delete_session(&session, &Default::default())
            .await
            .expect("202");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.expect("the agent ends well");
    }
    let looks = watching.await.expect("what must never be was seen");
    assert!(looks > 10, "only {looks} looks");
    let expired = first.metric("lessor_leases_expired_total").await;
    assert!(expired > 0.0, "no lease ended, so nothing raced with that");
    settle(&first).await;
    assert_consistent(&first.database).await;
    first.stop().await;
    second.stop().await;
}

/// Every agent is gone, and then healthy ones see to it that all sessions reach what is wanted.
async fn settle(server: &TestServer) {
    // Leases that hold on a machine as busy as this one is.
    let patch = serde_json::json!({"lease_ttl_seconds": 30.0, "accept_timeout_seconds": 10.0});
    let client = &server.client;
    client.patch_pool("p", &patch).await.expect("the pool");
    let mut healthy = Vec::new();
    for n in 0..16 {
        let name = format!("a{n}");
        let _ = server.client.deregister_agent(&name, None, true).await;
    }
    for n in 0..3 {
        healthy.push(
            server
                .agent(&format!("h{n}"), "p", &format!("d{n}"), 1_000)
                .await,
        );
    }
    let over = Arc::new(AtomicBool::new(false));
    let working: Vec<_> = healthy
        .into_iter()
        .map(|agent| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let given = agent.claim(100, 0.3).await;
                    let reports = given.iter().map(|given| {
                        let ends = given.action == Action::Terminate;
                        let state = if ends {
                            ReportedState::Terminated
                        } else {
                            ReportedState::Running
                        };
                        report(given, state)
                    });
                    let results = agent.try_report(reports.collect()).await;
                    for result in results.expect("it may report") {
                        assert_ne!(result.outcome, Outcome::Rejected, "{result:?}");
                    }
                }
            })
        })
        .collect();
    let sql = server.database.client().await;
    let open = "state <> 'terminated' AND NOT (state = 'running' AND desired_state = 'running'
        AND assigned_agent_id IS NOT NULL AND offered_until IS NULL)";
    let until = Instant::now() + Duration::from_secs(25);
    while count(&sql, open).await > 0 {
        if Instant::now() > until {
            let text = format!("SELECT row_to_json(s)::text FROM sessions s WHERE {open} LIMIT 3");
            let stuck = sql.query(&text, &[]).await.expect("sessions");
            let stuck: Vec<String> = stuck.iter().map(|row| row.get(0)).collect();
            panic!("never settled: {stuck:#?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.expect("the healthy agent ends well");
    }
}

/// As [`watch`], where adoption may put an agent above its capacity.
async fn watch_counts(database: Arc<TestDatabase>, over: Arc<AtomicBool>) -> usize {
    let client = database.client().await;
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        assert_counted(&client).await;
        let twice = client
            .query(
                "SELECT session_id FROM lease_ledger WHERE ended_at IS NULL GROUP BY 1 HAVING count(*) > 1",
                &[],
            )
            .await
            .expect("the ledger");
        assert!(twice.is_empty(), "assigned twice: {twice:?}");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    looks
}

/// So many that two rounds run at the same time, the second beside the end of the first.
const CROWD: usize = 450;

#[tokio::test]
async fn two_rounds_at_a_time_leave_nobody_to_the_safety_poll() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 600.0)
        .await;
    let registering = (0..CROWD).map(|n| {
        let server = &server;
        async move { server.agent(&format!("a{n:03}"), "p", "d", 100).await }
    });
    let agents = futures_util::future::join_all(registering).await;
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let news = NewSessions {
        sessions: vec![new; CROWD],
    };
    let mut waits = Vec::new();
    for _ in 0..6 {
        let polls: Vec<_> = agents.iter().map(|agent| agent.park(1, 50.0)).collect();
        server.has_parked("p", CROWD).await;
        let made = server.client.create_sessions(&news, None).await;
        assert_eq!(made.expect("made").items.len(), CROWD);
        let answered = polls
            .into_iter()
            .zip(&agents)
            .map(|(poll, agent)| async move {
                let claimed = poll.await.expect("the task").expect("it may claim");
                (Instant::now(), agent, claimed.assignments)
            });
        let answered = futures_util::future::join_all(answered).await;
        let mut at: Vec<_> = answered.iter().map(|(at, ..)| *at).collect();
        at.sort();
        // However slow the machine is, the last few come soon after those before them.
        waits.push(at[CROWD - 1] - at[CROWD - 20]);
        let accepting = answered.iter().map(|(_, agent, given)| async move {
            assert_eq!(given.len(), 1, "{}", agent.name);
            agent.accepts(&given[0], ReportedState::Running).await;
        });
        futures_util::future::join_all(accepting).await;
    }
    let late = waits.iter().filter(|wait| wait.as_secs_f64() > 1.0);
    assert!(late.count() < 2, "{waits:?}");
    server.stop().await;
}
