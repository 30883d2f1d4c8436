//! The OpenAPI document.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApiBuilder, Server};
use utoipa_axum::router::OpenApiRouter;

use super::operations::PROBLEMS;
use crate::app::App;
use crate::http::add_problems;

const ABOUT: &str = "\
The control plane of long-lived sessions. Sessions belong to pools; agents hold them under leases \
that heartbeats renew, and another agent adopts what a dead one held.

Agents call `register_agent`, then `claim_sessions` in a loop, and `send_heartbeat` beside it. \
What a claim returns is an offer: the first report under its `lease_epoch` that is accepted makes \
it a hold, and only then may the agent touch the platform.

Times are RFC 3339 in UTC, durations are numbers of seconds. Every field of a response is always \
there, null when empty; clients ignore fields that they do not know. Errors are problem documents \
(RFC 9457): branch on `code`.

What a token may do, its role says: otherwise the answer is `forbidden`. What it may not see is answered as \
what is not there. What belongs to the tenant `acme` is called `acme~<name>`.

`GET` of one or of many answers with an aligned table for people when `Accept` prefers \
`text/plain`.";

/// The document.
#[must_use]
pub fn openapi() -> serde_json::Value {
    let info = InfoBuilder::new()
        .title("Lessor")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            utoipa::openapi::LicenseBuilder::new()
                .name("MIT OR Apache-2.0")
                .identifier(Some("MIT OR Apache-2.0"))
                .build(),
        ))
        .build();
    let routes = OpenApiRouter::<Arc<App>>::with_openapi(OpenApiBuilder::new().info(info).build())
        .nest("/v1", super::v1(None));
    let (_, mut document) = routes.split_for_parts();
    document.servers = Some(vec![Server::new("/")]);
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token of `/v1/tokens`, or the admin token of the settings; none while access is open",
        ));
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    document.security = Some(vec![
        utoipa::openapi::security::SecurityRequirement::new("token", [] as [&str; 0]),
        utoipa::openapi::security::SecurityRequirement::default(),
    ]);
    for schema in super::operations::extra_schemas() {
        let components = document.components.get_or_insert_default();
        components.schemas.entry(schema.0).or_insert(schema.1);
    }
    for (operation, codes) in PROBLEMS {
        let mut codes = codes.to_vec();
        codes.extend(super::operations::everywhere(operation));
        add_problems(&mut document, operation, &codes);
    }
    let mut document = super::tidy::tidy(&document);
    super::values::describe(&mut document);
    super::links::add(&mut document);
    document["webhooks"] = deliveries();
    document
}

/// What webhooks send, as the document describes calls that are made and not taken.
fn deliveries() -> serde_json::Value {
    let header = |name: &str, about: &str| json!({"name": name, "in": "header", "required": true, "description": about, "schema": {"type": "string"}});
    json!({"delivery": {"post": {
        "operationId": "receive_delivery",
        "tags": ["webhooks"],
        "summary": "Receive a delivery",
        "description": "What is sent to the address of a webhook, until it is answered with 2xx.",
        "security": [],
        "parameters": [
            header("webhook-id", "The same when it is sent again"),
            header("webhook-timestamp", "When it is sent, in seconds of Unix time"),
            header("webhook-signature", "`v1,` and the base64 of the HMAC-SHA256 of `<id>.<timestamp>.<body>`; two, with a space between them, while an old secret signs too"),
        ],
        "requestBody": {"required": true, "content": {"application/json":
            {"schema": {"$ref": "#/components/schemas/WebhookDelivery"}}}},
        "responses": {"2XX": {"description": "It was taken"},
            "410": {"description": "Nothing is wanted any more: the webhook is disabled"},
            "default": {"description": "It is sent again"}},
    }}})
}

/// The document as it is served, printed and committed: pretty, with a line feed at its end.
#[must_use]
pub fn text() -> String {
    format!("{:#}\n", openapi())
}

/// `/openapi.json`.
pub fn routes() -> Router<Arc<App>> {
    let json = text();
    let document = move || {
        let json = json.clone();
        async move {
            (
                [(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                )],
                json,
            )
                .into_response()
        }
    };
    Router::new().route("/openapi.json", get(document))
}
