//! Where people sign in at the provider of the tests: a form, codes that are good once and for whoever has
//! the verifier of their challenge (RFC 7636), and tokens for codes (RFC 6749, 4.1). It knows one client, which
//! is a page in a browser: without a secret, and called from another origin (Fetch, CORS).

use std::collections::HashMap;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use chrono::Utc;
use reqwest::Url;
use serde_json::{Value, json};
use uuid::Uuid;

use super::provider::{AUDIENCE, Provider, Signer, b64};

/// Under which id the provider knows the page.
pub const CLIENT: &str = "the-page-of-the-tests";

/// Everybody's password.
pub const PASSWORD: &str = "open sesame";

/// What a browser may send along.
const HEADERS: [&str; 2] = ["content-type", "x-requested-with"];

/// What the provider keeps about signing in.
pub struct Desk {
    signer: Signer,
    /// Where it sends a browser back to, and from which origins it is called: those of these addresses.
    redirects: Vec<String>,
    /// Whose form is open, by what they asked for.
    asked: HashMap<String, Form>,
    codes: HashMap<String, Code>,
}

struct Code {
    email: String,
    redirect: String,
    challenge: String,
}

type Form = HashMap<String, String>;

impl Desk {
    /// One that signs with this key, which is published as `desk`.
    pub fn new(signer: Signer) -> Self {
        Self {
            signer,
            redirects: Vec::new(),
            asked: HashMap::new(),
            codes: HashMap::new(),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        let of = |redirect: &String| {
            Url::parse(redirect).is_ok_and(|url| url.origin().ascii_serialization() == origin)
        };
        self.redirects.iter().any(of)
    }

    /// Why a person is not even asked, or what was asked for.
    fn ask(&mut self, query: Form) -> Result<String, &'static str> {
        let said = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        if said("client_id") != CLIENT {
            return Err("an unknown client");
        }
        if !self.redirects.iter().any(|own| own == said("redirect_uri")) {
            return Err("an unknown redirect address");
        }
        if said("response_type") != "code" || !said("scope").split(' ').any(|one| one == "openid") {
            return Err("not a sign-in by code");
        }
        if said("code_challenge_method") != "S256" || said("code_challenge").len() != 43 {
            return Err("no challenge by S256");
        }
        let id = Uuid::new_v4().to_string();
        self.asked.insert(id.clone(), query);
        Ok(id)
    }

    /// Where to go with a code.
    fn enter(&mut self, form: &Form) -> Option<String> {
        if form.get("password")? != PASSWORD {
            return None;
        }
        let asked = self.asked.remove(form.get("asked")?)?;
        let code = Uuid::new_v4().to_string();
        let mut back = Url::parse(asked.get("redirect_uri")?).ok()?;
        back.query_pairs_mut()
            .append_pair("code", &code)
            .append_pair("state", asked.get("state").map_or("", String::as_str));
        let made = Code {
            email: form.get("email")?.clone(),
            redirect: asked.get("redirect_uri")?.clone(),
            challenge: asked.get("code_challenge")?.clone(),
        };
        self.codes.insert(code, made);
        Some(back.into())
    }

    /// The tokens for a code, or the error of RFC 6749, 5.2.
    fn exchange(&mut self, issuer: &str, form: &Form) -> Result<Value, &'static str> {
        let said = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if said("grant_type") != "authorization_code" {
            return Err("unsupported_grant_type");
        }
        // A public client has no secret, so one that sends one is another.
        if said("client_id") != CLIENT || form.contains_key("client_secret") {
            return Err("invalid_client");
        }
        // Whoever comes with it: a code is good once.
        let code = self.codes.remove(said("code")).ok_or("invalid_grant")?;
        let verifier = said("code_verifier");
        let digest = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
        let is_bound =
            (43..=128).contains(&verifier.len()) && b64(digest.as_ref()) == code.challenge;
        if !is_bound || code.redirect != said("redirect_uri") {
            return Err("invalid_grant");
        }
        let token = |audience: &str| {
            let now = Utc::now().timestamp();
            let claims = json!({"iss": issuer, "aud": audience, "sub": format!("id-of-{}", code.email),
                "email": code.email, "exp": now + 300, "iat": now, "realm_access": {"roles": ["ops"]}});
            self.signer.jwt("desk", &claims)
        };
        Ok(
            json!({"access_token": token(AUDIENCE), "id_token": token(CLIENT), "token_type": "Bearer",
            "expires_in": 300, "scope": "openid"}),
        )
    }
}

