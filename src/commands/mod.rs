//! Commands: imperative work on a session, which its holder does.
//!
//! A command is given to whoever holds the session, at least once within one lease epoch, in the
//! order in which the session's commands were created.
//!
//! Invariants:
//! - A command changes only while its session's row is locked, together with its events.
//! - It is told to the session's holder alone, never before one that was created earlier.
//! - What was delivered under an epoch is answered for under that epoch or not at all.
//!
//! What this room does not do: wait. Deliveries are part of a claim's round (`claims`), deadlines
//! of `upkeep`, and what the end of a hold means for commands is part of writing the session.

mod deliver;
pub mod http;
mod results;
mod row;
mod state;
mod store;
mod table;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lessor_protocol::{Actor, Command, CommandStatus, NewCommand};
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Result};
use crate::idempotency::{self, Answer, Request};
use crate::sessions::{self, SessionRow};
use crate::store::Conn;
use crate::wakeups::Hints;
use row::CommandRow;
use state::{Change, Context};

pub use deliver::{Told, deliver};
pub use results::{MAX_RESULTS, take};
pub use state::MAX_JSON_BYTES;

/// The most commands of one session that are not finished.
pub const MAX_UNFINISHED: i64 = 1_000;

/// Creates a command, once per idempotency key, and wakes the session's holder. `answer` makes the
/// body from it.
///
/// # Errors
/// `SessionNotFound`, `TransitionNotAllowed` for a session that has ended, `Invalid` for one with
/// too many, `IdempotencyKeyReused`, `DatabaseUnavailable`.
pub async fn create<F>(
    app: &Arc<App>,
    session: &str,
    new: NewCommand,
    request: Option<Request>,
    actor: Actor,
    answer: F,
) -> Result<Answer>
where
    F: Fn(Command) -> Result<Answer> + Send + Sync + 'static,
{
    let (session, new, answer) = (session.to_owned(), Arc::new(new), Arc::new(answer));
    let (answer, hints) = app
        .db
        .write("commands::create", move |conn| {
            let (session, new, answer) = (session.clone(), Arc::clone(&new), Arc::clone(&answer));
            let (request, actor) = (request.clone(), actor.clone());
            Box::pin(async move {
                idempotency::once(conn, request.as_ref(), move |conn| {
                    Box::pin(async move {
                        let (row, hints) = insert(conn, &session, &new, &actor).await?;
                        Ok((answer(row.into())?, hints))
                    })
                })
                .await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(answer)
}

async fn insert(
    conn: &mut Conn,
    session: &str,
    new: &NewCommand,
    actor: &Actor,
) -> Result<(CommandRow, Hints)> {
    let session = lock(conn, session).await?;
    if state::has_ended(session.state) {
        return Err(Error::TransitionNotAllowed(format!(
            "session {} is `{}` and takes no commands",
            session.id, session.state
        )));
    }
    if store::unfinished(conn, session.id).await? >= MAX_UNFINISHED {
        return Err(Error::invalid(
            "",
            format!("the session has {MAX_UNFINISHED} unfinished commands, as many as it can"),
        ));
    }
    let now = sessions::now(conn).await?;
    let ctx = Context {
        now,
        session: &session,
        actor,
    };
    let mut change = Change::of(row_of(new, session.id, now));
    change.create(&ctx);
    store::insert(conn, &change).await?;
    let hints = hints_of(&session, [&change]);
    Ok((change.row, hints))
}

fn row_of(new: &NewCommand, session_id: Uuid, now: DateTime<Utc>) -> CommandRow {
    CommandRow {
        id: Uuid::now_v7(),
        seq: 0,
        session_id,
        kind: new.kind.clone(),
        payload: new.payload.clone(),
        status: CommandStatus::Pending,
        redeliver: new.redeliver,
        lease_epoch: None,
        agent: None,
        result: None,
        failure: None,
        deadline_at: now + sessions::duration(new.deadline_seconds),
        created_at: now,
        delivered_at: None,
        finished_at: None,
        holder: None,
        deliver_at: None,
        deliveries: 0,
    }
}

/// Finds a session by its id or name, and locks it.
async fn lock(conn: &mut Conn, session: &str) -> Result<SessionRow> {
    let not_found = || Error::SessionNotFound(session.to_owned());
    let seen = sessions::find(conn, session).await?.ok_or_else(not_found)?;
    sessions::lock(conn, &[seen.id])
        .await?
        .pop()
        .ok_or_else(not_found)
}

/// Whom these changes make worth waking: holders with something new to hear.
fn hints_of<'a>(session: &SessionRow, changes: impl IntoIterator<Item = &'a Change>) -> Hints {
    let mut hints = Hints::default();
    for change in changes {
        if let (Some(holder), 0) = (&change.row.holder, change.row.deliveries) {
            let pool = hints.pool(&session.agent_pool);
            pool.agents.insert(holder.clone());
        }
    }
    hints
}

/// A page of a session's commands, newest first, with their numbers.
///
/// # Errors
/// `SessionNotFound`, `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    session: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, Command)>> {
    let id = sessions::get(app, session).await?.id;
    let rows = app
        .db
        .read("commands::list", |conn| {
            Box::pin(store::list(conn, id, before, limit))
        })
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.seq, Command::from(row)))
        .collect())
}

