//! Time limits of sessions: idleness and the longest life, and the activity that idleness is
//! judged by.
//!
//! `limit_checks` says when to look at a session next. Each write of a session whose limits begin
//! to run, or run sooner, puts that time in (`sessions/write.sql`); a look puts it off, or removes
//! it where no limit runs. Sessions without limits have no row there, and cost nothing.
//!
//! Invariants:
//! - A session's row is locked and judged anew before it is changed: activity that came meanwhile
//!   saves it, and of many servers one makes the change.
//! - A check is never put off beyond a limit: it is judged after its own lock was had, and whoever
//!   makes a limit run sooner waits for that lock.
//! - Activity touches no session's row.
//!
//! What this room does not do: start and terminate timeouts, which are phase deadlines, and
//! `not_before`; both are `upkeep::due`.

mod activity;
mod state;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::app::App;
use crate::error::Result;
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;
use crate::{agents, pools};
use state::{Verdict, judge};

pub use activity::{Activities, ActivityWorker, MAX_ACTIVITY};
pub use state::Limit;

/// When a session was last used, as far as that is known; lists of sessions have it in their own statement.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn last_activity(app: &App, id: Uuid) -> Result<Option<DateTime<Utc>>> {
    app.db
        .read("limits::last_activity", move |conn| {
            Box::pin(store::last_activity(conn, id))
        })
        .await
}

/// Sees to the limits that have been reached, and says in how long to look again; none if no limit
/// runs.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>) -> Result<Option<Duration>> {
    let (seen, reached) = app
        .db
        .write("limits::look", |conn| Box::pin(look(conn)))
        .await?;
    if !reached.is_empty() {
        let (hints, changed) = app
            .db
            .write("limits::enforce", |conn| {
                Box::pin(enforce(conn, reached.clone()))
            })
            .await?;
        app.hub.committed(hints);
        for limit in changed {
            metrics::counter!("lessor_session_limits_total", "limit" => limit.as_str())
                .increment(1);
        }
    }
    if seen == store::BATCH {
        return Ok(Some(Duration::ZERO));
    }
    let next = app
        .db
        .read("limits::next", |conn| Box::pin(store::next(conn)))
        .await?;
    Ok(next.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))))
}

/// Looks at what is due, and puts off what is not reached: how many there were, and those of which
/// a limit seems to be reached.
async fn look(conn: &mut Conn) -> Result<(usize, Vec<Uuid>)> {
    let due = store::due(conn).await?;
    if due.is_empty() {
        return Ok((0, Vec::new()));
    }
    // After the locks, so that it sees every change that they waited for.
    let found = store::facts(conn, &due).await?;
    let now = sessions::now(conn).await?;
    let (mut reached, mut later) = (Vec::new(), Vec::new());
    for session in found {
        match judge(&session.facts, now) {
            Verdict::Reached(_) => reached.push(session.id),
            Verdict::Later(at) => later.push((session.id, at)),
            Verdict::Nothing => {}
        }
    }
    let kept = |id: &Uuid| reached.contains(id) || later.iter().any(|(kept, _)| kept == id);
    let never = due.iter().filter(|id| !kept(id)).copied().collect();
    store::settle(conn, later, never).await?;
    Ok((due.len(), reached))
}

/// Locks sessions, judges them anew, and does what their limits say.
async fn enforce(conn: &mut Conn, ids: Vec<Uuid>) -> Result<(Hints, Vec<Limit>)> {
    // Agents before sessions, each in key order.
    let before = store::facts(conn, &ids).await?;
    let mut names: Vec<String> = before.into_iter().filter_map(|found| found.agent).collect();
    names.sort_unstable();
    names.dedup();
    agents::lock(conn, &names).await?;
    let rows = sessions::lock(conn, &ids).await?;
    // Whoever looked for work while these rows were locked has passed them over, and is to look again.
    let mut hints = Hints::of(rows.iter());
    let mut found: HashMap<Uuid, _> = store::facts(conn, &ids)
        .await?
        .into_iter()
        .map(|found| (found.id, found))
        .collect();
    let now = sessions::now(conn).await?;
    let actor = sessions::system("limits");
    let mut rules = BTreeMap::new();
    let (mut drafts, mut limits) = (Vec::new(), Vec::new());
    for row in rows {
        let Some(session) = found.remove(&row.id) else {
            continue;
        };
        // Assigned to somebody else since it was found: its agent is not locked.
        let is_locked = |agent: &String| names.contains(agent);
        if !row.assigned_agent_id.as_ref().is_none_or(is_locked) {
            continue;
        }
        let Verdict::Reached(limit) = judge(&session.facts, now) else {
            continue;
        };
        if !rules.contains_key(&session.pool) {
            let pool = pools::rules(conn, &session.pool).await?;
            rules.insert(session.pool.clone(), pool);
        }
        let ctx = Context {
            now,
            pool: &rules[&session.pool],
            actor: &actor,
            epoch_floor: 0,
        };
        let mut draft = Draft::of(row);
        match limit {
            Limit::Idle => draft.found_idle(&ctx),
            Limit::MaxDuration => draft.outlived(&ctx),
        }
        drafts.push(draft);
        limits.push(limit);
    }
    hints.merge(sessions::write(conn, &drafts).await?);
    Ok((hints, limits))
}
