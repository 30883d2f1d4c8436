//! Registration: who drives what from now on.

use std::collections::{BTreeMap, BTreeSet};

use lessor_protocol::{
    Actor, ActorType, Approval, DroppedSession, EndReason, HeldSession, PROTOCOL_VERSIONS,
    Register, Registered, Role, tenant_of,
};
use uuid::Uuid;

use super::row::AgentRow;
use super::{approvals, store};
use crate::access::{self, Caller};
use crate::error::{Error, Result};
use crate::http::Checks;
use crate::sessions::{self, Context, Draft, SessionRow};
use crate::store::Conn;
use crate::wakeups::Hints;
use crate::{leases, pools};

/// The most sessions that one call says it holds, or has dropped.
pub(super) const MAX_HELD: usize = 10_000;

pub fn check(name: &str, body: &Register, by: &Caller) -> Result<()> {
    let mut checks = Checks::new();
    checks
        .qualified("agent", name)
        .qualified("/pool", &body.pool);
    if let Some(domain) = &body.resource_domain {
        checks.qualified("/resource_domain", domain);
    }
    checks
        .range_i32("/capacity", body.capacity, 0, 1_000_000)
        .labels("/labels", &body.labels)
        .at_most("/held", body.held.len(), MAX_HELD);
    if let Some(version) = &body.agent_version {
        checks.text("/agent_version", version, 256);
    }
    if let Some(instance) = &body.instance {
        checks.text("/instance/id", &instance.id, 128);
        if let Some(host) = &instance.host {
            checks.text("/instance/host", host, 256);
        }
    }
    if tenant_of(name) != tenant_of(&body.pool) {
        checks.refuse("agent", "must begin with its pool's tenant, or with none");
    }
    checks.finish().map_err(pools::from_problem)?;
    by.must_see_pool(&body.pool)?;
    match body.protocol_version {
        Some(version) if !PROTOCOL_VERSIONS.contains(&version) => {
            let spoken: Vec<String> = PROTOCOL_VERSIONS.iter().map(ToString::to_string).collect();
            Err(Error::ProtocolVersionUnsupported(
                version,
                spoken.join(", "),
            ))
        }
        _ => Ok(()),
    }
}

pub async fn register(
    conn: &mut Conn,
    name: &str,
    body: &Register,
    by: &Caller,
) -> Result<(bool, Registered, Hints)> {
    let rules = pools::rules(conn, &body.pool).await?;
    let domain = body
        .resource_domain
        .clone()
        .unwrap_or_else(|| name.to_owned());
    if rules.approval == Approval::Manual && !approvals::is_approved(conn, &body.pool, name).await?
    {
        return Err(Error::AgentNotApproved(name.to_owned(), body.pool.clone()));
    }
    store::lock_name(conn, name).await?;
    let before = store::lock_one(conn, name).await?;
    let same_run = before.as_ref().is_some_and(|row| {
        row.live
            && row.instance_id.is_some()
            && row.instance_id == body.instance.as_ref().map(|i| i.id.clone())
    });
    if let Some(row) = &before {
        // Who registers in one pool takes no agent out of another.
        if !by.grant.sees_pool(&row.pool) {
            return Err(Error::Forbidden(format!(
                "agent `{name}` is of a pool that this token is not for"
            )));
        }
        refuse_superseded(conn, row, body, same_run).await?;
        if row.pool != body.pool || row.resource_domain != domain {
            let held = store::held(conn, name).await?;
            if held > 0 {
                return Err(Error::AgentHoldsSessions(name.to_owned(), held));
            }
        }
    }
    let created = before.is_none();
    let agent = match &before {
        Some(row) if same_run => store::refresh(conn, row, body, &domain).await?,
        _ => store::new_incarnation(conn, name, body, &domain).await?,
    };
    let now = sessions::now(conn).await?;
    let actor = Actor {
        actor_type: ActorType::Agent,
        name: name.to_owned(),
    };
    let epoch_floor = pools::epoch_floor(conn).await?;
    let ctx = Context {
        now,
        pool: &rules,
        actor: &actor,
        epoch_floor,
    };
    if !same_run {
        record_registration(conn, before.as_ref(), &agent, &actor).await?;
    }

    let held: BTreeMap<Uuid, i64> = body
        .held
        .iter()
        .map(|h| (h.session_id, h.lease_epoch))
        .collect();
    let mut ids: BTreeSet<Uuid> = held.keys().copied().collect();
    ids.extend(store::assigned_ids(conn, name).await?);
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let mut keep = Vec::new();
    let mut drop = Vec::new();
    let mut released = Vec::new();
    let mut drafts = Vec::new();
    let mut found = BTreeSet::new();
    for row in sessions::lock(conn, &ids).await? {
        // Another tenant's is as one that is not there.
        if tenant_of(&row.agent_pool) != tenant_of(&agent.pool) {
            continue;
        }
        found.insert(row.id);
        let assigned_here = row.assigned_agent_id.as_deref() == Some(name);
        let mut draft = Draft::of(row);
        match held.get(&draft.row.id) {
            // A retried PUT: what was kept the first time is kept under its present epoch.
            Some(_)
                if same_run
                    && assigned_here
                    && draft.row.assigned_incarnation == Some(agent.incarnation) =>
            {
                keep.push(HeldSession {
                    session_id: draft.row.id,
                    lease_epoch: draft.row.lease_epoch,
                });
            }
            Some(epoch) => match why_drop(&draft.row, &agent, *epoch) {
                None => {
                    draft.keep(&ctx, &agent.assignee());
                    keep.push(HeldSession {
                        session_id: draft.row.id,
                        lease_epoch: draft.row.lease_epoch,
                    });
                    drafts.push(draft);
                }
                Some(reason) => {
                    drop.push(DroppedSession {
                        session_id: draft.row.id,
                        reason: reason.to_owned(),
                    });
                    // Held under an old epoch by this very name: nobody drives it as it is now.
                    if assigned_here && !same_run {
                        draft.unassign(&ctx, EndReason::NotHeld, "session.requeued");
                        drafts.push(draft);
                    }
                }
            },
            None if assigned_here && !same_run => {
                released.push(draft.row.id);
                draft.unassign(&ctx, EndReason::NotHeld, "session.requeued");
                drafts.push(draft);
            }
            None => {}
        }
    }
    for id in held.keys().filter(|id| !found.contains(id)) {
        drop.push(DroppedSession {
            session_id: *id,
            reason: "session_not_found".to_owned(),
        });
    }
    let mut hints = sessions::write(conn, &drafts).await?;
    leases::refresh_domains(conn, &body.pool, vec![domain]).await?;
    if let Some(row) = before {
        leases::refresh_domains(conn, &row.pool, vec![row.resource_domain]).await?;
    }
    // An older run of it may be parked somewhere and is to learn that it was superseded.
    hints.pool(&body.pool).agents.insert(name.to_owned());
    let token = match by.grant.role {
        Role::Enroll => Some(access::enrol(conn, name, &body.pool, &by.name).await?),
        _ => None,
    };
    let registered = Registered {
        agent: store::get(conn, name).await?,
        incarnation: agent.incarnation,
        lease: leases::lease(rules.lease_ttl_seconds),
        protocol_version: agent.protocol_version,
        keep,
        drop,
        released,
        token,
    };
    Ok((created, registered, hints))
}

