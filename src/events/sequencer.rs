//! The sequencer: gives positions to what has been committed.
//!
//! It is level-triggered: each step looks at what is in the inbox. A commit on this server wakes it,
//! and it looks each second in any case. A step is one statement, so that a server which stands still
//! keeps the turn from nobody; what it rolls back leaves no hole, since numbers come from the head's
//! row and not from a sequence.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inbox::{Beginning, Noted};
use super::store::{self, Step};
use crate::app::App;
use crate::error::{Error, Result};
use crate::store::PATIENCE;
use crate::wakeups::Hints;

/// How frequently it looks when nobody wakes it.
const SAFETY: Duration = Duration::from_secs(1);

/// For how long commits are gathered into one step.
const GATHER: Duration = Duration::from_millis(4);

/// The pause after which the turn is tried for again that another server had.
const TURN: Duration = Duration::from_millis(3);

/// Gives positions until it is cancelled.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut beginning = Beginning::new(Instant::now());
    while !stop.is_cancelled() {
        let (began, from) = (Instant::now(), beginning.next(Instant::now()));
        let stepped = step(&app, from).await;
        let ended = Instant::now();
        if let Ok(step) = &stepped {
            let noted = Noted {
                drawn: step.drawn,
                own_xid: step.own_xid,
                oldest_xid: step.oldest_xid,
            };
            let left = !step.had_turn || step.more;
            beginning.stepped(from, noted, left, (began, ended));
        }
        let pause = match stepped {
            // Whoever has the turn may have begun before what was committed here.
            Ok(step) if !step.had_turn => TURN,
            Ok(step) if step.more => continue,
            Ok(_) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    // No more than half of the time, whatever a step takes.
                    () = app.db.committed.notified() => GATHER.max(ended - began),
                    () = tokio::time::sleep(SAFETY) => Duration::ZERO,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "events could not be given positions; that is tried again");
                metrics::counter!("lessor_upkeep_failures_total", "task" => "sequencer")
                    .increment(1);
                Duration::from_millis(500)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn step(app: &App, from: i64) -> Result<Step> {
    let step = app
        .db
        .statement("events::sequence", move |conn| {
            Box::pin(store::sequence(conn, from))
        })
        .await?;
    if step.moved > 0 {
        metrics::counter!("lessor_events_sequenced_total").increment(step.moved.unsigned_abs());
        app.hub.committed(Hints {
            events: true,
            ..Hints::default()
        });
    }
    Ok(step)
}

/// Returns when everything that was committed before the call has its position.
///
/// # Errors
/// `DatabaseUnavailable`, also when that takes too long.
pub async fn settle(app: &App) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let step = step(app, 0).await?;
        if step.had_turn && !step.more {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = "events wait for their positions for too long";
            return Err(Error::DatabaseUnavailable(why.to_owned()));
        }
        if !step.had_turn {
            tokio::time::sleep(TURN).await;
        }
    }
}
