//! People who signed in at a provider: what is let in, and what tries and is not.

use std::time::Duration;

use chrono::Utc;
use lessor::access::oidc::{Mapping, Settings};
use lessor_protocol::Role;
use serde_json::{Value, json};

use crate::support::access::ROOT;
use crate::support::agents::Folder;
use crate::support::authority::Authority;
use crate::support::process::ServerProcess;
use crate::support::provider::{AUDIENCE, Provider, Signer, b64, unsigned};
use crate::support::{TestServer, database, eventually};

/// A server at which people of this provider sign in.
async fn server(provider: &Provider) -> TestServer {
    let settings = Settings {
        issuer: provider.issuer(),
        audience: AUDIENCE.to_owned(),
        mapping: Mapping {
            roles_claim: "realm_access.roles".to_owned(),
            roles: vec![
                ("ops".to_owned(), Role::Operator),
                ("staff".to_owned(), Role::User),
            ],
            owner_claim: "email".to_owned(),
            tenant_claim: None,
        },
        console: None,
    };
    let mut server = TestServer::over(database().await, |app| {
        app.admin_token = Some(ROOT.to_owned().into());
        app.oidc = Some(settings);
    })
    .await;
    server.client = server.with(ROOT);
    server
}

fn claims(provider: &Provider, email: &str, role: &str) -> Value {
    let now = Utc::now().timestamp();
    json!({"iss": provider.issuer(), "aud": ["other", AUDIENCE], "sub": format!("id-of-{email}"), "email": email,
        "exp": now + 300, "iat": now, "nbf": now, "realm_access": {"roles": ["unknown", role]}})
}

fn with(mut claims: Value, key: &str, value: Value) -> Value {
    claims[key] = value;
    claims
}

#[tokio::test]
async fn people_do_what_their_roles_say_with_every_kind_of_key() {
    let signers = [
        ("ec", Signer::es256()),
        ("rsa", Signer::rs256()),
        ("pss", Signer::ps256()),
        ("ed", Signer::ed()),
    ];
    let published = signers
        .iter()
        .map(|(id, signer)| signer.public(id))
        .collect();
    let provider = Provider::start(published).await;
    let server = server(&provider).await;
    server.pool("p", |_| {}).await;
    for (id, signer) in &signers {
        let staff = signer.jwt(id, &claims(&provider, "ann@example.org", "staff"));
        let body = json!({"pool": "p", "spec": {}});
        let made = server
            .call(&staff, "POST", "/v1/sessions", body)
            .await
            .ok(201);
        assert_eq!(made["owner"], "ann@example.org", "{id}");
        let ops = signer.jwt(id, &claims(&provider, "bob@example.org", "ops"));
        let pool = json!({"platform": "process"});
        let refused = server
            .call(&staff, "PUT", "/v1/pools/q", pool.clone())
            .await;
        refused.is_problem(403, "forbidden", id);
        server
            .call(&ops, "PUT", &format!("/v1/pools/{id}"), pool)
            .await
            .ok(201);
        let other = signer.jwt(id, &claims(&provider, "eve@example.org", "staff"));
        let path = format!("/v1/sessions/{}", made["id"].as_str().expect("an id"));
        assert_eq!(server.get_with(&staff, &path).await.status, 200);
        server
            .get_with(&other, &path)
            .await
            .is_problem(404, "session_not_found", id);
    }
    // One look for all of them, and their names are where changes are told of.
    assert_eq!(provider.asked(), 1);
    let audit = server.get_with(ROOT, "/v1/audit").await.text;
    assert!(audit.contains("bob@example.org"), "{audit}");
    server.stop().await;
}

