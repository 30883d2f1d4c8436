//! Hand-overs, pure: a session moves from one agent to another while it runs.
//!
//! The holder is asked (`release`) and answers by reporting the present state at that generation;
//! then its hold has ended, and another agent of the domain adopts the session. A hold that is not
//! given up is taken (`Draft::take`).
//!
//! A hand-over may be to one agent in particular: the session is kept for it for a while once it has
//! been let go of, and then anybody can adopt it.

use lessor_protocol::EndReason;

use super::draft::{Context, Draft};

impl Draft {
    /// Asks the holder to let go of the session, so that another agent of its domain can adopt it.
    /// It runs on meanwhile.
    pub fn hand_over(&mut self, ctx: &Context<'_>) {
        self.row.handing_over = true;
        self.want_anew(ctx, self.row.desired_state, Some("hand_over"));
    }

    /// Asks the holder to let go of the session, so that this agent of its domain can adopt it.
    pub fn hand_over_to(&mut self, ctx: &Context<'_>, agent: &str) {
        self.row.reserved_for = Some(agent.to_owned());
        self.hand_over(ctx);
    }

    /// Takes that back: the holder is told to go on.
    pub fn stop_hand_over(&mut self, ctx: &Context<'_>) {
        self.forget_hand_over();
        self.want_anew(ctx, self.row.desired_state, Some("hand_over_cancelled"));
    }

    /// Nobody is asked to let go of it any more, and it is kept for nobody.
    pub(super) fn forget_hand_over(&mut self) {
        self.row.handing_over = false;
        self.row.reserved_for = None;
        self.row.reserved_until = None;
    }

    /// Its holder has let go of it. It does not get it back while another can take it; and if it was
    /// asked for on behalf of one agent, that one has as long as an offer stands to claim it.
    pub(super) fn released(&mut self, ctx: &Context<'_>, agent: &str) {
        let reserved_for = self.row.reserved_for.clone();
        self.unassign(ctx, EndReason::Released, "session.released");
        self.avoid(ctx, agent, ctx.pool.lease_ttl_seconds);
        self.row.reserved_until = reserved_for
            .as_ref()
            .map(|_| ctx.after(ctx.pool.accept_timeout_seconds));
        self.row.reserved_for = reserved_for;
    }
}
