//! The transport: addresses, tokens, time-outs, TLS, and how an answer becomes a value or an error.

use std::sync::{Arc, Once};
use std::time::Duration;

use lessor_protocol::Problem;
use reqwest::{Method, Url, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// The service bounds its own waits for the database at 5 s; three times that is a dead call.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A bulk call begins nothing after 8 s, and has its waits for the database beside.
pub(crate) const BULK_TIMEOUT: Duration = Duration::from_secs(30);
/// What a long poll may take beyond the time it asked to wait.
pub(crate) const POLL_MARGIN: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer that is no problem document goes into the error.
const EXCERPT_CHARS: usize = 200;

/// A client of one service. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<Url>,
    token: Option<Arc<header::HeaderValue>>,
}

/// Which page of a list.
#[derive(Clone, Debug, Default)]
pub struct Paging {
    /// How many items: 1 to 500; 50 if left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Paging {
    pub(crate) fn query(&self, query: &mut Vec<(&'static str, String)>) {
        if let Some(limit) = self.limit {
            query.push(("limit", limit.to_string()));
        }
        if let Some(cursor) = &self.cursor {
            query.push(("cursor", cursor.clone()));
        }
    }
}

/// One call, before it is sent.
pub(crate) struct Call<'a> {
    method: Method,
    path: &'a [&'a str],
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    media_type: &'static str,
    idempotency_key: Option<&'a str>,
    timeout: Duration,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            body: None,
            media_type: "application/json",
            idempotency_key: None,
            timeout: CALL_TIMEOUT,
        }
    }

    pub(crate) fn query(mut self, query: Vec<(&'static str, String)>) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(Error::Encode)?);
        Ok(self)
    }

    pub(crate) fn merge_patch(mut self) -> Self {
        self.media_type = "application/merge-patch+json";
        self
    }

    pub(crate) fn idempotency_key(mut self, key: Option<&'a str>) -> Self {
        self.idempotency_key = key;
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Client {
    /// A client of the service at `base_url`, such as `https://lessor.example`. A path in it is
    /// kept and put in front of `/v1`.
    ///
    /// # Errors
    /// `Address` when it is no HTTP address or the token cannot be a header, `Transport` when TLS
    /// cannot be set up (no CA certificates on this machine).
    pub fn new(base_url: &str, token: Option<&str>) -> Result<Self, Error> {
        let address = |reason: String| Error::Address {
            url: base_url.to_owned(),
            reason,
        };
        let base = Url::parse(base_url).map_err(|error| address(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(address("it must begin with http:// or https://".to_owned()));
        }
        let token = token.map(|token| bearer(base_url, token)).transpose()?;
        install_tls_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lessor-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(15))
            // The service closes what was idle for 60 s: nobody is to send into that.
            .pool_idle_timeout(Duration::from_secs(50))
            // A POST that is redirected silently becomes a GET: better a clear error.
            .redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            // Plain HTTP must also work on a machine without any CA certificate, where setting up
            // the platform's verifier fails.
            let config = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(config);
        }
        Ok(Self {
            http: builder.build()?,
            base: Arc::new(base),
            token,
        })
    }

    /// The same client with another token; they share their connections.
    ///
    /// # Errors
    /// `Address` when the token cannot be a header.
    pub fn with_token(&self, token: &str) -> Result<Self, Error> {
        Ok(Self {
            token: Some(bearer(self.base.as_str(), token)?),
            ..self.clone()
        })
    }

    /// `GET /v1`: the versions of the service and of the protocols it speaks, and its time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn versions(&self) -> Result<serde_json::Value, Error> {
        self.fetch(Call::new(Method::GET, &[])).await
    }

    /// Sends a call and reads its answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let name = format!("{} /v1/{}", call.method, call.path.join("/"));
        let body = self.send(call).await?;
        serde_json::from_slice(&body).map_err(|source| Error::Decode { call: name, source })
    }

    /// Sends a call whose answer has nothing worth reading.
    pub(crate) async fn done(&self, call: Call<'_>) -> Result<(), Error> {
        self.send(call).await.map(drop)
    }

    /// Begins to read an answer that goes on for as long as both sides like.
    pub(crate) async fn stream(
        &self,
        call: Call<'_>,
        last_event_id: Option<&str>,
    ) -> Result<reqwest::Response, Error> {
        let mut request = self
            .request(&call)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        // Only the beginning is bounded: the answer has no end.
        let sent = tokio::time::timeout(call.timeout, request.send()).await;
        let response = sent.map_err(|_| Error::Unexpected {
            status: 408,
            retry_after: None,
            body: "the stream did not begin in time".to_owned(),
        })??;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        Err(refusal(status, retry_after, &response.bytes().await?))
    }

    fn request(&self, call: &Call<'_>) -> reqwest::RequestBuilder {
        let request = self.http.request(call.method.clone(), self.url(call));
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token.as_ref()),
            None => request,
        }
    }

    async fn send(&self, call: Call<'_>) -> Result<Vec<u8>, Error> {
        let mut request = self
            .request(&call)
            .timeout(call.timeout)
            .header(header::ACCEPT, "application/json");
        if let Some(key) = call.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = call.body {
            request = request
                .header(header::CONTENT_TYPE, call.media_type)
                .body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = response.bytes().await?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        Err(refusal(status, retry_after, &body))
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = Url::clone(&self.base);
        // Cannot fail: `new` let only http and https through, which have path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        url
    }
}

