//! Migrations: a session moves to another pool or another resource domain. It is stopped where it is
//! and started there; a hand-over, by contrast, stays in the domain and stops nothing.
//!
//! Invariants:
//! - The hold is taken from a live agent as a phase deadline does: its reports are fenced at once, and
//!   nobody can claim the session before it has acknowledged, or its lease has run out.
//! - What ran is a leftover in the transaction that moves the session.
//! - Until the session has come up in the target its row says where it was, and that pool cannot be
//!   deleted. One failed attempt in the target brings it back there.
//! - Locks: the session's agent, then the session, as every other verb of a session.
//!
//! What becomes of a session on its way is in `sessions::migration`, pure; that the target's domain is
//! lost is found by `leases`. This room only begins a migration.

pub mod http;
mod state;
mod store;

use std::sync::Arc;

use lessor_protocol::{Actor, Migrate, Session, tenant_of};

use crate::app::App;
use crate::error::{Error, Result};
use crate::http::Preconditions;
use crate::idempotency::{self, Answer, Request};
use crate::limits;
use crate::pools;
use crate::sessions::{self, Context, Destination, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;
use state::Refusal;

/// Moves a session, and keeps the answer under the request's idempotency key. `answer` makes the body.
///
/// # Errors
/// `SessionNotFound`, `PoolNotFound`, `Invalid`, `TransitionNotAllowed`, `VersionMismatch`,
/// `IdempotencyKeyReused`, `DatabaseUnavailable`.
pub async fn migrate<F>(
    app: &Arc<App>,
    id_or_name: &str,
    to: Migrate,
    request: Option<Request>,
    preconditions: Preconditions,
    actor: Actor,
    answer: F,
) -> Result<Answer>
where
    F: Fn(Session) -> Result<Answer> + Send + Sync + Clone + 'static,
{
    // Where it goes does not change when it was last used.
    let id = sessions::get(app, id_or_name).await?.id;
    let last_activity_at = limits::last_activity(app, id).await?;
    let to = Arc::new(to);
    let (answer, hints) = app
        .db
        .write("migrate::migrate", move |conn| {
            let (to, request) = (Arc::clone(&to), request.clone());
            let (preconditions, actor) = (preconditions.clone(), actor.clone());
            let answer = answer.clone();
            Box::pin(async move {
                idempotency::once(conn, request.as_ref(), move |conn| {
                    Box::pin(async move {
                        let id = id.to_string();
                        let (row, hints) = move_it(conn, &id, &to, &preconditions, &actor).await?;
                        let mut session = Session::from(row);
                        session.last_activity_at = last_activity_at;
                        Ok((answer(session)?, hints))
                    })
                })
                .await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(answer)
}

async fn move_it(
    conn: &mut Conn,
    id: &str,
    to: &Migrate,
    preconditions: &Preconditions,
    actor: &Actor,
) -> Result<(sessions::SessionRow, Hints)> {
    let (row, holder) = sessions::lock_with_agent(conn, id).await?;
    if !preconditions.if_match_ok(Some(row.version)) {
        return Err(Error::VersionMismatch(row.version));
    }
    let pool = to.pool.as_ref().unwrap_or(&row.agent_pool).clone();
    if tenant_of(&pool) != tenant_of(&row.agent_pool) {
        return Err(Error::invalid("/pool", "must be of the session's tenant"));
    }
    let target = pools::rules(conn, &pool).await?;
    let domain = to.resource_domain.clone();
    let way = state::way(&row, &pool, domain.as_ref()).map_err(|refusal| match refusal {
        Refusal::Ends => Error::TransitionNotAllowed(format!(
            "session {} is `{}` and wanted `{}`; it goes nowhere any more",
            row.id, row.state, row.desired_state
        )),
        Refusal::IsThere if domain.is_some() => {
            Error::invalid("/resource_domain", "is where the session is")
        }
        Refusal::IsThere => Error::invalid("/pool", "is where the session is"),
    })?;
    if let Some(domain) = &domain
        && !store::has_domain(conn, &pool, domain).await?
    {
        let what = format!("no agent of pool `{pool}` is in this domain");
        return Err(Error::invalid("/resource_domain", what));
    }
    let rules = pools::rules(conn, &row.agent_pool).await?;
    let now = sessions::now_that_all_is_locked(conn).await?;
    let ctx = Context {
        now,
        pool: &rules,
        actor,
        epoch_floor: 0,
    };
    let lease_expires_at = holder.map_or(now, |agent| agent.lease_expires_at);
    let destination = Destination {
        pool,
        platform: target.platform,
        region: target.region,
        resource_domain: domain,
    };
    let mut draft = Draft::of(row);
    draft.migrate(&ctx, &destination, way, to.stop_first, lease_expires_at);
    match sessions::write(conn, std::slice::from_ref(&draft)).await {
        Ok(hints) => Ok((draft.row, hints)),
        // Deleted since it was looked at.
        Err(Error::Internal(detail)) if detail.contains("sessions_agent_pool_fkey") => {
            Err(Error::PoolNotFound(destination.pool))
        }
        Err(error) => Err(error),
    }
}
