//! Deliveries: the part of a claim's round that tells holders of commands.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use lessor_protocol::{Actor, Command};

use super::state::{Change, Context};
use super::store;
use crate::error::Result;
use crate::store::Conn;

/// The most bytes of payloads that one answer carries; the rest comes with the next claim.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What each agent is told.
pub type Told = HashMap<String, Vec<Command>>;

/// Tells these agents of the commands of what they hold. Their rows are locked by this
/// transaction, which found them live and in their current run.
///
/// # Errors
/// When the database refuses.
pub async fn deliver(
    conn: &mut Conn,
    agents: &[String],
    now: DateTime<Utc>,
    longest_pause_seconds: f64,
    actor: &Actor,
) -> Result<Told> {
    let mut told = Told::new();
    if agents.is_empty() {
        return Ok(told);
    }
    let sessions = store::pick(conn, agents).await?;
    let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
    let mut bytes: HashMap<String, usize> = HashMap::new();
    let mut changes = Vec::new();
    for row in store::due(conn, ids, agents).await? {
        let session = sessions.iter().find(|session| {
            session.id == row.session_id && session.assigned_agent_id == row.holder
        });
        let (Some(session), Some(holder)) = (session, row.holder.clone()) else {
            continue;
        };
        let so_far = bytes.entry(holder.clone()).or_default();
        if *so_far > MAX_BYTES {
            // All that is left for this agent waits, so that nothing is overtaken.
            continue;
        }
        *so_far += row.payload.get().len();
        let mut change = Change::of(row);
        change.deliver(
            &Context {
                now,
                session,
                actor,
            },
            longest_pause_seconds,
        );
        let commands = told.entry(holder).or_default();
        commands.push(change.row.clone().into());
        changes.push(change);
    }
    store::write(conn, &changes).await?;
    Ok(told)
}
