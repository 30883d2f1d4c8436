//! The stream of events: order, resumption, gaps, filters, limits, retention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lessor_client::{EventFilter, Events, Streamed};
use lessor_protocol::{Event, EventGap, NewSession, ReportedState, SessionState};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::support::checks::{count, everything_has_a_position, tells};
use crate::support::random::Random;
use crate::support::{TestServer, database, eventually, runbook};

const LONG: Duration = Duration::from_secs(30);

/// The next thing of a stream; panics after 30 s.
async fn next(events: &mut Events) -> Streamed {
    tokio::time::timeout(LONG, events.next())
        .await
        .expect("something comes")
        .expect("the stream goes on")
}

/// The next thing of a stream, which must be an event.
async fn event(events: &mut Events) -> Event {
    match next(events).await {
        Streamed::Event(event) => *event,
        Streamed::Gap(gap) => panic!("{gap:?}"),
    }
}

/// The next thing of a stream, which must be a gap: asked, oldest, newest.
async fn gap(events: &mut Events) -> (String, String, String) {
    match next(events).await {
        Streamed::Gap(EventGap {
            asked,
            oldest,
            newest,
        }) => (asked, oldest, newest),
        Streamed::Event(event) => panic!("{event:?}"),
    }
}

/// A stream that is connected: what happens from now on is in it.
async fn open(server: &TestServer, filter: EventFilter, after: Option<&str>) -> Events {
    let mut events = server.client.events(filter, after);
    events.connect().await.expect("it connects");
    events
}

/// What a stream gives up to the first event of this pool, without that.
async fn until(events: &mut Events, pool: &str) -> Vec<Event> {
    let mut found = Vec::new();
    loop {
        let event = event(events).await;
        if event.pool == pool {
            return found;
        }
        found.push(event);
    }
}

/// The first page of a session's timeline, newest first.
async fn timeline(server: &TestServer, id: Uuid) -> Vec<Event> {
    let (id, first) = (id.to_string(), Default::default());
    let page = server.client.session_events(&id, &first).await;
    page.expect("the timeline").items
}

fn ids(events: &[Event]) -> Vec<i64> {
    events
        .iter()
        .map(|e| e.id.parse().expect("a number"))
        .collect()
}

/// Writes an event as any writer does; the tests' own database connection commits it, or not.
fn insert(pool: &str, n: i64) -> String {
    tells(
        "kind, at, pool, actor_type, actor_name, data",
        &format!("VALUES ('test.event', now(), '{pool}', 'system', 'test', '{{\"n\": {n}}}')"),
    )
}

/// As [`insert`], of a session.
fn of_session(id: Uuid, n: i64) -> String {
    tells(
        "kind, at, pool, session_id, actor_type, actor_name, data",
        &format!("VALUES ('test.event', now(), 'p', '{id}', 'system', 'test', '{{\"n\": {n}}}')"),
    )
}