fn bearer(url: &str, token: &str) -> Result<Arc<header::HeaderValue>, Error> {
    let mut value =
        header::HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Address {
            url: url.to_owned(),
            reason: "the token has characters no header may have".to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(Arc::new(value))
}

fn refusal(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Error::Problem {
            problem: Box::new(problem),
            status,
            retry_after,
        },
        Err(_) => Error::Unexpected {
            status,
            retry_after,
            body: String::from_utf8_lossy(body)
                .chars()
                .take(EXCERPT_CHARS)
                .collect(),
        },
    }
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse::<f64>()
        .ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// rustls wants one crypto provider per process. Whoever installed one first keeps it.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_and_a_prefix_is_kept() {
        let client = Client::new("http://host/prefix/", None).expect("client");
        let call = Call::new(Method::GET, &["pools", "a/b c"])
            .query(vec![("label", "k:v w".into()), ("label", "x:y".into())]);
        assert_eq!(
            client.url(&call).as_str(),
            "http://host/prefix/v1/pools/a%2Fb%20c?label=k%3Av+w&label=x%3Ay"
        );
        assert_eq!(
            client.url(&Call::new(Method::GET, &[])).as_str(),
            "http://host/prefix/v1"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["", "host:80", "ftp://host", "http://"] {
            assert!(
                matches!(Client::new(url, None), Err(Error::Address { .. })),
                "{url}"
            );
        }
        assert!(Client::new("http://host", Some("a\nb")).is_err());
        assert!(Client::new("https://host", Some("t")).is_ok());
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_refusals() {
        let problem = br#"{"type":"urn:lessor:problem:stopping","title":"t","status":503,"code":"stopping","detail":"d","request_id":"r","errors":[]}"#;
        lessor_fuzz::run(&[problem, b"<html>no</html>"], &["\"code\""], |input| {
            if let Error::Unexpected { body, .. } = refusal(503, None, input) {
                assert!(body.chars().count() <= EXCERPT_CHARS);
            }
        });
    }

    #[test]
    fn fuzz_retry_after() {
        lessor_fuzz::run(&[b"1", b"0.5", b"120"], &["Wed, 21 Oct 2026"], |input| {
            let mut headers = header::HeaderMap::new();
            if let Ok(value) = header::HeaderValue::from_bytes(input) {
                headers.insert(header::RETRY_AFTER, value);
                let _ = retry_after(&headers);
            }
        });
    }
}
