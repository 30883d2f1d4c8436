//! Ending leases.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::{Double, Nullable, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, EndReason};

use super::renewals::PULSE_GAP_SECONDS;
use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, Draft, SessionRow};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

/// In how long the next lease may end. After an outage that is not when its time is over, but a lease
/// time of its pool after the outage: asked for the former, this would be tried without a pause until then.
const NEXT_EXPIRY: &str = "-- leases::next_expiry
SELECT extract(epoch FROM min(greatest(a.lease_expires_at, u.gap_at + make_interval(secs => p.lease_ttl_seconds)))
    - clock_timestamp())::double precision AS seconds
FROM agents a JOIN pools p ON p.name = a.pool LEFT JOIN pulse u ON true
WHERE a.live";

/// The longest pause before what could not be ended is looked at again.
const HELD_UP: Duration = Duration::from_millis(100);

#[derive(diesel::QueryableByName)]
struct Next {
    #[diesel(sql_type = Nullable<Double>)]
    seconds: Option<f64>,
}

impl Next {
    async fn look(conn: &mut Conn) -> Result<Self> {
        Ok(Statement::new(NEXT_EXPIRY).get_result(conn).await?)
    }

    /// Whether the time of a lease is over, so that it may end now.
    fn is_over(&self) -> bool {
        self.seconds.is_some_and(|seconds| seconds <= 0.0)
    }

    /// How long to wait. What should have been ended and was not, since somebody has its row locked or there
    /// is no fresh pulse, is looked at again after as long as it is late, so that a moment costs a moment.
    fn pause(&self, ended: usize) -> Option<Duration> {
        let late = |seconds: f64| Duration::from_secs_f64((-seconds).min(HELD_UP.as_secs_f64()));
        self.seconds.map(|seconds| match ended {
            _ if seconds > 0.0 => Duration::from_secs_f64(seconds.min(3600.0)),
            0 => late(seconds),
            _ => Duration::ZERO,
        })
    }
}

/// Ends the leases whose time is over, and says in how long the next one may be.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn expire(app: &Arc<App>) -> Result<Option<Duration>> {
    let (ended, next, hints) = app
        .db
        .write("leases::expire", |conn| Box::pin(expire_in(conn)))
        .await?;
    app.hub.committed(hints);
    if ended > 0 {
        metrics::counter!("lessor_leases_expired_total").increment(ended);
    }
    Ok(next)
}

async fn expire_in(conn: &mut Conn) -> Result<(u64, Option<Duration>, Hints)> {
    let mut hints = Hints::default();
    let next = Next::look(conn).await?;
    if !next.is_over() {
        return Ok((0, next.pause(0), hints));
    }
    let expired: Vec<AgentRow> = Statement::new(include_str!("expire.sql"))
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .load(conn)
        .await?;
    for agent in &expired {
        tracing::info!(
            agent = agent.name,
            incarnation = agent.incarnation,
            "its lease has ended"
        );
    }
    if !expired.is_empty() {
        let actor = sessions::system("expiry");
        let (_, released) = release_all_of(conn, &expired, (&actor, None), release).await?;
        hints.merge(released);
    }
    let next = Next::look(conn).await?;
    let pause = next.pause(expired.len());
    Ok((expired.len() as u64, pause, hints))
}

/// What becomes of the agents whose leases have ended in this transaction, which has their rows locked:
/// the end is told, with a reason, and their sessions are let go of by `release`. How many those were.
pub(super) async fn release_all_of(
    conn: &mut Conn,
    agents: &[AgentRow],
    (actor, reason): (&Actor, Option<&str>),
    release: fn(&mut Draft, &Context<'_>),
) -> Result<(usize, Hints)> {
    let mut hints = Hints::default();
    for agent in agents {
        agents::record(conn, agent, actor, "agent.expired", reason).await?;
        let hint = hints.pool(&agent.pool);
        hint.agents.insert(agent.name.clone());
        // Who is now the last of the domain may have more to do, cordoned as it is.
        hint.domains.insert(agent.resource_domain.clone());
    }
    let names: Vec<String> = agents.iter().map(|agent| agent.name.clone()).collect();
    let rows = sessions::lock_assigned_to(conn, &names).await?;
    let released = rows.len();
    hints.merge(release_each(conn, rows, actor, release).await?);
    let mut domains = std::collections::BTreeMap::<&str, Vec<String>>::new();
    for agent in agents {
        let of = domains.entry(&agent.pool).or_default();
        of.push(agent.resource_domain.clone());
    }
    for (pool, domains) in domains {
        super::refresh_domains(conn, pool, domains).await?;
    }
    Ok((released, hints))
}

/// Takes locked sessions away from their assignees, as the rules of their pools have it.
async fn release_each(
    conn: &mut Conn,
    rows: Vec<SessionRow>,
    actor: &Actor,
    release: fn(&mut Draft, &Context<'_>),
) -> Result<Hints> {
    let now = sessions::now(conn).await?;
    let rules = pools::rules_of(conn, rows.iter().map(|row| row.agent_pool.as_str())).await?;
    let mut drafts = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(pool) = rules.get(&row.agent_pool) else {
            continue;
        };
        let ctx = Context {
            now,
            pool,
            actor,
            epoch_floor: 0,
        };
        let mut draft = Draft::of(row);
        release(&mut draft, &ctx);
        drafts.push(draft);
    }
    sessions::write(conn, &drafts).await
}

/// Its assignee is not live any more; no epoch changes.
fn release(draft: &mut Draft, ctx: &Context<'_>) {
    draft.unassign(ctx, EndReason::LeaseExpired, "session.requeued");
}

#[derive(diesel::QueryableByName)]
struct Orphaned {
    #[diesel(sql_type = Text)]
    agent: String,
}

/// The sweep: finds sessions whose assignee is not live, however that came to be, and releases
/// them.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn release_orphans(app: &Arc<App>) -> Result<()> {
    let hints = app
        .db
        .write("leases::release_orphans", |conn| {
            Box::pin(async move {
                let orphaned: Vec<Orphaned> = Statement::new(include_str!("orphans.sql"))
                    .load(conn)
                    .await?;
                let names: Vec<String> = orphaned.into_iter().map(|row| row.agent).collect();
                if names.is_empty() {
                    return Ok(Hints::default());
                }
                let agents = agents::lock(conn, &names).await?;
                let rows = sessions::lock_assigned_to(conn, &names).await?;
                let orphans = rows
                    .into_iter()
                    .filter(|row| {
                        let agent = agents
                            .iter()
                            .find(|a| Some(&a.name) == row.assigned_agent_id.as_ref());
                        agent.is_none_or(|a| {
                            !a.live || Some(a.incarnation) != row.assigned_incarnation
                        })
                    })
                    .collect::<Vec<_>>();
                if !orphans.is_empty() {
                    tracing::warn!(
                        sessions = orphans.len(),
                        "sessions of agents that are not live were found"
                    );
                }
                release_each(conn, orphans, &sessions::system("expiry"), release).await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(())
}
