//! Creating sessions: many at once by one statement, and offered to a parked agent in the very
//! transaction that makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lessor_protocol::{Action, NewSession, OwnerShare, ProblemCode, ReportedState, Session};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::checks::{count, refused, the_books_agree};
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, eventually};

/// A session of this pool that is to be made.
pub fn new(pool: &str) -> NewSession {
    NewSession::in_pool(pool, &json!({"command": ["true"]})).expect("a spec")
}

/// Makes one.
pub async fn make(server: &TestServer, new: NewSession) -> Session {
    let made = server.client.create_session(&new, None).await;
    made.expect("the session is made")
}

/// A server with pool `p` and an agent that is parked there.
async fn with_parked(max_sessions: i32) -> (TestServer, TestAgent, Parked) {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 4).await;
    let parked = agent.park(max_sessions, 30.0);
    server.has_parked("p", 1).await;
    is_idle(&server, "p").await;
    (server, agent, parked)
}

/// Waits until the dispatcher of a pool has nothing to do and somebody to give a session to.
pub async fn is_idle(server: &TestServer, pool: &str) {
    eventually("the dispatcher is idle", || async {
        server.app.dispatchers.is_open(pool)
    })
    .await;
}

/// A claim under way.
pub type Parked = tokio::task::JoinHandle<Result<lessor_protocol::Claimed, lessor_client::Error>>;

/// What it was given.
pub async fn given(parked: Parked) -> Vec<lessor_protocol::Assignment> {
    let claimed = parked.await.expect("it ends").expect("it may claim");
    claimed.assignments
}

/// A session that waits and of which nobody was told.
pub async fn waits(client: &Client, owner: Option<&str>, requires: &str) -> Uuid {
    let id = Uuid::now_v7();
    let text = "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
            created_at, updated_at, queued_at, owner, requires)
        VALUES ($1::text::uuid, 'p', 'process', '{}', 'running', 'pending', 'on_failure', now(), now(), now(),
            $2, $3::text::jsonb)";
    client
        .execute(text, &[&id.to_string(), &owner, &requires])
        .await
        .expect("it waits");
    id
}

/// How many transactions of this name there were.
pub async fn transactions(server: &TestServer, name: &str) -> f64 {
    let line = format!("lessor_db_transaction_seconds_count{{transaction=\"{name}\"}}");
    server.find_metric(&line).await.unwrap_or(0.0)
}

