//! Webhooks as lines of a table.

use lessor_protocol::Webhook;

use crate::http::TableRow;

impl TableRow for Webhook {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "URL", "KINDS", "POOL", "TENANT", "STATE", "THROUGH", "FAILURE",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match (self.enabled, self.failures) {
            (false, _) => "disabled".to_owned(),
            (true, 0) => "sends".to_owned(),
            (true, failures) => format!("failed {failures}"),
        };
        let failure = self.disabled_reason.clone().or_else(|| {
            let fails = self.failures > 0;
            self.last_failure.clone().filter(|_| fails)
        });
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.url.clone(),
            self.kinds.join(","),
            self.pool.clone().unwrap_or_default(),
            self.tenant.clone().unwrap_or_default(),
            state,
            self.delivered_through.clone(),
            failure.unwrap_or_default(),
        ]
    }
}
