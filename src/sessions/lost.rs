//! What becomes of a session whose whole domain is lost, pure. When that is so, and what the pool wants
//! done then, is known to `leases`.

use lessor_protocol::SessionState;

use super::draft::{Context, Draft};
use super::transitions::failure;

impl Draft {
    /// Its whole domain is lost, and the pool says to start it elsewhere. Its own domain may still
    /// adopt it; the first accepted report decides. What was migrating there comes back.
    pub fn give_up_domain(&mut self, ctx: &Context<'_>) {
        if self.come_back_from_lost(ctx) {
            return;
        }
        // Where it was bound to that domain, others could not start it.
        self.row.start_domain = None;
        self.row.domain_lost = true;
        self.row.queued_at = ctx.now;
        self.record(ctx, "session.requeued").reason = Some("domain_lost".to_owned());
    }

    /// Its whole domain is lost, and the pool says to fail it. What was migrating there comes back.
    pub fn fail_with_domain(&mut self, ctx: &Context<'_>) {
        if self.come_back_from_lost(ctx) {
            return;
        }
        self.leave_behind("its domain was lost");
        self.dead_letter(
            ctx,
            failure(ctx, "domain_lost", "no agent of its domain came back"),
        );
        self.forget_resource();
    }

    /// Its end is wanted and no agent is there to see to it: it has ended, and its domain must
    /// delete what it left.
    pub fn end_without_agent(&mut self, ctx: &Context<'_>) {
        self.leave_behind("it ended while its domain was lost");
        self.row.held_back_until = None;
        self.move_to(ctx, SessionState::Terminated, Some("domain_lost"));
    }
}
