//! People who sign in at the page of the documentation: what is served for that, and a browser that does it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lessor::access::oidc::{Console, ConsoleToken, Mapping, Settings};
use lessor_protocol::Role;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::access::ROOT;
use crate::support::agents::Folder;
use crate::support::desk::{CLIENT, PASSWORD};
use crate::support::provider::{AUDIENCE, Provider, Signer, b64};
use crate::support::raw::Answer;
use crate::support::{TestServer, database, eventually};

const DOCUMENT: &str = "/docs/openapi.json";
const REDIRECT: &str = "/docs/oauth2-redirect.html";
const POLICY: &str = "content-security-policy";
const OPENER: &str = "cross-origin-opener-policy";

/// A server at which people of this provider sign in, with their browser if `console` says how.
async fn server(provider: &Provider, audience: &str, console: Option<Console>) -> TestServer {
    let settings = Settings {
        issuer: provider.issuer(),
        audience: audience.to_owned(),
        mapping: Mapping {
            roles_claim: "realm_access.roles".to_owned(),
            roles: vec![("ops".to_owned(), Role::Operator)],
            owner_claim: "email".to_owned(),
            tenant_claim: None,
        },
        console,
    };
    let mut server = TestServer::over(database().await, |app| {
        app.admin_token = Some(ROOT.to_owned().into());
        app.oidc = Some(settings);
    })
    .await;
    server.client = server.with(ROOT);
    server
}

fn console(token: ConsoleToken) -> Console {
    Console {
        client_id: CLIENT.to_owned(),
        scopes: vec!["openid".to_owned()],
        token,
    }
}

async fn provider() -> Provider {
    let provider = Provider::start(Vec::new()).await;
    provider.open_desk(Signer::es256());
    provider
}