#[tokio::test]
async fn a_session_is_offered_in_the_transaction_that_makes_it() {
    let (server, agent, parked) = with_parked(1).await;
    let rounds = server.metric("lessor_claim_statements_total").await;
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id.as_deref(), Some("a"));
    assert!(session.offered_until.is_some(), "{session:?}");
    assert_eq!((session.lease_epoch, session.version), (1, 1));
    let given = given(parked).await.pop().expect("it was given one");
    assert_eq!((given.action, given.lease_epoch), (Action::Start, 1));
    assert_eq!(
        json!(given.session),
        json!(session),
        "both were told the same"
    );
    assert_eq!(json!(server.get(session.id).await), json!(session));
    let after = server.metric("lessor_claim_statements_total").await;
    assert_eq!(after, rounds + 1.0, "one round and no more");
    let together = "SELECT count(*) FROM sessions s JOIN lease_ledger l ON l.session_id = s.id
        JOIN agents a ON a.name = s.assigned_agent_id
        WHERE s.xmin = l.xmin AND s.xmin = a.xmin AND a.slots_used = 1";
    assert_eq!(count(&server, together).await, 1, "not by one transaction");
    let told =
        "SELECT count(*) FROM event_history c JOIN event_history o ON o.session_id = c.session_id
        WHERE c.kind = 'session.created' AND o.kind = 'session.offered' AND c.at = o.at
            AND c.position < o.position
            AND c.lease_epoch = 0 AND o.lease_epoch = 1 AND o.agent = 'a' AND c.agent IS NULL";
    eventually("both events have positions", || async {
        count(&server, told).await == 1
    })
    .await;
    agent.accepts(&given, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn who_wants_something_else_waits_for_a_round() {
    let (server, _agent, parked) = with_parked(4).await;
    let label = lessor_protocol::Labels::from([("gpu".to_owned(), "yes".to_owned())]);
    let hibernated = NewSession {
        desired_state: lessor_protocol::DesiredState::Hibernated,
        ..new("p")
    };
    let later = NewSession {
        not_before: Some(chrono::Utc::now() + chrono::TimeDelta::hours(1)),
        ..new("p")
    };
    let selects = NewSession {
        requires: label.clone(),
        ..new("p")
    };
    for new in [hibernated, later, selects] {
        let session = make(&server, new).await;
        assert_eq!(session.assigned_agent_id, None, "{session:?}");
    }
    // Those who wait for what nobody here can give do not keep others waiting.
    is_idle(&server, "p").await;
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id.as_deref(), Some("a"));
    let given = given(parked).await;
    assert_eq!(given.len(), 1, "{given:?}");
    assert_eq!(given[0].session.id, session.id);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_has_changed_since_it_was_parked_is_offered_nothing() {
    let server = TestServer::start().await;
    let sql = server.database.client().await;
    for (n, change) in [
        "live = false, expired_at = now()",
        "cordoned = true, cordon_since = now()",
        "incarnation = incarnation + 1",
        "claim_number = claim_number + 1",
        "slots_used = capacity",
        "passed_over_until = now() + interval '1 hour'",
        "pool = 'elsewhere'",
    ]
    .iter()
    .enumerate()
    {
        let pool = format!("p{n}");
        server.pool(&pool, |_| {}).await;
        server.pool("elsewhere", |_| {}).await;
        let agent = server.agent(&format!("a{n}"), &pool, "d", 4).await;
        let parked = agent.park(1, 30.0);
        server.has_parked(&pool, 1).await;
        sql.execute(
            &format!("UPDATE agents SET {change} WHERE pool = $1"),
            &[&pool],
        )
        .await
        .expect("it changes");
        let session = make(&server, new(&pool)).await;
        assert_eq!(session.assigned_agent_id, None, "{change}: {session:?}");
        parked.abort();
    }
    assert!(transactions(&server, "claims::make_and_offer").await >= 7.0);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_somebody_has_in_hand_is_not_waited_for() {
    let (server, _agent, parked) = with_parked(1).await;
    let mut sql = server.database.client().await;
    let held = sql.transaction().await.expect("a transaction");
    held.execute("SELECT FROM agents FOR UPDATE", &[])
        .await
        .expect("it is locked");
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id, None);
    held.rollback().await.expect("it ends");
    // It was announced all the same.
    let given = given(parked).await;
    assert_eq!(given[0].session.id, session.id);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_waits_already_is_not_overtaken() {
    let (server, agent, parked) = with_parked(1).await;
    let sql = server.database.client().await;
    let older = waits(&sql, None, "{}").await;
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id, None);
    let first = given(parked).await;
    assert_eq!(first[0].session.id, older, "the older one first");
    let second = agent.claim(2, 5.0).await;
    let ids: BTreeSet<Uuid> = second.iter().map(|given| given.session.id).collect();
    assert!(ids.contains(&session.id), "{second:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_nobody_here_serves_keeps_no_one_waiting() {
    let (server, _agent, parked) = with_parked(4).await;
    let sql = server.database.client().await;
    waits(&sql, None, r#"{"gpu": "yes"}"#).await;
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(0),
    };
    server
        .client
        .put_owner("p", "full", &share)
        .await
        .expect("a share");
    waits(&sql, Some("full"), "{}").await;
    is_idle(&server, "p").await;
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id.as_deref(), Some("a"));
    assert_eq!(given(parked).await[0].session.id, session.id);
    server.stop().await;
}

#[tokio::test]
async fn an_owner_with_a_limit_is_counted_by_a_round() {
    let (server, agent, parked) = with_parked(4).await;
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(1),
    };
    let put = server.client.put_owner("p", "o", &share).await;
    put.expect("a share");
    let of = || NewSession {
        owner: Some("o".to_owned()),
        ..new("p")
    };
    let first = make(&server, of()).await;
    assert_eq!(first.assigned_agent_id, None, "{first:?}");
    let one = given(parked).await.pop().expect("it was given one");
    agent.accepts(&one, ReportedState::Running).await;
    let parked = agent.park(4, 30.0);
    server.has_parked("p", 1).await;
    is_idle(&server, "p").await;
    let second = make(&server, of()).await;
    assert_eq!(second.assigned_agent_id, None, "{second:?}");
    let other = make(&server, new("p")).await;
    let given = given(parked).await;
    let ids: Vec<Uuid> = given.iter().map(|given| given.session.id).collect();
    assert_eq!(ids, [other.id], "the owner has its one already");
    server.stop().await;
}

