//! Clients that hang up: at every point around a claim, thousands of times; and agents that make
//! nothing of what they are given. Nothing may be lost, given twice, or make anybody spin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lessor_protocol::{Claimed, Outcome, ReportedState, SessionState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::checks::count;
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, eventually};

const HANG_UPS: usize = 3_000;
const CALLERS: usize = 24;
const AGENTS: usize = 8;
const SESSIONS: usize = 400;

/// What arrived of an answer, if it is whole.
fn claimed(bytes: &[u8]) -> Option<Claimed> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    serde_json::from_str(body).ok()
}

/// How long clients stay at most, in microseconds: as long as it takes about a fifth of them to be answered. On a
/// machine that is slow at the moment, all would have gone long before anything was offered otherwise.
struct Patience(AtomicUsize);

impl Patience {
    const LONGEST: usize = 120_000;

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn learn(&self, was_answered: bool) {
        let now = self.get();
        let next = if was_answered {
            now - now / 8
        } else {
            now + now / 32
        };
        let next = next.clamp(1_000, Self::LONGEST);
        self.0.store(next, Ordering::Relaxed);
    }
}

/// Sends a claim and hangs up after some milliseconds; what had arrived until then.
async fn claim_and_hang_up(
    address: &str,
    agent: &TestAgent,
    random: &Random,
    longest: &Patience,
) -> Option<Claimed> {
    let max_sessions = 1 + i32::try_from(random.below(4)).expect("small");
    let wait_seconds = *random.pick(&[0.0, 1.0, 20.0]);
    let body = serde_json::to_string(&agent.claim_body(max_sessions, wait_seconds)).expect("JSON");
    let mut request = format!(
        "POST /v1/agents/{}/claim HTTP/1.1\r\nHost: lessor\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        agent.name,
        body.len()
    );
    if random.percent(10) {
        // In the middle of the request.
        request.truncate(random.below(request.len()));
    }
    let mut stream = TcpStream::connect(address).await.expect("it connects");
    stream.write_all(request.as_bytes()).await.ok()?;
    let patience = u64::try_from(random.below(longest.get())).expect("small");
    let patience = Duration::from_micros(patience);
    let mut got = Vec::new();
    let mut whole = None;
    // How long a client stays is what is tested here.
    let _ = tokio::time::timeout(patience, async {
        while whole.is_none() && stream.read_buf(&mut got).await.is_ok_and(|n| n > 0) {
            whole = claimed(&got);
        }
    })
    .await;
    longest.learn(whole.is_some());
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_lost_or_given_twice_when_clients_hang_up_at_any_point() {
    let random = Random::seeded();
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 0.05;
            pool.backoff_max_seconds = 0.2;
            pool.max_attempts = 1_000;
        })
        .await;
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        agents.push(server.agent(&format!("a{n}"), "p", "d", 100).await);
    }
    let agents = Arc::new(agents);
    let address = server.url.trim_start_matches("http://").to_owned();
    let left = Arc::new(AtomicUsize::new(HANG_UPS));
    let patience = Arc::new(Patience(AtomicUsize::new(30_000)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (agents, left, address) = (Arc::clone(&agents), Arc::clone(&left), address.clone());
            let (random, patience) = (random.split(), Arc::clone(&patience));
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let more = || {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                };
                while more().is_ok() {
                    let agent = random.pick(&agents);
                    let claimed = claim_and_hang_up(&address, agent, &random, &patience).await;
                    if let Some(claimed) = claimed {
                        for given in claimed.assignments {
                            seen.push((given.session.id, given.lease_epoch, agent.name.clone()));
                        }
                    }
                }
                seen
            })
        })
        .collect();
    // Sessions arrive all the while, a few at a time.
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let due = (HANG_UPS - left.load(Ordering::Relaxed)) * SESSIONS / HANG_UPS;
        if due > sessions.len() || left.load(Ordering::Relaxed) == 0 {
            let some = (1 + random.below(8)).min(SESSIONS - sessions.len());
            sessions.extend(server.sessions("p", some).await);
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let mut seen = Vec::new();
    for caller in callers {
        seen.extend(caller.await.expect("the caller ends well"));
    }
    // Now the same agents behave.
    let until = Instant::now() + Duration::from_secs(60);
    let waiting =
        "SELECT count(*) FROM sessions WHERE state <> 'running' OR offered_until IS NOT NULL";
    let server = Arc::new(server);
    let workers: Vec<_> = agents
        .iter()
        .cloned()
        .map(|agent| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while Instant::now() < until {
                    let given = agent.claim(50, 1.5).await;
                    if given.is_empty() && count(&server, waiting).await == 0 {
                        break;
                    }
                    for given in given {
                        seen.push((given.session.id, given.lease_epoch, agent.name.clone()));
                        // An offer may lapse before it is accepted, and come again.
                        let result = agent.reports(&given, ReportedState::Running).await;
                        assert_ne!(result.outcome, Outcome::Rejected, "{result:?}");
                    }
                }
                seen
            })
        })
        .collect();
    for worker in workers {
        seen.extend(worker.await.expect("the worker ends well"));
    }
    for session in &sessions {
        let now = server.get(session.id).await;
        assert_eq!(now.state, SessionState::Running, "{now:#?}");
        assert!(now.assigned_agent_id.is_some() && now.offered_until.is_none());
    }
    let offers = agree_with_ledger(&server, &seen).await;
    eprintln!(
        "{offers} offers of {} sessions, {} answers read",
        sessions.len(),
        seen.len()
    );
    assert!(offers > SESSIONS, "nobody ever hung up on an offer");
    let gauge = "lessor_waiters{pool=\"p\"}";
    eventually("no poll is left parked", || async {
        server.metric(gauge).await == 0.0
    })
    .await;
    Arc::into_inner(server)
        .expect("the workers are gone")
        .stop()
        .await;
}

