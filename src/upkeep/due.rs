//! Sessions for which time alone changes something: offers that lapse, phase deadlines that pass,
//! and times for which they were held back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::sql_types::{Double, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use tokio::time::Instant;
use uuid::Uuid;

use crate::agents;
use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

const BATCH: usize = 200;

/// The longest pause: an offer may lapse a second after it was made, and this is a fraction of that.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How far behind a look that found nothing the next one begins. Moments are given out before a transaction
/// commits, which takes less than that.
const LATE: TimeDelta = TimeDelta::seconds(10);

/// How frequently all is looked through: what was put there by hand, or before the database's clock was set.
const WHOLE: Duration = Duration::from_secs(30);

/// From when on something may be due. Each offer that is accepted leaves a dead entry where it would have lapsed,
/// for as long as an old transaction is open anywhere, and each look would go past all of them.
#[derive(Debug, Default)]
pub struct Begin(Mutex<Option<(Instant, DateTime<Utc>)>>);

impl Begin {
    fn known(&self) -> MutexGuard<'_, Option<(Instant, DateTime<Utc>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to begin; none to look through all.
    fn get(&self, at: Instant) -> Option<DateTime<Utc>> {
        let known = *self.known();
        known.and_then(|(since, from)| (at < since + WHOLE).then_some(from))
    }

    /// Notes that nothing was due at a moment of the database, in a look that began then.
    fn nothing_due(&self, at: Instant, now: DateTime<Utc>) {
        let mut known = self.known();
        let since = match *known {
            Some((since, _)) if at < since + WHOLE => since,
            _ => at,
        };
        *known = Some((since, now - LATE));
    }
}

#[derive(diesel::QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Nullable<Text>)]
    agent: Option<String>,
}

#[derive(diesel::QueryableByName)]
struct Next {
    #[diesel(sql_type = Nullable<Double>)]
    seconds: Option<f64>,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// Handles what is due, and says when to look again.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>, begin: &Begin) -> Result<Duration> {
    let at = Instant::now();
    let from = begin.get(at);
    let (found, hints) = app
        .db
        .write("upkeep::due", move |conn| Box::pin(due(conn, from)))
        .await?;
    app.hub.committed(hints);
    lift_cordons(app).await?;
    if let Some(now) = found.nothing_at {
        begin.nothing_due(at, now);
    }
    Ok(found.next)
}

/// What a look has found.
struct Found {
    /// In how long to look again.
    next: Duration,
    /// When it was, by the database's clock, if nothing was due.
    nothing_at: Option<DateTime<Utc>>,
}

async fn due(conn: &mut Conn, from: Option<DateTime<Utc>>) -> Result<(Found, Hints)> {
    let from = from.unwrap_or(DateTime::UNIX_EPOCH);
    let found: Vec<Due> = Statement::new(include_str!("due.sql"))
        .bind::<Timestamptz, _>(from)
        .load(conn)
        .await?;
    let mut hints = Hints::default();
    if !found.is_empty() {
        // Agents before sessions, each in key order.
        let mut names: Vec<String> = found.iter().filter_map(|due| due.agent.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let agents = agents::lock(conn, &names).await?;
        let ids: Vec<Uuid> = found.iter().map(|due| due.id).collect();
        let rows = sessions::lock(conn, &ids).await?;
        // Another server may have been here first. Whoever looked for work while these rows were
        // locked has passed them over, and is to look again.
        hints = Hints::of(rows.iter());
        let now = sessions::now(conn).await?;
        let actor = sessions::system("deadline");
        let rules = pools::rules_of(conn, found.iter().map(|due| due.pool.as_str())).await?;
        let mut drafts = Vec::new();
        for row in rows {
            let Some(pool) = rules.get(&row.agent_pool) else {
                continue;
            };
            // Assigned to somebody else since it was found: its agent is not locked.
            let agent = agents
                .iter()
                .find(|agent| Some(&agent.name) == row.assigned_agent_id.as_ref());
            if row.assigned_agent_id.is_some() && agent.is_none() {
                continue;
            }
            let lease_expires_at = agent.map_or(now, |agent| agent.lease_expires_at);
            let mut draft = Draft::of(row);
            handle(
                &mut draft,
                &Context {
                    now,
                    pool,
                    actor: &actor,
                    epoch_floor: 0,
                },
                lease_expires_at,
            );
            drafts.push(draft);
        }
        hints.merge(sessions::write(conn, &drafts).await?);
    }
    if found.len() == BATCH {
        let again = Found {
            next: Duration::ZERO,
            nothing_at: None,
        };
        return Ok((again, hints));
    }
    let next: Next = Statement::new(
        "-- upkeep::next_due\nSELECT extract(epoch FROM min(due_at) - clock_timestamp())::double precision \
         AS seconds, now() AS now FROM sessions \
         WHERE due_at >= $1 AND due_at <= now() + make_interval(secs => $2)",
    )
    .bind::<Timestamptz, _>(from)
    .bind::<Double, _>(LONGEST_PAUSE.as_secs_f64())
    .get_result(conn)
    .await?;
    let pause = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0)).min(LONGEST_PAUSE);
    let found = Found {
        next: next.seconds.map_or(LONGEST_PAUSE, pause),
        nothing_at: found.is_empty().then_some(next.now),
    };
    Ok((found, hints))
}

fn handle(draft: &mut Draft, ctx: &Context<'_>, lease_expires_at: DateTime<Utc>) {
    let passed = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at <= ctx.now);
    if passed(draft.row.offered_until) {
        draft.lapse(ctx);
    } else if passed(draft.row.phase_deadline_at) {
        draft.time_out(ctx, lease_expires_at);
    } else if passed(draft.row.held_back_until) {
        draft.release_held_back(ctx);
    }
}

#[derive(diesel::QueryableByName)]
struct Cordoned {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Lifts the cordons whose time is over.
async fn lift_cordons(app: &Arc<App>) -> Result<()> {
    let over: Vec<Cordoned> = app
        .db
        .read_often("upkeep::cordons", |conn| {
            Box::pin(async move {
                Ok(Statement::new(include_str!("cordons.sql"))
                    .load(conn)
                    .await?)
            })
        })
        .await?;
    for agent in over {
        match agents::lift_cordon(app, &agent.name, sessions::system("deadline")).await {
            // It has gone since it was found, and its cordon with it.
            Ok(()) | Err(Error::AgentNotRegistered(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_begins_where_the_last_one_found_nothing_and_now_and_then_at_the_beginning() {
        let (begin, at) = (Begin::default(), Instant::now());
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        assert_eq!(begin.get(at), None);
        begin.nothing_due(at, now);
        assert_eq!(begin.get(at), Some(now - LATE));
        let later = TimeDelta::seconds(20);
        begin.nothing_due(at + Duration::from_secs(20), now + later);
        assert_eq!(
            begin.get(at + Duration::from_secs(29)),
            Some(now + later - LATE)
        );
        // Counted from the last look through all of it, not from the last look.
        assert_eq!(begin.get(at + WHOLE), None);
        begin.nothing_due(at + WHOLE, now + later);
        let again = begin.get(at + WHOLE + Duration::from_secs(29));
        assert_eq!(again, Some(now + later - LATE));
    }
}