#[tokio::test]
async fn what_proves_nothing_is_refused() {
    let (ours, theirs) = (Signer::es256(), Signer::es256());
    let provider = Provider::start(vec![ours.public("k"), Signer::rs256().public("rsa")]).await;
    let server = server(&provider).await;
    let good = claims(&provider, "ann@example.org", "ops");
    let now = Utc::now().timestamp();
    let jwt = ours.jwt("k", &good);
    assert_eq!(server.get_with(&jwt, "/v1/pools").await.status, 200);

    let parts: Vec<&str> = jwt.split('.').collect();
    let other_payload = unsigned(
        &json!({}),
        &with(good.clone(), "email", json!("eve@example.org")),
    );
    let other_payload = other_payload.split('.').nth(1).expect("a payload");
    let without = |key: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("claims").remove(key);
        claims
    };
    let secret = ring::hmac::Key::new(
        ring::hmac::HMAC_SHA256,
        ours.public("k").to_string().as_bytes(),
    );
    let hs256 = unsigned(&json!({"alg": "HS256", "kid": "k"}), &good);
    let hs256 = format!(
        "{hs256}.{}",
        b64(ring::hmac::sign(&secret, hs256.as_bytes()).as_ref())
    );
    for (what, jwt) in [
        ("signed by another key", theirs.jwt("k", &good)),
        ("an unknown key", theirs.jwt("unknown", &good)),
        ("a key of another kind", ours.jwt("rsa", &good)),
        (
            "no key named",
            ours.jwt_with(&json!({"alg": "ES256"}), &good),
        ),
        (
            "expired",
            ours.jwt("k", &with(good.clone(), "exp", json!(now - 60))),
        ),
        (
            "not valid yet",
            ours.jwt("k", &with(good.clone(), "nbf", json!(now + 60))),
        ),
        (
            "for somebody else",
            ours.jwt("k", &with(good.clone(), "aud", json!("other"))),
        ),
        (
            "of another issuer",
            ours.jwt("k", &with(good.clone(), "iss", json!("http://127.0.0.1:1"))),
        ),
        ("expiring never", ours.jwt("k", &without("exp"))),
        (
            "expiring as text",
            ours.jwt(
                "k",
                &with(good.clone(), "exp", json!((now + 300).to_string())),
            ),
        ),
        ("for nobody", ours.jwt("k", &without("aud"))),
        ("of nobody", ours.jwt("k", &without("iss"))),
        ("by nobody", ours.jwt("k", &without("sub"))),
        (
            "none",
            format!("{}.", unsigned(&json!({"alg": "none", "kid": "k"}), &good)),
        ),
        (
            "None",
            format!("{}.", unsigned(&json!({"alg": "None", "kid": "k"}), &good)),
        ),
        (
            "none, with a signature",
            ours.jwt_with(&json!({"alg": "none", "kid": "k"}), &good),
        ),
        ("a secret that everybody knows", hs256),
        (
            "another algorithm of its family",
            ours.jwt_with(&json!({"alg": "ES384", "kid": "k"}), &good),
        ),
        (
            "another payload",
            format!("{}.{other_payload}.{}", parts[0], parts[2]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("cut short", jwt[..jwt.len() - 9].to_owned()),
        ("nothing", "..".to_owned()),
        (
            "too long",
            format!("{}.{}.{}", parts[0], "A".repeat(20_000), parts[2]),
        ),
    ] {
        let answer = server.get_with(&jwt, "/v1/pools").await;
        answer.is_problem(401, "unauthenticated", what);
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{what}");
    }
    let nothing = ours.jwt("k", &claims(&provider, "ann@example.org", "guest"));
    server
        .get_with(&nothing, "/v1/pools")
        .await
        .is_problem(403, "forbidden", "no role");
    // However many keys are invented, the provider is asked now and then.
    assert!(provider.asked() <= 3, "{}", provider.asked());
    server.stop().await;
}

#[tokio::test]
async fn new_keys_are_found_and_old_ones_are_gone() {
    let (first, second) = (Signer::es256(), Signer::es256());
    let provider = Provider::start(vec![first.public("1")]).await;
    let server = server(&provider).await;
    let good = claims(&provider, "ann@example.org", "ops");
    let (old, new) = (first.jwt("1", &good), second.jwt("2", &good));
    let status = async |jwt: &str| server.get_with(jwt, "/v1/pools").await.status;
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    provider.publish(vec![second.public("2")]);
    eventually("the new key is found", async || status(&new).await == 200).await;
    assert_eq!(status(&old).await, 401);

    // What is known serves on while the provider is away; what is not cannot be told, and is not wrong.
    provider.go_away();
    let third = Signer::es256().jwt("3", &good);
    eventually("it cannot be told", async || status(&third).await == 503).await;
    assert_eq!(status(&new).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_sign_in_that_opened_it() {
    let key = Signer::es256();
    let provider = Provider::start(vec![key.public("k")]).await;
    let server = server(&provider).await;
    let good = claims(&provider, "ann@example.org", "ops");
    let short = with(good, "exp", json!(Utc::now().timestamp() + 1));
    let mut stream = reqwest::Client::new()
        .get(format!("{}/v1/events", server.url))
        .bearer_auth(key.jwt("k", &short))
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.status(), 200);
    let ends = async { while stream.chunk().await.expect("the stream").is_some() {} };
    tokio::time::timeout(Duration::from_secs(15), ends)
        .await
        .expect("it ends");
    server.stop().await;
}

/// Real providers are spoken to by https, and their certificates are looked at.
#[tokio::test]
async fn a_provider_by_https_is_known_by_its_certificate() {
    let (authority, unknown) = (Authority::new(), Authority::new());
    let (folder, other) = (Folder::new(), Folder::new());
    let ca = authority.file(&folder.0, "ca.pem");
    let signer = Signer::es256();
    let key = || vec![signer.public("k")];
    let known = Provider::start_tls(key(), &authority, &folder.0).await;
    let stranger = Provider::start_tls(key(), &unknown, &other.0).await;
    let database = database().await;
    for (provider, status) in [(&known, 200), (&stranger, 503)] {
        let issuer = provider.issuer();
        let environment = [
            ("SSL_CERT_FILE", ca.as_str()),
            ("LESSOR_OIDC_ISSUER", &issuer),
            ("LESSOR_OIDC_AUDIENCE", AUDIENCE),
            ("LESSOR_OIDC_ROLES_CLAIM", "realm_access.roles"),
            ("LESSOR_OIDC_ROLES", "ops=operator"),
        ];
        let server = ServerProcess::start_with(&database.url, &environment, None).await;
        let ann = signer.jwt("k", &claims(provider, "ann@example.org", "ops"));
        let call = reqwest::Client::new().get(format!("{}/v1/pools", server.url));
        let answer = call.bearer_auth(ann).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{issuer}");
    }
    assert_eq!(stranger.asked(), 0);
}
