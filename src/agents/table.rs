//! Agents as lines of a table.

use lessor_protocol::Agent;

use crate::http::TableRow;

impl TableRow for Agent {
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "POOL",
        "DOMAIN",
        "AVAILABILITY",
        "SCHEDULING",
        "HELD",
        "CAPACITY",
        "INCARNATION",
        "LEASE",
        "VERSION",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.pool.clone(),
            self.resource_domain.clone(),
            self.availability.to_string(),
            self.scheduling.to_string(),
            self.held_sessions.to_string(),
            self.capacity.to_string(),
            self.incarnation.to_string(),
            self.lease_expires_in_seconds
                .map(|left| format!("{left:.1}s"))
                .unwrap_or_default(),
            self.agent_version.clone().unwrap_or_default(),
        ]
    }
}
