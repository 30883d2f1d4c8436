//! Hand-overs, pure: a session moves from one agent to another while it runs.
//!
//! The holder is asked (`release`) and answers by reporting the present state at that generation;
//! then its hold has ended, and another agent of the domain adopts the session. A hold that is not
//! given up is taken (`Draft::take`).

use lessor_protocol::EndReason;

use super::draft::{Context, Draft};

impl Draft {
    /// Asks the holder to let go of the session, so that another agent of its domain can adopt it.
    /// It runs on meanwhile.
    pub fn hand_over(&mut self, ctx: &Context<'_>) {
        self.row.handing_over = true;
        self.want_anew(ctx, self.row.desired_state, Some("hand_over"));
    }

    /// Takes that back: the holder is told to go on.
    pub fn stop_hand_over(&mut self, ctx: &Context<'_>) {
        self.row.handing_over = false;
        self.want_anew(ctx, self.row.desired_state, Some("hand_over_cancelled"));
    }

    /// Its holder has let go of it. It does not get it back while another can take it.
    pub(super) fn released(&mut self, ctx: &Context<'_>, agent: &str) {
        self.unassign(ctx, EndReason::Released, "session.released");
        self.avoid(ctx, agent, ctx.pool.lease_ttl_seconds);
    }
}
