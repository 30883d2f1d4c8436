//! The brake: while much of a pool is silent, what cannot be undone is held.
//!
//! Silence is made in the database where a test is not about the passing of time: agents with a
//! long lease are set back, so that a busy machine silences nobody else.

use futures_util::future::join_all;
use lessor_client::DeleteSession;
use lessor_protocol::{Action, Assignment, Availability, OnLost, ProblemCode, SessionState};
use uuid::Uuid;

use crate::support::checks::{WAIT_FOR_LOCKS, count, leftovers, refused, the_books_agree};
use crate::support::{TestAgent, TestServer, eventually, runbook};

/// A pool, and agents in a domain each, who run one session each.
struct Pool {
    server: TestServer,
    agents: Vec<TestAgent>,
    held: Vec<Assignment>,
}

impl Pool {
    async fn of(name: &str, agents: usize, on_lost: OnLost, adopt_timeout_seconds: f64) -> Self {
        let server = TestServer::start().await;
        Self::on(server, name, agents, on_lost, adopt_timeout_seconds).await
    }

    async fn on(
        server: TestServer,
        name: &str,
        agents: usize,
        on_lost: OnLost,
        adopt_timeout_seconds: f64,
    ) -> Self {
        server
            .pool(name, |pool| {
                pool.lease_ttl_seconds = 300.0;
                pool.on_lost = on_lost;
                pool.adopt_timeout_seconds = adopt_timeout_seconds;
            })
            .await;
        let mut pool = Self {
            server,
            agents: Vec::new(),
            held: Vec::new(),
        };
        for n in 0..agents {
            let (agent, domain) = (format!("a{n}"), format!("d{n}"));
            let agent = pool.server.agent(&agent, name, &domain, 1).await;
            pool.server.session(name).await;
            pool.held.push(agent.runs_one().await);
            pool.agents.push(agent);
        }
        pool
    }

    fn id(&self, n: usize) -> Uuid {
        self.held[n].session.id
    }

    async fn state(&self, n: usize) -> SessionState {
        self.server.get(self.id(n)).await.state
    }

    /// The first so many agents are not heard of any more, for longer than their lease lasts.
    async fn vanish(&self, agents: std::ops::Range<usize>) {
        let names = names(agents.clone());
        run(&self.server, &gone(&names)).await;
        for n in agents {
            let name = format!("a{n}");
            eventually("its lease ends", || async {
                let agent = self.server.client.get_agent(&name).await.expect("it");
                agent.availability == Availability::Expired
            })
            .await;
        }
    }

    /// As [`Pool::state`], of a server that has ended.
    async fn kept_state(&self, n: usize) -> String {
        let client = self.server.database.client().await;
        let text = format!("SELECT state FROM sessions WHERE id = '{}'", self.id(n));
        client.query_one(&text, &[]).await.expect("it").get(0)
    }

    async fn is_on(&self) -> bool {
        let pool = self.server.client.get_pool("p").await.expect("the pool");
        pool.brake.is_some()
    }

    async fn turns_on(&self) {
        eventually("the brake is on", || self.is_on()).await;
    }

    async fn turns_off(&self) {
        eventually("the brake is off", || async { !self.is_on().await }).await;
    }

    /// Waits until many sweeps have found the domain of agent `n` lost beyond its time.
    async fn is_overdue(&self, n: usize) {
        let overdue = format!(
            "SELECT count(*) FROM resource_domains d JOIN pools p ON p.name = d.pool
             WHERE d.name = 'd{n}' AND extract(epoch FROM clock_timestamp() - d.lost_since)
                > p.adopt_timeout_seconds + 2"
        );
        eventually("the time for adoption has long passed", || async {
            count(&self.server, &overdue).await == 1
        })
        .await;
    }
}

fn names(agents: std::ops::Range<usize>) -> String {
    let names: Vec<String> = agents.map(|n| format!("'a{n}'")).collect();
    names.join(", ")
}