/// Every position of the table, in order.
async fn positions(server: &TestServer) -> Vec<i64> {
    let client = server.database.client().await;
    let rows = client
        .query(
            "SELECT position FROM event_history WHERE position IS NOT NULL ORDER BY position",
            &[],
        )
        .await
        .expect("events");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_stream_shows_what_the_timeline_shows() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let before = server.session("p").await;
    let mut events = open(&server, EventFilter::default(), None).await;
    let session = server.session("p").await;
    let agent = server.agent("a", "p", "d", 5).await;
    for assignment in agent.claim(5, 5.0).await {
        agent.accepts(&assignment, ReportedState::Running).await;
    }
    server.pool("end", |_| {}).await;
    server.session("end").await;
    let found = until(&mut events, "end").await;
    assert_eq!(
        found[0].session_id,
        Some(session.id),
        "it begins with the next: {before:?}"
    );
    assert!(
        found.iter().any(|e| e.kind == "agent.registered"),
        "{found:?}"
    );
    assert!(ids(&found).is_sorted(), "{found:?}");
    // The timeline is read at once after the change; each event has one id.
    for id in [session.id, before.id] {
        let mut timeline = timeline(&server, id).await;
        timeline.reverse();
        let streamed = found.iter().filter(|e| e.session_id == Some(id));
        let streamed: Vec<_> = streamed
            .map(|e| serde_json::to_value(e).expect("JSON"))
            .collect();
        let timeline: Vec<_> = timeline
            .iter()
            .map(|e| serde_json::to_value(e).expect("JSON"))
            .collect();
        let skipped = usize::from(id == before.id);
        assert_eq!(timeline[skipped..], streamed);
        assert!(timeline.len() > 2, "{timeline:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_position_yet_is_waited_for() {
    const MOMENT: Duration = Duration::from_millis(500);
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut client = server.database.client().await;
    let turn = "SELECT last_position FROM event_head FOR UPDATE";
    // Nobody can give positions now, as while another server does.
    let others = client.transaction().await.expect("a transaction");
    others.query_one(turn, &[]).await.expect("the turn");
    let first = server.session("p").await;
    let mut read = Box::pin(timeline(&server, first.id));
    let early = tokio::time::timeout(MOMENT, &mut read).await;
    assert!(early.is_err(), "who has made a change finds it: {early:?}");
    others.commit().await.expect("the turn is over");
    assert_eq!(ids(&read.await), [1]);

    let others = client.transaction().await.expect("a transaction");
    others.query_one(turn, &[]).await.expect("the turn");
    server.session("p").await;
    let mut begin = Box::pin(open(&server, EventFilter::default(), None));
    let early = tokio::time::timeout(MOMENT, &mut begin).await;
    assert!(early.is_err(), "what came before is not the next");
    others.commit().await.expect("the turn is over");
    let mut events = begin.await;
    let next = server.session("p").await;
    assert_eq!(event(&mut events).await.session_id, Some(next.id));
    server.stop().await;
}

#[tokio::test]
async fn the_bytes_are_server_sent_events() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let session = server.session("p").await;
    let mut answer = reqwest::Client::new()
        .get(format!("{}/v1/events", server.url))
        .header("Last-Event-ID", "0")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(answer.headers().contains_key("x-request-id"));
    let mut text = String::new();
    while !text.contains("data: ") || !text.ends_with("\n\n") {
        let chunk = tokio::time::timeout(LONG, answer.chunk())
            .await
            .expect("in time");
        text.push_str(std::str::from_utf8(&chunk.expect("bytes").expect("more")).expect("UTF-8"));
    }
    let blocks: Vec<Vec<&str>> = text
        .split("\n\n")
        .map(|block| block.lines().collect())
        .collect();
    assert_eq!(blocks[0], [": events follow", "id: 0", "retry: 1000"]);
    assert_eq!(blocks[1][..2], ["id: 1", "event: session.created"]);
    let data: serde_json::Value =
        serde_json::from_str(blocks[1][2].strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(
        (&data["id"], &data["session_id"]),
        (&json!("1"), &json!(session.id))
    );
    assert!(data.get("owner").is_none(), "{data}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let server = TestServer::start().await;
    for (query, header, pointer) in [
        ("", Some("x"), "Last-Event-ID"),
        ("", Some("-1"), "Last-Event-ID"),
        ("", Some("9223372036854775808"), "Last-Event-ID"),
        ("last_event_id=1x", None, "last_event_id"),
        ("last_event_id=", None, "last_event_id"),
        // The header goes first.
        ("last_event_id=0", Some("x"), "Last-Event-ID"),
        ("kind=Session", None, "kind"),
        ("kind=session*", None, "kind"),
        ("pool=A", None, "pool"),
        ("agent=%20", None, "agent"),
        ("nonsense=1", None, "nonsense"),
    ] {
        let headers: Vec<_> = header.map(|id| ("last-event-id", id)).into_iter().collect();
        let answer = server
            .raw("GET", &format!("/v1/events?{query}"), &headers, "")
            .await;
        answer.is_problem(422, "validation_failed", query);
        assert_eq!(
            answer.json()["errors"][0]["pointer"],
            pointer,
            "{query} {header:?}"
        );
    }
    let unknown = server.fetch("/v1/events?session=nobody").await;
    unknown.is_problem(404, "session_not_found", "a name");
    server.stop().await;

    let token = |settings: &mut lessor::app::Settings| settings.admin_token = Some("secret".into());
    let closed = TestServer::over(database().await, token).await;
    closed
        .fetch("/v1/events")
        .await
        .is_problem(401, "unauthenticated", "no token");
    let client = lessor_client::Client::new(&closed.url, Some("secret")).expect("a client");
    let mut events = client.events(EventFilter::default(), None);
    events.connect().await.expect("with the token");
    closed.stop().await;
}

#[tokio::test]
async fn a_sessions_events_keep_their_order_when_the_first_commits_late() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let id = server.session("p").await.id;
    everything_has_a_position(&server).await;
    let event = |n: i64| of_session(id, n);
    let lock = format!("SELECT FROM sessions WHERE id = '{id}' FOR UPDATE");
    let (first, second) = (
        server.database.client().await,
        server.database.client().await,
    );
    let begin = format!("BEGIN; {lock}; {}", event(1));
    first.batch_execute(&begin).await.expect("an event");
    let late = tokio::spawn({
        let change = format!("BEGIN; {lock}; {}; COMMIT", event(2));
        async move { second.batch_execute(&change).await.expect("an event") }
    });
    // Others' events get their positions meanwhile, and the sequencer goes on behind these.
    for _ in 0..20 {
        server.sessions("p", 1).await;
        everything_has_a_position(&server).await;
    }
    let committed = Instant::now();
    first.batch_execute("COMMIT").await.expect("committed");
    late.await.expect("it ends");
    everything_has_a_position(&server).await;
    let waited = committed.elapsed();
    let client = server.database.client().await;
    let text =
        "SELECT (data->>'n')::int FROM event_history WHERE kind = 'test.event' ORDER BY position";
    let rows = client.query(text, &[]).await.expect("events");
    let order: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(order, [1, 2]);
    // Not only by the look at all that comes every few seconds.
    assert!(waited < Duration::from_millis(3_500), "{waited:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_commits_late_comes_late_and_holds_up_nobody() {
    let server = TestServer::start().await;
    let other = server.beside().await;
    let mut here = open(&server, EventFilter::default(), None).await;
    let mut there = open(&other, EventFilter::default(), None).await;
    let (mut one, two) = (
        server.database.client().await,
        server.database.client().await,
    );
    let first = one.transaction().await.expect("a transaction");
    first
        .batch_execute(&insert("early", 1))
        .await
        .expect("an event");
    // The first has the lower number and is not committed: a long transaction, too.
    for n in 0..3 {
        two.batch_execute(&insert("late", n))
            .await
            .expect("an event");
        for events in [&mut here, &mut there] {
            let event = event(events).await;
            assert_eq!((event.pool.as_str(), &event.data["n"]), ("late", &json!(n)));
        }
    }
    // One that is rolled back leaves no hole.
    let mut three = server.database.client().await;
    let never = three.transaction().await.expect("a transaction");
    never
        .batch_execute(&insert("never", 1))
        .await
        .expect("an event");
    never.rollback().await.expect("rolled back");
    first.commit().await.expect("committed");
    for events in [&mut here, &mut there] {
        assert_eq!(event(events).await.pool, "early");
    }
    assert_eq!(positions(&server).await, [1, 2, 3, 4]);
    server.stop().await;
    other.stop().await;
}

/// Sessions that are created, run and ended through random servers.
async fn load(servers: &[TestServer], random: &Arc<Random>, agents: usize, sessions: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..agents {
        let server = random.pick(servers);
        let mut agent = server
            .agent(&format!("agent-{number}"), "p", "d", 1000)
            .await;
        let clients: Vec<_> = servers.iter().map(|server| server.client.clone()).collect();
        let random = random.split();
        let mine = sessions / agents;
        tasks.spawn(async move {
            let mut made = 0;
            // To the end of all of them: what an agent that went would hold, nobody had before its lease is over.
            loop {
                agent.client = random.pick(&clients).clone();
                if made < mine {
                    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
                    new.owner = Some(format!("owner-{}", random.below(3)));
                    agent
                        .client
                        .create_session(&new, None)
                        .await
                        .expect("it is made");
                    made += 1;
                }
                let wait = if made < mine { 0.0 } else { 0.5 };
                for assignment in agent.claim(3, wait).await {
                    let id = assignment.session.id.to_string();
                    if assignment.session.state == SessionState::Pending {
                        agent.accepts(&assignment, ReportedState::Running).await;
                        let how = lessor_client::DeleteSession::default();
                        agent
                            .client
                            .delete_session(&id, &how)
                            .await
                            .expect("its end is wanted");
                    } else {
                        agent.accepts(&assignment, ReportedState::Terminated).await;
                    }
                }
                let left = lessor_client::SessionFilter {
                    pool: Some("p".into()),
                    paging: lessor_client::Paging {
                        limit: Some(200),
                        ..Default::default()
                    },
                    ..Default::default()
                };
                if made == mine && wait > 0.0 {
                    let page = agent.client.list_sessions(&left).await.expect("sessions");
                    if page
                        .items
                        .iter()
                        .all(|s| s.state == SessionState::Terminated)
                    {
                        break;
                    }
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task failed");
    }
}

#[tokio::test]
async fn a_stream_resumes_on_any_server_with_no_gap_and_no_duplicate() {
    let random = Arc::new(Random::seeded());
    let first = TestServer::start().await;
    let servers = [first.beside().await, first.beside().await, first];
    servers[0].pool("p", |_| {}).await;
    servers[0].pool("end", |_| {}).await;
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..6 {
        let clients: Vec<_> = servers.iter().map(|server| server.client.clone()).collect();
        let random = random.split();
        readers.spawn(async move {
            let (mut found, mut cuts) = (Vec::new(), 0);
            // Half of them before anything has happened; a cut may come before the first event.
            let mut last = (number % 2 == 0).then(|| "0".to_owned());
            loop {
                let mut events = random
                    .pick(&clients)
                    .events(EventFilter::default(), last.as_deref());
                events.connect().await.expect("it connects");
                if last.is_none() {
                    assert_eq!(events.last_event_id(), Some("0"), "it says from where on");
                }
                last = events.last_event_id().map(ToOwned::to_owned);
                for _ in 0..random.below(25) {
                    let event = event(&mut events).await;
                    last = Some(event.id.clone());
                    let ended = event.pool == "end";
                    found.push(event);
                    if ended {
                        return (found, cuts);
                    }
                }
                cuts += 1;
            }
        });
    }
    eventually("all read", || async {
        servers[0].metric("lessor_event_streams").await == 6.0
    })
    .await;
    load(&servers, &random, 4, 60).await;
    servers[1].session("end").await;
    let mut wanted: Option<Vec<i64>> = None;
    while let Some(reader) = readers.join_next().await {
        let (found, cuts) = reader.expect("no reader failed");
        assert!(cuts > 5, "only {cuts} cuts");
        let got = ids(&found);
        assert_eq!(
            got,
            (1..=got.len() as i64).collect::<Vec<_>>(),
            "dense, each once"
        );
        match &wanted {
            None => wanted = Some(got),
            Some(wanted) => assert_eq!(*wanted, got, "all readers have the same"),
        }
        let mut by_session: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
        for event in &found {
            if let Some(id) = event.session_id {
                by_session.entry(id).or_default().push(event.id.clone());
            }
        }
        let mut kinds: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
        for event in &found {
            if let Some(id) = event.session_id {
                kinds.entry(id).or_default().push(&event.kind);
            }
        }
        let begun = [
            "session.created",
            "session.offered",
            "session.accepted",
            "session.state_changed",
        ];
        for kinds in kinds.values().filter(|kinds| kinds.len() > 4) {
            assert_eq!(kinds[..4], begun, "as they were committed: {kinds:?}");
        }
        for (id, streamed) in by_session.iter().take(20) {
            let timeline = timeline(&servers[0], *id).await;
            let timeline: Vec<_> = timeline.into_iter().rev().map(|e| e.id).collect();
            assert_eq!(timeline, *streamed);
        }
        assert!(by_session.len() > 50, "{}", by_session.len());
    }
    let wanted = wanted.expect("a reader");
    assert!(wanted.len() > 300, "{}", wanted.len());
    assert_eq!(positions(&servers[0]).await[..wanted.len()], wanted);
    // The ledger of versions: each change of a session has one, and they rise with the positions.
    let wrong = "SELECT count(*) FROM (SELECT lease_epoch, lag(lease_epoch) OVER (PARTITION BY session_id ORDER BY position) AS before
        FROM event_history WHERE session_id IS NOT NULL) AS e WHERE lease_epoch < before";
    assert_eq!(count(&servers[0], wrong).await, 0);
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test]
async fn many_sequencers_and_some_that_die_give_dense_positions_in_commit_order() {
    let random = Arc::new(Random::seeded());
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let sessions: Vec<Uuid> = server.sessions("p", 5).await.iter().map(|s| s.id).collect();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (mut client, random, sessions) = (
            server.database.client().await,
            random.split(),
            sessions.clone(),
        );
        writers.spawn(async move {
            for _ in 0..60 {
                let id = *random.pick(&sessions);
                let work = client.transaction().await.expect("a transaction");
                let lock = format!("SELECT priority FROM sessions WHERE id = '{id}' FOR UPDATE");
                let n: i32 = work.query_one(&lock, &[]).await.expect("a lock").get(0);
                let write = format!(
                    "UPDATE sessions SET priority = priority + 1 WHERE id = '{id}'; {}",
                    of_session(id, i64::from(n))
                );
                work.batch_execute(&write).await.expect("an event");
                if random.percent(20) {
                    work.rollback().await.expect("rolled back");
                } else {
                    work.commit().await.expect("committed");
                }
            }
        });
    }
    let mut sequencers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mut client, random) = (server.database.client().await, random.split());
        sequencers.spawn(async move {
            for _ in 0..200 {
                let work = client.transaction().await.expect("a transaction");
                work.execute("SELECT sequence_events()", &[])
                    .await
                    .expect("a step");
                if random.percent(30) {
                    drop(work.rollback().await);
                } else {
                    work.commit().await.expect("committed");
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("no writer failed");
    }
    while let Some(ended) = sequencers.join_next().await {
        ended.expect("no sequencer failed");
    }
    everything_has_a_position(&server).await;
    let found = positions(&server).await;
    assert_eq!(found, (1..=found.len() as i64).collect::<Vec<_>>());
    let head = "SELECT last_position FROM event_head";
    assert_eq!(count(&server, head).await, found.len() as i64);
    let client = server.database.client().await;
    let rows = "SELECT session_id::text, (data->>'n')::bigint FROM event_history WHERE kind = 'test.event' ORDER BY position";
    let mut by_session: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in client.query(rows, &[]).await.expect("events") {
        by_session.entry(row.get(0)).or_default().push(row.get(1));
    }
    assert_eq!(by_session.len(), 5);
    for (id, numbers) in by_session {
        assert_eq!(
            numbers,
            (0..numbers.len() as i64).collect::<Vec<_>>(),
            "{id}"
        );
    }
    server.stop().await;
}

/// So many events of a pool, each with a position.
async fn filled(server: &TestServer, pool: &str, events: i64) {
    let client = server.database.client().await;
    let text = tells(
        "kind, at, pool, actor_type, actor_name, data",
        &format!(
            "SELECT 'test.event', now(), '{pool}', 'system', 'test', jsonb_build_object('n', n) \
             FROM generate_series(1, {events}) AS n ORDER BY n"
        ),
    );
    client.batch_execute(&text).await.expect("events");
    everything_has_a_position(server).await;
}

#[tokio::test]
async fn retention_takes_the_oldest_and_streams_say_so() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.keep_ended_seconds = 0.0).await;
    let session = server.session("p").await;
    filled(&server, "x", 7_000).await;
    assert_eq!(ids(&timeline(&server, session.id).await), [1]);
    let client = server.database.client().await;
    let age = "UPDATE events SET at = at - interval '2 days' FROM event_batches b
        WHERE b.batch = events.batch AND (b.first_position <= 6500 OR b.first_position = 6600)";
    client.batch_execute(age).await.expect("older");
    let day = Duration::from_secs(86_400);
    let mut more = true;
    let mut steps = 0;
    while more {
        more = lessor::events::delete_old(&server.app, day)
            .await
            .expect("a step");
        steps += 1;
    }
    assert_eq!(steps, 2, "5,000 at once");
    // One that is old behind one that is not stays, so that there is no hole.
    assert_eq!(
        positions(&server).await,
        (6_501..=7_001).collect::<Vec<_>>()
    );
    assert!(timeline(&server, session.id).await.is_empty());

    let all = EventFilter::default;
    let mut oldest = open(&server, all(), Some("0")).await;
    assert_eq!(event(&mut oldest).await.id, "6501", "`0` is no gap");
    for asked in ["1", "6499"] {
        let mut old = open(&server, all(), Some(asked)).await;
        let said = (asked.to_owned(), "6501".to_owned(), "7001".to_owned());
        assert_eq!(gap(&mut old).await, said);
        assert_eq!(event(&mut old).await.id, "6501");
    }
    let mut kept = open(&server, all(), Some("6500")).await;
    assert_eq!(event(&mut kept).await.id, "6501");
    // Cut off after the gap, it is not told of it again.
    let mut old = open(&server, all(), Some("1")).await;
    gap(&mut old).await;
    let from = old.last_event_id().expect("an id").to_owned();
    assert_eq!(
        event(&mut open(&server, all(), Some(&from)).await).await.id,
        "6501"
    );
    // Cut off before the gap, it is: nothing that has an id comes first.
    let mut answer = reqwest::Client::new()
        .get(format!("{}/v1/events", server.url))
        .header("Last-Event-ID", "1")
        .send()
        .await
        .expect("a stream");
    let mut text = String::new();
    while !text.contains("event: gap") {
        let chunk = answer.chunk().await.expect("it goes on").expect("a block");
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
    }
    assert_eq!(text.matches("id: ").count(), 1, "{text}");
    drop(answer);
    // A position that was never given.
    let mut beyond = open(&server, all(), Some("7002")).await;
    assert_eq!(
        gap(&mut beyond).await,
        ("7002".into(), "6501".into(), "7001".into())
    );
    server.pool("q", |_| {}).await;
    let next = server.session("q").await;
    assert_eq!(event(&mut beyond).await.session_id, Some(next.id));

    // What is past retention goes whether there is a session or not, down to nothing.
    client
        .batch_execute("UPDATE events SET at = at - interval '2 days'")
        .await
        .expect("older");
    while lessor::events::delete_old(&server.app, day)
        .await
        .expect("a step")
    {}
    assert_eq!(count(&server, "SELECT count(*) FROM events").await, 0);
    let last = server.session("q").await;
    let mut all_kept = open(&server, all(), Some("0")).await;
    let first = event(&mut all_kept).await;
    assert_eq!(
        (first.session_id, first.id.as_str()),
        (Some(last.id), "7003")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_is_told() {
    let server = TestServer::start().await;
    filled(&server, "x", 3_000).await;
    let mut events = open(&server, EventFilter::default(), Some("0")).await;
    assert_eq!(event(&mut events).await.id, "1");
    // It does not read on; what it has not been sent yet goes.
    let client = server.database.client().await;
    let age = "UPDATE events SET at = at - interval '2 days', data = '{}' FROM event_batches b
        WHERE b.batch = events.batch AND b.first_position <= 2990";
    client.batch_execute(age).await.expect("older");
    let day = Duration::from_secs(86_400);
    let mut late = open(&server, EventFilter::default(), Some("1")).await;
    while lessor::events::delete_old(&server.app, day)
        .await
        .expect("a step")
    {}
    let mut before = 1;
    loop {
        match next(&mut late).await {
            Streamed::Event(event) => {
                let id: i64 = event.id.parse().expect("a number");
                assert_eq!(id, before + 1, "no hole without a word");
                before = id;
                if id == 3_000 {
                    break;
                }
            }
            Streamed::Gap(gap) => {
                assert_eq!(
                    (gap.asked, gap.oldest.as_str()),
                    (before.to_string(), "2991")
                );
                before = 2_990;
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn events_of_deleted_sessions_stay_until_retention() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.keep_ended_seconds = 0.0).await;
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.owner = Some("o".into());
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let how = lessor_client::DeleteSession::default();
    server
        .client
        .delete_session(&session.id.to_string(), &how)
        .await
        .expect("ended");
    // The first round of a new server is at its start.
    let other = server.beside().await;
    let of_owner = EventFilter {
        owner: Some("o".into()),
        ..Default::default()
    };
    let mut events = open(&other, of_owner, Some("0")).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "session.deleted") {
        kinds.push(event(&mut events).await.kind);
    }
    assert_eq!(kinds[0], "session.created");
    assert!(kinds.len() >= 3, "{kinds:?}");
    assert_eq!(count(&server, "SELECT count(*) FROM sessions").await, 0);
    let by_id = EventFilter {
        session: Some(session.id.to_string()),
        ..Default::default()
    };
    assert_eq!(
        event(&mut open(&other, by_id, Some("0")).await).await.kind,
        "session.created"
    );
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn each_filter_narrows_the_stream_alike_from_memory_and_from_the_table() {
    let server = TestServer::start().await;
    for pool in ["p", "q", "end"] {
        server.pool(pool, |_| {}).await;
    }
    let named = |name: &str, pool: &str, owner: Option<&str>| {
        let mut new = NewSession::in_pool(pool, &json!({})).expect("a spec");
        (new.name, new.owner) = (Some(name.to_owned()), owner.map(ToOwned::to_owned));
        new
    };
    let mine = server
        .client
        .create_session(&named("mine", "p", Some("me")), None)
        .await
        .expect("it");
    let set = |change: &dyn Fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    };
    type Passes = fn(&Event, Uuid) -> bool;
    let filters: Vec<(EventFilter, Passes)> = vec![
        (set(&|f| f.pool = Some("q".into())), |e, _| e.pool == "q"),
        (set(&|f| f.agent = Some("a".into())), |e, _| {
            e.agent.as_deref() == Some("a")
        }),
        (set(&|f| f.session = Some("mine".into())), |e, id| {
            e.session_id == Some(id)
        }),
        (set(&|f| f.session = Some(mine.id.to_string())), |e, id| {
            e.session_id == Some(id)
        }),
        // Whose session it is: of `mine` and of the other one of this owner.
        (set(&|f| f.owner = Some("me".into())), |e, id| {
            e.session_id == Some(id) || e.pool == "q" && e.session_id.is_some()
        }),
        (
            set(&|f| f.kinds = vec!["session.created".into()]),
            |e, _| e.kind == "session.created",
        ),
        (
            set(&|f| f.kinds = vec!["agent.*".into(), "session.accepted".into()]),
            |e, _| e.kind.starts_with("agent.") || e.kind == "session.accepted",
        ),
        (
            set(&|f| (f.pool, f.kinds) = (Some("p".into()), vec!["session.*".into()])),
            |e, _| e.pool == "p" && e.kind.starts_with("session."),
        ),
        (
            set(&|f| (f.session, f.kinds) = (Some("mine".into()), vec!["session.accepted".into()])),
            |e, id| e.session_id == Some(id) && e.kind == "session.accepted",
        ),
    ];
    let mut all = open(&server, EventFilter::default(), Some("0")).await;
    let mut live = Vec::new();
    for (filter, _) in &filters {
        live.push(open(&server, filter.clone(), None).await);
    }
    let agent = server.agent("a", "p", "d", 9).await;
    let other = server.agent("b", "p", "d", 9).await;
    agent.runs_one().await;
    server
        .client
        .create_session(&named("theirs", "p", Some("you")), None)
        .await
        .expect("it");
    other.runs_one().await;
    server
        .client
        .create_session(&named("nobodys", "p", None), None)
        .await
        .expect("it");
    agent.runs_one().await;
    server
        .client
        .create_session(&named("mine-too", "q", Some("me")), None)
        .await
        .expect("it");
    server.agent("c", "q", "d", 9).await.runs_one().await;
    server.session("end").await;
    let all = until(&mut all, "end").await;
    let newest: i64 = all.last().expect("events").id.parse().expect("a number");

    for (number, (filter, passes)) in filters.iter().enumerate() {
        let wanted: Vec<i64> = ids(&all
            .iter()
            .filter(|e| passes(e, mine.id))
            .cloned()
            .collect::<Vec<_>>());
        assert!(!wanted.is_empty() && wanted.len() < all.len(), "{filter:?}");
        // The stream from the table is read by a server whose memory begins after all of it.
        let beside = server.beside().await;
        let mut table = open(&beside, filter.clone(), Some("0")).await;
        for (events, wanted) in [
            (&mut table, wanted.clone()),
            // Those were open after the first event.
            (
                &mut live[number],
                wanted.into_iter().filter(|id| *id > 1).collect(),
            ),
        ] {
            let mut found = Vec::new();
            for _ in &wanted {
                found.push(event(events).await);
            }
            assert_eq!(ids(&found), wanted, "{filter:?}");
            let more = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
            if let Ok(Ok(Streamed::Event(more))) = more {
                assert!(
                    more.id.parse::<i64>().expect("a number") > newest,
                    "{filter:?}: {more:?}"
                );
            }
        }
        drop(table);
        beside.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn many_streams_each_get_everything_and_a_slow_one_stalls_nobody() {
    const STREAMS: usize = 200;
    const EVENTS: i64 = 30_000;
    let few = |settings: &mut lessor::app::Settings| settings.db_connections = 4;
    let server = TestServer::over(database().await, few).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut slow = tokio::net::TcpStream::connect(&address)
        .await
        .expect("a connection");
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    slow.write_all(request.as_bytes()).await.expect("a request");
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut events = open(&server, EventFilter::default(), None).await;
        streams.spawn(async move {
            let mut sum = 0;
            for wanted in 1..=100 {
                let id: i64 = event(&mut events).await.id.parse().expect("a number");
                assert_eq!(id, wanted);
                sum += id;
            }
            sum
        });
    }
    eventually("all are connected", || async {
        server.metric("lessor_event_streams").await as usize == STREAMS + 1
    })
    .await;
    // Idle streams hold no connection: with four of them, and 201 streams, others work.
    server.pool("p", |_| {}).await;
    server.sessions("p", 100).await;
    while let Some(sum) = streams.join_next().await {
        assert_eq!(sum.expect("a stream"), 5_050);
    }
    // More than memory keeps and sockets take: the slow one reads the rest from the table.
    let text = tells(
        "kind, at, pool, actor_type, actor_name, data",
        &format!(
            "SELECT 'test.event', now(), 'x', 'system', 'test', jsonb_build_object('n', n, 'fill', repeat('x', 500)) \
             FROM generate_series(1, {EVENTS}) AS n ORDER BY n"
        ),
    );
    let mut quick = open(&server, EventFilter::default(), None).await;
    let client = server.database.client().await;
    client.batch_execute(&text).await.expect("events");
    for wanted in 101..=EVENTS + 100 {
        assert_eq!(event(&mut quick).await.id, wanted.to_string());
    }
    let (mut seen, mut line, mut buffer) = (0, Vec::new(), vec![0; 65_536]);
    while seen < EVENTS + 100 {
        let read = tokio::time::timeout(LONG, slow.read(&mut buffer))
            .await
            .expect("in time");
        let read = read.expect("bytes");
        assert!(read > 0, "it ended after {seen}");
        for byte in &buffer[..read] {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            if let Some(id) = line.strip_prefix(b"id: ") {
                let id: i64 = std::str::from_utf8(id)
                    .expect("text")
                    .trim()
                    .parse()
                    .expect("a number");
                assert!(id == seen + 1 || id == 0, "{id} after {seen}");
                seen = id;
            }
            line.clear();
        }
    }
    assert!(server.metric("lessor_events_sequenced_total").await >= EVENTS as f64);
    server.stop().await;
}

#[tokio::test]
async fn there_are_only_so_many_streams_and_all_end_in_order_at_the_stop() {
    let two = |settings: &mut lessor::app::Settings| settings.max_event_streams = 2;
    let server = TestServer::over(database().await, two).await;
    let get = || reqwest::get(format!("{}/v1/events", server.url));
    let mut first = get().await.expect("an answer");
    let second = get().await.expect("an answer");
    let third = server.fetch("/v1/events").await;
    third.is_problem(503, "too_many_waiters", "one too many");
    assert_eq!(third.header("retry-after"), "1");
    drop(second);
    eventually("its place is free", || async {
        server.metric("lessor_event_streams").await == 1.0
    })
    .await;
    let second = get().await.expect("an answer");
    assert_eq!(second.status(), 200);
    let (app, stopping) = (Arc::clone(&server.app), server.stop());
    let ends = async {
        // An answer that is cut off would be an error.
        while let Some(chunk) = first.chunk().await.expect("it ends in order") {
            drop(chunk);
        }
        second.bytes().await.expect("it ends in order");
    };
    let all = async { tokio::join!(stopping, ends) };
    tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .expect("at once");
    // Who comes now is sent elsewhere.
    use tower::ServiceExt as _;
    let request = axum::http::Request::get("/v1/events")
        .body(axum::body::Body::empty())
        .expect("a request");
    let answer = lessor::api::router(&app)
        .oneshot(request)
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn a_stream_outlives_the_connections_to_the_database() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let url = format!("{}/v1/events", server.url);
    let mut answer = reqwest::get(url).await.expect("an answer");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let client = server.database.client().await;
    for round in 0..3 {
        client.query(cut, &[]).await.expect("they are cut");
        client
            .batch_execute(&insert("x", round))
            .await
            .expect("an event");
        let wanted = format!("\"data\":{{\"n\":{round}}}");
        let mut text = String::new();
        while !text.contains(&wanted) {
            let chunk = tokio::time::timeout(LONG, answer.chunk())
                .await
                .expect("in time");
            let chunk = chunk.expect("no error").expect("no end");
            text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_database_that_was_restored_ends_the_streams_and_is_a_gap() {
    let server = TestServer::start().await;
    filled(&server, "x", 10).await;
    let mut events = open(&server, EventFilter::default(), None).await;
    filled(&server, "x", 10).await;
    for wanted in 11..=20 {
        assert_eq!(event(&mut events).await.id, wanted.to_string());
    }
    // The clients' own connection goes on over the end of the stream.
    let client = server.database.client().await;
    let restored =
        "BEGIN; DELETE FROM events e USING event_batches b WHERE b.batch = e.batch AND b.first_position > 5;
        DELETE FROM event_batches WHERE first_position > 5; UPDATE event_head SET last_position = 5; COMMIT";
    client
        .batch_execute(restored)
        .await
        .expect("an older state");
    assert_eq!(
        gap(&mut events).await,
        ("20".into(), "1".into(), "5".into())
    );
    client
        .batch_execute(&insert("x", 0))
        .await
        .expect("an event");
    assert_eq!(event(&mut events).await.id, "6");
    server.stop().await;
}

#[tokio::test]
async fn what_there_was_before_has_positions_after_the_migration_and_back() {
    let database = database().await;
    let client = database.client().await;
    let migrations = crate::support::migrations();
    let at = migrations
        .iter()
        .position(|(up, _)| up.contains("CREATE TABLE event_inbox"))
        .expect("it");
    for (_, down) in migrations[at..].iter().rev() {
        client.batch_execute(down).await.expect("down");
    }
    let old = |pool: &str| {
        format!(
            "INSERT INTO events (kind, at, pool, actor_type, actor_name) VALUES ('k', now(), '{pool}', 'system', 's')"
        )
    };
    let never = format!("BEGIN; {}; ROLLBACK", old("never"));
    for text in [old("a"), never, old("b")] {
        client
            .batch_execute(&text)
            .await
            .expect("old events with a hole");
    }
    let shown = async |text: &str| {
        let rows = client.query(text, &[]).await.expect("events");
        rows.iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect::<Vec<(Option<i64>, String)>>()
    };
    let positions = "SELECT position, pool FROM event_history ORDER BY position, batch, ordinal";
    let numbers = "SELECT id, pool FROM events ORDER BY id";
    let named = |from: &str| {
        let all = from.chars().zip(1..);
        all.map(|(pool, n)| (Some(n), pool.to_string()))
            .collect::<Vec<_>>()
    };
    let run = async |text: &str| client.batch_execute(text).await.expect("it runs");
    assert_eq!(
        shown(numbers).await,
        [(Some(1), "a".into()), (Some(3), "b".into())]
    );
    // Of some the inbox had all; of them, one has its position when events come to be written once.
    let once = migrations
        .iter()
        .position(|(up, _)| up.contains("CREATE TABLE event_batches"))
        .expect("it");
    let inbox = |pool: &str| {
        format!(
            "INSERT INTO event_inbox (kind, at, pool, actor_type, actor_name) VALUES ('k', now(), '{pool}', 'system', 's')"
        )
    };
    for (up, _) in &migrations[at..once] {
        run(up).await;
    }
    run(&inbox("c")).await;
    run("SELECT sequence_events()").await;
    for pool in ["d", "e"] {
        run(&inbox(pool)).await;
    }
    for (up, _) in &migrations[once..] {
        run(up).await;
    }
    let mut wanted = named("abcde");
    (wanted[3].0, wanted[4].0) = (None, None);
    assert_eq!(shown(positions).await, wanted);
    run(&insert("f", 1)).await;
    run("SELECT sequence_events()").await;
    assert_eq!(shown(positions).await, named("abcdef"));
    // A batch of more than one, and back.
    run("INSERT INTO events (batch, ordinal, kind, at, pool, actor_type, actor_name)
         SELECT (SELECT nextval('events_batch_seq')), n - 1, 'k', now(), substr('ghi', n, 1), 'system', 's' FROM generate_series(1, 3) AS n;
         INSERT INTO event_inbox (batch, events) SELECT max(batch), 3 FROM events")
    .await;
    run("SELECT sequence_events()").await;
    assert_eq!(shown(positions).await, named("abcdefghi"));
    run(&insert("j", 1)).await;
    for (_, down) in migrations[at..].iter().rev() {
        run(down).await;
    }
    run(&old("k")).await;
    assert_eq!(shown(numbers).await, named("abcdefghijk"));
}

#[tokio::test]
async fn steps_read_from_an_index_however_much_there_is() {
    let database = database().await;
    let client = database.client().await;
    let fill = "INSERT INTO events (batch, kind, at, pool, session_id, actor_type, actor_name)
             SELECT n, 'test.event', now(), 'p', gen_random_uuid(), 'system', 'test' FROM generate_series(1, 100000) AS n;
         INSERT INTO event_batches (first_position, batch, events) SELECT n, n, 1 FROM generate_series(1, 100000) AS n;
         INSERT INTO event_inbox (batch) SELECT n FROM generate_series(100001, 200000) AS n";
    client.batch_execute(fill).await.expect("events");
    let plan = async |text: &str| {
        let rows = client
            .query(&format!("EXPLAIN {text}"), &[])
            .await
            .expect("a plan");
        rows.iter()
            .map(|row| row.get::<_, String>(0))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for analysed in [false, true] {
        if analysed {
            client
                .batch_execute("ANALYZE events, event_batches, event_inbox")
                .await
                .expect("statistics");
        }
        for (text, indexes) in [
            (
                include_str!("../src/events/page.sql"),
                ["events_pkey", "event_batches_pkey"],
            ),
            (
                include_str!("../src/events/page_of_session.sql"),
                ["events_by_session", "event_batches_batch_key"],
            ),
            (
                include_str!("../src/sessions/timeline.sql"),
                ["events_by_session", "event_batches_batch_key"],
            ),
            (
                include_str!("../src/events/delete_old.sql"),
                ["events_pkey", "event_batches_pkey"],
            ),
        ] {
            let kinds = "ARRAY['a.b']::text[]";
            let bound = if text.contains("delete_old") {
                text.replace("$1", "50::bigint")
                    .replace("$2", "86400::float8")
            } else if text.contains("timeline") {
                let text = text.replace("$1", "'01890a5d-ac96-774b-bcce-b302099a8057'");
                text.replace("$2", "50000::bigint").replace("$3", "50")
            } else {
                let text = text
                    .replace("{passes}", include_str!("../src/events/passes.sql"))
                    .replace("$1", "50")
                    .replace("$2", "10050")
                    .replace("$6", "false");
                let text = text
                    .replace("$3", "'{p,acme~}'")
                    .replace("$4", "NULL")
                    .replace("$5", "NULL");
                let text = text.replace("$7", kinds).replace("$8", kinds);
                text.replace("$9", "'01890a5d-ac96-774b-bcce-b302099a8057'")
            };
            let plan = plan(&bound).await;
            assert!(
                indexes.iter().all(|index| plan.contains(index))
                    && !plan.contains("Seq Scan on events")
                    && !plan.contains("Seq Scan on event_batches"),
                "{plan}"
            );
        }
        let step = "DELETE FROM event_inbox
        WHERE batch = ANY (ARRAY (SELECT i.batch FROM event_inbox i WHERE i.batch >= from_batch ORDER BY i.batch LIMIT 1000))";
        let migration = include_str!("../migrations/2026-11-27-000023_events_once/up.sql");
        assert!(migration.contains(step));
        let plan = plan(&step.replace("from_batch", "100001")).await;
        assert!(
            plan.matches("event_inbox_pkey").count() >= 2 && !plan.contains("Seq Scan"),
            "{plan}"
        );
    }
}

#[test]
fn whoever_tells_of_something_has_it_wait_and_only_the_sequencer_gives_positions() {
    fn visit(folder: &std::path::Path, writers: &mut usize, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, writers, found);
            } else {
                let text = std::fs::read_to_string(&path).expect("text");
                let tells = text.matches("INTO events ").count();
                let has_it_wait = text.matches("INTO event_inbox ").count();
                *writers += tells;
                if tells != has_it_wait || text.contains("INTO event_batches") {
                    found.insert(path.display().to_string());
                }
            }
        }
    }
    let (mut writers, mut found) = (0, BTreeSet::new());
    visit(
        std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut writers,
        &mut found,
    );
    assert_eq!(found, BTreeSet::new());
    assert!(writers > 10, "{writers} statements tell of something");
}

#[tokio::test]
async fn what_waits_for_a_position_is_measured() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.sessions("p", 10).await;
    eventually("all have their positions", || async {
        server.find_metric("lessor_events_unsequenced").await == Some(0.0)
            && server.metric("lessor_events_lag_seconds").await == 0.0
            && server.metric("lessor_events_sequenced_total").await >= 10.0
    })
    .await;
    // Tasks that fail are run again for ever, and nobody sees it but by this.
    let text = reqwest::get(format!("{}/metrics", server.url)).await;
    let text = text.expect("metrics").text().await.expect("text");
    assert!(!text.contains("lessor_upkeep_failures_total"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn the_page_does_what_it_says() {
    let server = TestServer::start().await;
    server.pool("local", |_| {}).await;
    let said = runbook::run("events.md", &server.url).await;
    assert!(said.contains("event: session.created"), "{said}");
    assert!(said.contains("resumed without a gap"), "{said}");
    server.stop().await;
}
