//! A step of a rebalance: notes what has been taken over, gives up what takes too long, and begins
//! the next moves.
//!
//! It can be run at any time and by any server; it works on what it finds. Agents are locked before
//! sessions. Its own rows come whenever they do: nobody who holds an agent or a session waits for
//! them.

use std::collections::{BTreeSet, HashMap};

use lessor_protocol::{DesiredState, MoveState, PoolSpec, RebalanceStatus, SessionState};
use uuid::Uuid;

use super::store::{self, ToDo};
use crate::agents::{self, AgentRow};
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, Draft, SessionRow};
use crate::store::Conn;
use crate::wakeups::Hints;

/// What a step came to.
#[derive(Debug, Default)]
pub struct Step {
    /// Whether there is more to do at once.
    pub more: bool,
    /// How the rebalance ended, if it did.
    pub ended: Option<RebalanceStatus>,
    /// What became of moves.
    pub outcomes: Vec<MoveState>,
    /// Whom to wake.
    pub hints: Hints,
}

/// Moves a rebalance on.
pub async fn advance(conn: &mut Conn, id: Uuid) -> Result<Step> {
    let mut step = Step::default();
    if !store::try_lock(conn, id).await? {
        return Ok(step);
    }
    let Some(pool) = store::pool_of(conn, id).await? else {
        return Ok(step);
    };
    let rules = pools::rules(conn, &pool).await?;
    step.outcomes = store::settle(conn, id).await?;
    let to_do = store::to_do(conn, id, patience_seconds(&rules)).await?;
    if !to_do.is_empty() {
        act(conn, (id, &pool, &rules), to_do, &mut step).await?;
    }
    step.ended = store::finish(conn, id).await?;
    if step.ended == Some(RebalanceStatus::Completed) {
        let actor = sessions::system("rebalance");
        store::record(conn, id, "rebalance.completed", &actor).await?;
    }
    Ok(step)
}

/// How long a move may take: the holder may be between two polls for as long as its lease lasts, and
/// then the target has its time, and another agent after it.
fn patience_seconds(rules: &PoolSpec) -> f64 {
    rules.lease_ttl_seconds + 2.0 * rules.accept_timeout_seconds
}

/// What is decided about moves in one step.
#[derive(Default)]
struct Decided {
    begun: Vec<i32>,
    skipped: Vec<i32>,
    failed: Vec<i32>,
    drafts: Vec<Draft>,
}

async fn act(
    conn: &mut Conn,
    (id, pool, rules): (Uuid, &str, &PoolSpec),
    to_do: Vec<ToDo>,
    step: &mut Step,
) -> Result<()> {
    let holders: BTreeSet<String> = to_do.iter().map(|item| item.from_agent.clone()).collect();
    let holders: Vec<String> = holders.into_iter().collect();
    let holders = agents::lock(conn, &holders).await?;
    let ids: Vec<Uuid> = to_do.iter().map(|item| item.session_id).collect();
    let rows = sessions::lock(conn, &ids).await?;
    // Once more, now that nothing of it can change any more: what was made just now is no failure.
    step.outcomes.extend(store::settle(conn, id).await?);
    let actor = sessions::system("rebalance");
    let ctx = Context {
        now: sessions::now(conn).await?,
        pool: rules,
        actor: &actor,
        epoch_floor: 0,
    };
    let mut rows: HashMap<Uuid, SessionRow> = rows.into_iter().map(|row| (row.id, row)).collect();
    let mut taken: HashMap<String, i64> = HashMap::new();
    let mut decided = Decided::default();
    for item in to_do {
        let row = rows.remove(&item.session_id);
        let held = row.filter(|row| {
            row.is_held()
                && row.lease_epoch == item.lease_epoch
                && row.assigned_agent_id.as_ref() == Some(&item.from_agent)
        });
        if item.state == MoveState::Planned {
            let taken = taken.entry(item.to_agent.clone()).or_default();
            let has_room = item.takes && *taken < item.room;
            let holder = holders.iter().find(|agent| agent.name == item.from_agent);
            match held.filter(|row| has_room && may_begin(row, holder)) {
                Some(row) => {
                    *taken += 1;
                    let mut draft = Draft::of(row);
                    draft.hand_over_to(&ctx, &item.to_agent);
                    decided.drafts.push(draft);
                    decided.begun.push(item.place);
                }
                None => decided.skipped.push(item.place),
            }
            continue;
        }
        match held.filter(|row| row.handing_over) {
            // Nobody would take it, or nobody has: its holder is told to go on.
            Some(row) if item.is_late || !item.can_take => {
                let mut draft = Draft::of(row);
                draft.stop_hand_over(&ctx);
                decided.drafts.push(draft);
                decided.failed.push(item.place);
            }
            Some(_) => {}
            None if item.is_late => decided.failed.push(item.place),
            // The target did not claim it in its time: now anybody may.
            None if item.is_open_to_all => {
                let domain = item.resource_domain.into_iter();
                step.hints.pool(pool).domains.extend(domain);
            }
            None => {}
        }
    }
    step.hints
        .merge(sessions::write(conn, &decided.drafts).await?);
    store::set(conn, id, &decided.begun, MoveState::InProgress).await?;
    for (places, state) in [
        (&decided.skipped, MoveState::Skipped),
        (&decided.failed, MoveState::Failed),
    ] {
        let count = store::set(conn, id, places, state).await?;
        step.outcomes.extend(std::iter::repeat_n(state, count));
    }
    // In the place of what is skipped others can begin.
    step.more = !decided.skipped.is_empty();
    Ok(())
}

fn may_begin(row: &SessionRow, holder: Option<&AgentRow>) -> bool {
    row.state == SessionState::Running
        && row.desired_state == DesiredState::Running
        && !row.handing_over
        && holder.is_some_and(|agent| agent.live && !agent.cordoned)
}
