//! The gauges of what waits, by pool, and of the database's connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::Reach;
use crate::app::App;
use crate::error::Result;
use crate::{events, import, inventory, pools, scaling, webhooks};

/// How often gauges are set, if that takes little.
const EVERY: Duration = Duration::from_secs(5);

/// Sets the gauges, and says when they are to be set again: counting costs as much as there are sessions, and
/// with millions of them it would keep a processor from the claims.
pub async fn run_sparingly(app: &Arc<App>) -> Duration {
    let begun = Instant::now();
    if let Err(error) = run(app).await {
        // The next try comes no sooner: what was too much to count will be too much again.
        tracing::warn!(%error, "the gauges could not be set");
        metrics::counter!("lessor_upkeep_failures_total", "task" => "gauges").increment(1);
    }
    super::rest(begun.elapsed(), EVERY, Duration::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
async fn run(app: &Arc<App>) -> Result<()> {
    for pool in pools::list(app, Reach::Everything, None, 1_000).await? {
        let desired = scaling::desired_agents(&pool);
        let name = pool.name;
        metrics::gauge!("lessor_agents_desired", "pool" => name.clone()).set(desired as f64);
        metrics::gauge!("lessor_sessions_held", "pool" => name.clone())
            .set(pool.counts.slots.held as f64);
        metrics::gauge!("lessor_sessions_waiting", "pool" => name.clone())
            .set(pool.counts.sessions.waiting as f64);
        metrics::gauge!("lessor_oldest_waiting_seconds", "pool" => name.clone())
            .set(pool.oldest_waiting_seconds.unwrap_or(0.0));
        metrics::gauge!("lessor_sessions_unadopted", "pool" => name.clone())
            .set(pool.counts.sessions.unadopted as f64);
        metrics::gauge!("lessor_agents_live", "pool" => name.clone())
            .set(pool.counts.agents.live as f64);
        metrics::gauge!("lessor_slots_free", "pool" => name.clone())
            .set(pool.counts.slots.free as f64);
        metrics::gauge!("lessor_slots_capacity", "pool" => name)
            .set(pool.counts.slots.capacity as f64);
    }
    inventory::gauges(app).await?;
    events::gauges(app).await?;
    import::gauges(app).await?;
    webhooks::gauges(app).await?;
    for (kind, open, idle) in app.db.usage() {
        metrics::gauge!("lessor_db_connections", "kind" => kind, "state" => "open")
            .set(open as f64);
        metrics::gauge!("lessor_db_connections", "kind" => kind, "state" => "idle")
            .set(idle as f64);
    }
    app.metrics.run_upkeep();
    Ok(())
}
