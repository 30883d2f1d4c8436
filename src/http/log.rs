//! The record of a request: its span, its line in the log, its metrics.
//!
//! One line for each request, at its end: failures as errors, refusals for want of room (503) as
//! warnings, other refusals as information, the rest for debugging, since agents make thousands a
//! second. The detail of an `internal` problem is logged here and nowhere else.
//!
//! Invariants: metric labels come from closed sets (methods, routes, statuses) and never from the
//! request. Requests that park are counted and not timed: their time is the client's choice.

use std::time::Instant;

use axum::extract::MatchedPath;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::Response;
use lessor_protocol::ProblemCode;
use tracing::{Span, debug, error, error_span, info, warn};

use super::client::ClientAddress;
use crate::problem::Problem;

/// Counts requests by method, route and status.
pub(crate) const REQUESTS_TOTAL: &str = "lessor_http_requests_total";

/// Times requests that do not park, by method and route.
pub(crate) const REQUEST_DURATION_SECONDS: &str = "lessor_http_request_duration_seconds";

/// The status of a request whose client hung up, after nginx's.
const CLIENT_GONE: u16 = 499;

/// A request under way. Dropped without [`Record::finish`], it is one whose client hung up.
pub(super) struct Record {
    method: &'static str,
    route: Option<MatchedPath>,
    path: String,
    client: Option<ClientAddress>,
    parks: bool,
    begun: Instant,
    finished: bool,
}

impl Record {
    pub(super) fn begin(
        method: &Method,
        route: Option<&MatchedPath>,
        uri: &Uri,
        client: Option<ClientAddress>,
    ) -> Self {
        let route = route.cloned();
        let parks = route
            .as_ref()
            .is_some_and(|route| parks(route.as_str(), uri.query()));
        Self {
            method: known(method),
            route,
            path: uri.path().to_owned(),
            client,
            parks,
            begun: Instant::now(),
            finished: false,
        }
    }

    /// The span of the request, with the session or the agent that its path names. Its level is
    /// the highest, so that a log of warnings alone has request ids too.
    pub(super) fn span(&self, request_id: &str) -> Span {
        // With all that is known: a field that is recorded later has the others read and written anew.
        error_span!(
            "request",
            method = self.method,
            route = self.route(),
            request_id,
            session = named(self.route(), &self.path, "session"),
            agent = named(self.route(), &self.path, "agent")
        )
    }

    /// Writes the line and the metrics of an answered request, within its span.
    pub(super) fn finish(mut self, response: &Response) {
        self.finished = true;
        let status = response.status();
        let duration_ms = self.count(status.as_u16());
        let streams = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if !self.parks && !streams {
            metrics::histogram!(REQUEST_DURATION_SECONDS, "method" => self.method, "route" => self.route().to_owned())
                .record(self.begun.elapsed().as_secs_f64());
        }
        if let Some(session) = made_session(response) {
            Span::current().record("session", session);
        }
        let problem = response.extensions().get::<Problem>();
        let code = problem.map_or("", |problem| problem.code.as_str());
        let status_code = status.as_u16();
        let client = self.client.map(|client| tracing::field::display(client.0));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                warn!(
                    status = status_code,
                    code, duration_ms, client, "request refused"
                )
            }
            _ if status.is_server_error() => {
                let cause = problem
                    .filter(|problem| problem.code == ProblemCode::Internal)
                    .map_or("", |problem| &problem.detail);
                error!(
                    status = status_code,
                    code, duration_ms, cause, client, "request failed"
                );
            }
            _ if status.is_client_error() && !self.parks => {
                let detail = problem.map_or("", |problem| &problem.detail);
                info!(
                    status = status_code,
                    code, duration_ms, detail, client, "request refused"
                );
            }
            _ => debug!(
                status = status_code,
                code, duration_ms, client, "request answered"
            ),
        }
    }

    /// Counts the request and tells how long it took.
    fn count(&self, status: u16) -> u64 {
        metrics::counter!(
            REQUESTS_TOTAL,
            "method" => self.method, "route" => self.route().to_owned(), "status" => status.to_string()
        )
        .increment(1);
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("none", MatchedPath::as_str)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            let duration_ms = self.count(CLIENT_GONE);
            debug!(
                method = self.method,
                route = self.route(),
                duration_ms,
                "client hung up"
            );
        }
    }
}

/// Methods are sent by the client; those that no route has are one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// Whether a request may wait for something to happen before it is answered: claims, and any with
/// `wait_seconds`.
fn parks(route: &str, query: Option<&str>) -> bool {
    route.ends_with("/claim") || query.is_some_and(|query| query.contains("wait_seconds="))
}

/// What stands in a path where its route has `{name}`, as it was sent.
fn named<'a>(route: &str, path: &'a str, name: &str) -> Option<&'a str> {
    let is_it = |part: &str| {
        part.strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
            == Some(name)
    };
    let at = route.split('/').position(is_it)?;
    path.split('/').nth(at).filter(|value| !value.is_empty())
}

/// The session that a request has made, by where its answer says that it is.
fn made_session(response: &Response) -> Option<&str> {
    let place = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let session = place.strip_prefix("/v1/sessions/")?;
    (!session.contains('/')).then_some(session)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_names_its_agent_and_its_session() {
        let route = "/v1/agents/{agent}/claim";
        assert_eq!(
            super::named(route, "/v1/agents/a-1/claim", "agent"),
            Some("a-1")
        );
        assert_eq!(super::named(route, "/v1/agents/a-1/claim", "session"), None);
        assert_eq!(
            super::named("/v1/sessions/{session}", "/v1/sessions/s", "session"),
            Some("s")
        );
    }

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn begin(method: &Method, path: &'static str) -> Record {
        Record::begin(method, None, &Uri::from_static(path), None)
    }

    #[test]
    fn what_parks() {
        assert!(parks("/v1/agents/{agent}/claim", None));
        assert!(parks(
            "/v1/sessions/{session}",
            Some("wait_for=running&wait_seconds=30")
        ));
        assert!(!parks("/v1/sessions/{session}", Some("limit=1")));
        assert!(!parks("/v1/agents/{agent}/heartbeat", None));
    }

    #[test]
    fn requests_are_counted_with_closed_labels_and_parked_ones_not_timed() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            begin(&Method::GET, "/").finish(&Response::default());
            begin(&Method::from_bytes(b"WHATEVER").expect("a method"), "/")
                .finish(&Response::default());
            let mut parked = begin(&Method::POST, "/");
            parked.parks = true;
            parked.finish(&Response::default());
            drop(begin(&Method::PUT, "/"));
        });
        let rendered = handle.render();
        for line in [
            r#"lessor_http_requests_total{method="GET",route="none",status="200"} 1"#,
            r#"lessor_http_requests_total{method="OTHER",route="none",status="200"} 1"#,
            r#"lessor_http_requests_total{method="POST",route="none",status="200"} 1"#,
            r#"lessor_http_requests_total{method="PUT",route="none",status="499"} 1"#,
            r#"lessor_http_request_duration_seconds_count{method="GET",route="none"} 1"#,
        ] {
            assert!(rendered.contains(line), "{line} in {rendered}");
        }
        assert!(
            !rendered.contains(r#"duration_seconds_count{method="POST""#),
            "{rendered}"
        );
        assert!(
            !rendered.contains(r#"duration_seconds_count{method="PUT""#),
            "{rendered}"
        );
    }
}
