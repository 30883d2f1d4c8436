//! The calls on agents: their own, and the operators'.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{
    Agent, Availability, CordonRequest, Heartbeat, Page, ProblemCode, Register, Registered,
    Renewed, Role, Scheduling,
};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::list::Position;
use crate::access::Caller;
use crate::app::App;
use crate::http::{
    Checks, Format, Item, Json, Listing, OptionalJson, Paging, Path, Query, label_filter,
};
use crate::limits;
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_agents))
        .routes(routes!(get_agent, register_agent, deregister_agent))
        .routes(routes!(send_heartbeat))
        .routes(routes!(cordon_agent))
        .routes(routes!(uncordon_agent))
        .merge(super::approvals::routes())
}

#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this pool.
    pool: Option<String>,
    /// Only with this availability.
    availability: Option<Availability>,
    /// Only with this scheduling.
    scheduling: Option<Scheduling>,
    /// Only of this resource domain.
    resource_domain: Option<String>,
    /// Only with this label, `key:value`; may be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// How many items: 1 to 500, by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// List agents
///
/// Newest name first.
#[utoipa::path(get, path = "/agents", tag = "agents", operation_id = "list_agents", params(ListQuery),
    responses((status = 200, description = "A page of agents", body = Page<Agent>)))]
async fn list_agents(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let paging = Paging::new(query.limit, query.cursor)?;
    let filter = super::AgentFilter {
        pool: query.pool,
        availability: query.availability,
        scheduling: query.scheduling,
        resource_domain: query.resource_domain,
        labels: label_filter(&query.label)?,
        reach: caller.scope().reach,
    };
    let rows = super::list(&app, filter, paging.after::<Position>()?, paging.fetch()).await?;
    Ok(Listing::new(format, paging.page(rows, Position::of)).into_response())
}

/// Get an agent
#[utoipa::path(get, path = "/agents/{agent}", tag = "agents", operation_id = "get_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    responses((status = 200, description = "The agent", body = Agent)))]
async fn get_agent(
    State(app): State<Arc<App>>,
    format: Format,
    Path(agent): Path<String>,
) -> Result<Response, Problem> {
    Ok(Item::new(format, super::get(&app, &agent).await?).into_response())
}

/// Register an agent
///
/// The same instance under a live lease keeps its incarnation, so a retried call is harmless.
/// Otherwise this is a new incarnation, and older ones are fenced. `held` says what the process
/// still drives; what is assigned to the name and not in it is released. With a token of role `enroll`
/// the answer has the agent's own token, for all its other calls. In a pool whose `approval` is `manual` an
/// agent that was not approved yet is told so, and asks again later.
#[utoipa::path(put, path = "/agents/{agent}", tag = "agents", operation_id = "register_agent",
    params(("agent" = String, Path, description = "The agent's name: `[a-z0-9][a-z0-9._-]{0,127}`", example = "local-1")),
    request_body(content = Register, example = json!({"pool": "local", "resource_domain": "host-1", "capacity": 10,
        "instance": {"id": "0f5b0b0e", "host": "host-1", "pid": 4711}, "held": []})),
    responses((status = 200, description = "A name that was known", body = Registered),
        (status = 201, description = "A new name", body = Registered)))]
async fn register_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    Json(body): Json<Register>,
) -> Result<Response, Problem> {
    let (created, registered) = super::register(&app, &agent, body, caller).await?;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(registered)).into_response())
}

#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GoodbyeQuery {
    /// The agent's own incarnation: this is its goodbye.
    incarnation: Option<i64>,
    /// Without an incarnation: remove it although it is live.
    #[serde(default)]
    force: bool,
}

/// Say goodbye, or remove an agent
///
/// Its sessions can be claimed at once; what runs, runs on.
#[utoipa::path(delete, path = "/agents/{agent}", tag = "agents", operation_id = "deregister_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1"), GoodbyeQuery),
    responses((status = 204, description = "It is gone")))]
async fn deregister_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    Query(query): Query<GoodbyeQuery>,
) -> Result<StatusCode, Problem> {
    if caller.grant.role == Role::Agent && query.incarnation.is_none() {
        let why = "An agent says goodbye with its incarnation; removing one is an operator's";
        return Err(Problem::new(ProblemCode::Forbidden, why));
    }
    super::deregister(&app, &agent, query.incarnation, query.force, caller.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Renew a lease
///
/// `activity` says for how long sessions have been idle; it counts only of what the agent holds at
/// that moment.
#[utoipa::path(post, path = "/agents/{agent}/heartbeat", tag = "agents", operation_id = "send_heartbeat",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = Heartbeat, example = json!({"incarnation": 1,
        "activity": [{"session_id": "01a20ecd-78f7-7075-855a-c7d7941dbe25", "idle_seconds": 12.5}]})),
    responses((status = 200, description = "The lease was renewed", body = Renewed)))]
async fn send_heartbeat(
    State(app): State<Arc<App>>,
    Path(agent): Path<String>,
    Json(body): Json<Heartbeat>,
) -> Result<Json<Renewed>, Problem> {
    let mut checks = Checks::new();
    checks.at_most("/dropped", body.dropped.len(), super::register::MAX_HELD);
    checks.at_most("/activity", body.activity.len(), limits::MAX_ACTIVITY);
    for (index, item) in body.activity.iter().enumerate() {
        if !(item.idle_seconds.is_finite() && item.idle_seconds >= 0.0) {
            checks.refuse(
                format!("/activity/{index}/idle_seconds"),
                "must not be negative",
            );
        }
    }
    checks.finish()?;
    let Heartbeat {
        incarnation,
        activity,
        dropped,
    } = body;
    Ok(Json(
        super::heartbeat(&app, &agent, incarnation, dropped, activity).await?,
    ))
}

/// Cordon an agent
///
/// It is given no new sessions; what it holds stays.
#[utoipa::path(post, path = "/agents/{agent}/cordon", tag = "agents", operation_id = "cordon_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = CordonRequest, example = json!({"reason": "kernel update"})),
    responses((status = 200, description = "The agent as it is now", body = Agent)))]
async fn cordon_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    OptionalJson(body): OptionalJson<CordonRequest>,
) -> Result<Json<Agent>, Problem> {
    let mut checks = Checks::new();
    if let Some(reason) = &body.reason {
        checks.text("/reason", reason, 1024);
    }
    if let Some(until) = body.until {
        checks.moment("/until", until);
    }
    checks.finish()?;
    let cordon = Some((body.reason, body.until));
    Ok(Json(
        super::set_cordon(&app, &agent, cordon, caller.into()).await?,
    ))
}

/// Uncordon an agent
#[utoipa::path(post, path = "/agents/{agent}/uncordon", tag = "agents", operation_id = "uncordon_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    responses((status = 200, description = "The agent as it is now", body = Agent)))]
async fn uncordon_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Agent>, Problem> {
    Ok(Json(
        super::set_cordon(&app, &agent, None, caller.into()).await?,
    ))
}