/// Sets agents back by more than a lease of 300 s.
fn gone(names: &str) -> String {
    format!(
        "UPDATE agents SET last_heartbeat_at = clock_timestamp() - interval '301 seconds',
            lease_expires_at = clock_timestamp() - interval '1 second' WHERE name IN ({names})"
    )
}

async fn run(server: &TestServer, text: &str) {
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("the statement");
}

/// The brake's events: kind, reason, actor, silent and counted agents.
async fn events(server: &TestServer) -> Vec<(String, Option<String>, String, i64, i64)> {
    let client = server.database.client().await;
    let text = "SELECT kind, reason, actor_type || ':' || actor_name,
            (data->>'silent_agents')::bigint, (data->>'counted_agents')::bigint
        FROM event_history WHERE kind LIKE 'pool.%' ORDER BY position, batch, ordinal";
    let rows = client.query(text, &[]).await.expect("events");
    let event =
        |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    rows.iter().map(event).collect()
}

fn on(silent: i64, counted: i64) -> (String, Option<String>, String, i64, i64) {
    let (kind, actor) = ("pool.brake_on".to_owned(), "system:brake".to_owned());
    (kind, None, actor, silent, counted)
}

/// A number of seconds that a query finds.
async fn seconds(server: &TestServer, text: &str) -> f64 {
    let client = server.database.client().await;
    let text = format!("SELECT (extract(epoch FROM {text}))::double precision");
    client.query_one(&text, &[]).await.expect("a time").get(0)
}

async fn holds_on_lost(on_lost: OnLost) {
    let pool = Pool::of("p", 8, on_lost, 0.0).await;
    let others = [pool.server.beside().await, pool.server.beside().await];
    let end = |n: usize, force: bool| {
        let (id, server) = (pool.id(n).to_string(), &pool.server);
        async move {
            let how = DeleteSession {
                force,
                ..DeleteSession::default()
            };
            let session = server.client.delete_session(&id, &how).await.expect("202");
            session.state
        }
    };
    // All at once: the sweep finds lost domains before anybody has seen the silence.
    pool.vanish(0..5).await;
    pool.turns_on().await;
    assert_eq!(end(1, false).await, SessionState::Running);
    for n in 0..5 {
        pool.is_overdue(n).await;
    }
    for n in 0..5 {
        let session = pool.server.get(pool.id(n)).await;
        assert_eq!(session.state, SessionState::Running, "{session:?}");
        assert_eq!(session.assigned_agent_id, None);
        assert_eq!(session.attempt, 1);
        assert!(leftovers(&pool.server, session.id).await.is_empty());
    }
    let waiting = "SELECT count(*) FROM sessions WHERE pool_work IS NOT NULL OR domain_lost";
    assert_eq!(count(&pool.server, waiting).await, 0);

    // Adoption inside a domain goes on, a start elsewhere does too, and so does expiry.
    let heir = pool.server.agent("heir", "p", "d0", 5).await;
    let adopted = heir.claim(5, 10.0).await.remove(0);
    assert_eq!(
        (adopted.session.id, adopted.action),
        (pool.id(0), Action::Adopt)
    );
    heir.accepts(&adopted, lessor_protocol::ReportedState::Running)
        .await;
    let new = pool.server.session("p").await;
    assert_eq!(heir.runs_one().await.session.id, new.id);
    pool.vanish(5..6).await;
    assert_eq!(pool.server.get(pool.id(5)).await.assigned_agent_id, None);
    // Who insists on an end gets it, and a leftover with it.
    assert_eq!(end(2, true).await, SessionState::Terminated);
    assert_eq!(leftovers(&pool.server, pool.id(2)).await.len(), 1);

    let shown = pool.server.client.get_pool("p").await.expect("the pool");
    assert_eq!(shown.version, 1, "a brake is no setting");
    eventually("it shows who is silent now", || async {
        let shown = pool.server.client.get_pool("p").await.expect("the pool");
        shown.brake.expect("it is on").silent_agents == 6
    })
    .await;
    let table = pool
        .server
        .raw("GET", "/v1/pools", &[("accept", "text/plain")], "");
    let table = table.await.text;
    assert!(
        table.contains("BRAKE") && table.contains("on, 6 silent"),
        "{table}"
    );
    assert_eq!(pool.server.metric("lessor_brake{pool=\"p\"}").await, 1.0);
    assert_eq!(events(&pool.server).await, [on(5, 8)]);
    the_books_agree(&pool.server).await;
    for server in others {
        server.stop().await;
    }
    pool.server.stop().await;
}

