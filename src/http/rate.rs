//! How frequently one caller may call: `RateLimit`, `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) and 429.
//!
//! Each key has a bucket of a minute's calls that fills up steadily (the generic cell rate algorithm: one
//! time is kept of a key, that at which its bucket will be full). The key is the digest of the bearer
//! token, else the address of the client. A token that was refused counts against its address, so that
//! a new guess with each call is no new bucket.
//!
//! Invariants: agents' own calls are exempt, since a limit on them would end leases; at most
//! [`MAX_KEYS`] keys are kept, and what does not fit shares one.
//!
//! What it does not do: count over servers. Each has buckets of its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use lessor_protocol::ProblemCode;
use sha2::{Digest, Sha256};

use super::authorization::bearer;
use super::client::{ClientAddress, household};
use crate::problem::Problem;

/// The time that a quota is for.
const WINDOW: Duration = Duration::from_secs(60);

/// The most keys that are told apart.
const MAX_KEYS: usize = 100_000;

/// How frequently keys with full buckets are looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Whose calls are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Token([u8; 32]),
    Address(IpAddr),
    /// Tokens from an address that were refused.
    Guesses(IpAddr),
    /// Everybody for whom there was no room.
    Others,
}

/// The buckets.
#[derive(Debug)]
pub struct RateLimit {
    quota: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    /// When a bucket will be full.
    full_at: HashMap<Key, Instant>,
    swept_at: Instant,
}

/// What is left after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    calls: u32,
    full_in: Duration,
}

impl RateLimit {
    /// So many calls a minute.
    #[must_use]
    pub fn per_minute(quota: u32) -> Self {
        let buckets = Buckets {
            full_at: HashMap::new(),
            swept_at: Instant::now(),
        };
        Self {
            quota: quota.max(1),
            buckets: Mutex::new(buckets),
        }
    }

    /// Counts a call, or refuses it.
    ///
    /// # Errors
    /// The answer, 429.
    pub fn enter(
        &self,
        headers: &HeaderMap,
        client: Option<ClientAddress>,
    ) -> Result<Left, Box<Response>> {
        let now = Instant::now();
        let address = client.map(|client| household(client.0));
        let taken = match (token(headers), address) {
            (Some(token), Some(address)) => self
                .look(Key::Guesses(address), now)
                .and_then(|_| self.take(Key::Token(token), now)),
            (Some(token), None) => self.take(Key::Token(token), now),
            (None, Some(address)) => self.take(Key::Address(address), now),
            (None, None) => self.take(Key::Others, now),
        };
        taken.map_err(|wait| Box::new(self.refuse(wait)))
    }

    /// Counts a token that was refused.
    pub fn guessed(&self, client: Option<ClientAddress>) {
        if let Some(client) = client {
            let _ = self.take(Key::Guesses(household(client.0)), Instant::now());
        }
    }

    /// Says on an answer what is left.
    pub fn tell(&self, left: Left, headers: &mut HeaderMap) {
        let policy = format!("\"calls\";q={};w={}", self.quota, WINDOW.as_secs());
        let state = format!("\"calls\";r={};t={}", left.calls, seconds_up(left.full_in));
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }

    fn refuse(&self, wait: Duration) -> Response {
        let detail = format!("More than {} calls a minute", self.quota);
        let seconds = seconds_up(wait);
        let problem = Problem::new(ProblemCode::RateLimited, detail);
        let mut response = problem
            .retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
            .into_response();
        let left = Left {
            calls: 0,
            full_in: wait,
        };
        self.tell(left, response.headers_mut());
        response
    }

    /// One call's share of the window.
    fn step(&self) -> Duration {
        WINDOW / self.quota
    }

    fn take(&self, key: Key, now: Instant) -> Result<Left, Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = buckets.room_for(key, now);
        let full_at = buckets.full_at.get(&key).copied().unwrap_or(now).max(now) + self.step();
        let left = self.left(full_at, now)?;
        buckets.full_at.insert(key, full_at);
        Ok(left)
    }

    /// As [`RateLimit::take`], and takes nothing.
    fn look(&self, key: Key, now: Instant) -> Result<Left, Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.full_at.get(&key).copied().unwrap_or(now).max(now);
        self.left(full_at + self.step(), now)
    }

    fn left(&self, full_at: Instant, now: Instant) -> Result<Left, Duration> {
        let full_in = full_at.saturating_duration_since(now);
        if full_in > WINDOW {
            return Err(full_in - WINDOW);
        }
        let room = WINDOW - full_in;
        let calls = (room.as_secs_f64() / self.step().as_secs_f64() + 1e-6).floor();
        Ok(Left {
            calls: calls as u32,
            full_in,
        })
    }
}

impl Buckets {
    /// The key, or the one of all for whom there is no room.
    fn room_for(&mut self, key: Key, now: Instant) -> Key {
        if self.full_at.len() < MAX_KEYS || self.full_at.contains_key(&key) {
            return key;
        }
        if now.saturating_duration_since(self.swept_at) >= SWEEP_EVERY {
            self.swept_at = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < MAX_KEYS {
            key
        } else {
            Key::Others
        }
    }
}

/// Whether a call is counted: what is under `/v1` and not an agent's own.
#[must_use]
pub fn counts(method: &Method, path: &str) -> bool {
    path.starts_with("/v1") && !is_agents_own(method, path)
}

/// Claims, heartbeats, reports, inventories, registration and goodbye.
#[must_use]
pub fn is_agents_own(method: &Method, path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v1/agents/") else {
        return false;
    };
    match rest.split_once('/') {
        None => method == Method::PUT || method == Method::DELETE,
        Some((_, "claim" | "heartbeat" | "reports" | "inventory")) => method == Method::POST,
        Some(_) => false,
    }
}

