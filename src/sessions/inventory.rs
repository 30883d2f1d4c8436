//! What inventories change about a session, pure.

use chrono::{DateTime, Utc};
use lessor_protocol::Failure;

use super::draft::{Context, Draft};

impl Draft {
    /// The inventories of its holder do not list its resource any more: it fails as if the holder
    /// had reported so, and the holder is told that it has lost it.
    pub fn resource_gone(&mut self, ctx: &Context<'_>, lease_expires_at: DateTime<Utc>) {
        let (Some(agent), Some(incarnation)) = (
            self.row.assigned_agent_id.clone(),
            self.row.assigned_incarnation,
        ) else {
            return;
        };
        self.remember_lost(&agent, incarnation, lease_expires_at);
        self.fail(
            ctx,
            Failure {
                reason: "resource_gone".to_owned(),
                message: "two inventories in a row did not list its resource".to_owned(),
                exit_code: None,
                retryable: true,
                at: ctx.now,
            },
        );
    }

    /// What one of its attempts left in a domain is not there any more.
    pub fn leftover_deleted(
        &mut self,
        ctx: &Context<'_>,
        resource_domain: &str,
        attempt: i32,
        platform_resource_id: Option<&str>,
    ) {
        let event = self.record(ctx, "session.leftover_deleted");
        event.data = serde_json::json!({
            "resource_domain": resource_domain,
            "attempt": attempt,
            "platform_resource_id": platform_resource_id,
        });
        self.has_stopped(ctx, attempt);
    }
}