#[tokio::test]
async fn nothing_is_restarted_while_much_of_a_pool_is_silent() {
    holds_on_lost(OnLost::Restart).await;
}

#[tokio::test]
async fn nothing_is_failed_while_much_of_a_pool_is_silent() {
    holds_on_lost(OnLost::Fail).await;
}

#[tokio::test]
async fn it_lifts_by_itself_and_the_time_for_adoption_goes_on_where_it_stood() {
    let mut pool = Pool::of("p", 8, OnLost::Fail, 6.0).await;
    // One domain is lost before the brake, three under it.
    pool.vanish(0..1).await;
    let lost = "SELECT count(*) FROM resource_domains
        WHERE name = 'd0' AND lost_since < clock_timestamp() - interval '1 second'";
    eventually("some of its time has passed", || async {
        count(&pool.server, lost).await == 1
    })
    .await;
    pool.vanish(1..4).await;
    pool.turns_on().await;
    let before = |domain: &str| {
        format!(
            "greatest('0', (SELECT brake_since FROM pools)
                - (SELECT lost_since FROM resource_domains WHERE name = '{domain}'))"
        )
    };
    let passed = [
        seconds(&pool.server, &before("d0")).await,
        seconds(&pool.server, &before("d3")).await,
    ];
    assert!((1.0..6.0).contains(&passed[0]), "{passed:?}");
    pool.is_overdue(0).await;
    assert_eq!(pool.state(0).await, SessionState::Running);

    for n in 1..3 {
        let held = TestAgent::held(&pool.held[n..=n]);
        let kept = pool.agents[n].restart(&held).await.keep;
        assert_eq!(kept.len(), 1, "it finds its session as it left it");
    }
    pool.turns_off().await;
    let off = "(SELECT max(at) FROM event_history WHERE kind = 'pool.brake_off')";
    let after = |domain: &str| {
        format!("{off} - (SELECT lost_since FROM resource_domains WHERE name = '{domain}')")
    };
    for (domain, passed) in ["d0", "d3"].into_iter().zip(passed) {
        let now_passed = seconds(&pool.server, &after(domain)).await;
        assert!(
            (now_passed - passed).abs() < 0.01,
            "{domain}: {passed} s had passed before the brake, and {now_passed} s after it"
        );
    }
    for (n, passed) in [0, 3].into_iter().zip(passed) {
        pool.server.reaches(pool.id(n), SessionState::Failed).await;
        let failed = format!(
            "(SELECT ended_at FROM sessions WHERE id = '{}') - {off}",
            pool.id(n)
        );
        let failed = seconds(&pool.server, &failed).await;
        assert!(
            failed >= 6.0 - passed - 0.01,
            "after {failed} s, when {passed} s had passed before"
        );
    }
    assert_eq!(pool.state(1).await, SessionState::Running);
    let events = events(&pool.server).await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(
        (events[1].0.as_str(), events[1].1.as_deref()),
        ("pool.brake_off", Some("recovered"))
    );
    the_books_agree(&pool.server).await;
    pool.server.stop().await;
}