/// What agents saw on the wire is what the ledger says, and each epoch was offered once; how many
/// offers there were.
async fn agree_with_ledger(server: &TestServer, seen: &[(Uuid, i64, String)]) -> usize {
    let client = server.database.client().await;
    let ledger = client
        .query(
            "SELECT session_id::text, lease_epoch, agent FROM lease_ledger",
            &[],
        )
        .await
        .expect("the ledger");
    let ledger: BTreeMap<(String, i64), String> = ledger
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    for (session, epoch, agent) in seen {
        let said = ledger.get(&(session.to_string(), *epoch));
        assert_eq!(said, Some(agent), "{session} under epoch {epoch}");
    }
    let twice = client
        .query(
            "SELECT session_id::text, lease_epoch FROM event_history WHERE kind = 'session.offered'
             GROUP BY 1, 2 HAVING count(*) > 1",
            &[],
        )
        .await
        .expect("events");
    assert!(twice.is_empty(), "offered twice under one epoch: {twice:?}");
    let wrong = client
        .query(
            "SELECT s.id::text FROM sessions s WHERE s.lease_epoch <>
                 (SELECT count(*) FROM lease_ledger l WHERE l.session_id = s.id)
             OR (SELECT count(*) FROM lease_ledger l WHERE l.session_id = s.id AND l.ended_at IS NULL)
                 <> CASE WHEN s.assigned_agent_id IS NULL THEN 0 ELSE 1 END",
            &[],
        )
        .await
        .expect("sessions");
    assert!(wrong.is_empty(), "ledger and sessions differ: {wrong:?}");
    ledger.len()
}

/// Claims over and over for three seconds, handling what comes, while another agent is parked:
/// how many claims were answered, and how many statements that took.
async fn over_three_seconds<F, R>(
    server: &TestServer,
    agent: &TestAgent,
    mut handle: F,
) -> (usize, f64)
where
    F: FnMut(Vec<lessor_protocol::Assignment>) -> R,
    R: Future<Output = ()>,
{
    let statements = server.metric("lessor_claim_statements_total").await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut answered = 0;
    while Instant::now() < until {
        let given = agent.claim(5, 1.0).await;
        answered += 1;
        handle(given).await;
    }
    let statements = server.metric("lessor_claim_statements_total").await - statements;
    (answered, statements)
}

