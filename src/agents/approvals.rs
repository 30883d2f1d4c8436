//! Approvals: in a pool that asks for it, an agent may register when an operator has let it.
//!
//! Invariant: a registration looks at the approval in its own transaction. What is registered stays so;
//! an approval counts at registrations alone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use diesel::OptionalExtension as _;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use lessor_protocol::{AgentApproval, ApprovalRequest, Page, tenant_of};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Checks, Cursor, Format, Json, Listing, OptionalJson, PageQuery, Path, Query};
use crate::pools;
use crate::problem::Problem;
use crate::store::{Conn, Statement};

/// The routes of this part of the room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_approvals))
        .routes(routes!(approve_agent, withdraw_approval))
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    agent: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    asked_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    approved_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    approved_by: Option<String>,
}

impl From<Row> for AgentApproval {
    fn from(row: Row) -> Self {
        Self {
            pool: row.pool,
            agent: row.agent,
            asked_at: row.asked_at,
            approved_at: row.approved_at,
            approved_by: row.approved_by,
        }
    }
}

/// Whether an agent may be in a pool that asks for approval.
pub(super) async fn is_approved(conn: &mut Conn, pool: &str, agent: &str) -> Result<bool> {
    #[derive(diesel::QueryableByName)]
    struct Is {
        #[diesel(sql_type = Bool)]
        approved: bool,
    }
    let is: Is = Statement::new(
        "-- agents::is_approved\nSELECT EXISTS (SELECT FROM agent_approvals \
         WHERE pool = $1 AND agent = $2 AND approved_at IS NOT NULL) AS approved",
    )
    .bind::<Text, _>(pool.to_owned())
    .bind::<Text, _>(agent.to_owned())
    .get_result(conn)
    .await?;
    Ok(is.approved)
}