#[tokio::test]
async fn an_operator_releases_it_and_the_same_silence_does_not_brake_again() {
    let mut pool = Pool::of("p", 6, OnLost::Fail, 0.0).await;
    let client = pool.server.client.clone();
    assert_eq!(
        refused(client.release_brake("q").await),
        ProblemCode::PoolNotFound
    );
    let before = client.get_pool("p").await.expect("the pool");
    let same = client.release_brake("p").await.expect("200");
    assert_eq!(
        (same.version, same.updated_at),
        (before.version, before.updated_at)
    );
    let touched = "SELECT count(*) FROM pools WHERE brake_released_at IS NOT NULL";
    assert_eq!(count(&pool.server, touched).await, 0, "nothing changed");
    assert!(events(&pool.server).await.is_empty());

    pool.vanish(0..3).await;
    pool.turns_on().await;
    pool.is_overdue(0).await;
    assert_eq!(pool.state(0).await, SessionState::Running);
    let answer = pool
        .server
        .send("POST", "/v1/pools/p/release-brake", "")
        .await;
    assert_eq!(answer.header("etag"), "\"1\"");
    assert!(answer.ok(200)["brake"].is_null());
    for n in 0..3 {
        pool.server.reaches(pool.id(n), SessionState::Failed).await;
    }
    eventually("nobody counts as silent", || async {
        pool.server.metric("lessor_agents_silent{pool=\"p\"}").await == 0.0
    })
    .await;
    assert_eq!(pool.server.metric("lessor_brake{pool=\"p\"}").await, 0.0);
    let off = (
        "pool.brake_off".to_owned(),
        Some("released".to_owned()),
        "user:anonymous".to_owned(),
        3,
        6,
    );
    assert_eq!(events(&pool.server).await, [on(3, 6), off.clone()]);

    // Time passes. One of them returns and falls silent again, two more with it: that is news.
    let past = "UPDATE agents SET last_heartbeat_at = last_heartbeat_at - interval '400 seconds'
            WHERE NOT live;
        UPDATE pools SET brake_released_at = brake_released_at - interval '400 seconds'";
    run(&pool.server, past).await;
    pool.agents[0].restart(&[]).await;
    pool.vanish(0..1).await;
    pool.vanish(3..5).await;
    pool.turns_on().await;
    assert_eq!(events(&pool.server).await, [on(3, 6), off, on(3, 4)]);
    pool.server.stop().await;
}

#[tokio::test]
async fn two_silent_agents_never_brake() {
    let pool = Pool::of("p", 2, OnLost::Fail, 0.0).await;
    pool.vanish(0..2).await;
    for n in 0..2 {
        pool.server.reaches(pool.id(n), SessionState::Failed).await;
    }
    assert!(events(&pool.server).await.is_empty());
    pool.server.stop().await;
}

#[tokio::test]
async fn three_silent_agents_of_ten_do_not_brake() {
    let pool = Pool::of("p", 10, OnLost::Fail, 0.0).await;
    pool.vanish(0..3).await;
    for n in 0..3 {
        pool.server.reaches(pool.id(n), SessionState::Failed).await;
    }
    eventually("it is seen who is silent", || async {
        pool.server.metric("lessor_agents_silent{pool=\"p\"}").await == 3.0
    })
    .await;
    assert!(events(&pool.server).await.is_empty());
    pool.server.stop().await;
}

/// Beats can be taken, for as long as the test lasts.
const PULSE: &str = "INSERT INTO pulse (at) VALUES (now() + interval '1 hour')
    ON CONFLICT (single) DO UPDATE SET at = excluded.at, gap_at = NULL";

/// Ends upkeep and the server; the database stays, and beats count as possible.
async fn without_upkeep(pool: &Pool) {
    pool.server.app.finish().await;
    run(&pool.server, PULSE).await;
}

