//! Lists: a page of 50 among a million sessions, by every filter that is documented, alone and some
//! together, beside getting one session by its id.
//!
//! Both over one HTTP connection, in turn: a page, then a session. Latencies are medians. Each filter is
//! asked for the first page and for one that begins in the middle of the sessions, by a cursor that the
//! service gave.
//!
//! The sessions are put there by SQL as after a week with four pools: nine of ten have ended; the others
//! run on 1,000 agents in 50 domains, or wait. There are 10,000 owners. Values are chosen both ways: frequent
//! ones, where a page is soon full, and rare ones that some ten sessions have or none, where whoever looks
//! through the newest until the page is full looks through all. A middle page of rare ones is mostly a
//! short one, which counts all the same.

use std::time::Instant;

use chrono::{DateTime, Duration, Utc};
use http::Method;
use tokio_postgres::Client;

use crate::bench::{Bench, connect};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, SPEC};
use crate::measure::{Line, Target, percentile};
use crate::scenarios::wake::milliseconds;
use crate::service::Service;

const SESSIONS: usize = 1_000_000;

/// The most that a page can have.
const LARGEST: usize = 500;

/// How often each page is asked for in a round; a filter that takes long is asked less often.
const SAMPLES: usize = 20;

/// How long the samples of one filter may take in a round.
const ENOUGH: std::time::Duration = std::time::Duration::from_secs(3);

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    for pool in ["a", "b", "c", "rare"] {
        load::pool(&service, pool, load::LONG_LEASE_SECONDS).await?;
    }
    let client = connect(&database.url).await?;
    let newest = Utc::now();
    let count = bench.effort.size(SESSIONS, 5_000);
    fill(&client, count, newest).await?;
    let mut connection = service.connect().await?;
    let cursor = middle(&mut connection, count).await?;
    let id: String = client
        .query_one(
            "SELECT id::text FROM sessions ORDER BY id OFFSET 4000 LIMIT 1",
            &[],
        )
        .await?
        .get(0);
    let mut lines = Vec::new();
    for (name, query) in filters(newest) {
        for (page, cursor) in [("first", ""), ("middle", cursor.as_str())] {
            let path = format!("/v1/sessions?limit=50&{query}&cursor={cursor}");
            let path = path.trim_end_matches("&cursor=");
            let mut rounds = Vec::new();
            for _ in 0..bench.effort.rounds.min(3) {
                rounds.push(round(bench, &mut connection, path, &id).await?);
            }
            let case = format!("{name}, {page} page");
            lines.push(Line::ratio(
                case,
                "ms",
                "get by id",
                &rounds,
                Target::AtMost(3.0),
            ));
        }
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(lines)
}

/// The medians of a page and of a session.
async fn round(
    bench: &Bench,
    connection: &mut Connection,
    path: &str,
    id: &str,
) -> Result<(f64, f64)> {
    let by_id = format!("/v1/sessions/{id}");
    let (mut pages, mut gets) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    // One of each first, which is not counted: it pays for plans.
    for sample in 0..=bench.effort.size(SAMPLES, 2) {
        let page = timed(connection, path).await?;
        let get = timed(connection, &by_id).await?;
        if sample > 0 {
            pages.push(page);
            gets.push(get);
        }
        if sample > 0 && begun.elapsed() > ENOUGH {
            break;
        }
    }
    Ok((percentile(&pages, 50.0), percentile(&gets, 50.0)))
}

