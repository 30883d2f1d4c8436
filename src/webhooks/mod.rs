//! Webhooks: events that are sent to addresses, as Standard Webhooks has it.
//!
//! - `calls.rs` is what people do with them; `http.rs` has the routes.
//! - The driver (`deliver.rs`) of each server takes in hand what has something to send, reads it from the
//!   history (`events`) and sends it (`send.rs`), signed (`sign.rs`), to addresses that are allowed
//!   (`address.rs`).
//!
//! Invariants:
//! - Every event that passes is sent until the receiver takes it: at least once, those of one webhook in
//!   their order, and the same together under the same id. A receiver that fails keeps only its own waiting.
//! - What is past retention before it could be sent is said to be missing.
//! - A webhook of a tenant is sent what belongs to that tenant, and nothing else.
//! - Nothing is connected to but the public Internet and what the settings allow (`address.rs`).
//!
//! What it does not do: send to two receivers at once for one webhook, or keep what was sent.

pub mod address;
mod calls;
mod deliver;
pub mod http;
mod queue;
mod send;
mod sign;
mod state;
mod store;
mod table;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::error::{Error, Result};

use address::Allowed;
use send::Sender;

/// What the service keeps of webhooks: truth is in the database.
#[derive(Debug)]
pub struct Webhooks {
    sender: Sender,
    /// Woken when one was created or changed on this server.
    created: Notify,
}

impl Webhooks {
    /// Which send to the public Internet, and to these addresses.
    ///
    /// # Errors
    /// `Internal` when TLS cannot be set up.
    pub fn new(allowed: Allowed) -> Result<Self> {
        Ok(Self {
            sender: Sender::new(allowed).map_err(Error::Internal)?,
            created: Notify::new(),
        })
    }
}

/// Starts the driver of this server.
pub fn start(app: &Arc<App>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(deliver::run(Arc::clone(app), stop.clone()));
}

/// A counter that is not there until it is first raised looks like a missing metric.
pub fn count_from_zero() {
    for outcome in deliver::OUTCOMES {
        metrics::counter!("lessor_webhook_deliveries_total", "outcome" => outcome).absolute(0);
    }
}

/// Sets the gauges.
///
/// # Errors
/// `DatabaseUnavailable`.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub async fn gauges(app: &App) -> Result<()> {
    let census = app
        .db
        .read("webhooks::census", |conn| Box::pin(queue::census(conn)))
        .await?;
    for (state, count) in [
        ("enabled", census.enabled),
        ("failing", census.failing),
        ("disabled", census.disabled),
    ] {
        metrics::gauge!("lessor_webhooks", "state" => state).set(count as f64);
    }
    metrics::gauge!("lessor_webhook_lag_events").set(census.behind as f64);
    Ok(())
}
