//! How many agents a pool needs, pure.

use lessor_protocol::Pool;

/// Held and waiting sessions over slots per agent, rounded up.
#[must_use]
pub fn desired_agents(pool: &Pool) -> i64 {
    let sessions = pool.counts.slots.held + pool.counts.sessions.waiting;
    let (slots, agents) = per_agent(pool);
    // Without dividing first: sessions / (slots / agents).
    (sessions * agents + slots - 1) / slots
}

/// The mean of the live agents, or the pool's figure where that says nothing.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "slots are far below 2^52")]
pub fn slots_per_agent(pool: &Pool) -> f64 {
    let (slots, agents) = per_agent(pool);
    slots as f64 / agents as f64
}

/// Slots, and on how many agents these are. Neither is 0.
fn per_agent(pool: &Pool) -> (i64, i64) {
    let (slots, agents) = (pool.counts.slots.capacity, pool.counts.agents.live);
    if slots > 0 && agents > 0 {
        (slots, agents)
    } else {
        // None is there, or those that are take nothing.
        (i64::from(pool.slots_per_agent).max(1), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lessor_protocol::{PoolCounts, PoolSpec};

    fn pool(live: i64, capacity: i64, held: i64, waiting: i64) -> Pool {
        let spec = serde_json::to_value(PoolSpec::on("process")).expect("a spec");
        let mut value = spec;
        let more = serde_json::json!({"name": "p", "version": 1, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "oldest_waiting_seconds": null,
            "counts": PoolCounts::default(), "brake": null});
        for (key, field) in more.as_object().expect("an object") {
            value[key] = field.clone();
        }
        let mut pool: Pool = serde_json::from_value(value).expect("a pool");
        pool.counts.agents.live = live;
        pool.counts.slots.capacity = capacity;
        pool.counts.slots.held = held;
        pool.counts.sessions.waiting = waiting;
        pool
    }

    #[test]
    fn from_zero_up_and_down_again() {
        // Ten slots per agent, as the pool says.
        for (live, capacity, held, waiting, desired) in [
            (0, 0, 0, 0, 0),
            (0, 0, 0, 1, 1),
            (0, 0, 0, 10, 1),
            (0, 0, 0, 11, 2),
            (2, 0, 0, 11, 2),
            // As the live ones say: a mean of 4, then one of 2.5.
            (1, 4, 4, 1, 2),
            (3, 12, 8, 0, 2),
            (3, 12, 0, 0, 0),
            (2, 5, 5, 1, 3),
            (1, 1_000_000, 1_000_000, 1_000_000, 2),
        ] {
            let pool = pool(live, capacity, held, waiting);
            assert_eq!(
                desired_agents(&pool),
                desired,
                "{live} {capacity} {held} {waiting}"
            );
        }
        assert!((slots_per_agent(&pool(2, 5, 0, 0)) - 2.5).abs() < f64::EPSILON);
        assert!((slots_per_agent(&pool(0, 0, 0, 0)) - 10.0).abs() < f64::EPSILON);
    }
}
