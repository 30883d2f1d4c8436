//! Accepting connections.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Shared};
use super::places::{Place, Places};
use super::tls::Tls;
use super::{Limits, protocol};

/// How long it waits when the machine has no file descriptor left.
const WITHOUT_FILES: Duration = Duration::from_millis(200);

/// What a connection beyond the limit is told where it is plain HTTP/1.1; another is closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Length: 0\r\n\r\n";

/// Serves until `stop`, and then until the last connection has ended with its request.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let places = Places::new(&limits);
    let open = metrics::gauge!("lessor_connections");
    let connections = TaskTracker::new();
    let shared = Arc::new(Shared {
        router,
        limits,
        stop: stop.clone(),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                unless_fatal(&error).await;
                continue;
            }
        };
        let peer = peer.ip().to_canonical();
        let Some(place) = places.take(peer, shared.limits.proxies.contain(peer)) else {
            refuse(&stream, tls.is_some());
            continue;
        };
        // Answers are small and whole: nothing is gained by waiting for more of them.
        let _ = stream.set_nodelay(true);
        open.increment(1.0);
        let (shared, tls, open) = (Arc::clone(&shared), tls.clone(), open.clone());
        connections.spawn(async move {
            carry(stream, peer, shared, tls, place).await;
            open.decrement(1.0);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn carry(
    stream: TcpStream,
    peer: IpAddr,
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    place: Place,
) {
    let patience = shared.limits.slow_after;
    if let Some(tls) = tls {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(patience, tls.accept(stream)) => shaken,
            () = shared.stop.cancelled() => return,
        };
        match shaken {
            Ok(Ok((stream, is_h2))) => connection::serve(stream, is_h2, peer, shared).await,
            Ok(Err(error)) => tracing::debug!(%error, client = %peer, "no TLS came about"),
            Err(_) => tracing::debug!(client = %peer, "no TLS came about in time"),
        }
    } else {
        let begun = tokio::select! {
            begun = protocol::is_h2(&stream, patience) => begun,
            () = shared.stop.cancelled() => return,
        };
        if let Ok(is_h2) = begun {
            connection::serve(stream, is_h2, peer, shared).await;
        }
    }
    drop(place);
}

/// Says that there is no room, without waiting for anything.
fn refuse(stream: &TcpStream, is_tls: bool) {
    metrics::counter!("lessor_connections_refused_total").increment(1);
    if !is_tls {
        let _ = stream.try_write(FULL);
        // What was sent and is not read would have the kernel reset the connection, answer and all.
        let mut request = [0; 4_096];
        let _ = stream.try_read(&mut request);
    }
}

/// A connection that broke before it was accepted is no matter; without file descriptors it waits.
async fn unless_fatal(error: &io::Error) {
    if matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "a connection could not be accepted");
    tokio::time::sleep(WITHOUT_FILES).await;
}
