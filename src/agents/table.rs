//! Agents as lines of a table.

use lessor_protocol::{Agent, AgentApproval};

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

impl TableRow for AgentApproval {
    const COLUMNS: &'static [&'static str] = &["AGENT", "POOL", "ASKED", "APPROVED", "BY"];

    fn cells(&self) -> Vec<String> {
        let moment = |at: Option<chrono::DateTime<chrono::Utc>>| {
            at.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string())
                .unwrap_or_default()
        };
        vec![
            self.agent.clone(),
            self.pool.clone(),
            moment(self.asked_at),
            moment(self.approved_at),
            self.approved_by.clone().unwrap_or_default(),
        ]
    }
}
