//! Creating sessions, beside bare inserts into the same table.
//!
//! The bare insert is one autocommitted `INSERT` of the columns that a session cannot be without, with an
//! id of the same kind (it begins with the time), a foreign key to a pool and all indexes and generated
//! columns of the table; no event, no check of the input, no answer. Nobody claims meanwhile.
//!
//! - one per request, one client: beside the bare insert at one client;
//! - one per request, 64 connections: beside the bare insert at the number of clients, of 8, 16, 32 and
//!   64, at which it is fastest;
//! - 100 per request (`POST /v1/sessions/batch`), at 1 and at 8 connections: beside a bare `INSERT` of 100
//!   rows at as many clients. Both count sessions.
//!
//! Both sides begin after a checkpoint, and after what was written before has been settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, SPEC};
use crate::measure::{Line, Target};
use crate::reference;
use crate::service::Service;

const BATCH: usize = 100;

/// What is sent, over how many connections, beside how many clients of the reference (0: as many as are
/// best for it), and what the ratio must reach.
struct Case {
    name: &'static str,
    batch: usize,
    connections: usize,
    clients: usize,
    least: f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "one, 1 client",
        batch: 1,
        connections: 1,
        clients: 1,
        least: 0.9,
    },
    Case {
        name: "one, 64 clients",
        batch: 1,
        connections: 64,
        clients: 0,
        least: 2.0,
    },
    Case {
        name: "100 a request, 1 client",
        batch: BATCH,
        connections: 1,
        clients: 1,
        least: 0.8,
    },
    Case {
        name: "100 a request, 8 clients",
        batch: BATCH,
        connections: 8,
        clients: 8,
        least: 0.8,
    },
];

/// The bare insert of so many rows.
fn insert(rows: usize) -> String {
    // Twelve digits of the time and the rest of a random one.
    let id = "(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
        || substr(gen_random_uuid()::text, 14))::uuid";
    let from = match rows {
        1 => String::new(),
        rows => format!(" FROM generate_series(1, {rows}) n"),
    };
    let at = match rows {
        1 => "now()",
        _ => "now() + n * interval '1 microsecond'",
    };
    format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at)
         SELECT {id}, 'bare', 'process', '{SPEC}', 'running', 'pending', 'on_failure', now(), now(), {at}{from};\n"
    )
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let (database, service) = load::with_two_pools(bench).await?;
    let best = reference::best_clients(bench, &database, &insert(1), &[8, 16, 32, 64]).await?;
    let mut lines = Vec::new();
    for case in &CASES {
        let clients = if case.clients == 0 {
            best
        } else {
            case.clients
        };
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            rounds.push(round(bench, &service, &database, case, clients).await?);
        }
        lines.push(Line::ratio(
            case.name,
            "/s",
            format!("bare insert of {}, {clients} clients", case.batch),
            &rounds,
            Target::AtLeast(case.least),
        ));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(lines)
}

/// Sessions a second: ours, and the reference's.
async fn round(
    bench: &Bench,
    service: &Service,
    database: &Database,
    case: &Case,
    clients: usize,
) -> Result<(f64, f64)> {
    let client = connect(&database.url).await?;
    load::settle(&client).await?;
    let requests = create(service, case, bench.effort.time).await?;
    load::settle(&client).await?;
    let script = insert(case.batch);
    let bare = reference::run(bench, database, &script, clients, bench.effort.time).await?;
    #[allow(clippy::cast_precision_loss, reason = "100 at most")]
    let batch = case.batch as f64;
    Ok((requests * batch, bare.per_second * batch))
}

/// Requests a second.
async fn create(service: &Service, case: &Case, time: Duration) -> Result<f64> {
    let session = json!({"pool": "p", "spec": serde_json::from_str::<serde_json::Value>(SPEC)?});
    let (path, body) = match case.batch {
        1 => ("/v1/sessions", session),
        count => (
            "/v1/sessions/batch",
            json!({"sessions": vec![session; count]}),
        ),
    };
    let body = Bytes::from(serde_json::to_vec(&body)?);
    let (stop, made) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut tasks = Vec::new();
    for _ in 0..case.connections {
        let connection = service.connect().await?;
        let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
        tasks.push(tokio::spawn(post(
            connection,
            path,
            body.clone(),
            stop,
            made,
        )));
    }
    // The first requests pay for connections and plans.
    tokio::time::sleep(time.mul_f64(0.1)).await;
    let per_second = load::rate(&made, time).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await
            .map_err(|error| Error::said(error.to_string()))??;
    }
    Ok(per_second)
}

async fn post(
    mut connection: Connection,
    path: &str,
    body: Bytes,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let (status, said) = connection.send(Method::POST, path, body.clone()).await?;
        if !status.is_success() {
            let said = String::from_utf8_lossy(&said);
            return Err(Error::said(format!("{path}: {status}: {said}")));
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
