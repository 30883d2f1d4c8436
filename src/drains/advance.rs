//! A step of a drain: asks holders to let go, takes at the deadline what was not given up, and
//! notes what has been taken over.
//!
//! It can be run at any time and by any server; it works on what it finds. Agents are locked
//! before sessions, and both before the drain's own rows.

use std::collections::HashMap;

use lessor_protocol::{DesiredState, DrainStatus, EndReason, OnLost, PoolSpec, SessionState};
use uuid::Uuid;

use super::store;
use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;

/// The most holds that one step decides about.
const BATCH: usize = 500;

/// What a step came to.
#[derive(Debug, Default)]
pub struct Step {
    /// Whether there is more to do at once.
    pub more: bool,
    /// How the drain ended, if it did.
    pub ended: Option<DrainStatus>,
    /// How many sessions were found taken over.
    pub handed_over: u64,
    /// Whom to wake.
    pub hints: Hints,
}

impl Step {
    /// It has committed: counts what came of it, and wakes whom it concerns.
    pub fn committed(self, app: &App, drain: Uuid) {
        metrics::counter!("lessor_sessions_handed_over_total").increment(self.handed_over);
        if let Some(status) = self.ended {
            metrics::counter!("lessor_drains_total", "status" => status.as_str()).increment(1);
            tracing::info!(%drain, %status, "a drain is over");
        }
        app.hub.committed(self.hints);
    }
}

/// Moves a drain on.
pub async fn advance(conn: &mut Conn, id: Uuid) -> Result<Step> {
    let mut step = Step::default();
    if !store::try_lock(conn, id).await? {
        return Ok(step);
    }
    let members = store::members(conn, id).await?;
    let holders = agents::lock(conn, &members).await?;
    // Read under the locks of its agents, which whoever calls it off holds, too.
    let drain = store::show(conn, id).await?;
    let Some(drain) = drain.filter(|drain| drain.status == DrainStatus::InProgress) else {
        return Ok(step);
    };
    let rules = pools::rules(conn, &drain.pool).await?;
    let settled = store::follow(conn, id, &drain.agents).await?;
    step.handed_over = settled.iter().filter(|o| *o == "handed_over").count() as u64;
    if !settled.is_empty() {
        step.hints.changed.insert(id);
    }
    let is_due = drain.force || drain.is_late;
    let on_lost = Some(rules.on_lost);
    let decides = on_lost.filter(|on_lost| *on_lost != OnLost::Wait && !drain.is_braked);
    let to_do = store::to_do(conn, id, &drain.agents, is_due, decides).await?;
    step.more = to_do.len() >= BATCH;
    if !to_do.is_empty() {
        step.hints
            .merge(act(conn, &rules, &holders, &to_do, (is_due, decides.is_some())).await?);
        step.hints.changed.insert(id);
        if is_due {
            store::acted(conn, id).await?;
        }
        let again = store::follow(conn, id, &drain.agents).await?;
        step.handed_over += again.iter().filter(|o| *o == "handed_over").count() as u64;
    }
    for name in store::mark_drained(conn, id, &drain.agents).await? {
        step.hints.pool(&drain.pool).agents.insert(name);
    }
    step.ended = end(conn, id, &rules).await?;
    if let Some(status) = step.ended {
        let actor = sessions::system("drain");
        store::finish(conn, id, status).await?;
        if status == DrainStatus::Failed {
            for agent in store::let_go(conn, id, &drain.agents, false).await? {
                step.hints.pool(&drain.pool).agents.insert(agent.name);
            }
        }
        store::record(conn, id, &format!("drain.{status}"), &actor).await?;
        step.hints.changed.insert(id);
    }
    Ok(step)
}

