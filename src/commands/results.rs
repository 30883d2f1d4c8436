//! Results: an agent's word on the commands it was given.

use std::sync::Arc;

use lessor_protocol::{
    Actor, ActorType, CommandResult, CommandResultCode, CommandResultOutcome, Outcome, tenant_of,
};
use uuid::Uuid;

use super::state::{Change, Context};
use super::store;
use crate::agents;
use crate::app::App;
use crate::error::{Error, Result};
use crate::sessions;
use crate::store::Conn;

/// The most results in one call.
pub const MAX_RESULTS: usize = 1_000;

/// Takes results in the order in which they were sent; each stands alone.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`: then nothing was
/// taken.
pub async fn take(
    app: &Arc<App>,
    agent: &str,
    incarnation: i64,
    results: Vec<CommandResult>,
) -> Result<Vec<CommandResultOutcome>> {
    if results.is_empty() {
        return Ok(Vec::new());
    }
    let (agent, results) = (agent.to_owned(), Arc::new(results));
    app.db
        .write("commands::take", move |conn| {
            let (agent, results) = (agent.clone(), Arc::clone(&results));
            Box::pin(async move { take_in(conn, &agent, incarnation, &results).await })
        })
        .await
}

async fn take_in(
    conn: &mut Conn,
    agent: &str,
    incarnation: i64,
    results: &[CommandResult],
) -> Result<Vec<CommandResultOutcome>> {
    let row = agents::lock_one(conn, agent)
        .await?
        .ok_or_else(|| Error::AgentNotRegistered(agent.to_owned()))?;
    row.fence(incarnation)?;
    let ids: Vec<Uuid> = results.iter().map(|result| result.command_id).collect();
    let seen = store::by_ids(conn, &ids).await?;
    let session_ids: Vec<Uuid> = seen.iter().map(|command| command.session_id).collect();
    let locked = sessions::lock(conn, &session_ids).await?;
    // Read anew: they may have changed until their sessions were locked.
    let mut changes: Vec<Change> = store::by_ids(conn, &ids)
        .await?
        .into_iter()
        .map(Change::of)
        .collect();
    let now = sessions::now(conn).await?;
    let actor = Actor {
        actor_type: ActorType::Agent,
        name: agent.to_owned(),
    };
    let outcomes = results
        .iter()
        .map(|told| {
            let change = changes.iter_mut().find(|c| c.row.id == told.command_id);
            let session = change.as_ref().and_then(|change| {
                let id = change.row.session_id;
                // Another tenant's is as one that is not there.
                let tenant = tenant_of(&row.pool);
                locked
                    .iter()
                    .find(|session| session.id == id && tenant_of(&session.agent_pool) == tenant)
            });
            let judged = match (change, session) {
                (Some(change), Some(session)) => {
                    let ctx = Context {
                        now,
                        session,
                        actor: &actor,
                    };
                    change.report(&ctx, (agent, incarnation), told)
                }
                _ => Err((Outcome::Rejected, CommandResultCode::CommandNotFound)),
            };
            let (outcome, code) = match judged {
                Ok(()) => (Outcome::Accepted, None),
                Err((outcome, code)) => (outcome, Some(code)),
            };
            CommandResultOutcome {
                command_id: told.command_id,
                outcome,
                code,
            }
        })
        .collect();
    store::write(conn, &changes).await?;
    Ok(outcomes)
}
