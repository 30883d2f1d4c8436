//! New sessions that are offered in the very transaction that makes them: one commit instead of two.
//!
//! Invariants, beside those of a round:
//! - Nothing is overtaken: where a start waits that one of these agents could take, or an agent has
//!   other work to be given, nothing is offered here.
//! - What cannot be offered is inserted all the same, and waits as if it had come another way.
//! - An owner's limit, and the turns of owners who compete, are for rounds alone.
//!
//! A row that is new is in nobody's way, so only agents are locked, and none is waited for.

use std::collections::{BTreeSet, HashMap};

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Action, PoolSpec};

use super::dispatch::{Asking, Done, LockedAgent, Round, candidate, in_order};
use super::give::{Given, item};
use super::lines::free;
use super::lone::Known;
use super::placement::{Candidate, share_out};
use super::starts::would_take_a_start;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft, Home, SessionRow, Those};
use crate::shares::{self, Around};
use crate::store::{Conn, Db, Statement};
use crate::wakeups::Hints;

#[derive(QueryableByName)]
struct Locked {
    #[diesel(embed)]
    agent: LockedAgent,
    #[diesel(sql_type = Bool)]
    has_work: bool,
}

#[derive(QueryableByName)]
struct Before {
    #[diesel(sql_type = Array<Text>)]
    limited: Vec<String>,
    #[diesel(sql_type = BigInt)]
    epoch_floor: i64,
}

/// What the first flight of the transaction finds.
struct Seen {
    locked: Vec<Locked>,
    before: Before,
    /// Whether any start waits in the pool.
    starts_wait: bool,
    rules: PoolSpec,
}

/// What was made.
pub struct Made {
    /// The sessions, in the order in which they came.
    pub rows: Vec<SessionRow>,
    /// What became of those who asked.
    pub done: Done,
    /// Agents with other work, which a round is to give them.
    pub with_work: Vec<String>,
    /// What they were made by, where all of them were offered: the next one may be as well.
    pub known: Option<Known>,
}

/// Makes new sessions of a pool, and offers to those who ask what may be.
///
/// # Errors
/// What the database says; then none was made, unless it is `DatabaseUnavailable`.
pub async fn make(
    db: &Db,
    pool: &str,
    around: Around,
    asking: Vec<Asking>,
    drafts: Vec<Draft>,
) -> Result<Made> {
    metrics::counter!("lessor_claim_statements_total").increment(1);
    let names: Vec<String> = asking.iter().map(|asking| asking.agent.clone()).collect();
    let owners: BTreeSet<String> = drafts.iter().filter_map(|d| d.row.owner.clone()).collect();
    let (of, pool, is_spent) = (pool.to_owned(), pool.to_owned(), around.clone());
    db.write_once(
        "claims::make_and_offer",
        |conn| {
            Box::pin(look(
                conn,
                of,
                is_spent,
                names,
                owners.into_iter().collect(),
            ))
        },
        |conn, seen| Box::pin(make_in(conn, (pool, around), asking, drafts, seen)),
    )
    .await
}

/// All in one flight.
async fn look(
    conn: &Conn,
    pool: String,
    around: Around,
    names: Vec<String>,
    owners: Vec<String>,
) -> Result<Seen> {
    let (mut to_lock, mut to_look) = (conn, conn);
    let lock = Statement::new(include_str!("lock_to_offer.sql"))
        .bind::<Array<Text>, _>(names)
        .bind::<Text, _>(pool.clone());
    let before = Statement::new(include_str!("before_new.sql"))
        .bind::<Text, _>(pool.clone())
        .bind::<Array<Text>, _>(owners);
    let (locked, before, starts_wait, rules) = futures_util::join!(
        lock.load::<Locked>(&mut to_lock),
        before.get_result::<Before>(&mut to_look),
        shares::waits(conn, &pool, &around),
        pools::rules(conn, &pool),
    );
    Ok(Seen {
        locked: locked?,
        before: before?,
        starts_wait: starts_wait?,
        rules: rules?,
    })
}

