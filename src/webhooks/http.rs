//! The calls on webhooks.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{
    CreatedWebhook, NewWebhook, Page, RotateRequest, Webhook, WebhookPatch, WebhookTest,
};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::calls;
use crate::access::{Caller, Keeper};
use crate::app::App;
use crate::error::Error;
use crate::http::{
    Cursor, Format, Item, Json, Listing, OptionalJson, PageQuery, Path, Preconditions, Query, etag,
};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_webhooks, create_webhook))
        .routes(routes!(get_webhook, patch_webhook, delete_webhook))
        .routes(routes!(rotate_webhook))
        .routes(routes!(test_webhook))
}

/// Where a page of webhooks ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(Uuid);

impl Cursor for Position {
    const KIND: &'static str = "webhooks";
}

/// What is not an id names no webhook.
fn id_of(webhook: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(webhook).map_err(|_| Error::NoWebhook(webhook.to_owned()))
}

fn shown(status: StatusCode, made: CreatedWebhook) -> Response {
    let headers = [
        (
            header::LOCATION,
            format!("/v1/webhooks/{}", made.webhook.id),
        ),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let tag = [(header::ETAG, etag(made.webhook.version))];
    (status, headers, tag, Json(made)).into_response()
}

/// Create a webhook
///
/// Events are sent to its address by POST, from the next one on or from `after`, up to 100 at a time, in their
/// order: each body is a WebhookDelivery, signed as Standard Webhooks has it. What is answered with
/// 2xx was taken; anything else is sent again, with pauses from a second to ten minutes, for three days.
/// Addresses are those of the public Internet and those that the service's settings allow. The answer has the
/// secret that signs, which is never shown again. Who has a tenant creates webhooks of that tenant.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body(content = NewWebhook, example = json!({"name": "chat", "url": "https://hooks.example.com/lessor", "kinds": ["session.*"]})),
    responses((status = 201, description = "It was created; its secret is shown this once", body = CreatedWebhook,
        headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version")))))]
async fn create_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(new): Json<NewWebhook>,
) -> Result<Response, Problem> {
    let made = calls::create(&app, new, caller.into()).await?;
    Ok(shown(StatusCode::CREATED, made))
}

/// List webhooks
///
/// Newest first.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", operation_id = "list_webhooks", params(PageQuery),
    responses((status = 200, description = "A page of webhooks", body = Page<Webhook>)))]
async fn list_webhooks(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let after = paging.after::<Position>()?.map(|Position(id)| id);
    let rows = calls::list(&app, &Keeper::from(caller), after, paging.fetch()).await?;
    Ok(Listing::new(format, paging.page(rows, |webhook| Position(webhook.id))).into_response())
}

/// Get a webhook
///
/// How far it is, and how it fails if it does. Without its secret.
#[utoipa::path(get, path = "/webhooks/{webhook}", tag = "webhooks", operation_id = "get_webhook",
    params(("webhook" = String, Path, description = "The webhook's id")),
    responses((status = 200, description = "The webhook", body = Webhook,
            headers(("ETag" = String, description = "Its version")))))]
async fn get_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Path(webhook): Path<String>,
) -> Result<Response, Problem> {
    let webhook = calls::get(&app, &Keeper::from(caller), id_of(&webhook)?).await?;
    let tag = etag(webhook.version);
    Ok(([(header::ETAG, tag)], Item::new(format, webhook)).into_response())
}

/// Change a webhook
///
/// What is left out stays. It is tried at once, whatever pause it was in; `enabled` true brings back one that
/// the service has disabled, where it stood; `after` sends some again, or leaves some out.
#[utoipa::path(patch, path = "/webhooks/{webhook}", tag = "webhooks", operation_id = "patch_webhook",
    params(("webhook" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = WebhookPatch, example = json!({"enabled": true})),
    responses((status = 200, description = "The webhook as it is now", body = Webhook,
        headers(("ETag" = String, description = "Its version")))))]
async fn patch_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(webhook): Path<String>,
    Json(patch): Json<WebhookPatch>,
) -> Result<Response, Problem> {
    let (by, id) = (Keeper::from(caller), id_of(&webhook)?);
    let webhook = calls::patch(&app, &by, id, preconditions, patch).await?;
    let tag = etag(webhook.version);
    Ok(([(header::ETAG, tag)], Json(webhook)).into_response())
}

/// Delete a webhook
///
/// What is under way to its receiver may still arrive.
#[utoipa::path(delete, path = "/webhooks/{webhook}", tag = "webhooks", operation_id = "delete_webhook",
    params(("webhook" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    responses((status = 204, description = "It is gone")))]
async fn delete_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(webhook): Path<String>,
) -> Result<StatusCode, Problem> {
    let (by, id) = (Keeper::from(caller), id_of(&webhook)?);
    calls::delete(&app, &by, id, preconditions).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Rotate a webhook's secret
///
/// A new secret comes in its place; the old one signs too, beside it, for `overlap_seconds`, by default an
/// hour.
#[utoipa::path(post, path = "/webhooks/{webhook}/rotate", tag = "webhooks", operation_id = "rotate_webhook",
    params(("webhook" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = RotateRequest, example = json!({"overlap_seconds": 600})),
    responses((status = 200, description = "The new secret, which is shown this once", body = CreatedWebhook,
        headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version")))))]
async fn rotate_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(webhook): Path<String>,
    OptionalJson(body): OptionalJson<RotateRequest>,
) -> Result<Response, Problem> {
    let (by, id) = (Keeper::from(caller), id_of(&webhook)?);
    let made = calls::rotate(&app, &by, id, preconditions, body.overlap_seconds).await?;
    Ok(shown(StatusCode::OK, made))
}

/// Test a webhook
///
/// Sends a WebhookDelivery of type `test` at once, also where the webhook is disabled, and says what the receiver
/// answered.
#[utoipa::path(post, path = "/webhooks/{webhook}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("webhook" = String, Path, description = "The webhook's id")),
    responses((status = 200, description = "What came of it", body = WebhookTest)))]
async fn test_webhook(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(webhook): Path<String>,
) -> Result<Json<WebhookTest>, Problem> {
    let tested = calls::test(&app, &Keeper::from(caller), id_of(&webhook)?).await?;
    Ok(Json(tested))
}