/// The page, its script, the page for the way back.
async fn pages(server: &TestServer) -> (Answer, Answer, Answer) {
    let page = server.fetch("/docs/").await;
    let script = server.fetch("/docs/swagger-initializer.js").await;
    let redirect = server.fetch(REDIRECT).await;
    for answer in [&page, &script, &redirect] {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    (page, script, redirect)
}

#[tokio::test]
async fn without_a_client_nothing_is_different() {
    let provider = provider().await;
    let with_provider = server(&provider, AUDIENCE, None).await;
    let alone = TestServer::start().await;
    for server in [&with_provider, &alone] {
        let (page, script, redirect) = pages(server).await;
        for page in [&page, &redirect] {
            assert!(!page.header(POLICY).contains("connect-src"), "{page:?}");
            assert_eq!(page.header(OPENER), "same-origin");
        }
        assert!(script.text.contains("\"/openapi.json\""), "{script:?}");
        assert!(!script.text.contains("initOAuth"), "{script:?}");
        // Nobody elsewhere is asked whether the document is valid.
        assert!(
            script.text.contains("\"validatorUrl\": \"none\""),
            "{script:?}"
        );
        assert_eq!(server.fetch(DOCUMENT).await.status, 404);
    }
    // Nobody signed in, so nobody asked.
    assert_eq!(provider.asked(), 0);
    with_provider.stop().await;
    alone.stop().await;
}

#[tokio::test]
async fn with_a_client_the_page_offers_to_sign_in_and_may_call_the_provider() {
    let provider = provider().await;
    let issuer = provider.issuer();
    let console = Console {
        scopes: vec!["openid".to_owned(), "api://x/use".to_owned()],
        ..console(ConsoleToken::Id)
    };
    let server = server(&provider, AUDIENCE, Some(console)).await;
    let (page, script, redirect) = pages(&server).await;

    // One origin more, one word of openers less, for the page alone; the window that comes back says nothing.
    let usual = redirect.header(POLICY);
    assert!(!usual.contains("connect-src") && usual.contains("default-src 'self'"));
    assert_eq!(
        page.header(POLICY),
        format!("{usual}; connect-src 'self' {issuer}")
    );
    assert_eq!(page.header(OPENER), "same-origin-allow-popups");
    assert_eq!(redirect.header(OPENER), "unsafe-none");
    for page in [&page, &redirect] {
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert!(
            !page.text.contains("<script>") && !page.text.contains("http"),
            "{page:?}"
        );
    }

    let (_, client) = script.text.split_once("initOAuth(").expect("it signs in");
    let (client, _) = client.split_once(')').expect("its end");
    let client: Value = serde_json::from_str(client).expect("JSON");
    let expected = json!({"clientId": CLIENT, "scopes": ["openid", "api://x/use"],
        "usePkceWithAuthorizationCodeGrant": true});
    assert_eq!(client, expected);

    // The document of the page is the one of everybody, and where to sign in.
    assert!(
        server
            .fetch("/docs/index.css")
            .await
            .text
            .contains("client_secret")
    );
    let committed = server.fetch("/openapi.json").await;
    assert!(!committed.text.contains(&issuer) && !committed.text.contains("oauth2"));
    let mut document = server.fetch(DOCUMENT).await.ok(200);
    let mut scheme = document["components"]["securitySchemes"]
        .as_object_mut()
        .and_then(|schemes| schemes.remove("sign_in"))
        .expect("where to sign in");
    scheme
        .as_object_mut()
        .expect("a scheme")
        .remove("description");
    let expected = json!({"type": "oauth2", "x-tokenName": "id_token", "flows": {"authorizationCode": {
        "authorizationUrl": format!("{issuer}/authorize"), "tokenUrl": format!("{issuer}/token"),
        "scopes": {"openid": "", "api://x/use": ""}}}});
    assert_eq!(scheme, expected);
    let security = document["security"].as_array_mut().expect("a list");
    let how = security.remove(0);
    assert_eq!(how, json!({"sign_in": ["openid", "api://x/use"]}));
    assert_eq!(document, committed.json());
    server.stop().await;
}

#[tokio::test]
async fn the_page_is_there_while_the_provider_is_not() {
    let provider = provider().await;
    provider.go_away();
    let server = server(&provider, AUDIENCE, Some(console(ConsoleToken::Access))).await;
    let (page, _, _) = pages(&server).await;
    assert!(!page.header(POLICY).contains("connect-src"), "{page:?}");
    let document = server.fetch(DOCUMENT).await.ok(200);
    assert!(document["components"]["securitySchemes"]["token"].is_object());
    assert!(document["components"]["securitySchemes"]["sign_in"].is_null());
    let about = document["info"]["description"].as_str().expect("text");
    assert!(about.contains("Nobody can sign in here now"), "{about}");

    provider.come_back();
    eventually("signing in is offered", async || {
        server
            .fetch(DOCUMENT)
            .await
            .text
            .contains("authorizationUrl")
    })
    .await;
    let page = server.fetch("/docs/").await;
    assert!(page.header(POLICY).contains(&provider.issuer()), "{page:?}");
    server.stop().await;
}

/// A client of the provider that is no browser: nothing of what a browser keeps it from is in its way.
struct ByHand {
    http: reqwest::Client,
    issuer: String,
    redirect: String,
}

impl ByHand {
    fn of(provider: &Provider) -> Self {
        // Says for the process whose cryptography TLS is of.
        let _ = lessor_client::Client::new("http://127.0.0.1:1", None);
        Self {
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
            issuer: provider.issuer(),
            redirect: provider.knows("http://127.0.0.1:1"),
        }
    }

    fn body(pairs: &[(&str, &str)]) -> String {
        let mut url = Url::parse("http://x/").expect("a URL");
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().expect("pairs").to_owned()
    }

    async fn code(&self, verifier: &str) -> String {
        let challenge = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
        let query = Self::body(&[
            ("client_id", CLIENT),
            ("redirect_uri", &self.redirect),
            ("response_type", "code"),
            ("scope", "openid"),
            ("code_challenge_method", "S256"),
            ("code_challenge", &b64(challenge.as_ref())),
        ]);
        let form = self.http.get(format!("{}/authorize?{query}", self.issuer));
        let form = form
            .send()
            .await
            .expect("a form")
            .text()
            .await
            .expect("text");
        let (_, asked) = form.split_once("value=").expect("what was asked");
        let asked = asked.split('>').next().expect("its end");
        let body = Self::body(&[("asked", asked), ("email", "ann"), ("password", PASSWORD)]);
        let url = format!("{}/authorize", self.issuer);
        let back = self.http.post(url).body(body).send().await.expect("back");
        let back = back.headers()["location"]
            .to_str()
            .expect("text")
            .to_owned();
        let (_, code) = back.split_once("code=").expect("a code");
        code.split('&').next().expect("a code").to_owned()
    }

    async fn exchange(&self, changed: (&str, &str), code: &str, verifier: &str) -> Answer {
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT),
            ("redirect_uri", &self.redirect),
            ("code", code),
            ("code_verifier", verifier),
        ];
        pairs.retain(|(name, _)| *name != changed.0);
        pairs.push(changed);
        let request = self.http.post(format!("{}/token", self.issuer));
        let request = request.header("origin", "http://127.0.0.1:1");
        Answer::of(
            request
                .body(Self::body(&pairs))
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }
}

