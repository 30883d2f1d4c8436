//! One change of many agents, one after the other.

use std::sync::Arc;

use lessor_protocol::{Actor, AgentBulk};

use super::{Patience, count, tell};
use crate::agents::ManyAgents;
use crate::app::App;
use crate::error::Result;

/// The most agents that one call changes.
const MAX_CHANGED: usize = 1_000;

/// Changes the agents that a filter matches, or says which would be changed.
///
/// # Errors
/// `DatabaseUnavailable`; then some may have been changed, and the call can be repeated.
pub async fn agents(
    app: &Arc<App>,
    many: ManyAgents,
    action: &'static str,
    dry_run: bool,
    actor: Actor,
) -> Result<AgentBulk> {
    let many = Arc::new(many);
    let of = Arc::clone(&many);
    let (matched, mut names) = app
        .db
        .snapshot("bulk::agents", move |conn| {
            let many = Arc::clone(&of);
            Box::pin(async move {
                let names = many.first(conn, count(MAX_CHANGED) + 1).await?;
                Ok((many.matched(conn).await?, names))
            })
        })
        .await?;
    let mut bulk = AgentBulk {
        matched,
        changed: 0,
        agents: Vec::new(),
        more: names.len() > MAX_CHANGED,
    };
    names.truncate(MAX_CHANGED);
    if dry_run {
        bulk.changed = count(names.len());
        bulk.agents = names;
        return Ok(bulk);
    }
    let patience = Patience::new();
    for name in names {
        if patience.is_over(app) {
            bulk.more = true;
            break;
        }
        let (of, by, agent) = (Arc::clone(&many), actor.clone(), name.clone());
        let changed = app
            .db
            .write("bulk::change_agent", move |conn| {
                let (many, actor, agent) = (Arc::clone(&of), by.clone(), agent.clone());
                Box::pin(async move { many.change_one(conn, &agent, &actor).await })
            })
            .await?;
        if let Some(changed) = changed {
            changed.committed(app);
            tell(action, 1);
            bulk.agents.push(name);
        }
    }
    bulk.changed = count(bulk.agents.len());
    tracing::info!(
        action,
        matched = bulk.matched,
        changed = bulk.changed,
        more = bulk.more,
        "a bulk action on agents"
    );
    Ok(bulk)
}
