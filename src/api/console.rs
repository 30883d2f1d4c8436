//! The page that shows the document, offline: `/docs`. Where that is configured, people sign in there.
//!
//! The document that the page loads then is one of its own, `/docs/openapi.json`: the committed one and where
//! to sign in. `/openapi.json` is the same everywhere.
//!
//! Invariants:
//! - Only where people sign in, and only on this page, may scripts call another origin: the one where the
//!   provider exchanges a code for tokens.
//! - The page is there whether the provider is or not. What it cannot say now is asked for again with the
//!   page.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use utoipa_swagger_ui::{Config, SwaggerUi, oauth};

use crate::access::oidc::{Console, Endpoints, Oidc};
use crate::app::App;
use crate::http::{OPENER_POLICY, policy_with};

/// What the scheme of signing in is called in the document.
const SCHEME: &str = "sign_in";

/// Where the provider sends the browser back to, with a code; the page computes the same address.
const REDIRECT: &str = "/docs/oauth2-redirect.html";

const AWAY: &str = "\n\n**Nobody can sign in here now**: what the sign-in provider says of itself could not be \
                    fetched or cannot be used; the log of the service has the reason. Load this page again, or \
                    paste a token.";

/// The page, with signing in if that is configured.
pub fn routes(oidc: Option<&Oidc>) -> Router<Arc<App>> {
    let Some((oidc, console)) = oidc.and_then(|oidc| Some((oidc, oidc.console()?))) else {
        return page(Config::from("/openapi.json"));
    };
    let client = oauth::Config::new()
        .client_id(&console.client_id)
        .scopes(console.scopes.clone())
        .use_pkce_with_authorization_code_grant(true);
    let signing_in = Arc::new(SigningIn {
        oidc: oidc.clone(),
        console: console.clone(),
        made: Mutex::default(),
    });
    let document = get(document).with_state(Arc::clone(&signing_in));
    Router::new()
        .route("/docs/openapi.json", document)
        .route("/docs/index.css", get(style))
        .merge(page(Config::with_oauth_config(
            ["/docs/openapi.json"],
            client,
        )))
        .layer(middleware::from_fn_with_state(signing_in, headers))
}

fn page(config: Config<'static>) -> Router<Arc<App>> {
    // Nobody else is asked whether the document is valid.
    let config = config.validator_url("none");
    SwaggerUi::new("/docs").config(config).into()
}

struct SigningIn {
    oidc: Oidc,
    console: Console,
    /// The document as it was made last, and for which endpoints: it is large, and anybody may ask for it.
    made: Mutex<Option<(Option<Endpoints>, Arc<str>)>>,
}

impl SigningIn {
    fn document(&self, endpoints: Option<Endpoints>) -> Arc<str> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, text)) = &*made
            && *of == endpoints
        {
            return Arc::clone(text);
        }
        let mut document = super::document::openapi();
        match &endpoints {
            Some(endpoints) => offer(&mut document, &self.console, endpoints),
            None => say_away(&mut document),
        }
        let text: Arc<str> = document.to_string().into();
        *made = Some((endpoints, Arc::clone(&text)));
        text
    }
}

async fn document(State(signing_in): State<Arc<SigningIn>>) -> Response {
    let endpoints = signing_in.oidc.endpoints().await;
    let text = signing_in.document(endpoints);
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], text.to_string()).into_response()
}

async fn style() -> impl IntoResponse {
    let css = HeaderValue::from_static("text/css");
    ([(header::CONTENT_TYPE, css)], include_str!("console.css"))
}

/// Says in a document where to sign in, beside the tokens that it knows.
fn offer(document: &mut Value, console: &Console, endpoints: &Endpoints) {
    let about = format!(
        "Sign in at the provider, in a window of its own. Calls then send the {} that it gives.",
        console.token.field().replace('_', " ")
    );
    let scopes: serde_json::Map<String, Value> = console
        .scopes
        .iter()
        .map(|scope| (scope.clone(), Value::from("")))
        .collect();
    document["components"]["securitySchemes"][SCHEME] = json!({
        "type": "oauth2",
        "description": about,
        "x-tokenName": console.token.field(),
        "flows": {"authorizationCode": {
            "authorizationUrl": endpoints.authorization,
            "tokenUrl": endpoints.token,
            "scopes": scopes,
        }},
    });
    if let Some(security) = document["security"].as_array_mut() {
        security.insert(0, json!({SCHEME: console.scopes}));
    }
}

fn say_away(document: &mut Value) {
    if let Some(Value::String(about)) = document.pointer_mut("/info/description") {
        about.push_str(AWAY);
    }
}

/// The headers of these pages that are others than those of pages in general: the window in which somebody
/// signs in has left for another site and must find its way back to the one that opened it.
async fn headers(
    State(signing_in): State<Arc<SigningIn>>,
    request: Request,
    next: Next,
) -> Response {
    let is_redirect = request.uri().path() == REDIRECT;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let is_page = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !is_page {
        return response;
    }
    // The window comes from a page that says nothing of openers: any other word here cuts it off from its own.
    let opener = if is_redirect {
        "unsafe-none"
    } else {
        "same-origin-allow-popups"
    };
    headers.insert(OPENER_POLICY, HeaderValue::from_static(opener));
    if !is_redirect
        && let Some(endpoints) = signing_in.oidc.endpoints().await
        && let Some(policy) = policy_with(&endpoints.token_origin)
    {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