/// Agents whose lease has ended just now, and whose domains are due at the same moment.
fn lost(names: &str) -> String {
    format!(
        "BEGIN; UPDATE agents SET last_heartbeat_at = clock_timestamp() - interval '301 seconds',
            live = false, expired_at = clock_timestamp(), slots_used = 0 WHERE name IN ({names});
         UPDATE lease_ledger SET ended_at = clock_timestamp(),
            end_reason = 'lease_expired' WHERE agent IN ({names});
         UPDATE sessions SET assigned_agent_id = NULL, assigned_incarnation = NULL, assigned_action = NULL,
            deliver_at = NULL, phase_deadline_at = NULL WHERE assigned_agent_id IN ({names});
         UPDATE resource_domains d SET lost_since = clock_timestamp() - interval '1 minute'
            FROM agents a WHERE a.name IN ({names}) AND d.name = a.resource_domain; COMMIT"
    )
}

#[tokio::test]
async fn the_decision_itself_judges_the_silence() {
    let pool = Pool::of("p", 6, OnLost::Fail, 0.0).await;
    let servers = [pool.server.beside().await, pool.server.beside().await];
    for server in &servers {
        server.app.finish().await;
    }
    without_upkeep(&pool).await;
    let sweep = || async {
        let apps = [&pool.server.app, &servers[0].app, &servers[1].app];
        for swept in join_all(apps.map(lessor::leases::sweep_lost_domains)).await {
            swept.expect("it sweeps");
        }
    };
    run(&pool.server, &lost(&names(0..3))).await;
    sweep().await;
    sweep().await;
    for n in 0..3 {
        assert_eq!(pool.kept_state(n).await, "running");
    }
    assert_eq!(events(&pool.server).await, [on(3, 6)]);
    // The same with one fewer is decided: what held it was the silence.
    let back =
        "UPDATE agents SET last_heartbeat_at = clock_timestamp(), live = true, expired_at = NULL,
        lease_expires_at = clock_timestamp() + interval '300 seconds' WHERE name = 'a2'";
    run(&pool.server, back).await;
    lessor::brake::run(&pool.server.app)
        .await
        .expect("it looks");
    let braked = "SELECT count(*) FROM pools WHERE brake_since IS NOT NULL";
    assert_eq!(count(&pool.server, braked).await, 0);
    run(&pool.server, &lost(&names(0..2))).await;
    sweep().await;
    for n in 0..2 {
        assert_eq!(pool.kept_state(n).await, "failed");
    }
    assert_eq!(pool.kept_state(2).await, "running");
}

#[tokio::test]
async fn silence_that_falls_while_a_decision_waits_for_its_locks_still_holds_it() {
    let pool = Pool::of("p", 6, OnLost::Fail, 0.0).await;
    without_upkeep(&pool).await;
    run(&pool.server, &lost(&names(0..1))).await;
    let holder = pool.server.database.client().await;
    let lock = format!(
        "BEGIN; SELECT FROM sessions WHERE id = '{}' FOR UPDATE",
        pool.id(0)
    );
    holder.batch_execute(&lock).await.expect("a lock");
    let app = std::sync::Arc::clone(&pool.server.app);
    let sweep = tokio::spawn(async move { lessor::leases::sweep_lost_domains(&app).await });
    eventually("the sweep waits for the session", || async {
        count(&pool.server, WAIT_FOR_LOCKS).await == 1
    })
    .await;
    run(&pool.server, &gone(&names(1..3))).await;
    holder.batch_execute("COMMIT").await.expect("unlocked");
    sweep.await.expect("the task").expect("it sweeps");
    assert_eq!(pool.kept_state(0).await, "running");
    assert_eq!(events(&pool.server).await, [on(3, 6)]);
}

