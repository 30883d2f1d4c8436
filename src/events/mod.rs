//! History: events, written in the transaction of the change they tell of, then given positions, and
//! streamed.
//!
//! - Writers insert into `events`, in the statement that makes the change, as a batch with a number; the inbox
//!   gets a row for the batch. So an event is written once, and what comes after that costs by the batch.
//! - The sequencer (`sequencer.rs`) moves the rows of what is committed from there to `event_batches`, with
//!   the positions. Every server has one; the lock of the one row of `event_head` lets one at a time do a step.
//! - The tail (`tail.rs`) reads new events once per server and keeps the latest in memory; streams
//!   (`stream.rs`) take them from there, and from the table when they are further back.
//!
//! Invariants:
//! - Positions are dense, and are never given to another event: from the oldest kept to the newest
//!   there is no hole, and they become visible in their order. So "after 7" means the same on every server.
//! - A session's events have positions in the order of its changes: its row is locked when the number of
//!   their batch is drawn, and a snapshot that shows a change shows those before it. So a session's batches have
//!   their positions in the order of their numbers; those of others need not.
//! - What is not committed is not waited for: a long transaction holds up nobody else's events.
//! - Only retention deletes events, from the oldest on; those of deleted sessions stay until then.
//! - An idle stream holds no database connection, and a slow one no more than a page.

mod batch;
pub mod http;
mod inbox;
mod row;
mod sequencer;
pub mod state;
mod store;
mod stream;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use lessor_protocol::ActorType;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::app::App;
use crate::error::Result;
use crate::store::arg_row;

pub use row::{EventRow, LedgerRow};
pub use sequencer::settle;
pub use store::Kept;
pub use tail::{Tail, kept};

/// An event that is to be written.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct NewEvent {
    pub kind: &'static str,
    pub at: DateTime<Utc>,
    pub pool: String,
    pub owner: Option<String>,
    pub session_id: Option<Uuid>,
    pub agent: Option<String>,
    pub incarnation: Option<i64>,
    pub lease_epoch: Option<i64>,
    pub generation: Option<i64>,
    pub actor_type: ActorType,
    pub actor_name: String,
    pub from_value: Option<String>,
    pub to_value: Option<String>,
    pub reason: Option<String>,
    pub data: serde_json::Value,
}

arg_row! {
    /// An event that is to be written.
    pub ArgEvent("arg_event") of NewEvent, |event| {
        kind: Text = event.kind,
        at: Timestamptz = event.at,
        pool: Text = &event.pool,
        owner: Nullable<Text> = event.owner.as_deref(),
        session_id: Nullable<SqlUuid> = event.session_id,
        agent: Nullable<Text> = event.agent.as_deref(),
        incarnation: Nullable<BigInt> = event.incarnation,
        lease_epoch: Nullable<BigInt> = event.lease_epoch,
        generation: Nullable<BigInt> = event.generation,
        actor_type: Text = event.actor_type.as_str(),
        actor_name: Text = &event.actor_name,
        from_value: Nullable<Text> = event.from_value.as_deref(),
        to_value: Nullable<Text> = event.to_value.as_deref(),
        reason: Nullable<Text> = event.reason.as_deref(),
        data: Jsonb = &event.data,
    }
}

/// Starts the sequencer and the tail of this server.
pub fn start(app: &Arc<App>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(sequencer::run(Arc::clone(app), stop.clone()));
    tasks.spawn(tail::run(Arc::clone(app), stop.clone()));
}

/// The first events, up to 200, of the positions after `after` and up to `until` that pass a filter.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn page(
    app: &App,
    filter: state::Filter,
    after: i64,
    until: i64,
) -> Result<Vec<lessor_protocol::Event>> {
    let rows = app
        .db
        .read("events::page", move |conn| {
            Box::pin(async move { store::page(conn, &filter, after, until).await })
        })
        .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Deletes events that are past retention, a batch; whether there may be more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn delete_old(app: &App, keep: Duration) -> Result<bool> {
    let keep_seconds = keep.as_secs_f64();
    let deleted = app
        .db
        .write("events::delete_old", move |conn| {
            Box::pin(store::delete_old(conn, keep_seconds))
        })
        .await?;
    Ok(deleted >= store::DELETED_AT_ONCE)
}

/// Sets the gauges of what has no position yet.
///
/// # Errors
/// `DatabaseUnavailable`.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub async fn gauges(app: &App) -> Result<()> {
    let backlog = app
        .db
        .read("events::backlog", |conn| Box::pin(store::backlog(conn)))
        .await?;
    metrics::gauge!("lessor_events_unsequenced").set(backlog.events as f64);
    metrics::gauge!("lessor_events_lag_seconds").set(backlog.seconds);
    Ok(())
}