/// An instance that was superseded must exit while the newer one lives.
async fn refuse_superseded(
    conn: &mut Conn,
    row: &AgentRow,
    body: &Register,
    same_run: bool,
) -> Result<()> {
    let Some(instance) = &body.instance else {
        return Ok(());
    };
    if same_run || !row.live || row.instance_id.as_ref() == Some(&instance.id) {
        return Ok(());
    }
    if store::is_past_instance(conn, &row.name, &instance.id).await? {
        return Err(Error::AgentSuperseded {
            agent: row.name.clone(),
            given: format!("instance {}", instance.id),
            current: row.incarnation,
        });
    }
    Ok(())
}

/// Why an agent may not hold on to what it says it still drives; none if it may.
fn why_drop(row: &SessionRow, agent: &AgentRow, epoch: i64) -> Option<&'static str> {
    use lessor_protocol::SessionState;
    if matches!(
        row.state,
        SessionState::Terminated | SessionState::Failed | SessionState::Hibernated
    ) {
        return Some("ended");
    }
    if row.agent_pool != agent.pool {
        return Some("other_pool");
    }
    if row
        .assigned_agent_id
        .as_ref()
        .is_some_and(|assigned| *assigned != agent.name)
    {
        return Some("assigned_elsewhere");
    }
    // An epoch that rose since means that somebody else was given it in between.
    if row.lease_epoch != epoch {
        return Some("lease_epoch_stale");
    }
    // Taken away from this very agent: it is to be told so, not to be given it back.
    if row.held_back_until.is_some() && row.avoid_agent.as_ref() == Some(&agent.name) {
        return Some("taken");
    }
    // Put back to its start, or ended; it must not go on as if nothing had been.
    if row.assigned_agent_id.is_none() && row.resource_domain.is_none() {
        return Some("ended");
    }
    if row
        .resource_domain
        .as_ref()
        .is_some_and(|domain| *domain != agent.resource_domain)
    {
        return Some("other_domain");
    }
    None
}

async fn record_registration(
    conn: &mut Conn,
    before: Option<&AgentRow>,
    agent: &AgentRow,
    actor: &Actor,
) -> Result<()> {
    if let Some(row) = before.filter(|row| row.live) {
        store::record(conn, row, actor, "agent.superseded", None).await?;
    }
    store::record(conn, agent, actor, "agent.registered", None).await
}
