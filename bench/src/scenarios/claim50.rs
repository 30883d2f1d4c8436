//! Claims of 50 sessions per request, beside a bare claim and a bare accept of 50.
//!
//! Ours: each request claims 50 and carries the 50 reports that accept what the agent's last one was given,
//! over 1,024 agents. The reference: one statement that claims 50 rows in the order of the queue, and one
//! that accepts these 50; no agents, no slots, no history. Each side has the number of clients, of 4, 8, 16,
//! 32 and 64, at which it was fastest, each tried three times in turn. Both count sessions, and neither may run out of them: a claim of
//! fewer than 50 ends the bare run with an error, and ours is told apart by what is left.

use std::time::Duration;

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::load::{self, Agent, Claiming};
use crate::measure::{Line, Target};
use crate::reference;
use crate::service::Service;

const AGENTS: usize = 1_024;
const BATCH: usize = 50;
const BATCH_RATE: f64 = 50.0;
const CHOICES: [usize; 5] = [4, 8, 16, 32, 64];
/// How often each of these is tried: what is tried while a vacuum runs looks slow.
const PASSES: usize = 3;
/// More sessions a second than either side has ever been given here.
const RATE_AT_MOST: usize = 40_000;

/// Two statements for 50 rows. `HAVING` makes a claim of fewer an error of pgbench.
const CLAIM_AND_ACCEPT_50: &str = r"
\set agent random(1, 1024)
WITH picked AS MATERIALIZED (
    SELECT id FROM sessions WHERE agent_pool = 'bare' AND pool_work = 'start' AND requires_key = '' AND owner_key = ''
    ORDER BY requires_key, owner_key, queue_rank, queued_at LIMIT 50 FOR UPDATE SKIP LOCKED),
claimed AS (
    UPDATE sessions SET assigned_agent_id = 'a' || :agent, assigned_incarnation = 1, assigned_action = 'start',
        lease_epoch = lease_epoch + 1, offered_until = now() + interval '10 minutes', version = version + 1
    WHERE id = ANY (ARRAY(SELECT id FROM picked)) RETURNING id, lease_epoch)
SELECT array_agg(id) AS ids, max(lease_epoch) AS lease_epoch FROM claimed HAVING count(*) = 50 \gset
UPDATE sessions SET state = 'starting', resource_domain = 'here', offered_until = NULL, version = version + 1
WHERE id = ANY (:ids::uuid[]) AND assigned_agent_id = 'a' || :agent AND lease_epoch = :lease_epoch;
";

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let (database, service) = load::with_two_pools(bench).await?;
    let mut agents = load::agents(&service, "p", bench.effort.size(AGENTS, 128)).await?;
    let short = bench.effort.time.min(Duration::from_secs(2));
    let choices = &CHOICES[..bench.effort.size(CHOICES.len(), 1)];
    let (mut of_ours, mut of_bare) = (vec![0.0; choices.len()], vec![0.0; choices.len()]);
    for _ in 0..bench.effort.size(PASSES, 1) {
        for (at, &count) in choices.iter().enumerate() {
            of_ours[at] += ours(&service, &database, &mut agents, count, short).await?;
            of_bare[at] += bare(bench, &database, count, short).await?;
        }
    }
    let (in_flight, clients) = (fastest(choices, &of_ours), fastest(choices, &of_bare));
    let time = bench.effort.time;
    let mut rounds = Vec::new();
    for _ in 0..bench.effort.rounds {
        let ours = ours(&service, &database, &mut agents, in_flight, time).await?;
        rounds.push((ours, bare(bench, &database, clients, time).await?));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(vec![Line::ratio(
        format!("50 a claim, {in_flight} in flight"),
        "/s",
        format!("bare claim and accept of 50, {clients} clients"),
        &rounds,
        Target::AtLeast(0.9),
    )])
}

fn fastest(choices: &[usize], rates: &[f64]) -> usize {
    let by_rate = choices.iter().zip(rates).max_by(|a, b| a.1.total_cmp(b.1));
    by_rate.map_or(CHOICES[0], |(count, _)| *count)
}

async fn ours(
    service: &Service,
    database: &Database,
    agents: &mut [Agent],
    in_flight: usize,
    time: Duration,
) -> Result<f64> {
    let client = connect(&database.url).await?;
    load::top_up(&client, "p", enough(time)).await?;
    let how = Claiming {
        max_sessions: BATCH,
        wait_seconds: 20.0,
        in_flight: in_flight.min(agents.len()),
        time,
    };
    let rate = load::claim(service, agents, how).await?;
    if load::waiting(&client, "p").await? == 0 {
        return Err(Error::said(
            "the backlog was claimed before the time was up",
        ));
    }
    Ok(rate)
}

async fn bare(bench: &Bench, database: &Database, clients: usize, time: Duration) -> Result<f64> {
    let client = connect(&database.url).await?;
    load::top_up(&client, "bare", enough(time)).await?;
    let bare = reference::run(bench, database, CLAIM_AND_ACCEPT_50, clients, time).await?;
    Ok(bare.per_second * BATCH_RATE)
}

/// So many sessions that a run of this time cannot claim them all.
fn enough(time: Duration) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count, rounded"
    )]
    let count = (time.as_secs_f64() * 1.2 * RATE_AT_MOST as f64) as usize;
    count
}
