//! The gate: what every call under `/v1` passes before its handler.
//!
//! Who calls, whether the operation is for that role, whether the caller may see what the path names; and
//! for the rest of the call, that it ends with its token, and that the audit tells of it.
//!
//! Invariants:
//! - An operation without a rule is refused: what is added and forgotten is closed, not open.
//! - A path names for its handler what the gate has looked at: a session is handed on by its id, so that
//!   nothing else is found under its name a moment later.
//! - What may not be seen is answered as the operation answers what is not there.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{
    FromRequestParts as _, MatchedPath, OriginalUri, RawPathParams, Request, State,
};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use lessor_protocol::ProblemCode;
use tracing::Instrument as _;
use utoipa::openapi::{OpenApi, PathItem};

use crate::access::rules::{Kind, Rule, Scoped, rule_of};
use crate::access::{self, Caller};
use crate::app::App;
use crate::audit::Begun;
use crate::error::Error;
use crate::http::{ClientAddress, RequestId, Resolved};
use crate::problem::Problem;

/// By path as routes are written, without `/v1`: the methods that are mounted, each with its rule.
type Rules = HashMap<String, Vec<(Method, Option<&'static Rule>)>>;

/// What the gate knows.
#[derive(Clone)]
pub struct Gate {
    app: Arc<App>,
    rules: Arc<Rules>,
}

impl Gate {
    /// A gate before the operations of this document.
    pub fn new(app: &Arc<App>, mounted: &OpenApi) -> Self {
        let mut rules = Rules::new();
        for (path, item) in &mounted.paths.paths {
            let path = path.trim_end_matches('/').to_owned();
            let found = operations(item).map(|(method, id)| (method, rule_of(id)));
            rules.entry(path).or_default().extend(found);
        }
        Self {
            app: Arc::clone(app),
            rules: Arc::new(rules),
        }
    }

    /// The rule for a call; none where the path does not know its method, which its route then says.
    fn rule(&self, request: &Request) -> Result<Option<&'static Rule>, Problem> {
        let path = request.extensions().get::<MatchedPath>();
        let path = path.map(|path| path.as_str().trim_start_matches("/v1"));
        let mounted = path.and_then(|path| self.rules.get(path.trim_end_matches('/')));
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let Some(mounted) = mounted else {
            return Err(without_rule(request));
        };
        match mounted.iter().find(|(of, _)| of == method) {
            None => Ok(None),
            Some((_, Some(rule))) => Ok(Some(rule)),
            Some((_, None)) => Err(without_rule(request)),
        }
    }
}

fn without_rule(request: &Request) -> Problem {
    tracing::error!(method = %request.method(), "an operation has no rule and is refused");
    Problem::new(ProblemCode::Forbidden, "Nobody may do this")
}

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &str)> {
    [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| {
        let operation = operation.as_ref()?;
        Some((
            method,
            operation.operation_id.as_deref().unwrap_or_default(),
        ))
    })
}

/// The layer.
pub async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    // In boxes of their own: a parked poll holds this for as long as it waits, and of a future it would
    // hold also the room of what is over and of what is not its way.
    match Box::pin(let_in(&gate, request)).await {
        Ok((rule, caller, request)) => run(&gate.app, rule, caller, request, next).await,
        Err(problem) => problem.into_response(),
    }
}

