//! Pools as lines of a table.

use lessor_protocol::Pool;

use crate::http::TableRow;

impl TableRow for Pool {
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "PLATFORM",
        "REGION",
        "PLACEMENT",
        "ON_LOST",
        "AGENTS",
        "SLOTS",
        "SESSIONS",
        "WAITING",
        "OLDEST",
        "BRAKE",
    ];

    fn cells(&self) -> Vec<String> {
        let counts = &self.counts;
        let sessions: i64 = counts.sessions.by_state.values().sum();
        vec![
            self.name.clone(),
            self.platform.clone(),
            self.region.clone().unwrap_or_default(),
            self.placement.to_string(),
            self.on_lost.to_string(),
            format!(
                "{}/{}",
                counts.agents.live,
                counts.agents.live + counts.agents.expired
            ),
            format!("{}/{}", counts.slots.held, counts.slots.capacity),
            sessions.to_string(),
            counts.sessions.waiting.to_string(),
            self.oldest_waiting_seconds
                .map(|age| format!("{age:.1}s"))
                .unwrap_or_default(),
            self.brake
                .as_ref()
                .map(|brake| format!("on, {} silent", brake.silent_agents))
                .unwrap_or_default(),
        ]
    }
}
