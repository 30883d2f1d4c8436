//! Claims from a pool of 100,000 owners with shares of different weights, part of whose sessions ask for
//! labels, beside claims from a pool with one queue.

use crate::bench::{Bench, connect};
use crate::error::Result;
use crate::http::Connection;
use crate::load::{self, Agent};
use crate::measure::{Line, Target};
use crate::service::Service;
use crate::steady::{self, Steady};

const AGENTS: usize = 256;
const IN_FLIGHT: usize = 64;
const OWNERS: usize = 100_000;
/// How many sessions of each owner wait.
const EACH: usize = 4;

/// Each owner's next session; one of five asks for one of four labels.
fn refill(owners: usize) -> String {
    format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at, owner, requires)
         SELECT gen_random_uuid(), 'shared', 'process', '{}', 'running', 'pending', 'on_failure',
             now(), now(), now() + n * interval '1 microsecond', 'o' || (random() * {owners})::int,
             CASE WHEN n % 5 = 0 THEN jsonb_build_object('kind', 'k' || n % 4) ELSE '{{}}' END
         FROM generate_series(1, $1::int) n",
        load::SPEC
    )
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let owners = bench.effort.size(OWNERS, 1_000);
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "plain", load::LONG_LEASE_SECONDS).await?;
    load::pool(&service, "shared", load::LONG_LEASE_SECONDS).await?;
    let count = bench.effort.size(AGENTS, 64);
    let mut plain_agents = load::agents(&service, "plain", count).await?;
    let mut shared_agents = labelled(&mut service.connect().await?, count).await?;
    let client = connect(&database.url).await?;
    client
        .execute(
            "INSERT INTO pool_owners (pool, owner, weight, created_at)
             SELECT 'shared', 'o' || n, 1 + n % 10, now() FROM generate_series(1, $1::int) n",
            &[&i32::try_from(owners).unwrap_or(i32::MAX)],
        )
        .await?;
    client.batch_execute("ANALYZE pool_owners").await?;
    let (plain_refill, shared_refill) = (steady::refill("plain"), refill(owners));
    steady::fill(&client, &plain_refill, owners * EACH).await?;
    steady::fill(&client, &shared_refill, owners * EACH).await?;
    let plain = Steady {
        service: &service,
        url: &database.url,
        refill: &plain_refill,
    };
    let shared = Steady {
        service: &service,
        url: &database.url,
        refill: &shared_refill,
    };
    let mut lines = Vec::new();
    for in_flight in [1, IN_FLIGHT] {
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            let time = bench.effort.time;
            let ours = shared.claim(&mut shared_agents, in_flight, time).await?;
            let theirs = plain.claim(&mut plain_agents, in_flight, time).await?;
            rounds.push((ours.median(), theirs.median()));
        }
        lines.push(Line::ratio(
            format!("{owners} owners, {in_flight} in flight"),
            "ms",
            "one queue",
            &rounds,
            Target::AtMost(1.3),
        ));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(lines)
}

/// Agents of which each has one of the labels that sessions ask for.
async fn labelled(connection: &mut Connection, count: usize) -> Result<Vec<Agent>> {
    let mut agents = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("shared-{number:05}");
        let labels = [("kind", format!("k{}", number % 4))];
        agents.push(load::register_with(connection, "shared", &name, "here", &labels).await?);
    }
    Ok(agents)
}
