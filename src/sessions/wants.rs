//! What is wanted of a session changes, pure.

use lessor_protocol::{DesiredState, EndReason};

use super::draft::{Context, Draft};

impl Draft {
    /// Changes what is wanted. Whether that is allowed has been checked.
    pub fn want(&mut self, ctx: &Context<'_>, desired: DesiredState) {
        self.want_because(ctx, desired, None);
    }

    pub(super) fn want_because(
        &mut self,
        ctx: &Context<'_>,
        desired: DesiredState,
        reason: Option<&str>,
    ) {
        if self.row.desired_state == desired {
            return;
        }
        if self.row.is_offered() {
            // An offer that has not been accepted is no hold: it had no effect, so it is void.
            self.unassign(ctx, EndReason::Superseded, "session.requeued");
        }
        // A newer wish outranks a hand-over; whoever wanted that can ask for it again.
        self.forget_hand_over();
        if desired == DesiredState::Terminated {
            self.end_migration();
        }
        self.want_anew(ctx, desired, reason);
        self.end_if_over(ctx);
    }
}
