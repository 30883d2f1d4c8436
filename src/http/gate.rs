//! How much is worked on at once, and what is turned away beyond that: 503 `overloaded`.
//!
//! Waiting in line for a database that has more to do than it can makes every answer late and holds
//! every body in memory. So there is room for so many, and the rest is told at once to come back.
//! What agents need to keep their leases has room of its own, as it has connections of its own: no
//! crowd of users can take it.
//!
//! Invariant: a place is held until the work is done, whether its client is there or not; what parks
//! takes no place among what works.
//!
//! What it does not do: limit claims and streams, which have limits where they park.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri, header};
use lessor_protocol::ProblemCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate::is_agents_own;
use crate::problem::Problem;

/// A body above this takes one of few places.
const LARGE_BYTES: u64 = 256 * 1024;

/// How many large bodies, or bodies of unknown length, are held at once: 64 of 8 MiB.
const LARGE_AT_ONCE: usize = 64;

/// How many calls may wait for something to happen. Each looks by itself every 2 s.
const WAITS: usize = 4_096;

/// How many places there are.
#[derive(Debug)]
pub struct Gate {
    work: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    beats: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A place, as long as it is held; in the extensions of its request, for what runs on when the client
/// has gone.
#[derive(Debug)]
pub struct Place {
    _one: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What has its limit elsewhere, or needs none.
    Free,
    Work,
    Wait,
    Beat,
    Report,
}

impl Gate {
    /// Room for `work` calls of users, as many reports of agents, and `beats` calls that renew leases.
    #[must_use]
    pub fn new(work: usize, beats: usize) -> Self {
        Self {
            work: Arc::new(Semaphore::new(work)),
            reports: Arc::new(Semaphore::new(work)),
            beats: Arc::new(Semaphore::new(beats)),
            waits: Arc::new(Semaphore::new(WAITS)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
        }
    }

    /// A place for a call, if it needs one.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub fn enter(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Place>>, Problem> {
        let room = match kind(method, uri) {
            Kind::Free => return Ok(None),
            Kind::Work => &self.work,
            Kind::Wait => &self.waits,
            Kind::Beat => &self.beats,
            Kind::Report => &self.reports,
        };
        let large = is_large(headers).then(|| take(&self.large)).transpose()?;
        Ok(Some(Arc::new(Place {
            _one: take(room)?,
            _large: large,
        })))
    }
}

fn take(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(room).try_acquire_owned().map_err(|_| {
        metrics::counter!("lessor_http_shed_total").increment(1);
        let detail = "This server has as much to do as it takes on; come back later";
        Problem::new(ProblemCode::Overloaded, detail)
    })
}

fn kind(method: &Method, uri: &Uri) -> Kind {
    let path = uri.path();
    if !path.starts_with("/v1") || path == "/v1/events" {
        return Kind::Free;
    }
    if is_agents_own(method, path) {
        return match path.rsplit('/').next() {
            Some("claim") => Kind::Free,
            Some("reports" | "inventory") if path.matches('/').count() == 4 => Kind::Report,
            _ => Kind::Beat,
        };
    }
    if uri
        .query()
        .is_some_and(|query| query.contains("wait_seconds="))
    {
        return Kind::Wait;
    }
    Kind::Work
}

/// Whether its body is large, or says nothing of its length.
fn is_large(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .is_none_or(|length: u64| length > LARGE_BYTES),
        None => headers.contains_key(header::TRANSFER_ENCODING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_which_place() {
        for (method, uri, expected) in [
            (Method::GET, "/healthz", Kind::Free),
            (Method::GET, "/v1/events?pool=p", Kind::Free),
            (Method::POST, "/v1/agents/a/claim", Kind::Free),
            (Method::POST, "/v1/agents/a/heartbeat", Kind::Beat),
            (Method::PUT, "/v1/agents/reports", Kind::Beat),
            (Method::POST, "/v1/agents/a/reports", Kind::Report),
            (Method::POST, "/v1/sessions", Kind::Work),
            (
                Method::GET,
                "/v1/sessions/x?wait_for=running&wait_seconds=9",
                Kind::Wait,
            ),
            (Method::GET, "/v1/agents/a", Kind::Work),
        ] {
            assert_eq!(kind(&method, &Uri::from_static(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn a_crowd_of_users_takes_no_place_of_agents() {
        let gate = Gate::new(2, 1);
        let call = |method: &Method, path: &'static str| {
            gate.enter(method, &Uri::from_static(path), &HeaderMap::new())
        };
        let held = [call(&Method::GET, "/v1/pools"), call(&Method::GET, "/v1")];
        assert!(held.iter().all(Result::is_ok));
        let refused = call(&Method::GET, "/v1/pools").expect_err("there is no room");
        assert_eq!(refused.code, ProblemCode::Overloaded);
        assert_eq!(refused.retry_after_seconds, Some(1));
        let beat = call(&Method::POST, "/v1/agents/a/heartbeat");
        assert!(beat.is_ok());
        assert!(call(&Method::POST, "/v1/agents/b/heartbeat").is_err());
        assert!(call(&Method::POST, "/v1/agents/a/reports").is_ok());
        assert!(call(&Method::POST, "/v1/agents/a/claim").is_ok());
        drop(held);
        assert!(call(&Method::GET, "/v1/pools").is_ok());
    }

    #[test]
    fn large_bodies_have_few_places() {
        let gate = Gate::new(1_000, 1);
        let mut large = HeaderMap::new();
        large.insert(header::CONTENT_LENGTH, "8000000".parse().expect("a header"));
        let path = Uri::from_static("/v1/sessions");
        let held: Vec<_> = (0..LARGE_AT_ONCE)
            .map(|_| gate.enter(&Method::POST, &path, &large).expect("a place"))
            .collect();
        assert!(gate.enter(&Method::POST, &path, &large).is_err());
        assert!(gate.enter(&Method::POST, &path, &HeaderMap::new()).is_ok());
        drop(held);
        assert!(gate.enter(&Method::POST, &path, &large).is_ok());
    }
}
