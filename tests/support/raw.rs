//! Calls as bytes: what the typed client would not send, and what it does not show.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;

use super::TestServer;

/// An answer with its headers and its text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// What came.
    pub async fn of(response: Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.expect("the body is text"),
        }
    }

    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// Its body as JSON; panics unless the status is this one.
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Panics unless it is this problem, with every field that a problem has.
    pub fn is_problem(&self, status: u16, code: &str, what: &str) {
        assert_eq!(self.status, status, "{what}: {self:?}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{what}"
        );
        let problem = self.json();
        let mut keys: Vec<&str> = problem
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        let expected = [
            "code",
            "detail",
            "errors",
            "request_id",
            "status",
            "title",
            "type",
        ];
        assert_eq!(keys, expected, "{what}");
        assert_eq!(problem["code"], code, "{what}: {problem}");
        assert_eq!(problem["status"], status, "{what}");
        assert_eq!(
            problem["type"],
            format!("urn:lessor:problem:{code}"),
            "{what}"
        );
        assert_eq!(
            problem["request_id"],
            self.header("x-request-id"),
            "{what}: the id is the header's"
        );
        for text in ["title", "detail", "request_id"] {
            assert!(
                problem[text].as_str().is_some_and(|text| !text.is_empty()),
                "{what}: {text} of {problem}"
            );
        }
        let errors = problem["errors"].as_array().expect("an array");
        assert_eq!(
            errors.is_empty(),
            code != "validation_failed",
            "{what}: {problem}"
        );
        for error in errors {
            assert!(
                error["pointer"].is_string() && error["message"].is_string(),
                "{what}: {problem}"
            );
        }
    }
}

impl TestServer {
    /// Sends these bytes with these headers.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .timeout(Duration::from_secs(60))
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.expect("an answer")).await
    }

    /// Sends this text as JSON.
    pub async fn send(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.raw(method, path, &[("content-type", "application/json")], body)
            .await
    }

    /// Gets.
    pub async fn fetch(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], "").await
    }
}
