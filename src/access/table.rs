//! Tokens as lines of a table.

use lessor_protocol::Token;

use crate::http::TableRow;

impl TableRow for Token {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "ROLE", "FOR", "TENANT", "PREFIX", "CREATED", "EXPIRES", "USED", "REVOKED",
    ];

    fn cells(&self) -> Vec<String> {
        let moment = |at: Option<chrono::DateTime<chrono::Utc>>| {
            at.map(|at| at.format("%Y-%m-%d %H:%M").to_string())
                .unwrap_or_default()
        };
        let scope = match (&self.owner, &self.agent) {
            (Some(owner), _) => owner.clone(),
            (None, Some(agent)) => agent.clone(),
            (None, None) => self.pools.join(","),
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.role.to_string(),
            scope,
            self.tenant.clone().unwrap_or_default(),
            self.prefix.clone(),
            moment(Some(self.created_at)),
            moment(self.expires_at),
            moment(self.last_used_at),
            moment(self.revoked_at),
        ]
    }
}