#[tokio::test]
async fn other_work_of_a_parked_agent_comes_first() {
    let (server, _agent, parked) = with_parked(4).await;
    let sql = server.database.client().await;
    // Nobody was told of it, as if that had been lost.
    let adoptable = "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
            created_at, updated_at, queued_at, resource_domain)
        VALUES (gen_random_uuid(), 'p', 'process', '{}', 'running', 'running', 'on_failure', now(), now(), now(), 'd')";
    sql.execute(adoptable, &[]).await.expect("it runs");
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id, None);
    let given = given(parked).await;
    assert_eq!(given[0].action, Action::Adopt, "{given:?}");
    server.stop().await;
}

/// Nobody can insert a session until this is dropped or ended; what came before stays.
async fn stopped(sql: &mut Client) -> tokio_postgres::Transaction<'_> {
    let stopped = sql.transaction().await.expect("a transaction");
    stopped
        .batch_execute("LOCK TABLE sessions IN SHARE MODE")
        .await
        .expect("it is locked");
    stopped
}

/// Waits until so many transactions wait for a lock.
async fn are_waiting(server: &TestServer, many: i64) {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%-- sessions::insert%'";
    eventually("they wait", || async { count(server, query).await >= many }).await;
}

/// Has a client hang up while a session is made and offered to it, in pool `p`: the offer is taken back.
pub async fn assert_taken_back(server: &TestServer, agent: &TestAgent, parked: Parked) {
    let mut sql = server.database.client().await;
    let stop = stopped(&mut sql).await;
    let making = {
        let client = server.client.clone();
        tokio::spawn(async move { client.create_session(&new("p"), None).await })
    };
    are_waiting(server, 1).await;
    parked.abort();
    let _ = parked.await;
    // The server has heard of it once the connection is gone.
    eventually("it is noticed", || async {
        server.app.dispatchers.parked() == 0
    })
    .await;
    stop.rollback().await.expect("it ends");
    let session = making.await.expect("it ends").expect("it is made");
    assert_eq!(session.assigned_agent_id.as_ref(), Some(&agent.name));
    eventually("it is taken back", || async {
        server.get(session.id).await.assigned_agent_id.is_none()
    })
    .await;
    let again = agent.claim(1, 5.0).await;
    assert_eq!((again[0].session.id, again[0].lease_epoch), (session.id, 2));
    let harmless = "SELECT count(*) FROM agents WHERE offers_lapsed > 0";
    assert_eq!(count(server, harmless).await, 0, "it counts against nobody");
    the_books_agree(server).await;
}

#[tokio::test]
async fn a_client_that_hung_up_meanwhile_has_the_offer_taken_back() {
    let (server, agent, parked) = with_parked(1).await;
    assert_taken_back(&server, &agent, parked).await;
    server.stop().await;
}

