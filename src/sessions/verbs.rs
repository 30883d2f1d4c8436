//! What callers do with a session that exists: get, change, end, retry.

use std::sync::Arc;

use lessor_protocol::{Actor, Labels, SessionPatch};

use super::changes::{Change, Ending};
use super::check::MAX_LIMIT_SECONDS;
use super::draft::{Context, Draft};
use super::{row::SessionRow, store, write::write};
use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Checks, Preconditions};
use crate::leases;
use crate::pools;
use crate::store::Conn;

/// A session by its id or name.
///
/// # Errors
/// `SessionNotFound`, `DatabaseUnavailable`.
pub async fn get(app: &App, id_or_name: &str) -> Result<SessionRow> {
    let id_or_name = id_or_name.to_owned();
    app.db
        .read("sessions::get", |conn| {
            Box::pin(async move {
                store::find(conn, &id_or_name)
                    .await?
                    .ok_or(Error::SessionNotFound(id_or_name))
            })
        })
        .await
}

/// Wants a session ended. Again is no change, but `force` may then end what could not be.
///
/// # Errors
/// `SessionNotFound`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn delete(
    app: &Arc<App>,
    id_or_name: &str,
    ending: Ending,
    preconditions: Preconditions,
    actor: Actor,
) -> Result<SessionRow> {
    let end = Change::End(ending);
    change(app, id_or_name, preconditions, actor, move |draft, ctx| {
        end.apply(draft, ctx)
    })
    .await
}

/// Changes a session.
///
/// # Errors
/// `SessionNotFound`, `Invalid`, `TransitionNotAllowed`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn patch(
    app: &Arc<App>,
    id_or_name: &str,
    patch: SessionPatch,
    preconditions: Preconditions,
    actor: Actor,
) -> Result<SessionRow> {
    check(&patch)?;
    let patch = Arc::new(patch);
    change(app, id_or_name, preconditions, actor, move |draft, ctx| {
        if let Some(desired) = patch.desired_state {
            Change::Want(desired).apply(draft, ctx)?;
        }
        settings(draft, ctx, &patch)?;
        Ok(false)
    })
    .await
}

/// Gives a dead letter another attempt.
///
/// # Errors
/// `SessionNotFound`, `SessionNotFailed`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn retry(
    app: &Arc<App>,
    id_or_name: &str,
    preconditions: Preconditions,
    actor: Actor,
) -> Result<SessionRow> {
    change(app, id_or_name, preconditions, actor, |draft, ctx| {
        Change::Retry.apply(draft, ctx)
    })
    .await
}

fn settings(draft: &mut Draft, ctx: &Context<'_>, patch: &SessionPatch) -> Result<()> {
    let row = &mut draft.row;
    let before = (
        row.labels.clone(),
        row.priority,
        row.start_timeout_seconds,
        row.terminate_timeout_seconds,
        row.idle_timeout_seconds,
    );
    match &patch.labels {
        None => {}
        Some(None) => row.labels = Labels::new(),
        Some(Some(labels)) => {
            for (key, value) in labels {
                match value {
                    Some(value) => row.labels.insert(key.clone(), value.clone()),
                    None => row.labels.remove(key),
                };
            }
        }
    }
    row.priority = patch.priority.unwrap_or(row.priority);
    row.start_timeout_seconds = patch
        .start_timeout_seconds
        .unwrap_or(row.start_timeout_seconds);
    row.terminate_timeout_seconds = patch
        .terminate_timeout_seconds
        .unwrap_or(row.terminate_timeout_seconds);
    row.idle_timeout_seconds = patch
        .idle_timeout_seconds
        .unwrap_or(row.idle_timeout_seconds);
    let mut checks = Checks::new();
    checks.labels("/labels", &row.labels);
    checks.finish().map_err(pools::from_problem)?;
    let after = (
        row.labels.clone(),
        row.priority,
        row.start_timeout_seconds,
        row.terminate_timeout_seconds,
        row.idle_timeout_seconds,
    );
    if (before.2, before.3) != (after.2, after.3) {
        // What is under way is given that long from now on.
        draft.set_phase_deadline(ctx);
    }
    if before != after {
        draft.settings_changed(ctx);
    }
    Ok(())
}

fn check(patch: &SessionPatch) -> Result<()> {
    let mut checks = Checks::new();
    if let Some(priority) = patch.priority {
        checks.range_i32("/priority", priority, -1000, 1000);
    }
    for (at, value) in [
        (
            "/start_timeout_seconds",
            patch.start_timeout_seconds.flatten(),
        ),
        (
            "/terminate_timeout_seconds",
            patch.terminate_timeout_seconds.flatten(),
        ),
    ] {
        if let Some(value) = value {
            checks.range_f64(at, value, 1.0, 86_400.0);
        }
    }
    if let Some(value) = patch.idle_timeout_seconds.flatten() {
        checks.range_f64("/idle_timeout_seconds", value, 1.0, MAX_LIMIT_SECONDS);
    }
    checks.finish().map_err(pools::from_problem)
}

/// Finds a session, locks its agent and then the session, and changes it. What `body` answers is
/// whether the end of a session in a lost domain is not to wait.
async fn change<F>(
    app: &Arc<App>,
    id_or_name: &str,
    preconditions: Preconditions,
    actor: Actor,
    body: F,
) -> Result<SessionRow>
where
    F: Fn(&mut Draft, &Context<'_>) -> Result<bool> + Send + Sync + 'static,
{
    let (id_or_name, body) = (id_or_name.to_owned(), Arc::new(body));
    let (row, hints) = app
        .db
        .write_often("sessions::change", move |conn| {
            let (id_or_name, preconditions) = (id_or_name.clone(), preconditions.clone());
            let (actor, body) = (actor.clone(), Arc::clone(&body));
            Box::pin(async move {
                let (row, _) = lock_with_agent(conn, &id_or_name).await?;
                if !preconditions.if_match_ok(Some(row.version)) {
                    return Err(Error::VersionMismatch(row.version));
                }
                let now = store::now_that_all_is_locked(conn).await?;
                let rules = pools::rules(conn, &row.agent_pool).await?;
                let ctx = Context {
                    now,
                    pool: &rules,
                    actor: &actor,
                    epoch_floor: 0,
                };
                let mut draft = Draft::of(row);
                if body(&mut draft, &ctx)? {
                    leases::end_if_domain_is_lost(conn, &ctx, &mut draft).await?;
                }
                let hints = write(conn, std::slice::from_ref(&draft)).await?;
                Ok((draft.row, hints))
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(row)
}

/// Locks a session's agent, if it has one, and then the session; the agent may change in between,
/// and then the transaction is run again.
///
/// # Errors
/// `SessionNotFound`, `Retry`, or when the database refuses.
pub async fn lock_with_agent(
    conn: &mut Conn,
    id_or_name: &str,
) -> Result<(SessionRow, Option<AgentRow>)> {
    let not_found = || Error::SessionNotFound(id_or_name.to_owned());
    let seen = store::find(conn, id_or_name).await?.ok_or_else(not_found)?;
    let agent = match &seen.assigned_agent_id {
        Some(agent) => agents::lock_one(conn, agent).await?,
        None => None,
    };
    let row = store::lock(conn, &[seen.id])
        .await?
        .pop()
        .ok_or_else(not_found)?;
    if row.assigned_agent_id != seen.assigned_agent_id && row.assigned_agent_id.is_some() {
        return Err(Error::Retry(
            "the session was given to another agent meanwhile".to_owned(),
        ));
    }
    let agent = agent.filter(|_| row.assigned_agent_id.is_some());
    Ok((row, agent))
}
