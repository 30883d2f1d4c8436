//! The end of an agent: its own goodbye, or its removal by an operator.

use lessor_protocol::{Actor, EndReason};

use super::store;
use crate::error::{Error, Result};
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;
use crate::{leases, pools};

pub async fn goodbye(
    conn: &mut Conn,
    name: &str,
    incarnation: Option<i64>,
    force: bool,
    actor: &Actor,
) -> Result<Hints> {
    store::lock_name(conn, name).await?;
    let agent = store::lock_one(conn, name).await?;
    let agent = agent.ok_or_else(|| Error::AgentNotRegistered(name.to_owned()))?;
    match incarnation {
        Some(given) if given != agent.incarnation => {
            return Err(Error::AgentSuperseded {
                agent: name.to_owned(),
                given: format!("incarnation {given}"),
                current: agent.incarnation,
            });
        }
        None if agent.live && !force => return Err(Error::AgentLive(name.to_owned())),
        _ => {}
    }
    let own = Actor {
        actor_type: lessor_protocol::ActorType::Agent,
        name: name.to_owned(),
    };
    let actor = if incarnation.is_some() { &own } else { actor };
    let now = sessions::now(conn).await?;
    let rules = pools::rules(conn, &agent.pool).await?;
    let ctx = Context {
        now,
        pool: &rules,
        actor,
        epoch_floor: 0,
    };
    let rows = sessions::lock_assigned_to(conn, &[name.to_owned()]).await?;
    let mut drafts: Vec<Draft> = rows.into_iter().map(Draft::of).collect();
    let by_force = incarnation.is_none() && agent.live;
    for draft in &mut drafts {
        // Nobody asked this agent: it may still be acting, until the lease that it has runs out.
        if by_force && draft.row.is_held() {
            draft.take(&ctx, EndReason::Forced, agent.lease_expires_at);
        } else {
            draft.unassign(&ctx, EndReason::Deregistered, "session.requeued");
        }
    }
    let mut hints = sessions::write(conn, &drafts).await?;
    store::record(
        conn,
        &agent,
        actor,
        "agent.deregistered",
        by_force.then_some("forced"),
    )
    .await?;
    store::delete(conn, name).await?;
    leases::refresh_domains(conn, &agent.pool, vec![agent.resource_domain.clone()]).await?;
    let hint = hints.pool(&agent.pool);
    hint.agents.insert(name.to_owned());
    // Who is now the last of the domain may have more to do, cordoned as it is.
    hint.domains.insert(agent.resource_domain);
    Ok(hints)
}
