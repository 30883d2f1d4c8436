//! One connection: its HTTP, its limits, its end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::future::RouteFuture;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::Limits;
use super::patient::Patient;
use crate::http::SlowAfter;

/// The most bytes of a request's head: 431 beyond it. The parser looks when its buffer is full, which
/// may then have twice the size that it was given.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most headers of a request. Beyond it: 431.
const MAX_HEADERS: usize = 100;

/// How many requests one HTTP/2 connection has under way at once; a gateway of agents parks as many polls.
const STREAMS: u32 = 256;

/// How frequently it is tried whether the other end of an HTTP/2 connection is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What the connections of a server share.
#[derive(Debug)]
pub struct Shared {
    pub router: Router,
    pub limits: Limits,
    pub stop: CancellationToken,
}

/// The requests of one connection.
struct Requests {
    shared: Arc<Shared>,
    peer: IpAddr,
    /// How many there were, where anybody asks.
    begun: Option<Arc<AtomicUsize>>,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Requests {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        if let Some(begun) = &self.begun {
            begun.fetch_add(1, Ordering::Relaxed);
        }
        let limits = &self.shared.limits;
        let mut request = request.map(Body::new);
        let client = limits.proxies.client(self.peer, request.headers());
        request.extensions_mut().insert(client);
        request
            .extensions_mut()
            .insert(SlowAfter(limits.slow_after));
        // A router is always ready.
        self.shared.router.clone().call(request)
    }
}

/// Serves a connection to its end.
pub async fn serve<S>(stream: S, is_h2: bool, peer: IpAddr, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slow_after = shared.limits.slow_after;
    let stop = shared.stop.clone();
    let io = TokioIo::new(Patient::new(stream, slow_after));
    let begun = is_h2.then(Arc::default);
    let requests = Requests {
        shared,
        peer,
        begun: begun.clone(),
    };
    // Each has its own branch, so that one over HTTP/1.1 is not as large as one over HTTP/2.
    if let Some(begun) = begun {
        Box::pin(over_h2(io, requests, &begun, slow_after, &stop)).await;
    } else {
        over_h1(io, requests, slow_after, &stop).await;
    }
}

async fn over_h1<I>(io: I, requests: Requests, slow_after: Duration, stop: &CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(slow_after)
            .max_buf_size(MAX_HEAD_BYTES / 2)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, requests)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke");
    }
}

/// HTTP/2 has no clock for its greeting, nor for a connection on which nothing is asked: here each time
/// that passes without a new request ends it. What is under way is answered first.
async fn over_h2<I>(
    io: I,
    requests: Requests,
    begun: &AtomicUsize,
    slow_after: Duration,
    stop: &CancellationToken,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .serve_connection(io, requests)
    );
    let mut before = 0;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(slow_after) => {
                let now = begun.load(Ordering::Relaxed);
                if now != before {
                    before = now;
                    continue;
                }
                if now == 0 {
                    return;
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        break connection.await;
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke");
    }
}