#[tokio::test]
async fn many_servers_turn_one_brake_once() {
    let pool = Pool::of("p", 4, OnLost::Wait, 0.0).await;
    let others = [pool.server.beside().await, pool.server.beside().await];
    let apps: Vec<_> = [&pool.server, &others[0], &others[1]]
        .map(|server| std::sync::Arc::clone(&server.app))
        .into();
    let look = || async {
        let crowd = apps.iter().cycle().take(12);
        for looked in join_all(crowd.map(lessor::brake::run)).await {
            looked.expect("it looks");
        }
    };
    for round in 1..=5 {
        run(
            &pool.server,
            &gone(&names(0..3)).replace("- interval '1 second'", "+ interval '1 hour'"),
        )
        .await;
        look().await;
        pool.turns_on().await;
        run(
            &pool.server,
            "UPDATE agents SET last_heartbeat_at = clock_timestamp()",
        )
        .await;
        look().await;
        pool.turns_off().await;
        let kinds: Vec<String> = events(&pool.server)
            .await
            .into_iter()
            .map(|e| e.0)
            .collect();
        let expected = ["pool.brake_on", "pool.brake_off"].repeat(round);
        assert_eq!(kinds, expected);
    }
    for server in others {
        server.stop().await;
    }
    pool.server.stop().await;
}

#[tokio::test]
async fn who_is_silent_and_who_counts() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.app.finish().await;
    run(&server, PULSE).await;
    let client = server.database.client().await;
    let sql = |text: String| {
        let client = &client;
        async move { client.batch_execute(&text).await.expect("the statement") }
    };
    let stands = || async {
        let row = client.query_one(
            "SELECT silent_agents, counted_agents, holds FROM pool_silence",
            &[],
        );
        let row = row.await.expect("a pool");
        (
            row.get::<_, i64>(0),
            row.get::<_, i64>(1),
            row.get::<_, bool>(2),
        )
    };
    assert_eq!(stands().await, (0, 0, false), "a pool without agents");
    let agents = |silent: usize, beating: usize| {
        format!(
            "DELETE FROM agents; UPDATE pools SET brake_released_at = NULL;
             INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
                lease_expires_at, last_heartbeat_at, registered_at)
             SELECT 'a' || n, 'p', 'd', 1, 1, 1, true, now() + interval '10 seconds',
                clock_timestamp() - make_interval(secs => CASE WHEN n <= {silent} THEN 21 ELSE 10 END), now()
             FROM generate_series(1, {silent} + {beating}) n"
        )
    };
    for (silent, beating, holds) in [
        (2, 0, false),
        (3, 0, true),
        (3, 3, true),
        (3, 4, false),
        (3, 7, false),
        (4, 4, true),
        (10, 10, true),
        (10, 11, false),
    ] {
        sql(agents(silent, beating)).await;
        let counts = (silent as i64, (silent + beating) as i64, holds);
        assert_eq!(stands().await, counts, "{silent} silent, {beating} beating");
    }
    let expire = "UPDATE agents SET live = false, expired_at = clock_timestamp() - interval";
    for (change, counts, what) in [
        (
            format!("{expire} '59 minutes'"),
            (3, 3, true),
            "a lease that ended an hour ago at most",
        ),
        (
            format!("{expire} '61 minutes'"),
            (0, 0, false),
            "a dead name",
        ),
        (
            format!("{expire} '61 minutes' WHERE name = 'a1'"),
            (2, 2, false),
            "one dead name",
        ),
        (
            "DELETE FROM agents WHERE name = 'a1'".to_owned(),
            (2, 2, false),
            "a goodbye",
        ),
        (
            "UPDATE pools SET brake_released_at = clock_timestamp()".to_owned(),
            (0, 0, false),
            "silent since before a release",
        ),
        (
            "UPDATE pools SET brake_released_at = clock_timestamp() - interval '22 seconds'"
                .to_owned(),
            (3, 3, true),
            "silent since after a release",
        ),
        (
            "UPDATE pools SET lease_ttl_seconds = 60".to_owned(),
            (0, 3, false),
            "a longer lease",
        ),
        (
            "UPDATE pools SET lease_ttl_seconds = 30".to_owned(),
            (3, 3, true),
            "the lease again",
        ),
        (
            "UPDATE pulse SET gap_at = clock_timestamp() - interval '10 seconds'".to_owned(),
            (3, 3, false),
            "an outage of all servers lately",
        ),
        (
            "UPDATE pools SET brake_since = now(), brake_silent_agents = 3".to_owned(),
            (3, 3, true),
            "the brake was on before that outage",
        ),
    ] {
        sql(agents(3, 0)).await;
        sql(change).await;
        assert_eq!(stands().await, counts, "{what}");
    }
}