/// How long a GET takes, in milliseconds. One that the service gives up after its 5 s counts as long as
/// that took; what is refused otherwise is an error of the bench.
async fn timed(connection: &mut Connection, path: &str) -> Result<f64> {
    let begun = Instant::now();
    let (status, said) = connection.send(Method::GET, path, "").await?;
    if status.is_success() || status == http::StatusCode::SERVICE_UNAVAILABLE {
        return Ok(milliseconds(begun));
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    Err(Error::said(format!("GET {path}: {status}: {said}")))
}

/// Every filter of `GET /v1/sessions`, and some together.
fn filters(newest: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let before = |hours: i64| {
        let at = newest - Duration::hours(hours);
        at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let (hour, day, week) = (before(1), before(84), before(167));
    [
        ("none", String::new()),
        ("pool", "pool=a".to_owned()),
        ("pool, rare", "pool=rare".to_owned()),
        ("state", "state=running".to_owned()),
        ("state, rare", "state=failed".to_owned()),
        ("states", "state=failed,pending".to_owned()),
        ("desired_state", "desired_state=running".to_owned()),
        ("desired_state, rare", "desired_state=hibernated".to_owned()),
        ("assigned_agent_id", "assigned_agent_id=agent-17".to_owned()),
        (
            "assigned_agent_id, none",
            "assigned_agent_id=nobody".to_owned(),
        ),
        ("assigned=true", "assigned=true".to_owned()),
        ("assigned=false", "assigned=false".to_owned()),
        ("owner", "owner=user-17".to_owned()),
        ("owner, none", "owner=nobody".to_owned()),
        ("name", "name=session-40".to_owned()),
        ("name, none", "name=nothing".to_owned()),
        ("label", "label=team:7".to_owned()),
        ("label, rare", "label=ticket:7".to_owned()),
        ("labels", "label=team:7&label=ticket:7".to_owned()),
        ("resource_domain", "resource_domain=domain-7".to_owned()),
        ("resource_domain, rare", "resource_domain=rare".to_owned()),
        ("created_after", format!("created_after={day}")),
        ("created_after, new", format!("created_after={hour}")),
        ("created_before", format!("created_before={day}")),
        ("created_before, old", format!("created_before={week}")),
        ("pool, state", "pool=a&state=running".to_owned()),
        ("pool, state, rare", "pool=b&state=failed".to_owned()),
        ("owner, state", "owner=user-17&state=running".to_owned()),
        ("pool, label, rare", "pool=a&label=ticket:7".to_owned()),
        ("pool, assigned", "pool=a&assigned=true".to_owned()),
        (
            "resource_domain, assigned=false",
            "resource_domain=domain-7&assigned=false".to_owned(),
        ),
        (
            "state, created_after, new",
            format!("state=terminated&created_after={hour}"),
        ),
        (
            "pool, created_before, old",
            format!("pool=c&created_before={week}"),
        ),
    ]
    .into()
}

/// A cursor to the middle of so many sessions, walked to by the largest pages.
async fn middle(connection: &mut Connection, count: usize) -> Result<String> {
    let mut cursor = String::new();
    for _ in 0..(count / 2 / LARGEST).max(1) {
        let path = format!("/v1/sessions?limit={LARGEST}&cursor={cursor}");
        let page: Page = connection.get(path.trim_end_matches("&cursor=")).await?;
        let next = page.next_cursor;
        cursor = next.ok_or_else(|| Error::said("there are too few sessions"))?;
    }
    Ok(cursor)
}

#[derive(serde::Deserialize)]
struct Page {
    next_cursor: Option<String>,
}

/// Sessions over a week, with ids of version 7 in the order of their creation.
async fn fill(client: &Client, count: usize, newest: DateTime<Utc>) -> Result<()> {
    let newest = newest.timestamp();
    client
        .batch_execute(&format!(
            "INSERT INTO sessions (id, name, agent_pool, platform, owner, labels, spec, desired_state, state, restart,
                 lease_epoch, observed_generation, resource_domain, assigned_agent_id, assigned_incarnation,
                 assigned_action, created_at, updated_at, queued_at, started_at, first_started_at, ended_at, failure)
             SELECT (lpad(to_hex((extract(epoch FROM s.at) * 1000)::bigint), 12, '0') || '7'
                     || substr(md5(s.n::text), 1, 3) || '8' || substr(md5(s.n::text), 4, 15))::uuid,
                 CASE WHEN s.n % 10 = 0 THEN 'session-' || s.n END,
                 CASE WHEN s.n % 50000 = 3 THEN 'rare' ELSE (ARRAY['a', 'b', 'c'])[1 + s.n % 3] END,
                 'process', 'user-' || s.n % 10007,
                 jsonb_build_object('team', (s.n % 101)::text, 'ticket', (s.n % 99991)::text),
                 '{SPEC}', s.desired, s.state, 'on_failure', 1, 1,
                 CASE WHEN s.state = 'pending' THEN NULL WHEN s.n % 50000 = 5 THEN 'rare'
                     ELSE 'domain-' || s.n % 53 END,
                 CASE WHEN s.state = 'running' THEN 'agent-' || s.n % 1009 END,
                 CASE WHEN s.state = 'running' THEN 1 END, CASE WHEN s.state = 'running' THEN 'start' END,
                 s.at, s.at, s.at, s.at, s.at, CASE WHEN s.state IN ('terminated', 'failed') THEN s.at END,
                 CASE WHEN s.state = 'failed' THEN '{FAILURE}'::json END
             FROM (
                 SELECT n, to_timestamp({newest} - (1 - n / {count}.0) * 604800) AS at, k.state,
                     CASE k.state WHEN 'terminated' THEN 'terminated' WHEN 'hibernated' THEN 'hibernated'
                         ELSE 'running' END AS desired
                 FROM generate_series(1, {count}) n, LATERAL (SELECT CASE
                     WHEN n % 50000 = 7 THEN 'failed' WHEN n % 50000 = 11 THEN 'hibernated'
                     WHEN n % 1000 = 13 THEN 'pending' WHEN n % 10 = 1 THEN 'running' ELSE 'terminated' END AS state) k
             ) s"
        ))
        .await?;
    client
        .batch_execute("VACUUM ANALYZE sessions, session_labels")
        .await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

const FAILURE: &str = r#"{"reason": "exited", "message": "it ended", "exit_code": 1, "retryable": false, "at": "2026-01-01T00:00:00Z"}"#;