#[tokio::test]
async fn an_agent_that_never_reports_makes_nobody_spin() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let silent = server.agent("silent", "p", "d", 10).await;
    let sessions = server.sessions("p", 3).await;
    let given = silent.claim(5, 5.0).await;
    assert_eq!(given.len(), sessions.len());
    let other = server.agent("other", "p", "d", 10).await;
    let parked = other.park(1, 30.0);
    server.has_parked("p", 1).await;
    let (answered, statements) = over_three_seconds(&server, &silent, |_| async {}).await;
    assert!(
        (3..=8).contains(&answered),
        "{answered} claims were answered"
    );
    assert!(
        statements <= 30.0,
        "{statements} statements in three seconds"
    );
    assert!(!parked.is_finished(), "the parked poll was disturbed");
    parked.abort();
    server.stop().await;
}

#[tokio::test]
async fn an_agent_whose_reports_are_rejected_makes_nobody_spin() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let wrong = server.agent("wrong", "p", "d", 10).await;
    server.sessions("p", 3).await;
    let other = server.agent("other", "p", "elsewhere", 0).await;
    let parked = other.park(1, 30.0);
    server.has_parked("p", 1).await;
    let rejected = AtomicUsize::new(0);
    let (answered, statements) = over_three_seconds(&server, &wrong, |given| {
        let (wrong, rejected) = (&wrong, &rejected);
        async move {
            for given in given {
                // A start does not lead to `hibernated`.
                let result = wrong.reports(&given, ReportedState::Hibernated).await;
                assert_eq!(result.outcome, Outcome::Rejected, "{result:?}");
                rejected.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    assert!(rejected.into_inner() >= 3, "nothing was rejected");
    assert!(
        (3..=9).contains(&answered),
        "{answered} claims were answered"
    );
    assert!(
        statements <= 30.0,
        "{statements} statements in three seconds"
    );
    assert!(!parked.is_finished(), "the parked poll was disturbed");
    parked.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_poll_whose_client_hung_up_does_not_count_as_parked_until_its_time_is_over() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let parked = agent.park(1, 55.0);
    server.has_parked("p", 1).await;
    parked.abort();
    server.has_parked("p", 0).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_lets_every_offer_lapse_makes_nobody_spin() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 1.0;
        })
        .await;
    let silent = server.agent("silent", "p", "d", 10).await;
    let session = server.session("p").await;
    // Full, and parked all the while: what the other lets lapse is no news for it.
    let other = server.agent("other", "p", "elsewhere", 0).await;
    let parked = other.park(1, 30.0);
    server.has_parked("p", 1).await;
    let lapses = || async {
        let page = server
            .client
            .session_leases(&session.id.to_string(), &Default::default())
            .await;
        let items = page.expect("the ledger").items;
        items.iter().filter(|line| line.ended_at.is_some()).count()
    };
    let began = Instant::now();
    let before = server.metric("lessor_claim_statements_total").await;
    let (mut answered, mut lapsed) = (0, 0);
    while lapsed < 3 {
        assert!(began.elapsed() < Duration::from_secs(20), "{lapsed} lapses");
        answered += silent.claim(5, 1.0).await.len();
        lapsed = lapses().await;
    }
    let took = began.elapsed().as_secs_f64();
    let statements = server.metric("lessor_claim_statements_total").await - before;
    // Each offer is told at once, once more, and after a second; between them are pauses.
    assert!(answered <= 12, "told {answered} times in {took} s");
    assert!(
        statements <= 20.0 + 10.0 * took,
        "{statements} statements in {took} s"
    );
    assert!(!parked.is_finished(), "the parked poll was disturbed");
    // An agent that accepts gets it, as soon as it is there.
    let willing = server.agent("willing", "p", "d", 1).await;
    let given = willing.claim(1, 10.0).await.pop().expect("it is offered");
    willing.accepts(&given, ReportedState::Running).await;
    parked.abort();
    server.stop().await;
}