#[tokio::test]
async fn an_outage_under_a_brake_is_not_counted_twice() {
    let server = TestServer::start().await;
    for name in ["braked", "free"] {
        server.pool(name, |_| {}).await;
    }
    server.app.finish().await;
    run(&server, PULSE).await;
    run(
        &server,
        "INSERT INTO resource_domains (pool, name, lost_since)
            SELECT name, 'd', now() - interval '110 seconds' FROM pools;
         UPDATE pools SET brake_since = now() - interval '100 seconds', brake_silent_agents = 3
            WHERE name = 'braked';
         UPDATE pulse SET at = now() - interval '50 seconds'",
    )
    .await;
    let client = server.database.client().await;
    let pulse = client
        .query_one(include_str!("../src/leases/pulse.sql"), &[&5.0_f64])
        .await;
    assert!(pulse.expect("a pulse").get::<_, bool>(0), "it was a gap");
    let lost_for = |pool: &str| {
        format!(
            "clock_timestamp() - (SELECT lost_since FROM resource_domains WHERE pool = '{pool}')"
        )
    };
    let (braked, free) = (
        seconds(&server, &lost_for("braked")).await,
        seconds(&server, &lost_for("free")).await,
    );
    assert!((110.0..115.0).contains(&braked), "{braked}");
    assert!((60.0..65.0).contains(&free), "{free}");
    // The brake goes off, as nobody is silent: the ten seconds before it are what has passed.
    lessor::brake::run(&server.app).await.expect("it looks");
    let braked = seconds(&server, &lost_for("braked")).await;
    assert!((10.0..15.0).contains(&braked), "{braked}");
}

#[tokio::test]
async fn agents_whose_silence_holds_a_brake_are_not_forgotten() {
    let pool = Pool::of("p", 4, OnLost::Wait, 0.0).await;
    let patch = serde_json::json!({"agent_retention_seconds": 0});
    pool.server
        .client
        .patch_pool("p", &patch)
        .await
        .expect("200");
    pool.vanish(0..3).await;
    pool.turns_on().await;
    let client = pool.server.database.client().await;
    let retention = include_str!("../src/upkeep/delete_agents.sql");
    let deleted = client.query_one(retention, &[]).await.expect("a count");
    assert_eq!(deleted.get::<_, i64>(0), 0);
    pool.server.client.release_brake("p").await.expect("200");
    let deleted = client.query_one(retention, &[]).await.expect("a count");
    assert_eq!(deleted.get::<_, i64>(0), 3);
    pool.server.stop().await;
}

#[tokio::test]
async fn goodbyes_and_new_agents_lift_it() {
    let pool = Pool::of("p", 6, OnLost::Wait, 0.0).await;
    pool.vanish(0..3).await;
    pool.turns_on().await;
    let newcomer = pool.server.agent("new", "p", "new", 1).await;
    pool.turns_off().await;
    newcomer
        .client
        .deregister_agent("new", Some(newcomer.incarnation), false)
        .await
        .expect("204");
    pool.turns_on().await;
    let client = &pool.server.client;
    client
        .deregister_agent("a0", None, false)
        .await
        .expect("204");
    pool.turns_off().await;
    let events = events(&pool.server).await;
    assert_eq!(events.len(), 4, "{events:?}");
    pool.server.stop().await;
}

