//! The calls that act on many.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{
    AgentBulk, AgentBulkAction, AgentBulkFilter, AgentBulkRequest, Bulk, BulkAction, BulkFilter,
    BulkRequest, DesiredState, DrainRequest, LabelFilter, StateFilter,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Caller, Scope};
use crate::agents::{AgentChange, AgentFilter, ManyAgents};
use crate::app::App;
use crate::http::{Checks, Json};
use crate::problem::Problem;
use crate::sessions::{Change, Ending, Many, SessionFilter};

/// The most bytes of a word in a filter: longer ones match nothing.
const MAX_BYTES: usize = 256;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(bulk_sessions))
        .routes(routes!(bulk_agents))
}

/// Act on many sessions
///
/// Does to every session that the filter matches what the single call does to one: `terminate` as
/// DELETE, `retry` as the retry of a dead letter, `hibernate` and `run` as PATCH. What is so already,
/// or to which it cannot be done, stays as it is, so the same call again changes nothing. A call changes
/// 10000 sessions at most and works for about 8 s; with `more`, repeat it. `dry_run` says what would be
/// done and does nothing. An empty filter is refused.
#[utoipa::path(post, path = "/sessions/bulk", tag = "sessions", operation_id = "bulk_sessions",
    request_body(content = BulkRequest, example = json!({"filter": {"pool": "local", "state": ["failed"]},
        "action": "retry", "dry_run": true})),
    responses((status = 200, description = "What was done, or would be", body = Bulk)))]
async fn bulk_sessions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(body): Json<BulkRequest>,
) -> Result<Json<Bulk>, Problem> {
    let mut checks = Checks::new();
    check_filter(&mut checks, &body.filter);
    check_ending(&mut checks, &body);
    checks.finish()?;
    let many = Many {
        filter: filter(body.filter, caller.scope()),
        change: match body.action {
            BulkAction::Terminate => Change::End(Ending {
                reason: body.reason,
                grace_seconds: body.grace_seconds,
                delete_data: body.delete_data,
                force: body.force.unwrap_or(false),
            }),
            BulkAction::Retry => Change::Retry,
            BulkAction::Hibernate => Change::Want(DesiredState::Hibernated),
            BulkAction::Run => Change::Want(DesiredState::Running),
        },
    };
    let action = body.action.as_str();
    Ok(Json(
        super::sessions(&app, many, action, body.dry_run, caller.into()).await?,
    ))
}

fn check_filter(checks: &mut Checks, filter: &BulkFilter) {
    if *filter == BulkFilter::default() {
        checks.refuse("/filter", "must not be empty");
    }
    for (name, value) in [
        ("pool", &filter.pool),
        ("assigned_agent_id", &filter.assigned_agent_id),
        ("owner", &filter.owner),
        ("name", &filter.name),
        ("resource_domain", &filter.resource_domain),
    ] {
        check_word(checks, name, value.as_ref());
    }
    if filter
        .state
        .as_ref()
        .is_some_and(|state| state.0.is_empty())
    {
        checks.refuse("/filter/state", "must not be empty");
    }
    check_labels(checks, filter.label.as_ref());
    for (name, time) in [
        ("created_after", filter.created_after),
        ("created_before", filter.created_before),
    ] {
        if let Some(time) = time {
            checks.moment(format!("/filter/{name}"), time);
        }
    }
}

fn check_word(checks: &mut Checks, name: &str, value: Option<&String>) {
    if let Some(value) = value {
        checks.text(format!("/filter/{name}"), value, MAX_BYTES);
    }
}

fn check_labels(checks: &mut Checks, label: Option<&LabelFilter>) {
    if let Some(LabelFilter(labels)) = label {
        if labels.is_empty() {
            checks.refuse("/filter/label", "must not be empty");
        }
        checks.labels("/filter/label", labels);
    }
}

/// That a field was not given with an action that it is not for.
fn check_unused(checks: &mut Checks, fields: &[(&str, bool)], of: &str) {
    for (name, _) in fields.iter().filter(|(_, given)| *given) {
        checks.refuse(format!("/{name}"), format!("is only for {of}"));
    }
}

