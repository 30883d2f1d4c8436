//! Sessions for which time alone changes something: offers that lapse, phase deadlines that pass,
//! and times for which they were held back.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Double, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::agents;
use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

const BATCH: usize = 200;

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
}

/// Handles what is due, and says in how long the next is.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>) -> Result<Option<Duration>> {
    let (next, hints) = app
        .db
        .write("upkeep::due", |conn| Box::pin(due(conn)))
        .await?;
    app.hub.committed(hints);
    lift_cordons(app).await?;
    Ok(next)
}

async fn due(conn: &mut Conn) -> Result<(Option<Duration>, Hints)> {
    let found: Vec<Due> = Statement::new(include_str!("due.sql")).load(conn).await?;
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
        return Ok((Some(Duration::ZERO), hints));
    }
    let next: Next = Statement::new(
        "-- upkeep::next_due\nSELECT extract(epoch FROM min(due_at) - clock_timestamp())::double precision \
         AS seconds FROM sessions WHERE due_at IS NOT NULL",
    )
    .get_result(conn)
    .await?;
    Ok((
        next.seconds
            .map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))),
        hints,
    ))
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
        .read("upkeep::cordons", |conn| {
            Box::pin(async move {
                Ok(Statement::new("-- upkeep::cordons\nSELECT name FROM agents WHERE cordon_until <= now() AND scheduling <> 'draining' LIMIT 100")
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