/// The browser's test means something only if the provider refuses what it should.
#[tokio::test]
async fn the_provider_of_the_tests_asks_for_the_verifier() {
    let provider = provider().await;
    let by_hand = ByHand::of(&provider);
    let verifier = "v".repeat(43);
    let nothing = ("state", "");
    let code = by_hand.code(&verifier).await;
    let answer = by_hand.exchange(nothing, &code, &verifier).await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "http://127.0.0.1:1"
    );
    assert!(answer.ok(200)["access_token"].is_string());
    let again = by_hand.exchange(nothing, &code, &verifier).await;
    assert_eq!(again.ok(400)["error"], "invalid_grant", "a second time");
    for (changed, error) in [
        (("code_verifier", "w".repeat(43)), "invalid_grant"),
        (("code_verifier", String::new()), "invalid_grant"),
        (("code", "another".to_owned()), "invalid_grant"),
        (
            ("redirect_uri", "http://127.0.0.1:2/".to_owned()),
            "invalid_grant",
        ),
        (("client_id", "another".to_owned()), "invalid_client"),
        (("client_secret", "none".to_owned()), "invalid_client"),
        (
            ("grant_type", "implicit".to_owned()),
            "unsupported_grant_type",
        ),
    ] {
        let code = by_hand.code(&verifier).await;
        let changed = (changed.0, changed.1.as_str());
        let answer = by_hand.exchange(changed, &code, &verifier).await;
        assert_eq!(answer.ok(400)["error"], error, "{changed:?}");
    }
    let other = by_hand.http.request(
        reqwest::Method::OPTIONS,
        format!("{}/token", by_hand.issuer),
    );
    let other = other
        .header("origin", "http://127.0.0.1:2")
        .header("access-control-request-method", "POST");
    let other = Answer::of(other.send().await.expect("an answer")).await;
    assert_eq!(other.header("access-control-allow-origin"), "");
}

/// The claims of a JWT, unchecked.
fn claims(bearer: &str) -> Value {
    use base64::Engine as _;
    let payload = bearer.split('.').nth(1).expect("a JWT");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
    serde_json::from_slice(&bytes.expect("base64")).expect("JSON")
}

/// The browser of this machine.
fn chromium() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").expect("PATH");
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = |name| folders.iter().map(move |folder| folder.join(name));
    std::env::var_os("LESSOR_TEST_CHROMIUM")
        .map(PathBuf::from)
        .or_else(|| names.into_iter().flat_map(all).find(|path| path.is_file()))
        .expect("Chromium is missing: run scripts/bring test, or set LESSOR_TEST_CHROMIUM")
}

async fn browse(task: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = root.join("target/openapi-tools/npm");
    assert!(
        tools.join("node_modules/playwright-core").is_dir(),
        "playwright-core is missing: run tests/openapi/prepare.sh"
    );
    let mut browser = Command::new("node")
        .arg(root.join("tests/console/browser.mjs"))
        .current_dir(&tools)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let mut input = browser.stdin.take().expect("its input");
    input
        .write_all(task.to_string().as_bytes())
        .await
        .expect("it reads");
    drop(input);
    let ran = tokio::time::timeout(Duration::from_secs(150), browser.wait_with_output());
    let ran = ran.await.expect("it ends").expect("it ran");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{errors}");
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[tokio::test]
async fn in_a_browser_people_sign_in_at_the_documentation_and_call_the_api() {
    let provider = provider().await;
    // Each kind of token is for another audience, so that one is not taken for the other.
    let access = server(&provider, AUDIENCE, Some(console(ConsoleToken::Access))).await;
    let id = server(&provider, CLIENT, Some(console(ConsoleToken::Id))).await;
    let servers = [
        (&access, AUDIENCE, "ann@example.org"),
        (&id, CLIENT, "bob@example.org"),
    ];
    let work = Folder::new();
    let mut pages = Vec::new();
    for (server, _, email) in servers {
        server.pool("local", |_| {}).await;
        provider.knows(&server.url);
        // Once is enough for that, and takes a while.
        let tries_first = pages.is_empty();
        pages.push(
            json!({"url": server.url, "email": email, "password": PASSWORD,
            "tries_first": tries_first}),
        );
    }
    let shots = std::env::var("LESSOR_TEST_SHOTS").ok();
    let task = json!({"program": chromium(), "profile": work.0, "pages": pages, "shots": shots});
    let said = browse(&task).await;
    for ((server, audience, email), saw) in servers.iter().zip(said.as_array().expect("pages")) {
        // A browser that is kept from something says so here.
        assert_eq!(saw["violations"], json!([]), "{saw:#}");
        assert_eq!(saw["errors"], json!([]), "{saw:#}");
        let mut origins = vec![server.url.clone(), provider.issuer()];
        origins.sort();
        assert_eq!(saw["origins"], json!(origins), "it went elsewhere: {saw:#}");
        assert_eq!(saw["pools"]["status"], 200, "{saw:#}");
        assert_eq!(
            saw["pools"]["answer"]["items"][0]["name"], "local",
            "{saw:#}"
        );
        let bearer = saw["pools"]["bearer"].as_str().expect("a bearer");
        let claims = claims(bearer);
        assert_eq!(
            (&claims["email"], &claims["aud"]),
            (&json!(email), &json!(audience))
        );
        assert_eq!(saw["asks_for_secret"], false, "{saw:#}");
        // Who that is, by the word of the service.
        let body = json!({"pool": "local", "spec": {}});
        let made = server.call(bearer, "POST", "/v1/sessions", body).await;
        let id = made.ok(201)["id"].as_str().expect("an id").to_owned();
        let first = Default::default();
        let events = server.client.session_events(&id, &first).await;
        assert_eq!(events.expect("its events").items[0].actor.name, *email);
    }
    assert_eq!(said[0]["signed_out"]["status"], 401, "{said:#}");
    access.stop().await;
    id.stop().await;
}