/// The digest of the bearer token, whatever it is worth and however it is written.
fn token(headers: &HeaderMap) -> Option<[u8; 32]> {
    Some(Sha256::digest(bearer(headers)?).into())
}

fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    fn from(address: &str) -> Option<ClientAddress> {
        Some(ClientAddress(address.parse().expect("an address")))
    }

    fn with(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, token.parse().expect("a header"));
        headers
    }

    #[test]
    fn a_bucket_is_emptied_and_fills_up() {
        let limit = RateLimit::per_minute(6);
        let begin = Instant::now();
        let key = Key::Token([1; 32]);
        for left in (0..6).rev() {
            assert_eq!(limit.take(key, begin).expect("a call").calls, left);
        }
        assert_eq!(limit.take(key, begin), Err(Duration::from_secs(10)));
        assert_eq!(limit.look(key, begin), Err(Duration::from_secs(10)));
        // Another's is full.
        assert!(limit.take(Key::Token([2; 32]), begin).is_ok());
        let later = begin + Duration::from_secs(10);
        assert_eq!(limit.take(key, later).expect("a call").calls, 0);
        assert!(limit.take(key, later).is_err());
        let much_later = begin + Duration::from_secs(600);
        assert_eq!(limit.take(key, much_later).expect("a call").calls, 5);
    }

    #[test]
    fn tokens_and_addresses_are_told_apart_and_guesses_counted_together() {
        let limit = RateLimit::per_minute(2);
        let none = HeaderMap::new();
        for _ in 0..2 {
            assert!(limit.enter(&with("Bearer a"), from("192.0.2.1")).is_ok());
            assert!(limit.enter(&none, from("192.0.2.1")).is_ok());
        }
        let refused = limit.enter(&with("Bearer a"), from("192.0.2.2"));
        let refused = refused.expect_err("its calls are used up");
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["ratelimit-policy"], "\"calls\";q=2;w=60");
        assert_eq!(refused.headers()["ratelimit"], "\"calls\";r=0;t=30");
        assert_eq!(refused.headers()["retry-after"], "30");
        assert!(limit.enter(&none, from("192.0.2.1")).is_err());
        // New tokens from one network, each refused, are no new buckets.
        for guess in ["Bearer g1", "Bearer g2"] {
            assert!(limit.enter(&with(guess), from("2001:db8::1")).is_ok());
            limit.guessed(from("2001:db8::2"));
        }
        assert!(
            limit
                .enter(&with("Bearer g3"), from("2001:db8::3"))
                .is_err()
        );
        assert!(
            limit
                .enter(&with("Bearer g3"), from("2001:db8:1::3"))
                .is_ok()
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let limit = RateLimit::per_minute(1);
        let now = Instant::now();
        for n in 0..MAX_KEYS + 10 {
            let mut token = [0; 32];
            token[..8].copy_from_slice(&n.to_le_bytes());
            let _ = limit.take(Key::Token(token), now);
        }
        let mut buckets = limit.buckets.lock().expect("the lock");
        assert_eq!(buckets.full_at.len(), MAX_KEYS + 1);
        let later = now + Duration::from_secs(61);
        assert_eq!(
            buckets.room_for(Key::Guesses([1, 1, 1, 1].into()), later),
            Key::Guesses([1, 1, 1, 1].into())
        );
        assert!(buckets.full_at.is_empty());
    }

    #[test]
    fn a_token_has_one_bucket_however_it_is_written() {
        let limit = RateLimit::per_minute(3);
        for written in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert!(limit.enter(&with(written), None).is_ok(), "{written}");
        }
        assert!(limit.enter(&with("Bearer abc"), None).is_err());
        assert!(limit.enter(&with("Bearer abd"), None).is_ok());
        // What is no token counts for its address.
        let here = from("192.0.2.1");
        for other in ["Basic a", "Basic b", "abc"] {
            assert!(limit.enter(&with(other), here).is_ok(), "{other}");
        }
        assert!(limit.enter(&with("Basic c"), here).is_err());
    }

    #[test]
    fn agents_own_calls_are_not_counted() {
        for (method, path) in [
            (Method::POST, "/v1/agents/a/claim"),
            (Method::POST, "/v1/agents/a/heartbeat"),
            (Method::PUT, "/v1/agents/a"),
            (Method::DELETE, "/v1/agents/a"),
            (Method::GET, "/healthz"),
        ] {
            assert!(!counts(&method, path), "{method} {path}");
        }
        for (method, path) in [
            (Method::GET, "/v1/agents/a"),
            (Method::POST, "/v1/agents/a/drain"),
            (Method::POST, "/v1/agents/bulk"),
            (Method::POST, "/v1/sessions/claim"),
            (Method::GET, "/v1"),
        ] {
            assert!(counts(&method, path), "{method} {path}");
        }
    }
}