/// Twenty agents at three servers; half of them are behind a load balancer that fails for longer
/// than their leases last.
#[tokio::test]
async fn a_fleet_survives_the_outage_of_a_load_balancer() {
    const AGENTS: usize = 20;
    let server = TestServer::start().await;
    let servers = [server.beside().await, server.beside().await, server];
    let server = &servers[2];
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 9.0;
            pool.on_lost = OnLost::Restart;
            pool.adopt_timeout_seconds = 3.0;
        })
        .await;
    let (mut agents, mut beats, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..AGENTS {
        let at = &servers[n % servers.len()];
        let agent = at.agent(&format!("a{n}"), "p", &format!("d{n}"), 3).await;
        beats.push(agent.keep_beating(0.5));
        at.session("p").await;
        held.push(agent.runs_one().await);
        agents.push(agent);
    }
    for beating in &beats[..AGENTS / 2] {
        beating.abort();
    }
    let expired = "SELECT count(*) FROM agents WHERE NOT live";
    eventually("their leases have ended", || async {
        count(server, expired).await == AGENTS as i64 / 2
    })
    .await;
    let overdue = "SELECT count(*) FROM resource_domains
        WHERE lost_since < clock_timestamp() - interval '5 seconds'";
    eventually("their domains are overdue", || async {
        count(server, overdue).await == AGENTS as i64 / 2
    })
    .await;
    // The other half would take whatever it is given.
    for agent in &agents[AGENTS / 2..] {
        assert!(agent.claim(3, 0.0).await.is_empty());
    }
    for (agent, assignment) in agents.iter_mut().zip(&held).take(AGENTS / 2) {
        let held = TestAgent::held(std::slice::from_ref(assignment));
        assert_eq!(agent.restart(&held).await.keep.len(), 1);
        beats.push(agent.keep_beating(0.5));
    }
    eventually("the brake is off", || async {
        let pool = server.client.get_pool("p").await.expect("the pool");
        pool.brake.is_none()
    })
    .await;
    for assignment in &held {
        let session = server.get(assignment.session.id).await;
        assert_eq!(
            (session.state, session.attempt),
            (SessionState::Running, assignment.session.attempt)
        );
        assert_eq!(
            session.platform_resource_id,
            Some(format!("resource-{}", session.id))
        );
    }
    assert_eq!(count(server, "SELECT count(*) FROM leftovers").await, 0);
    let kinds: Vec<String> = events(server).await.into_iter().map(|e| e.0).collect();
    assert_eq!(kinds, ["pool.brake_on", "pool.brake_off"]);
    // Missed beats are seen before the first lease ends.
    let before = "(SELECT min(at) FROM event_history WHERE kind = 'agent.expired')
        - (SELECT at FROM event_history WHERE kind = 'pool.brake_on')";
    let before = seconds(server, before).await;
    assert!(before > 0.0, "{before}");
    the_books_agree(server).await;
    for beating in beats {
        beating.abort();
    }
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn the_page_on_the_brake_does_what_it_says() {
    let pool = Pool::of("local", 6, OnLost::Wait, 0.0).await;
    pool.vanish(0..3).await;
    eventually("the brake is on", || async {
        let pool = pool.server.client.get_pool("local").await.expect("it");
        pool.brake.is_some()
    })
    .await;
    eventually("the gauges show it", || async {
        pool.server
            .metric("lessor_agents_silent{pool=\"local\"}")
            .await
            == 3.0
    })
    .await;
    let said = runbook::run("brake.md", &pool.server.url).await;
    assert!(said.contains("on, 3 silent"), "{said}");
    assert!(said.contains("lessor_brake{pool=\"local\"} 1"), "{said}");
    assert!(said.contains("\"silent_agents\":3"), "{said}");
    assert!(said.contains("\"brake\":null"), "{said}");
    let kinds: Vec<_> = events(&pool.server)
        .await
        .into_iter()
        .map(|e| (e.0, e.1))
        .collect();
    assert_eq!(
        kinds[1],
        ("pool.brake_off".to_owned(), Some("released".to_owned()))
    );
    pool.server.stop().await;
}