/// How the drain has ended, if it has.
async fn end(conn: &mut Conn, id: Uuid, rules: &PoolSpec) -> Result<Option<DrainStatus>> {
    let Some(drain) = store::show(conn, id).await? else {
        return Ok(None);
    };
    if !drain.has_members {
        return Ok(Some(DrainStatus::Cancelled));
    }
    if drain.remaining == 0 && !store::hold_anything(conn, &drain.agents).await? {
        return Ok(Some(DrainStatus::Completed));
    }
    if drain.is_braked {
        return Ok(None);
    }
    // What was taken at the deadline can be claimed once the lease that its holder had then has run
    // out, and may be offered to somebody who does not answer before somebody does.
    let grace = rules.lease_ttl_seconds + 2.0 * rules.accept_timeout_seconds;
    let over = drain.grace_from + sessions::duration(grace);
    Ok((sessions::now(conn).await? >= over).then_some(DrainStatus::Failed))
}

async fn act(
    conn: &mut Conn,
    rules: &PoolSpec,
    holders: &[AgentRow],
    to_do: &[store::ToDo],
    (is_due, decides): (bool, bool),
) -> Result<Hints> {
    let ids: Vec<Uuid> = to_do.iter().map(|item| item.id).collect();
    let adoptable: HashMap<Uuid, bool> = to_do.iter().map(|i| (i.id, i.adoptable)).collect();
    let rows = sessions::lock(conn, &ids).await?;
    let now = sessions::now(conn).await?;
    let actor = sessions::system("drain");
    let ctx = Context {
        now,
        pool: rules,
        actor: &actor,
        epoch_floor: 0,
    };
    let mut drafts = Vec::new();
    for row in rows {
        // Let go of since it was found.
        let holder = holders
            .iter()
            .find(|agent| Some(&agent.name) == row.assigned_agent_id.as_ref());
        let Some(holder) = holder.filter(|_| row.is_held()) else {
            continue;
        };
        let adoptable = adoptable.get(&row.id).copied().unwrap_or_default();
        let mut draft = Draft::of(row);
        match (is_due, adoptable) {
            (false, true) => ask(&mut draft, &ctx),
            (false, false) => give_back(&mut draft, &ctx),
            (true, true) => draft.take(&ctx, EndReason::Forced, holder.lease_expires_at),
            (true, false) if decides => decide(&mut draft, &ctx, holder),
            (true, false) => give_back(&mut draft, &ctx),
        }
        drafts.push(draft);
    }
    sessions::write(conn, &drafts).await
}

fn ask(draft: &mut Draft, ctx: &Context<'_>) {
    let runs = draft.row.state == SessionState::Running
        && draft.row.desired_state == DesiredState::Running;
    if runs && !draft.row.handing_over {
        draft.hand_over(ctx);
    }
}

fn give_back(draft: &mut Draft, ctx: &Context<'_>) {
    if draft.row.handing_over {
        draft.stop_hand_over(ctx);
    }
}

/// The deadline has passed and nobody can adopt it: as for a lost domain, but its agent is live, so
/// its hold is taken first.
fn decide(draft: &mut Draft, ctx: &Context<'_>, holder: &AgentRow) {
    let (desired, state) = (draft.row.desired_state, draft.row.state);
    let take = |draft: &mut Draft| draft.take(ctx, EndReason::Forced, holder.lease_expires_at);
    match (ctx.pool.on_lost, desired) {
        (OnLost::Restart | OnLost::Fail, DesiredState::Terminated) => {
            take(draft);
            if draft.row.state != SessionState::Terminated {
                draft.end_without_agent(ctx);
            }
        }
        (OnLost::Restart, DesiredState::Running) if state != SessionState::Terminating => {
            take(draft);
            // Without a domain it can be started anywhere as it is.
            if draft.row.resource_domain.is_some() {
                draft.give_up_domain(ctx);
            }
        }
        (OnLost::Fail, _) => {
            take(draft);
            draft.fail_with_domain(ctx);
        }
        // Nothing can be decided about it: its holder keeps it.
        (OnLost::Wait | OnLost::Restart, _) => give_back(draft, ctx),
    }
}