/// Notes that an agent has asked to be in a pool; the first time there is an event.
pub(super) async fn ask(app: &App, (pool, agent): (String, String)) -> Result<()> {
    app.db
        .write("agents::ask", move |conn| {
            let (pool, agent) = (pool.clone(), agent.clone());
            Box::pin(async move {
                Statement::new(include_str!("ask.sql"))
                    .bind::<Text, _>(pool)
                    .bind::<Text, _>(agent)
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
}

/// The pool that is meant: the one that was named, or the one that the agent asked for last.
async fn meant(conn: &mut Conn, agent: &str, pool: Option<String>) -> Result<String> {
    #[derive(diesel::QueryableByName)]
    struct Asked {
        #[diesel(sql_type = Text)]
        pool: String,
    }
    if let Some(pool) = pool {
        pools::rules(conn, &pool).await?;
        return Ok(pool);
    }
    let asked: Option<Asked> = Statement::new(
        "-- agents::asked\nSELECT pool FROM agent_approvals WHERE agent = $1 ORDER BY asked_at DESC NULLS LAST LIMIT 1",
    )
    .bind::<Text, _>(agent.to_owned())
    .get_result(conn)
    .await
    .optional()?;
    asked
        .map(|asked| asked.pool)
        .ok_or_else(|| Error::AgentNotRegistered(agent.to_owned()))
}

async fn approve(
    app: &App,
    agent: String,
    pool: Option<String>,
    by: String,
) -> Result<AgentApproval> {
    app.db
        .write("agents::approve", move |conn| {
            let (agent, pool, by) = (agent.clone(), pool.clone(), by.clone());
            Box::pin(async move {
                let pool = meant(conn, &agent, pool).await?;
                let row: Row = Statement::new(
                    "-- agents::approve\nINSERT INTO agent_approvals AS a (pool, agent, approved_at, approved_by) \
                     VALUES ($1, $2, now(), $3) ON CONFLICT (pool, agent) DO UPDATE SET \
                     approved_at = coalesce(a.approved_at, now()), approved_by = coalesce(a.approved_by, $3) \
                     RETURNING pool, agent, asked_at, approved_at, approved_by",
                )
                .bind::<Text, _>(pool)
                .bind::<Text, _>(agent)
                .bind::<Text, _>(by)
                .get_result(conn)
                .await?;
                Ok(row.into())
            })
        })
        .await
}

async fn withdraw(app: &App, agent: String, pool: Option<String>) -> Result<()> {
    app.db
        .write("agents::withdraw", move |conn| {
            let (agent, pool) = (agent.clone(), pool.clone());
            Box::pin(async move {
                let pool = meant(conn, &agent, pool).await?;
                let gone = Statement::new(
                    "-- agents::withdraw\nDELETE FROM agent_approvals WHERE pool = $1 AND agent = $2",
                )
                .bind::<Text, _>(pool)
                .bind::<Text, _>(agent.clone())
                .execute(conn)
                .await?;
                if gone == 0 {
                    return Err(Error::AgentNotRegistered(agent));
                }
                Ok(())
            })
        })
        .await
}

/// Where a page of approvals ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(String);

impl Cursor for Position {
    const KIND: &'static str = "approvals";
}

/// List who may be in a pool, and who waits to
///
/// By name. It counts while the pool's `approval` is `manual`.
#[utoipa::path(get, path = "/pools/{pool}/approvals", tag = "agents", operation_id = "list_approvals",
    params(("pool" = String, Path, description = "The pool's name", example = "local"), PageQuery),
    responses((status = 200, description = "A page of them", body = Page<AgentApproval>)))]
async fn list_approvals(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
    Query(query): Query<PageQuery>,
) -> std::result::Result<Response, Problem> {
    let paging = query.paging()?;
    let after = paging.after::<Position>()?.map(|Position(agent)| agent);
    let limit = paging.fetch();
    let rows = app
        .db
        .read("agents::approvals", |conn| {
            Box::pin(async move {
                pools::rules(conn, &pool).await?;
                let rows: Vec<Row> = Statement::new(
                    "-- agents::approvals\nSELECT pool, agent, asked_at, approved_at, approved_by \
                     FROM agent_approvals WHERE pool = $1 AND ($2::text IS NULL OR agent > $2) \
                     ORDER BY agent LIMIT $3",
                )
                .bind::<Text, _>(pool)
                .bind::<Nullable<Text>, _>(after)
                .bind::<BigInt, _>(limit)
                .load(conn)
                .await?;
                Ok(rows)
            })
        })
        .await?;
    let rows = rows.into_iter().map(AgentApproval::from).collect();
    let page = paging.page(rows, |one: &AgentApproval| Position(one.agent.clone()));
    Ok(Listing::new(format, page).into_response())
}

fn check(caller: &Caller, agent: &str, pool: Option<&String>) -> std::result::Result<(), Problem> {
    let mut checks = Checks::new();
    checks.qualified("agent", agent);
    if let Some(pool) = pool {
        checks.qualified("/pool", pool);
        if tenant_of(pool) != tenant_of(agent) {
            checks.refuse("/pool", "must be of the agent's tenant");
        }
    }
    checks.finish()?;
    if let Some(pool) = pool {
        caller.must_see_pool(pool)?;
    }
    Ok(())
}

/// Approve an agent
///
/// By its name, for one pool: whether it has asked yet or not. Again is no change.
#[utoipa::path(post, path = "/agents/{agent}/approve", tag = "agents", operation_id = "approve_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = ApprovalRequest, example = json!({"pool": "local"})),
    responses((status = 200, description = "It may register from now on", body = AgentApproval)))]
async fn approve_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    OptionalJson(body): OptionalJson<ApprovalRequest>,
) -> std::result::Result<Json<AgentApproval>, Problem> {
    check(&caller, &agent, body.pool.as_ref())?;
    Ok(Json(approve(&app, agent, body.pool, caller.name).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WithdrawQuery {
    /// The pool; the one that it asked for last if left out.
    pool: Option<String>,
}

/// Withdraw an agent's approval
///
/// It counts at its next registration; until then it is what it was.
#[utoipa::path(delete, path = "/agents/{agent}/approve", tag = "agents", operation_id = "withdraw_approval",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1"), WithdrawQuery),
    responses((status = 204, description = "It has none")))]
async fn withdraw_approval(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    Query(query): Query<WithdrawQuery>,
) -> std::result::Result<StatusCode, Problem> {
    check(&caller, &agent, query.pool.as_ref())?;
    withdraw(&app, agent, query.pool).await?;
    Ok(StatusCode::NO_CONTENT)
}