async fn make_in(
    conn: &mut Conn,
    (pool, around): (String, Around),
    mut asking: Vec<Asking>,
    mut drafts: Vec<Draft>,
    seen: Seen,
) -> Result<Made> {
    let Seen {
        locked,
        before,
        starts_wait,
        rules,
    } = seen;
    let now = match locked.as_slice().first() {
        Some(locked) => locked.agent.now,
        None => sessions::now(conn).await?,
    };
    let home = Home {
        name: pool.clone(),
        platform: rules.platform.clone(),
        region: rules.region.clone(),
    };
    if !drafts.iter().all(|draft| draft.may_be_in(&home)) {
        return Err(another_home());
    }
    for (index, draft) in drafts.iter_mut().enumerate() {
        draft.place(&home, now, index);
    }
    let (mut candidates, mut with_work) = (Vec::new(), Vec::new());
    for Locked { agent, has_work } in &locked {
        let asking = asking.iter().find(|asking| asking.agent == agent.name);
        let may = asking.and_then(|asking| candidate(agent, asking, now));
        if *has_work || agent.has_commands {
            with_work.extend(may.map(|candidate| candidate.name));
        } else {
            candidates.extend(may);
        }
    }
    in_order(&mut candidates);
    // Agents that somebody else has in hand stay parked, as if nobody had asked them.
    asking.retain(|asking| locked.iter().any(|l| l.agent.name == asking.agent));
    let round = Round::of_new(pool, asking, around);
    let actor = sessions::system("dispatcher");
    let known = Known {
        rules,
        epoch_floor: before.epoch_floor,
    };
    let ctx = known.context(&actor, now);
    let may = |draft: &Draft| {
        let owner = draft.row.owner.as_ref();
        draft.starts_anywhere() && owner.is_none_or(|owner| !before.limited.contains(owner))
    };
    let offered: Vec<usize> = (0..drafts.len()).filter(|i| may(&drafts[*i])).collect();
    let mut given = Given::default();
    let agents: HashMap<&str, &LockedAgent> = locked
        .iter()
        .map(|locked| (locked.agent.name.as_str(), &locked.agent))
        .collect();
    let must_wait = candidates.is_empty()
        || compete(&drafts, &offered, &candidates)
        || (starts_wait && would_take_a_start(conn, &round, &candidates).await?);
    if !must_wait {
        offer(
            &mut given,
            &ctx,
            &mut drafts,
            offered,
            &mut candidates,
            &agents,
        );
    }
    let made = sessions::insert(conn, &mut drafts, Those::All).await?;
    if !made.into_iter().all(|made| made) {
        return Err(another_home());
    }
    let rows: Vec<SessionRow> = drafts.into_iter().map(|draft| draft.row).collect();
    let all_offered = rows.iter().all(|row| row.offered_until.is_some());
    let hints = Hints::of_new(rows.iter());
    let locked: Vec<LockedAgent> = locked.into_iter().map(|locked| locked.agent).collect();
    let mut done = given.into_done(&round, &locked, &candidates, &HashMap::new(), (now, hints));
    done.placement = Some(known.rules.placement);
    Ok(Made {
        rows,
        done,
        with_work,
        known: Some(known).filter(|_| all_offered),
    })
}

/// The pool is not what was asked for; whoever asked finds out alone.
fn another_home() -> Error {
    Error::Internal("a session has another home".to_owned())
}

/// Whether owners compete for too few slots: whose turn it is is found out by a round.
fn compete(drafts: &[Draft], offered: &[usize], candidates: &[Candidate]) -> bool {
    let owners: BTreeSet<Option<&String>> = offered
        .iter()
        .map(|index| drafts[*index].row.owner.as_ref())
        .collect();
    owners.len() > 1 && offered.len() > candidates.iter().map(free).sum()
}

/// Offers what may be, the most urgent first.
fn offer(
    given: &mut Given,
    ctx: &Context<'_>,
    drafts: &mut [Draft],
    mut offered: Vec<usize>,
    candidates: &mut [Candidate],
    agents: &HashMap<&str, &LockedAgent>,
) {
    offered.sort_by_key(|index| std::cmp::Reverse(drafts[*index].row.priority));
    for index in offered {
        let wanted = [item(&drafts[index].row, ctx.now, false)];
        let Some(to) = share_out(candidates, &wanted, ctx.pool.placement)[0] else {
            return;
        };
        let agent = agents[candidates[to].name.as_str()];
        given.offer_new(ctx, &mut drafts[index], agent, Action::Start);
    }
}
