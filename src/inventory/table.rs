//! Leftovers as lines of a table.

use lessor_protocol::Leftover;

use crate::http::TableRow;

impl TableRow for Leftover {
    const COLUMNS: &'static [&'static str] = &[
        "KIND",
        "POOL",
        "DOMAIN",
        "SESSION",
        "ATTEMPT",
        "RESOURCE",
        "SINCE",
        "DELETE_AFTER",
        "REASON",
    ];

    fn cells(&self) -> Vec<String> {
        let time = |at: chrono::DateTime<chrono::Utc>| {
            at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        };
        vec![
            self.kind.to_string(),
            self.pool.clone(),
            self.resource_domain.clone(),
            self.session_id.map(|id| id.to_string()).unwrap_or_default(),
            self.attempt.map(|n| n.to_string()).unwrap_or_default(),
            self.platform_resource_id.clone().unwrap_or_default(),
            time(self.since),
            self.delete_after.map(time).unwrap_or_default(),
            self.reason.clone(),
        ]
    }
}