/// One command of a session.
///
/// # Errors
/// `SessionNotFound`, `CommandNotFound`, `DatabaseUnavailable`.
pub async fn get(app: &App, session: &str, command: &str) -> Result<Command> {
    let session_id = sessions::get(app, session).await?.id;
    let id = id_of(command)?;
    let found = app
        .db
        .read("commands::get", |conn| {
            Box::pin(store::find(conn, session_id, id))
        })
        .await?;
    found
        .map(Command::from)
        .ok_or_else(|| Error::CommandNotFound(command.to_owned()))
}

fn id_of(command: &str) -> Result<Uuid> {
    Uuid::try_parse(command).map_err(|_| Error::CommandNotFound(command.to_owned()))
}

/// Cancels a command; an agent that it was delivered to is told to stop it.
///
/// # Errors
/// `SessionNotFound`, `CommandNotFound`, `TransitionNotAllowed` when it is over,
/// `DatabaseUnavailable`.
pub async fn cancel(app: &Arc<App>, session: &str, command: &str, actor: Actor) -> Result<Command> {
    let (session, command) = (session.to_owned(), command.to_owned());
    let (row, hints) = app
        .db
        .write("commands::cancel", move |conn| {
            let (session, command, actor) = (session.clone(), command.clone(), actor.clone());
            Box::pin(async move {
                let session = lock(conn, &session).await?;
                let row = store::find(conn, session.id, id_of(&command)?)
                    .await?
                    .ok_or(Error::CommandNotFound(command))?;
                let ctx = Context {
                    now: sessions::now(conn).await?,
                    session: &session,
                    actor: &actor,
                };
                let mut change = Change::of(row);
                if !change.cancel(&ctx) {
                    return Err(Error::TransitionNotAllowed(format!(
                        "command {} is `{}`; there is nothing left to cancel",
                        change.row.id, change.row.status
                    )));
                }
                store::write(conn, std::slice::from_ref(&change)).await?;
                let hints = hints_of(&session, [&change]);
                Ok((change.row, hints))
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(row.into())
}

/// Brings the commands of sessions in line with them, in the transaction that changed them:
/// sessions that have commands, as they are now.
///
/// # Errors
/// When the database refuses.
pub async fn follow(conn: &mut Conn, changed: &[&SessionRow]) -> Result<Hints> {
    let ids: Vec<Uuid> = changed.iter().map(|row| row.id).collect();
    let rows = store::open(conn, &ids).await?;
    let now = sessions::now(conn).await?;
    let actor = sessions::system("commands");
    let mut hints = Hints::default();
    let mut changes = Vec::new();
    for row in rows {
        let Some(session) = changed.iter().find(|session| session.id == row.session_id) else {
            continue;
        };
        let mut change = Change::of(row);
        change.follow(&Context {
            now,
            session,
            actor: &actor,
        });
        if change.is_changed() {
            hints.merge(hints_of(session, [&change]));
            changes.push(change);
        }
    }
    store::write(conn, &changes).await?;
    Ok(hints)
}

/// Ends what is past its deadline, a batch; whether there may be more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn expire(app: &Arc<App>) -> Result<bool> {
    app.db
        .write("commands::expire", |conn| Box::pin(expire_in(conn)))
        .await
}

async fn expire_in(conn: &mut Conn) -> Result<bool> {
    let found = store::expired(conn).await?;
    if found.is_empty() {
        return Ok(false);
    }
    let session_ids: Vec<Uuid> = found.iter().map(|expired| expired.session_id).collect();
    let locked = sessions::lock(conn, &session_ids).await?;
    let ids: Vec<Uuid> = found.iter().map(|expired| expired.id).collect();
    let now = sessions::now(conn).await?;
    let actor = sessions::system("deadline");
    let mut changes = Vec::new();
    for row in store::by_ids(conn, &ids).await? {
        let Some(session) = locked.iter().find(|session| session.id == row.session_id) else {
            continue;
        };
        let mut change = Change::of(row);
        change.expire(&Context {
            now,
            session,
            actor: &actor,
        });
        changes.push(change);
    }
    store::write(conn, &changes).await?;
    Ok(found.len() == 200)
}
