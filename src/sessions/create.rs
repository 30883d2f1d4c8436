//! Creating sessions, all or nothing, once per idempotency key.
//!
//! Most calls create one session in a pool that they name, or many: one statement does that, which is
//! its own transaction. A single one is offered to a parked agent in it where that can be
//! (`claims::Dispatchers::offer`), and otherwise goes with those that arrive at the same time
//! (`gathered.rs`). What that cannot do, or refuses, is done alone, step by step, which also finds out why
//! it was refused.

use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, NewSession, Session, TENANT_MARK};

use super::draft::Draft;
use super::fresh::Home;
use super::insert::{Those, insert};
use super::row::SessionRow;
use super::store;
use crate::access::Caller;
use crate::app::App;
use crate::claims::Offered;
use crate::error::{Error, Result};
use crate::idempotency::{self, Answer, Request};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

/// Creates sessions in one transaction, and keeps the answer under the request's idempotency key.
/// `answer` makes the body from them.
///
/// # Errors
/// `Invalid`, `PoolNotFound`, `NoMatchingPool`, `NameTaken`, `IdempotencyKeyReused`,
/// `DatabaseUnavailable`.
pub async fn create<F>(
    app: &Arc<App>,
    news: Vec<NewSession>,
    request: Option<Request>,
    caller: Caller,
    answer: F,
) -> Result<Answer>
where
    F: Fn(Vec<Session>) -> Result<Answer> + Send + Sync + Clone + 'static,
{
    let tenant = caller.grant.tenant.clone();
    let actor = Actor::from(caller);
    if request.is_none()
        && let Some(rows) = at_once(app, &news, &actor).await?
    {
        return answer(rows.into_iter().map(Session::from).collect());
    }
    let news = Arc::new(news);
    let (answer, hints) = app
        .db
        .write("sessions::create", move |conn| {
            let (news, request) = (Arc::clone(&news), request.clone());
            let (actor, tenant, answer) = (actor.clone(), tenant.clone(), answer.clone());
            Box::pin(async move {
                idempotency::once(conn, request.as_ref(), move |conn| {
                    Box::pin(async move {
                        let tenant = tenant.as_deref();
                        let rows = step_by_step(conn, &news, tenant, &actor).await?;
                        let hints = Hints::of_new(rows.iter());
                        let made = answer(rows.into_iter().map(Session::from).collect())?;
                        Ok((made, hints))
                    })
                })
                .await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(answer)
}

/// Creates sessions by one statement; none where that cannot be done, and nothing was then.
async fn at_once(app: &App, news: &[NewSession], actor: &Actor) -> Result<Option<Vec<SessionRow>>> {
    // To find a pool, or to hold a session back, takes statements of its own.
    if news
        .iter()
        .any(|new| new.pool.is_none() || new.not_before.is_some())
    {
        return Ok(None);
    }
    let mut drafts: Vec<Draft> = news.iter().map(|new| Draft::fresh(new, actor)).collect();
    if drafts.len() > 1 {
        return many_at_once(app, drafts).await;
    }
    let Some(draft) = drafts.pop() else {
        return Ok(None);
    };
    let draft = match app.dispatchers.offer(draft).await? {
        Offered::Made(row) => return Ok(Some(vec![*row])),
        Offered::NotNow(draft) => *draft,
    };
    let row = app.creating.submit(draft).await?;
    Ok(row.map(|row| vec![row]))
}

async fn many_at_once(app: &App, drafts: Vec<Draft>) -> Result<Option<Vec<SessionRow>>> {
    let made = app
        .db
        .write_at_once("sessions::create_many", |conn| {
            let mut drafts = drafts;
            Box::pin(async move {
                let made = insert(conn, &mut drafts, Those::All).await?;
                Ok(made.into_iter().all(|made| made).then_some(drafts))
            })
        })
        .await;
    let drafts = match made {
        Ok(Some(drafts)) => drafts,
        // Whether it was written is not known.
        Err(error @ Error::DatabaseUnavailable(_)) => return Err(error),
        // Why, is found out step by step.
        Ok(None) | Err(_) => return Ok(None),
    };
    let rows: Vec<SessionRow> = drafts.into_iter().map(|draft| draft.row).collect();
    app.hub.committed(Hints::of_new(rows.iter()));
    Ok(Some(rows))
}

async fn step_by_step(
    conn: &mut Conn,
    news: &[NewSession],
    tenant: Option<&str>,
    actor: &Actor,
) -> Result<Vec<SessionRow>> {
    let now = store::now(conn).await?;
    let mut homes: Vec<(PoolKey, Home)> = Vec::new();
    let mut drafts = Vec::with_capacity(news.len());
    for (index, new) in news.iter().enumerate() {
        let key = (new.pool.clone(), new.platform.clone(), new.region.clone());
        let home = match homes.iter().find(|(known, _)| *known == key) {
            Some((_, home)) => home.clone(),
            None => {
                let home = home_of(conn, new, tenant).await?;
                homes.push((key, home.clone()));
                home
            }
        };
        let mut draft = Draft::fresh(new, actor);
        draft.place(&home, now, index);
        drafts.push(draft);
    }
    let first = |drafts: &[Draft]| {
        let first = drafts.first().map(|draft| draft.row.agent_pool.clone());
        Error::PoolNotFound(first.unwrap_or_default())
    };
    match insert(conn, &mut drafts, Those::All).await {
        Ok(made) if made.iter().all(|made| *made) => {}
        // It was there a moment ago.
        Ok(_) => return Err(first(&drafts)),
        Err(Error::Internal(detail)) if detail.contains("sessions_by_name") => {
            return Err(Error::NameTaken(taken(news)));
        }
        Err(Error::Internal(detail)) if detail.contains("sessions_agent_pool_fkey") => {
            return Err(first(&drafts));
        }
        Err(error) => return Err(error),
    }
    Ok(drafts.into_iter().map(|draft| draft.row).collect())
}

/// Which of the names was taken: PostgreSQL does not say it in its message, so it is told only
/// where there is no doubt.
fn taken(news: &[NewSession]) -> String {
    let names: Vec<&str> = news.iter().filter_map(|new| new.name.as_deref()).collect();
    let twice = names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name));
    match (twice, names.as_slice()) {
        (Some((_, name)), _) | (None, [name]) => (*name).to_owned(),
        _ => names.join("`, or `"),
    }
}

type PoolKey = (Option<String>, Option<String>, Option<String>);

/// A pool that may be a session's home.
#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    platform: String,
    #[diesel(sql_type = Nullable<Text>)]
    region: Option<String>,
    #[diesel(sql_type = Bool)]
    matches: bool,
}

/// The pool of a new session. Where it names none, it is one of the caller's tenant; who has none gets one
/// that has none.
async fn home_of(conn: &mut Conn, new: &NewSession, tenant: Option<&str>) -> Result<Home> {
    let prefix = tenant.map(|tenant| format!("{tenant}{TENANT_MARK}"));
    let found: Option<Found> = Statement::new(include_str!("home.sql"))
        .bind::<Nullable<Text>, _>(new.pool.clone())
        .bind::<Nullable<Text>, _>(new.platform.clone())
        .bind::<Nullable<Text>, _>(new.region.clone())
        .bind::<Text, _>(prefix.unwrap_or_default())
        .get_result(conn)
        .await
        .optional()?;
    let where_to = || {
        let platform = new.platform.as_deref().unwrap_or("any platform");
        let region = new
            .region
            .as_deref()
            .map(|region| format!(" in region `{region}`"));
        format!("`{platform}`{}", region.unwrap_or_default())
    };
    match (found, &new.pool) {
        (Some(found), _) if found.matches => Ok(Home {
            name: found.name,
            platform: found.platform,
            region: found.region,
        }),
        (Some(home), _) => Err(Error::NoMatchingPool(format!(
            "pool `{}` is on `{}` in region `{}`, not on {}",
            home.name,
            home.platform,
            home.region.as_deref().unwrap_or("-"),
            where_to()
        ))),
        (None, Some(pool)) => Err(Error::PoolNotFound(pool.clone())),
        (None, None) => Err(Error::NoMatchingPool(format!(
            "no pool is on {}",
            where_to()
        ))),
    }
}
