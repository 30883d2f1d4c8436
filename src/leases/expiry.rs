//! Ending leases.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::{Double, Nullable, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::EndReason;

use super::renewals::PULSE_GAP_SECONDS;
use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, Draft, SessionRow};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

#[derive(diesel::QueryableByName)]
struct Next {
    #[diesel(sql_type = Nullable<Double>)]
    seconds: Option<f64>,
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
    let expired: Vec<AgentRow> = Statement::new(include_str!("expire.sql"))
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .load(conn)
        .await?;
    let names: Vec<String> = expired.iter().map(|agent| agent.name.clone()).collect();
    if !names.is_empty() {
        let actor = sessions::system("expiry");
        for agent in &expired {
            tracing::info!(
                agent = agent.name,
                incarnation = agent.incarnation,
                "its lease has ended"
            );
            agents::record(conn, agent, &actor, "agent.expired", None).await?;
            let hint = hints.pool(&agent.pool);
            hint.agents.insert(agent.name.clone());
            // Who is now the last of the domain may have more to do, cordoned as it is.
            hint.domains.insert(agent.resource_domain.clone());
        }
        let rows = sessions::lock_assigned_to(conn, &names).await?;
        hints.merge(release(conn, rows, EndReason::LeaseExpired).await?);
        let mut domains = std::collections::BTreeMap::<String, Vec<String>>::new();
        for agent in expired {
            domains
                .entry(agent.pool)
                .or_default()
                .push(agent.resource_domain);
        }
        for (pool, domains) in domains {
            super::refresh_domains(conn, &pool, domains).await?;
        }
    }
    let next: Next = Statement::new(
        "-- leases::next_expiry\nSELECT extract(epoch FROM min(lease_expires_at) - clock_timestamp())\
         ::double precision AS seconds FROM agents WHERE live",
    )
    .get_result(conn)
    .await?;
    let next = next
        .seconds
        .map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
    Ok((names.len() as u64, next, hints))
}

/// Takes locked sessions away from assignees that are not live; no epoch changes.
async fn release(conn: &mut Conn, rows: Vec<SessionRow>, reason: EndReason) -> Result<Hints> {
    let now = sessions::now(conn).await?;
    let actor = sessions::system("expiry");
    let mut drafts = Vec::with_capacity(rows.len());
    let mut rules: Option<(String, lessor_protocol::PoolSpec)> = None;
    for row in rows {
        let known = rules.take().filter(|(pool, _)| *pool == row.agent_pool);
        let (name, pool) = match known {
            Some(known) => known,
            None => (
                row.agent_pool.clone(),
                pools::rules(conn, &row.agent_pool).await?,
            ),
        };
        let mut draft = Draft::of(row);
        draft.unassign(
            &Context {
                now,
                pool: &pool,
                actor: &actor,
                epoch_floor: 0,
            },
            reason,
            "session.requeued",
        );
        drafts.push(draft);
        rules = Some((name, pool));
    }
    sessions::write(conn, &drafts).await
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
                release(conn, orphans, EndReason::LeaseExpired).await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(())
}