#[tokio::test]
async fn those_who_arrive_together_each_get_their_own_answer() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let named = |name: &str| NewSession {
        name: Some(name.to_owned()),
        ..new("p")
    };
    make(&server, named("taken")).await;
    let before = transactions(&server, "sessions::create_gathered").await;
    let mut sql = server.database.client().await;
    let stop = stopped(&mut sql).await;
    let ask = |new: NewSession| {
        let client = server.client.clone();
        tokio::spawn(async move { client.create_session(&new, None).await })
    };
    // Two batches of one are under way, and wait; all others make the next.
    let first = [ask(new("p")), {
        are_waiting(&server, 1).await;
        ask(new("p"))
    }];
    are_waiting(&server, 2).await;
    let elsewhere = NewSession {
        region: Some("eu".to_owned()),
        ..new("p")
    };
    let on_docker = NewSession {
        platform: Some("docker".to_owned()),
        ..new("p")
    };
    let twins = [ask(named("twin")), ask(named("twin"))];
    let bad = [
        (ask(named("taken")), ProblemCode::NameTaken),
        (ask(new("nowhere")), ProblemCode::PoolNotFound),
        (ask(elsewhere), ProblemCode::NoMatchingPool),
        (ask(on_docker), ProblemCode::NoMatchingPool),
    ];
    let good: Vec<_> = (0..20).map(|_| ask(new("p"))).collect();
    eventually("all have arrived", || async {
        server.app.creating.waiting() == 26
    })
    .await;
    // One that hangs up, too: what it asked for is done all the same.
    let body = r#"{"pool": "p", "name": "orphan", "spec": {}}"#;
    let request = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: lessor\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = server.url.trim_start_matches("http://");
    let mut client = tokio::net::TcpStream::connect(address)
        .await
        .expect("it connects");
    client
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    eventually("it has arrived", || async {
        server.app.creating.waiting() == 27
    })
    .await;
    drop(client);
    stop.rollback().await.expect("it ends");
    for asked in first.into_iter().chain(good) {
        asked.await.expect("it ends").expect("a good one is made");
    }
    for (asked, code) in bad {
        assert_eq!(refused(asked.await.expect("it ends")), code);
    }
    let mut made = 0;
    for twin in twins {
        match twin.await.expect("it ends") {
            Ok(_) => made += 1,
            error => assert_eq!(refused(error), ProblemCode::NameTaken),
        }
    }
    assert_eq!(made, 1, "one of two with one name");
    eventually("the orphan is made", || async {
        server.client.get_session("orphan").await.is_ok()
    })
    .await;
    let sessions = "SELECT count(*) FROM sessions s WHERE (SELECT count(*) FROM event_history e
        WHERE e.session_id = s.id AND e.kind = 'session.created' AND e.at = s.created_at) = 1";
    assert_eq!(count(&server, sessions).await, 25);
    assert_eq!(count(&server, "SELECT count(*) FROM sessions").await, 25);
    let written = transactions(&server, "sessions::create_gathered").await - before;
    assert_eq!(written, 3.0, "two lone ones and one batch");
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_keeps_its_order() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let made = server.sessions("p", 50).await;
    assert_eq!(transactions(&server, "sessions::create_many").await, 1.0);
    assert_eq!(transactions(&server, "sessions::create").await, 0.0);
    let agent = server.agent("a", "p", "d", 100).await;
    let given: Vec<Uuid> = agent
        .claim(100, 5.0)
        .await
        .iter()
        .map(|given| given.session.id)
        .collect();
    let ids: Vec<Uuid> = made.iter().map(|session| session.id).collect();
    assert_eq!(given, ids);
    let mut many = vec![new("p"); 3];
    many[1].pool = Some("nowhere".to_owned());
    let batch = lessor_protocol::NewSessions { sessions: many };
    let answer = server.client.create_sessions(&batch, None).await;
    assert_eq!(refused(answer), ProblemCode::PoolNotFound);
    assert_eq!(count(&server, "SELECT count(*) FROM sessions").await, 50);
    server.stop().await;
}