type LetIn = (Option<&'static Rule>, Caller, Request);

async fn let_in(gate: &Gate, request: Request) -> Result<LetIn, Problem> {
    let app = &gate.app;
    let caller = app.access.caller(request.headers()).await?;
    let rule = gate.rule(&request)?;
    let (mut parts, body) = request.into_parts();
    if let Some(rule) = rule {
        if !rule.roles.contains(&caller.grant.role) {
            return Err(Problem::new(
                ProblemCode::Forbidden,
                format!("A token with role `{}` may not do this", caller.grant.role),
            ));
        }
        // What no name can have, the handler refuses.
        if !parts.uri.path().contains("%00")
            && let Ok(params) = RawPathParams::from_request_parts(&mut parts, &()).await
        {
            let values = params.iter().map(|(_, value)| value.to_owned()).collect();
            if let Some(resolved) = see(app, &caller, rule.scoped, values).await? {
                parts.extensions.insert(Resolved(resolved));
            }
        }
    }
    parts.extensions.insert(caller.clone());
    Ok((rule, caller, Request::from_parts(parts, body)))
}

/// Refuses what may not be seen; what the path's parameters are to be taken for, where that differs.
async fn see(
    app: &App,
    caller: &Caller,
    scoped: Scoped,
    mut values: Vec<String>,
) -> Result<Option<Vec<String>>, Error> {
    let Some(first) = values.first_mut() else {
        return Ok(None);
    };
    let grant = &caller.grant;
    let (seen, hidden) = match scoped {
        Scoped::Nothing | Scoped::Inside => return Ok(None),
        Scoped::Session => {
            *first = access::session(app, caller, first).await?;
            return Ok(Some(values));
        }
        Scoped::Pool => (
            grant.sees_pool(first),
            Error::PoolNotFound(first.to_owned()),
        ),
        Scoped::PoolsDrain => (
            grant.sees_pool(first),
            Error::NoDrain(format!("pool `{first}`")),
        ),
        Scoped::Rebalance => (grant.sees_pool(first), Error::NoRebalance(first.to_owned())),
        Scoped::Agent => (
            grant.sees_agent(first),
            Error::AgentNotRegistered(first.to_owned()),
        ),
        Scoped::AgentsDrain => (
            grant.sees_agent(first),
            Error::NoDrain(format!("agent `{first}`")),
        ),
    };
    if seen { Ok(None) } else { Err(hidden) }
}

async fn run(
    app: &Arc<App>,
    rule: Option<&'static Rule>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match rule.map(|rule| (rule.kind, rule)) {
        Some((Kind::Waits, _)) => until_token_ends(caller, next.run(request)).await,
        Some((Kind::Changes, rule)) if !caller.is_anonymous() => {
            let begun = begun(rule, &caller, &request);
            Box::pin(audited(app, begun, request, next)).await
        }
        Some((Kind::Changes | Kind::Reads | Kind::Works, _)) | None => next.run(request).await,
    }
}

/// The answer, and its body, end with the token that asked for them.
async fn until_token_ends(caller: Caller, answer: impl Future<Output = Response>) -> Response {
    let response = tokio::select! {
        response = answer => response,
        () = caller.clone().token_ended() => return access::invalid().into_response(),
    };
    let (parts, body) = response.into_parts();
    if !parts.headers.contains_key(axum::http::header::CONTENT_TYPE) || !is_stream(&parts.headers) {
        return Response::from_parts(parts, body);
    }
    let body = body
        .into_data_stream()
        .take_until(Box::pin(caller.token_ended()));
    Response::from_parts(parts, Body::from_stream(body))
}

fn is_stream(headers: &axum::http::HeaderMap) -> bool {
    headers
        .get(axum::http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "text/event-stream" || kind == "application/x-ndjson")
}

fn begun(rule: &Rule, caller: &Caller, request: &Request) -> Begun {
    let extensions = request.extensions();
    let from = extensions.get::<ClientAddress>();
    let id = extensions.get::<RequestId>();
    // Here, inside of `/v1`, the request's own has no more of it.
    let uri = extensions.get::<OriginalUri>();
    let uri = uri.map_or_else(|| request.uri(), |OriginalUri(uri)| uri);
    Begun {
        kind: format!("audit.{}", rule.operation),
        actor_type: caller.actor_type,
        actor_name: caller.name.clone(),
        token_id: caller.grant.token_id,
        tenant: caller.grant.tenant.clone(),
        from_address: from.map(|client| client.0.to_canonical().to_string()),
        method: request.method().to_string(),
        path: uri.path().to_owned(),
        request_id: id.map(|id| id.0.clone()).unwrap_or_default(),
    }
}

/// Written down before it begins, and run to its end whatever the client does.
async fn audited(app: &Arc<App>, begun: Begun, request: Request, next: Next) -> Response {
    let audit = app.audit.clone();
    let work = async move {
        let entry = match audit.begin(begun).await {
            Ok(entry) => entry,
            Err(error) => return error.into_response(),
        };
        let response = next.run(request).await;
        audit.end(entry, response.status().as_u16()).await;
        response
    };
    app.writes()
        .spawn(work.in_current_span())
        .await
        .unwrap_or_else(|error| Error::Internal(error.to_string()).into_response())
}
