//! A receiver of webhooks: it keeps what comes, and answers as it is told.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lessor_protocol::WebhookDelivery;
use ring::hmac;
use tokio::sync::Notify;

use super::authority::Authority;
use super::eventually;

/// Something that came.
#[derive(Clone, Debug)]
pub struct Came {
    pub at: Instant,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Came {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    pub fn delivery(&self) -> WebhookDelivery {
        serde_json::from_slice(&self.body).expect("a delivery")
    }

    /// Whether one of its signatures is by this secret, checked as the standard says.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let key = secret.strip_prefix("whsec_").expect("its beginning");
        let key = STANDARD.decode(key).expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let text = String::from_utf8(self.body.to_vec()).expect("text");
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let message = format!("{id}.{at}.{text}");
        self.header("webhook-signature").split(' ').any(|one| {
            let one = one.strip_prefix("v1,").expect("a version");
            let signature = STANDARD.decode(one).expect("base64");
            hmac::verify(&key, message.as_bytes(), &signature).is_ok()
        })
    }
}

/// How it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// With a header.
    With(u16, &'static str, String),
    /// Taken, when this says so.
    When(Arc<Notify>),
    /// Not within a minute.
    Never,
}

#[derive(Default)]
struct Inner {
    came: Vec<Came>,
    answers: VecDeque<Answer>,
    always: Option<Answer>,
}

/// The receiver; it ends with the test's runtime.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    /// On a free port of the loopback address.
    pub async fn start() -> Self {
        let (receiver, listener) = Self::bind("http", "127.0.0.1").await;
        let router = receiver.router();
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        receiver
    }

    /// With a certificate for `localhost` by this authority, whose files are in this folder.
    pub async fn start_tls(authority: &Authority, folder: &Path) -> Self {
        let (receiver, listener) = Self::bind("https", "localhost").await;
        authority.serve(listener, receiver.router(), folder);
        receiver
    }

    async fn bind(scheme: &str, host: &str) -> (Self, tokio::net::TcpListener) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let receiver = Self {
            url: format!("{scheme}://{host}:{port}/hook"),
            inner: Arc::default(),
        };
        (receiver, listener)
    }

    fn router(&self) -> Router {
        Router::new().fallback(receive).with_state(self.clone())
    }

    /// The next answers; after them it answers 204.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inner.lock().expect("the lock").answers.extend(answers);
    }

    /// What it answers when it was told nothing else.
    pub fn always(&self, answer: Answer) {
        self.inner.lock().expect("the lock").always = Some(answer);
    }

    /// All that came.
    pub fn came(&self) -> Vec<Came> {
        self.inner.lock().expect("the lock").came.clone()
    }

    /// All that came, once it is so many.
    pub async fn wait_for(&self, count: usize) -> Vec<Came> {
        let what = format!("{count} deliveries");
        eventually(&what, || async { self.came().len() >= count }).await;
        self.came()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = {
        let mut inner = receiver.inner.lock().expect("the lock");
        inner.came.push(Came {
            at: Instant::now(),
            headers,
            body,
        });
        let next = inner.answers.pop_front().or_else(|| inner.always.clone());
        next.unwrap_or(Answer::Status(204))
    };
    let status = |code| StatusCode::from_u16(code).expect("a status");
    match answer {
        Answer::Status(code) => status(code).into_response(),
        Answer::With(code, name, value) => {
            let value = HeaderValue::from_str(&value).expect("a value");
            let headers = [(HeaderName::from_static(name), value)];
            (status(code), headers).into_response()
        }
        Answer::When(told) => {
            told.notified().await;
            StatusCode::NO_CONTENT.into_response()
        }
        Answer::Never => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
    }
}
