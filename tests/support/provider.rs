//! A small OpenID Connect provider: it publishes keys, and signs what it is told to. People sign in at its
//! desk, if that is open (`desk.rs`).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::authority::Authority;
use super::desk::{self, Desk};

/// For whom its JWTs are.
pub const AUDIENCE: &str = "lessor-of-the-tests";

/// A key that is in nobody's use; ring makes none of this kind.
const RSA: &str = "\
    MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQCrVb7jwF5meZ7FfVKGhuS0BQFcCyozs4Nn/A3+oYF9PTNZomF4\
    6m78vOb1RA0HIqlMSg+kUuy5wS+WKHitXocu7ryCVMvlisBPFQs5qQO5eTgbJfEWZlCw5Za2y80HSBXZU15P5fv/I9WI182arWRC\
    4/Zo5Ag3FF1n5uuC6mHD/Q36aHvIAGH/M405qGoizs4VdzBnm4gY/TbIeIz50PilQ3u0tN/NVkh0DLpxaqQWL9AYjN7UaTfHJBuq\
    g7ccjwEpGrlwns2s1d5qjlRZPRvqBtTc+Ubw4QE1E/d8/l+KfGBf7hVSNeBC9xLnyz/e87Me6SE3KKYzeo3bygS3WrBFAgMBAAEC\
    gf86FTLYJ0xrlYYrSIfDyhuZfc/BUgehEZWM4a8BbHXUyEX7nP5uNi/XosSpF8QuS6QZAd3d6WNXAzkMUxm6h6yVc1l0jEqTBmRP\
    2JuaJ1Z3UyDEXHPef4fbS7CVR4G6CH8WiRpdjfU7LdhswnK6M+kkw/6N/i2mNVN0+ApxRN8o7LZEK5AV0++HW7nl2k2yiVGCUnKh\
    9S2wQwpCDOTTHDSaWQtqausET536o/j/P4SMc1U7IbhdmLV1vjeFxDxGBOHCkcKO7ZUlyMzL9JS1cD7Wh8TJJRMJiYrHm19MNnYN\
    2cWlc+XCJngcRGfMJfB+aLgis2BrOhEgCpfoOCT2JtECgYEA6ntW95R8jM0bpJNubVWnFneTLdOzGS2JSJsBdpttle1HWamxjgcO\
    vcLDrvj/QX/xg3q95yQoz9gWRZlJVOPYR6DQASeK+EJeoZqO9vEt/yjRDTUtGWVvKGHi7HRT2nbFqnkHBxi/t5uKz/7n9W503SQ9\
    EP34FflDXYLv5ubzvC0CgYEAuw7nCanUQiEAnKyGgnKa7F5EN2LiCZAvaSrhdtD/NuWMqL7Z4XRGF9kwvwCDJoFEVmfDT/q/cu8y\
    L+KAavPoM8H05/LEncda8p4mtJLGIniMRfxVH7vJeX8arpt70uF9fd1j3wl96lxZQGa6WTDjw7o5Mjb8++j8z/+lgBlGG3kCgYEA\
    uuvgBDWmpEfNxYCSAy7IqCxic6HToDqgufR3UinNTjt9KYkRNfuCUNu2SwHL2lc4HGv4fw5gSnAkMQ9lWfrYKyGTL5hqPEYMUh93\
    4HubA1FydWjyrtAhsLt3vq9tOTZ9lMwuQgYEr0WbfvvhxdFr7+43kBglcL7oaN88h4GMw3ECgYEAp8fbJUjGETaG1QDOeW0QVpjK\
    +R7hfhBs5hjHOIqHkBbfTnA4/8cKI9P0rC1qdXwW7qWNg0x2skGoM1knNEdn7By5bd7LynWItvtx3h+URlD4CMInHBqUwTxnk1v0\
    +Za1t9J/BQv/e9mvWFuMI/n9IY8ERG0cB1vYfzxflwGUZ4kCgYAON8udRLmVuwpbJbyVh6rK8xgUIbBALbPmnrdCb4ALdxYBJydo\
    m9WucF2gv7bXk73GLBbwbMDZBYltmvIg/8MrJ4N4t/g9CCMB4miFItp1Vti7Am18tPBPYLJX4TYoA6BiqX83Fi7/2CHItZDHIO7r\
    zJFvu3wYepCAVmOy2bR+sQ==";

