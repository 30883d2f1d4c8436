//! Creating sessions, all or nothing, once per idempotency key.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::{
    Actor, DesiredState, IdleAction, NewSession, RawJson, Session, SessionState, empty_object,
};
use uuid::Uuid;

use super::row::SessionRow;
use super::store;
use crate::app::App;
use crate::error::{Error, Result};
use crate::events::NewEvent;
use crate::http::Checks;
use crate::idempotency::{self, Answer, Request};
use crate::pools;
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

const MAX_SPEC_BYTES: usize = 64 * 1024;

/// What would stand in a session's place in a path: nobody could ask for it by such a name.
const PATHS: [&str; 2] = ["batch", "bulk"];

/// Whether a session of this name could not be reached, since another call has its path.
#[must_use]
pub fn is_path(name: &str) -> bool {
    PATHS.contains(&name)
}

/// The most of an idle timeout and of a longest life: a year.
pub const MAX_LIMIT_SECONDS: f64 = 31_536_000.0;

/// A session to create, and where it stands in the body, for error messages.
pub struct NewOf<'a> {
    /// The session.
    pub session: &'a NewSession,
    /// `""`, or `/sessions/3`.
    pub at: String,
}

/// Whether the values are within their limits.
///
/// # Errors
/// `Invalid`.
pub fn check(sessions: &[NewOf<'_>]) -> Result<()> {
    let mut checks = Checks::new();
    for NewOf { session: new, at } in sessions {
        let field = |name: &str| format!("{at}/{name}");
        checks.json(field("spec"), &new.spec, MAX_SPEC_BYTES);
        if let Some(pool) = &new.pool {
            checks.name(field("pool"), pool);
        }
        if let Some(platform) = &new.platform {
            checks.text(field("platform"), platform, 128);
        }
        if let Some(region) = &new.region {
            checks.text(field("region"), region, 128);
        }
        if new.pool.is_none() && new.platform.is_none() {
            checks.refuse(field("pool"), "a pool or a platform is required");
        }
        if let Some(name) = &new.name {
            checks.name(field("name"), name);
            if Uuid::try_parse(name).is_ok() {
                checks.refuse(field("name"), "must not have the form of a UUID");
            }
            if is_path(name) {
                checks.refuse(field("name"), "is the path of another call");
            }
        }
        if let Some(owner) = &new.owner {
            checks.text(field("owner"), owner, 256);
        }
        checks
            .labels(field("requires"), &new.requires)
            .labels(field("prefers"), &new.prefers);
        checks.labels(field("labels"), &new.labels).range_i32(
            field("priority"),
            new.priority,
            -1000,
            1000,
        );
        for (name, value, min) in [
            ("start_timeout_seconds", new.start_timeout_seconds, 1.0),
            (
                "terminate_timeout_seconds",
                new.terminate_timeout_seconds,
                1.0,
            ),
            ("grace_seconds", new.grace_seconds, 0.0),
        ] {
            if let Some(value) = value {
                checks.range_f64(field(name), value, min, 86_400.0);
            }
        }
        for (name, value) in [
            ("idle_timeout_seconds", new.idle_timeout_seconds),
            ("max_duration_seconds", new.max_duration_seconds),
        ] {
            if let Some(value) = value {
                checks.range_f64(field(name), value, 1.0, MAX_LIMIT_SECONDS);
            }
        }
        if new.desired_state == DesiredState::Terminated {
            checks.refuse(field("desired_state"), "must be `running` or `hibernated`");
        }
        if let Some(at) = new.not_before {
            checks.moment(field("not_before"), at);
        }
        let far = Utc::now() + TimeDelta::days(3650);
        if new.not_before.is_some_and(|at| at > far) {
            checks.refuse(field("not_before"), "is more than ten years away");
        }
    }
    checks.finish().map_err(pools::from_problem)
}

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
    actor: Actor,
    answer: F,
) -> Result<Answer>
where
    F: Fn(Vec<Session>) -> Result<Answer> + Send + Sync + Clone + 'static,
{
    let news = Arc::new(news);
    let (answer, hints) = app
        .db
        .write("sessions::create", move |conn| {
            let (news, request) = (Arc::clone(&news), request.clone());
            let (actor, answer) = (actor.clone(), answer.clone());
            Box::pin(async move {
                idempotency::once(conn, request.as_ref(), move |conn| {
                    Box::pin(async move {
                        let (rows, hints) = insert(conn, &news, &actor).await?;
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

async fn insert(
    conn: &mut Conn,
    news: &[NewSession],
    actor: &Actor,
) -> Result<(Vec<SessionRow>, Hints)> {
    let now = store::now(conn).await?;
    let mut homes: Vec<(PoolKey, Home)> = Vec::new();
    let mut rows = Vec::with_capacity(news.len());
    let mut events = Vec::with_capacity(news.len());
    for (index, new) in news.iter().enumerate() {
        let key = (new.pool.clone(), new.platform.clone(), new.region.clone());
        let home = match homes.iter().find(|(known, _)| *known == key) {
            Some((_, home)) => home.clone(),
            None => {
                let home = home_of(conn, new).await?;
                homes.push((key, home.clone()));
                home
            }
        };
        // A microsecond apart, so that a batch is claimed in the order in which it was sent.
        let queued_at = now + TimeDelta::microseconds(i64::try_from(index).unwrap_or(0));
        let row = row_of(new, home, now, queued_at);
        events.push(event_of(&row, actor));
        rows.push(row);
    }
    match store::insert(conn, &rows, &events).await {
        Ok(()) => {}
        Err(Error::Internal(detail)) if detail.contains("sessions_by_name") => {
            return Err(Error::NameTaken(taken(news)));
        }
        Err(Error::Internal(detail)) if detail.contains("sessions_agent_pool_fkey") => {
            let pool = rows
                .into_iter()
                .next()
                .map(|row| row.agent_pool)
                .unwrap_or_default();
            return Err(Error::PoolNotFound(pool));
        }
        Err(error) => return Err(error),
    }
    let hints = Hints::of(rows.iter());
    Ok((rows, hints))
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

/// The pool that a session goes to.
#[derive(Clone, QueryableByName)]
struct Home {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    platform: String,
    #[diesel(sql_type = Nullable<Text>)]
    region: Option<String>,
    #[diesel(sql_type = Bool)]
    matches: bool,
}

async fn home_of(conn: &mut Conn, new: &NewSession) -> Result<Home> {
    let found: Option<Home> = Statement::new(include_str!("home.sql"))
        .bind::<Nullable<Text>, _>(new.pool.clone())
        .bind::<Nullable<Text>, _>(new.platform.clone())
        .bind::<Nullable<Text>, _>(new.region.clone())
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
        (Some(home), _) if home.matches => Ok(home),
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

fn row_of(
    new: &NewSession,
    home: Home,
    now: DateTime<Utc>,
    queued_at: DateTime<Utc>,
) -> SessionRow {
    let spec: RawJson = new.spec.clone();
    SessionRow {
        id: Uuid::now_v7(),
        name: new.name.clone(),
        agent_pool: home.name,
        platform: home.platform,
        region: home.region,
        owner: new.owner.clone(),
        labels: new.labels.clone(),
        priority: new.priority,
        spec,
        desired_state: new.desired_state,
        state: SessionState::Pending,
        generation: 1,
        observed_generation: 0,
        lease_epoch: 0,
        assigned_agent_id: None,
        assigned_incarnation: None,
        assigned_action: None,
        offered_until: None,
        deliver_at: None,
        deliveries: 0,
        resource_domain: None,
        platform_resource_id: None,
        platform_metadata: empty_object(),
        endpoint: None,
        requires: new.requires.clone(),
        prefers: new.prefers.clone(),
        attempt: 1,
        attempts_used: 0,
        not_before: new.not_before,
        held_back_until: new.not_before.filter(|at| *at > now),
        domain_lost: false,
        offers_lapsed: 0,
        avoid_agent: None,
        avoid_until: None,
        phase_deadline_at: None,
        restart: new.restart,
        start_timeout_seconds: new.start_timeout_seconds,
        terminate_timeout_seconds: new.terminate_timeout_seconds,
        idle_timeout_seconds: new.idle_timeout_seconds,
        idle_action: new.idle_action.unwrap_or(IdleAction::Hibernate),
        max_duration_seconds: new.max_duration_seconds,
        grace_seconds: new.grace_seconds,
        delete_data: new.delete_data,
        failure: None,
        termination_reason: None,
        created_at: now,
        updated_at: now,
        queued_at,
        started_at: None,
        first_started_at: None,
        ended_at: None,
        version: 1,
        handing_over: false,
        reserved_for: None,
        reserved_until: None,
        start_domain: None,
        migrating_from_pool: None,
        migrating_from_domain: None,
        start_metadata: None,
        stopping_attempt: None,
        stopping_lease_until: None,
    }
}

fn event_of(row: &SessionRow, actor: &Actor) -> NewEvent {
    NewEvent {
        kind: "session.created",
        at: row.created_at,
        pool: row.agent_pool.clone(),
        owner: row.owner.clone(),
        session_id: Some(row.id),
        agent: None,
        incarnation: None,
        lease_epoch: Some(0),
        generation: Some(row.generation),
        actor_type: actor.actor_type,
        actor_name: actor.name.clone(),
        from_value: None,
        to_value: Some(row.state.to_string()),
        reason: None,
        data: serde_json::json!({}),
    }
}