fn check_ending(checks: &mut Checks, body: &BulkRequest) {
    if body.action != BulkAction::Terminate {
        let fields = [
            ("reason", body.reason.is_some()),
            ("grace_seconds", body.grace_seconds.is_some()),
            ("delete_data", body.delete_data.is_some()),
            ("force", body.force.is_some()),
        ];
        return check_unused(checks, &fields, "`terminate`");
    }
    if let Some(reason) = &body.reason {
        checks.text("/reason", reason, 1024);
    }
    if let Some(grace) = body.grace_seconds {
        checks.range_f64("/grace_seconds", grace, 0.0, 86_400.0);
    }
}

fn filter(filter: BulkFilter, scope: Scope) -> SessionFilter {
    SessionFilter {
        pool: filter.pool,
        states: filter.state.map(|StateFilter(s)| s).unwrap_or_default(),
        desired_state: filter.desired_state,
        assigned_agent_id: filter.assigned_agent_id,
        assigned: filter.assigned,
        owner: filter.owner,
        name: filter.name,
        labels: filter.label.map(|LabelFilter(l)| l).unwrap_or_default(),
        resource_domain: filter.resource_domain,
        created_after: filter.created_after,
        created_before: filter.created_before,
        scope,
    }
}

/// Act on many agents
///
/// Does to every agent that the filter matches what the single call does to one: `cordon`, `uncordon`,
/// or `drain`, each agent with a drain of its own. One that is cordoned or drained already, or is being
/// drained, is not cordoned again; one that is being drained or has been is not drained again. So the
/// same call again changes nothing. A call changes 1000 agents at most and works for about 8 s; with
/// `more`, repeat it. `dry_run` says what would be done and does nothing. An empty filter is refused.
#[utoipa::path(post, path = "/agents/bulk", tag = "agents", operation_id = "bulk_agents",
    request_body(content = AgentBulkRequest, example = json!({"filter": {"label": ["zone:a"]},
        "action": "drain", "reason": "new node image", "deadline_seconds": 600})),
    responses((status = 200, description = "What was done, or would be", body = AgentBulk)))]
async fn bulk_agents(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(body): Json<AgentBulkRequest>,
) -> Result<Json<AgentBulk>, Problem> {
    let mut checks = Checks::new();
    check_agents(&mut checks, &body);
    checks.finish()?;
    let AgentBulkFilter {
        pool,
        availability,
        scheduling,
        resource_domain,
        label,
    } = body.filter;
    let many = ManyAgents {
        filter: AgentFilter {
            pool,
            availability,
            scheduling,
            resource_domain,
            labels: label.map(|LabelFilter(l)| l).unwrap_or_default(),
            reach: caller.scope().reach,
        },
        change: match body.action {
            AgentBulkAction::Cordon => AgentChange::Cordon(body.reason, body.until),
            AgentBulkAction::Uncordon => AgentChange::Uncordon,
            AgentBulkAction::Drain => {
                let default = DrainRequest::default();
                AgentChange::Drain(DrainRequest {
                    deadline_seconds: body.deadline_seconds.unwrap_or(default.deadline_seconds),
                    force: body.force.unwrap_or(default.force),
                    reason: body.reason,
                })
            }
        },
    };
    let action = body.action.as_str();
    Ok(Json(
        super::agents(&app, many, action, body.dry_run, caller.into()).await?,
    ))
}

fn check_agents(checks: &mut Checks, body: &AgentBulkRequest) {
    let filter = &body.filter;
    if *filter == AgentBulkFilter::default() {
        checks.refuse("/filter", "must not be empty");
    }
    check_word(checks, "pool", filter.pool.as_ref());
    check_word(checks, "resource_domain", filter.resource_domain.as_ref());
    check_labels(checks, filter.label.as_ref());
    if body.action == AgentBulkAction::Uncordon {
        let given = body.reason.is_some();
        check_unused(checks, &[("reason", given)], "`cordon` and `drain`");
    } else if let Some(reason) = &body.reason {
        checks.text("/reason", reason, 1024);
    }
    match (body.action, body.until) {
        (AgentBulkAction::Cordon, Some(until)) => {
            checks.moment("/until", until);
        }
        (AgentBulkAction::Cordon, None) => {}
        (_, until) => check_unused(checks, &[("until", until.is_some())], "`cordon`"),
    }
    if body.action != AgentBulkAction::Drain {
        let fields = [
            ("deadline_seconds", body.deadline_seconds.is_some()),
            ("force", body.force.is_some()),
        ];
        check_unused(checks, &fields, "`drain`");
    } else if let Some(deadline) = body.deadline_seconds {
        checks.range_f64("/deadline_seconds", deadline, 0.0, 604_800.0);
    }
}
