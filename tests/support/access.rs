//! Servers that ask for tokens, and tokens of every kind.

use std::sync::Arc;

use lessor_client::Client;
use lessor_protocol::{NewToken, Role};
use serde_json::{Value, json};

use super::postgres::TestDatabase;
use super::raw::Answer;
use super::{TestServer, database};

/// The admin token of such servers.
pub const ROOT: &str = "the-admin-token-of-the-settings";

/// A server that asks for tokens, whose client has the admin token.
pub async fn closed() -> TestServer {
    closed_over(database().await).await
}

/// Another one on a database.
pub async fn closed_over(database: Arc<TestDatabase>) -> TestServer {
    let mut server = TestServer::over(database, |settings| {
        settings.admin_token = Some(ROOT.to_owned().into());
    })
    .await;
    server.client = server.with(ROOT);
    server
}

/// A token with this role and nothing more.
pub fn new(role: Role) -> NewToken {
    NewToken {
        name: format!("a {role}"),
        role,
        pools: Vec::new(),
        agent: None,
        owner: None,
        tenant: None,
        expires_in_seconds: None,
    }
}

/// A user's.
pub fn user(owner: &str, tenant: Option<&str>) -> NewToken {
    NewToken {
        owner: Some(owner.to_owned()),
        tenant: tenant.map(str::to_owned),
        ..new(Role::User)
    }
}

/// One for registering agents in a pool.
pub fn enroll(pool: &str) -> NewToken {
    NewToken {
        pools: vec![pool.to_owned()],
        ..new(Role::Enroll)
    }
}

/// An agent's.
pub fn agent(agent: &str, pool: &str) -> NewToken {
    NewToken {
        agent: Some(agent.to_owned()),
        pools: vec![pool.to_owned()],
        ..new(Role::Agent)
    }
}

/// One for all calls: to set one up costs more than many calls. It keeps no connection, which would belong
/// to the runtime of the test that opened it.
fn http() -> &'static reqwest::Client {
    static HTTP: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    HTTP.get_or_init(|| {
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(std::time::Duration::from_secs(60));
        client.build().expect("a client")
    })
}

impl TestServer {
    /// A client of this server with a token.
    pub fn with(&self, secret: &str) -> Client {
        Client::new(&self.url, Some(secret)).expect("a client")
    }

    /// Creates a token; its id and its secret.
    pub async fn token(&self, new: &NewToken) -> (String, String) {
        let body = serde_json::to_value(new).expect("JSON");
        let made = self.call(ROOT, "POST", "/v1/tokens", body).await.ok(201);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (text(&made["token"]["id"]), text(&made["secret"]))
    }

    /// Calls with a token; null is no body.
    pub async fn call(&self, secret: &str, method: &str, path: &str, body: Value) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut call = http().request(method, format!("{}{path}", self.url));
        if !secret.is_empty() {
            call = call.bearer_auth(secret);
        }
        if body != Value::Null {
            call = call.json(&body);
        }
        Answer::of(call.send().await.expect("an answer")).await
    }

    /// Gets with a token.
    pub async fn get_with(&self, secret: &str, path: &str) -> Answer {
        self.call(secret, "GET", path, Value::Null).await
    }

    /// Creates a session with a token.
    pub async fn create_with(&self, secret: &str, pool: &str, name: Option<&str>) -> Answer {
        let body = json!({"pool": pool, "name": name, "spec": {"command": ["true"]}});
        self.call(secret, "POST", "/v1/sessions", body).await
    }
}
