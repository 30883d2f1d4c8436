//! Every route of the service, and the document that describes them.

mod console;
mod document;
mod gate;
mod health;
mod links;
mod operations;
mod tidy;
mod values;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::error::Error;
use crate::{
    access, agents, audit, brake, bulk, claims, commands, drains, events, explain, http, inventory,
    migrate, pools, rebalance, reports, scaling, sessions, shares, simulate, webhooks,
};

pub use document::{openapi, text};
pub use operations::{PROBLEMS, everywhere};

/// The whole service as one router.
pub fn router(app: &Arc<App>) -> Router {
    let (v1, mounted) = v1(Some(app)).split_for_parts();
    // Before any route of it. Paths that it does not have are 404 with and without a token: there is
    // nothing behind them to protect.
    let gate = gate::Gate::new(app, &mounted);
    let v1 = v1.layer(middleware::from_fn_with_state(gate, gate::pass));
    let router = Router::new()
        .nest("/v1", v1)
        .merge(health::routes())
        .merge(document::routes())
        .merge(console::routes(app.access.oidc()))
        .with_state(Arc::clone(app));
    http::apply(router, app.edge.clone())
}

/// The routes under `/v1`. Those that write run to their end whatever the client does; those that
/// wait are dropped with their client.
fn v1(app: Option<&Arc<App>>) -> OpenApiRouter<Arc<App>> {
    let writing = OpenApiRouter::new()
        .merge(health::version_routes())
        .merge(access::http::routes())
        .merge(pools::http::routes())
        .merge(shares::http::routes())
        .merge(brake::http::routes())
        .merge(scaling::http::routes())
        .merge(agents::http::routes())
        .merge(bulk::http::routes())
        .merge(drains::http::routes())
        .merge(rebalance::http::routes())
        .merge(reports::http::routes())
        .merge(commands::http::routes())
        .merge(inventory::http::routes())
        .merge(sessions::http::routes())
        .merge(migrate::http::routes())
        .merge(webhooks::http::routes());
    let waiting = OpenApiRouter::new()
        .merge(audit::http::routes())
        .merge(claims::http::routes())
        .merge(drains::http::waiting_routes())
        .merge(explain::http::waiting_routes())
        .merge(simulate::http::waiting_routes())
        .merge(events::http::routes())
        .merge(sessions::http::waiting_routes());
    let writing = match app {
        Some(app) => writing.layer(middleware::from_fn_with_state(Arc::clone(app), detach)),
        None => writing,
    };
    writing.merge(waiting)
}

async fn detach(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // It runs on when its client has gone, and takes its place until then.
    let place = request.extensions().get::<Arc<http::Place>>().cloned();
    let work = async move {
        let response = next.run(request).await;
        drop(place);
        response
    };
    let handled = app.writes().spawn(work.in_current_span());
    handled
        .await
        .unwrap_or_else(|error| Error::Internal(error.to_string()).into_response())
}