impl Provider {
    /// Lets people sign in from now on.
    pub fn open_desk(&self, signer: Signer) {
        self.publish(vec![signer.public("desk")]);
        self.lock().desk = Some(Desk::new(signer));
    }

    /// Sends people back to the page of this server from now on.
    pub fn knows(&self, url: &str) -> String {
        let redirect = format!("{url}/docs/oauth2-redirect.html");
        self.desk(|desk| desk.redirects.push(redirect.clone()));
        redirect
    }

    fn desk<T>(&self, with: impl FnOnce(&mut Desk) -> T) -> T {
        with(self.lock().desk.as_mut().expect("people can sign in"))
    }
}

/// What the provider says of it.
pub fn describe(issuer: &str, discovery: &mut Value) {
    discovery["authorization_endpoint"] = json!(format!("{issuer}/authorize"));
    discovery["token_endpoint"] = json!(format!("{issuer}/token"));
    discovery["code_challenge_methods_supported"] = json!(["S256"]);
}

pub fn routes() -> Router<Provider> {
    Router::new()
        .route("/authorize", get(authorize).post(enter))
        .route("/token", post(token).options(preflight))
}

/// The pairs of a query or of a form.
fn pairs(text: &str) -> Form {
    let url = Url::parse(&format!("http://form/?{text}")).expect("a URL");
    url.query_pairs().into_owned().collect()
}

async fn authorize(State(provider): State<Provider>, RawQuery(query): RawQuery) -> Response {
    let query = pairs(&query.unwrap_or_default());
    match provider.desk(|desk| desk.ask(query)) {
        Ok(asked) => page(&asked).into_response(),
        // Not by sending the browser anywhere: nobody knows whose address that is.
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

fn page(asked: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><title>Sign in</title><form method=post action=/authorize>\
         <input type=hidden name=asked value={asked}><input name=email><input name=password type=password>\
         <button>Sign in</button></form>"
    ))
}

async fn enter(State(provider): State<Provider>, body: String) -> Response {
    match provider.desk(|desk| desk.enter(&pairs(&body))) {
        Some(back) => Redirect::to(&back).into_response(),
        None => StatusCode::FORBIDDEN.into_response(),
    }
}

async fn token(State(provider): State<Provider>, headers: HeaderMap, body: String) -> Response {
    let issuer = provider.issuer();
    let exchanged = provider.desk(|desk| desk.exchange(&issuer, &pairs(&body)));
    let response = match exchanged {
        Ok(tokens) => axum::Json(tokens).into_response(),
        Err(error) => {
            (StatusCode::BAD_REQUEST, axum::Json(json!({"error": error}))).into_response()
        }
    };
    with_origin(&provider, &headers, response)
}

async fn preflight(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let wanted = said("access-control-request-headers").unwrap_or_default();
    let mut wanted = wanted
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty());
    if said("access-control-request-method") != Some("POST")
        || !wanted.all(|one| HEADERS.contains(&one.to_ascii_lowercase().as_str()))
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    let response = [("access-control-allow-headers", HEADERS.join(", "))].into_response();
    with_origin(&provider, &headers, response)
}

/// Lets the pages of its client read an answer, and nobody else's.
fn with_origin(provider: &Provider, headers: &HeaderMap, mut response: Response) -> Response {
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok());
    if let Some(origin) = origin.filter(|origin| provider.desk(|desk| desk.allows(origin))) {
        let value = HeaderValue::from_str(origin).expect("a header");
        response
            .headers_mut()
            .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
    }
    response
}
