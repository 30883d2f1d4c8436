//! The wire: sockets, TLS, HTTP/1.1 and HTTP/2, and what one peer may take of them.
//!
//! - [`serve`] accepts connections, each a task of its own, until it is told to stop; then connections
//!   end with their requests.
//! - [`tls`] has the certificates, from files that are read anew when they change.
//! - [`patient`] cuts off who does not take what is sent to him.
//! - [`places`] counts connections, in all and of one address.
//!
//! Which version of HTTP is spoken is agreed on by ALPN under TLS; without TLS who begins with HTTP/2's
//! preface speaks that. A parked poll over HTTP/1.1 holds no timer and no buffer but the parser's.
//!
//! Invariants: a request has the address of its client in its extensions; nobody holds a connection
//! by sending a head slower than [`Limits::slow_after`] allows, or by not reading.
//!
//! What it does not do: know what is served.

mod connection;
mod listen;
mod patient;
mod places;
mod protocol;
pub mod tls;

pub use listen::serve;

use std::time::Duration;

use crate::http::Proxies;

/// What one peer may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many connections may be open.
    pub connections: usize,
    /// How many of them from one address, proxies excepted; none: as many as there are.
    pub connections_per_address: Option<usize>,
    /// How long a client may take for the head of a request, for its body, and to take some of an answer.
    pub slow_after: Duration,
    /// Whose word on addresses is taken.
    pub proxies: Proxies,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            connections_per_address: None,
            slow_after: Duration::from_secs(60),
            proxies: Proxies::default(),
        }
    }
}