/// A key that signs.
pub enum Signer {
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
    Ps256(Box<RsaKeyPair>),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// A new one.
    pub fn es256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self::Es256(EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).expect("a key"))
    }

    /// A new one.
    pub fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key"))
    }

    /// The one there is.
    pub fn rs256() -> Self {
        Self::Rs256(rsa())
    }

    /// The same, in the other way of signing with it.
    pub fn ps256() -> Self {
        Self::Ps256(rsa())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::Ps256(_) => "PS256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// Its public half, as providers publish it.
    pub fn public(&self, id: &str) -> Value {
        let mut key = match self {
            Self::Es256(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[..32]), "y": b64(&point[32..])})
            }
            Self::Rs256(pair) | Self::Ps256(pair) => {
                let parts: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": b64(&parts.n), "e": b64(&parts.e)})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())})
            }
        };
        key["kid"] = json!(id);
        key["use"] = json!("sig");
        key
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |pair: &RsaKeyPair, how| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(how, &random, message, &mut signature)
                .expect("a signature");
            signature
        };
        match self {
            Self::Es256(pair) => pair
                .sign(&random, message)
                .expect("a signature")
                .as_ref()
                .to_vec(),
            Self::Rs256(pair) => rsa(pair, &RSA_PKCS1_SHA256),
            Self::Ps256(pair) => rsa(pair, &RSA_PSS_SHA256),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A JWT of these claims, signed by this key under this id.
    pub fn jwt(&self, id: &str, claims: &Value) -> String {
        self.jwt_with(
            &json!({"alg": self.name(), "typ": "JWT", "kid": id}),
            claims,
        )
    }

    /// With a header that says anything.
    pub fn jwt_with(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = b64(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// The first two parts of a JWT.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| b64(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

/// As JWTs have bytes.
pub fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa() -> Box<RsaKeyPair> {
    let der = STANDARD.decode(RSA).expect("base64");
    Box::new(RsaKeyPair::from_pkcs8(&der).expect("a key"))
}

/// What it publishes.
#[derive(Default)]
pub(super) struct Published {
    issuer: String,
    keys: Vec<Value>,
    is_away: bool,
    /// How often its keys were asked for.
    asked: usize,
    pub(super) desk: Option<Desk>,
}

/// The provider.
#[derive(Clone)]
pub struct Provider(Arc<Mutex<Published>>);

impl Provider {
    /// Starts on a free port of the loopback address; it ends with the test's runtime.
    pub async fn start(keys: Vec<Value>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let provider = Self::publishing(issuer, keys);
        let router = provider.router();
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        provider
    }

    /// As [`Provider::start`], by https, with a certificate for `localhost` of this authority.
    pub async fn start_tls(keys: Vec<Value>, authority: &Authority, folder: &Path) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let provider = Self::publishing(format!("https://localhost:{port}"), keys);
        authority.serve(listener, provider.router(), folder);
        provider
    }

    fn publishing(issuer: String, keys: Vec<Value>) -> Self {
        Self(Arc::new(Mutex::new(Published {
            issuer,
            keys,
            ..Published::default()
        })))
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys_of))
            .merge(desk::routes())
            .with_state(self.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Published> {
        self.0.lock().expect("the lock")
    }

    pub fn issuer(&self) -> String {
        self.lock().issuer.clone()
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.lock().asked
    }

    /// Publishes other keys from now on.
    pub fn publish(&self, keys: Vec<Value>) {
        self.lock().keys = keys;
    }

    /// Answers with errors from now on.
    pub fn go_away(&self) {
        self.lock().is_away = true;
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.lock().is_away = false;
    }
}

async fn discovery(State(provider): State<Provider>) -> impl IntoResponse {
    let published = provider.lock();
    if published.is_away {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let issuer = &published.issuer;
    let mut discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    if published.desk.is_some() {
        desk::describe(issuer, &mut discovery);
    }
    Json(discovery).into_response()
}

async fn keys_of(State(provider): State<Provider>) -> impl IntoResponse {
    let mut published = provider.lock();
    published.asked += 1;
    if published.is_away {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    Json(json!({"keys": published.keys})).into_response()
}
