//! Claims over HTTP beside a bare claim and a bare accept.

use crate::bench::{Bench, connect};
use crate::error::Result;
use crate::load::{self, Claiming};
use crate::measure::{Line, Target};
use crate::reference;

/// How many agents claim.
pub const AGENTS: usize = 1_024;

/// How many claims are under way at a time, and how many times the bare rate they must reach.
pub const CASES: [(usize, f64); 3] = [(64, 1.5), (256, 4.0), (1_000, 6.0)];

/// Two statements on the very table, in the order of its queue, without agents, slots or history.
pub const CLAIM_AND_ACCEPT: &str = r"
\set agent random(1, 1024)
WITH picked AS MATERIALIZED (
    SELECT id FROM sessions WHERE agent_pool = 'bare' AND pool_work = 'start' AND requires_key = '' AND owner_key = ''
    ORDER BY requires_key, owner_key, queue_rank, queued_at LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE sessions SET assigned_agent_id = 'a' || :agent, assigned_incarnation = 1, assigned_action = 'start',
    lease_epoch = lease_epoch + 1, offered_until = now() + interval '10 minutes', version = version + 1
WHERE id = ANY (ARRAY(SELECT id FROM picked)) RETURNING id, lease_epoch \gset
UPDATE sessions SET state = 'starting', resource_domain = 'here', offered_until = NULL, version = version + 1
WHERE id = :id AND assigned_agent_id = 'a' || :agent AND lease_epoch = :lease_epoch;
";

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let (database, service) = load::with_two_pools(bench).await?;
    let mut agents = load::agents(&service, "p", bench.effort.size(AGENTS, 128)).await?;
    let client = connect(&database.url).await?;
    // Neither side may run out of work.
    let each = bench.effort.size(400_000, 20_000);
    load::backlog(&client, "bare", each).await?;
    let clients = reference::best_clients(bench, &database, CLAIM_AND_ACCEPT, &[8, 16, 32]).await?;
    let mut lines = Vec::new();
    for (in_flight, least) in CASES {
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            load::top_up(&client, "p", each / 4).await?;
            let how = Claiming {
                max_sessions: 1,
                wait_seconds: 20.0,
                in_flight: in_flight.min(agents.len()),
                time: bench.effort.time,
            };
            let ours = load::claim(&service, &mut agents, how).await?;
            load::settle(&client).await?;
            let bare = reference::run(
                bench,
                &database,
                CLAIM_AND_ACCEPT,
                clients,
                bench.effort.time,
            )
            .await?;
            rounds.push((ours, bare.per_second));
        }
        lines.push(Line::ratio(
            format!("{in_flight} in flight"),
            "/s",
            format!("bare, {clients} clients"),
            &rounds,
            Target::AtLeast(least),
        ));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(lines)
}