/// Claims and hangs up now and then, says goodbye now and then; what it accepts it ends.
async fn live(
    mut agent: TestAgent,
    servers: Arc<Vec<TestServer>>,
    random: Random,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::Relaxed) {
        agent.client = random.pick(&servers).client.clone();
        if random.percent(3) {
            let _ = agent
                .client
                .deregister_agent(&agent.name, Some(agent.incarnation), false)
                .await;
            agent.restart(&[]).await;
        }
        let parked = agent.park(1 + i32::try_from(random.below(3)).expect("small"), 2.0);
        if random.percent(20) {
            // How long a client stays is what is tested here.
            let stays = u64::try_from(random.below(400)).expect("small");
            tokio::time::sleep(Duration::from_millis(stays)).await;
            parked.abort();
            continue;
        }
        let Ok(Ok(claimed)) = parked.await else {
            continue;
        };
        for given in claimed.assignments {
            let report = crate::support::report(&given, ReportedState::Terminated);
            let _ = agent.try_report(vec![report]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_made_on_three_servers_race_with_claims_hang_ups_and_goodbyes() {
    const SESSIONS: usize = 150;
    let random = Random::seeded();
    let first = TestServer::start().await;
    let (second, third) = (first.beside().await, first.beside().await);
    first
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 0.05;
            pool.backoff_max_seconds = 0.2;
            pool.max_attempts = 1_000;
        })
        .await;
    let servers = Arc::new(vec![first, second, third]);
    let over = Arc::new(AtomicBool::new(false));
    let mut living = Vec::new();
    for n in 0..12 {
        let agent = servers[0]
            .agent(&format!("a{n}"), "p", &format!("d{n}"), 3)
            .await;
        let task = live(
            agent,
            Arc::clone(&servers),
            random.split(),
            Arc::clone(&over),
        );
        living.push(tokio::spawn(task));
    }
    let creating: Vec<_> = (0..3)
        .map(|n| {
            let (servers, random) = (Arc::clone(&servers), random.split());
            tokio::spawn(async move {
                let mut made = Vec::new();
                for _ in 0..SESSIONS / 3 {
                    let new = NewSession {
                        owner: random.percent(50).then(|| format!("o{n}")),
                        ..new("p")
                    };
                    made.push(make(random.pick(&servers), new).await);
                    // Now and then agents are parked again by the time of the next.
                    let pause = u64::try_from(random.below(300)).expect("small");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                made
            })
        })
        .collect();
    let mut made = BTreeMap::new();
    for creator in creating {
        for session in creator.await.expect("the creator ends well") {
            made.insert(session.id, session);
        }
    }
    assert_eq!(made.len(), SESSIONS);
    let sql = servers[0].database.client().await;
    let open = "SELECT count(*) FROM sessions WHERE state <> 'terminated'";
    let until = Instant::now() + Duration::from_secs(60);
    while count(&servers[0], open).await > 0 {
        assert!(Instant::now() < until, "some are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    for agent in living {
        agent.await.expect("the agent ends well");
    }
    let kept: i64 = sql
        .query_one("SELECT count(*) FROM sessions", &[])
        .await
        .expect("a count")
        .get(0);
    assert_eq!(usize::try_from(kept), Ok(SESSIONS), "none is lost");
    // Under one epoch each was offered once, and to whom the ledger says.
    let twice = "SELECT count(*) FROM (SELECT FROM event_history WHERE kind = 'session.offered'
        GROUP BY session_id, lease_epoch HAVING count(*) > 1) t";
    assert_eq!(count(&servers[0], twice).await, 0, "given twice");
    the_books_agree(&servers[0]).await;
    let at_once = made
        .values()
        .filter(|session| session.assigned_agent_id.is_some())
        .count();
    // How many depends on how busy the machine is; that it comes about other tests here show.
    let tried = transactions(&servers[0], "claims::make_and_offer").await;
    eprintln!("{at_once} of {SESSIONS} were offered at once, in {tried} transactions");
    let Ok(servers) = Arc::try_unwrap(servers) else {
        panic!("somebody has them still");
    };
    for server in servers {
        server.stop().await;
    }
}
