//! The part of a round that gives out what any agent of the pool may start.
//!
//! It goes queue by queue: which there are for these agents, whose turn it is, and from each queue as
//! many heads as could be needed. Where a queue turns out shorter than its owner's share, the rest is
//! asked of the others, a few times at most.

use std::collections::HashMap;

use lessor_protocol::Action;

use super::dispatch::{LockedAgent, Round};
use super::give::{Given, item};
use super::lines::{Lines, free};
use super::placement::{Candidate, share_out};
use crate::error::Result;
use crate::sessions::{Context, SessionRow};
use crate::store::Conn;

/// How often a round asks its queues at most.
const MAX_ASKS: usize = 4;

/// Whether a start waits that one of these agents could be given now. What none of them has the labels
/// for, and what is of an owner without a place, is not; more queues than a walk sees count as one.
pub(super) async fn would_take_a_start(
    conn: &mut Conn,
    round: &Round,
    candidates: &[Candidate],
) -> Result<bool> {
    let able: Vec<&Candidate> = candidates.iter().filter(|c| free(c) > 0).collect();
    if able.is_empty() {
        return Ok(false);
    }
    let lines = Lines::walk(conn, round, &able).await?;
    Ok(!lines.is_all() || lines.any_for(&able))
}

impl Given {
    /// Last what any agent of the pool may start.
    pub(super) async fn starts(
        &mut self,
        conn: &mut Conn,
        ctx: &Context<'_>,
        round: &Round,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> Result<()> {
        let able: Vec<&Candidate> = candidates.iter().filter(|c| free(c) > 0).collect();
        let mut left = round.limit.min(able.iter().map(|c| free(c)).sum());
        if left == 0 {
            // Nobody here can take any; whether there are some is for others to find out.
            self.more_starts = true;
            return Ok(());
        }
        let mut lines = Lines::find(conn, round, &able, left).await?;
        let avoiding: Vec<String> = able.iter().map(|c| c.name.clone()).collect();
        // Picked above already, as the work of its own domain.
        lines.leave_out(&self.picked);
        for _ in 0..MAX_ASKS {
            let asks = lines.asks(candidates, left);
            if asks.is_empty() {
                break;
            }
            lines.pick(conn, round, &avoiding, &asks).await?;
            while left > 0
                && let Some((turn, line, row)) = lines.next()
            {
                if self.start(ctx, row, candidates, agents) {
                    lines.gave(turn, line);
                    left -= 1;
                }
            }
            left = left.min(candidates.iter().map(free).sum());
            if left == 0 {
                break;
            }
        }
        self.more_starts |= lines.more() || !lines.is_all();
        self.look_again = lines.is_remembered() && left > 0;
        self.unsatisfied = lines.is_unsatisfied();
        self.moved = lines.moved();
        self.seen = lines.seen();
        if let Some(next) = lines.next_walk() {
            self.walk = next.clone();
        }
        self.walked = Some(lines.into_walked());
        Ok(())
    }

    /// Offers a session to the agent that suits it best; whether there was one.
    fn start(
        &mut self,
        ctx: &Context<'_>,
        row: SessionRow,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> bool {
        let wanted = [item(&row, ctx.now, false)];
        let Some(to) = share_out(candidates, &wanted, ctx.pool.placement)[0] else {
            self.note_avoided(&row);
            self.more_starts = true;
            return false;
        };
        let agent = agents[candidates[to].name.as_str()];
        // Its own domain came back: there is something to take over.
        let own = row.resource_domain.as_ref() == Some(&agent.resource_domain);
        let action = if own { row.next().action() } else { None };
        self.started += 1;
        self.offer(ctx, row, agent, action.unwrap_or(Action::Start));
        true
    }
}
