//! The tail: the latest events, read once per server and kept in memory for all its streams.
//!
//! It reads only while there is a stream. What it keeps is bounded in number and bytes; a stream that
//! is further back reads from the database until it has caught up. Nothing is sent to streams: they
//! are woken, and look. So a slow one makes nothing grow, and a lost wake-up costs a second.
//!
//! What one read brings is one batch: a stream without a filter sends its bytes in one piece, made once
//! for all of them. The more streams there are, the longer it pauses between reads, so that what it costs
//! to wake them is shared by more events.
//!
//! Invariant: what is in memory is contiguous; where the database no longer fits to it (it was
//! replaced by an older one), all streams end, and their clients find out when they resume.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::state::Filter;
use super::store::{self, Kept, PAGE};
use crate::app::App;
use crate::error::{Error, Result};

/// The most events that are kept in memory.
const MAX_EVENTS: usize = 10_000;

/// The most bytes of them.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// How many streams read from the database at the same time.
const CATCHING_UP: usize = 4;

/// How frequently it looks when nobody wakes it.
const SAFETY: Duration = Duration::from_secs(1);

/// The pause between two reads for each stream that is woken by them: several times what waking and
/// writing to one costs, so that this stays a small part of a processor.
const PAUSE_PER_STREAM: Duration = Duration::from_micros(100);

/// The longest pause between two reads: events come later by that at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What a stream finds when it looks for what comes after a position.
#[derive(Debug)]
pub enum Look {
    /// These; some may be before the position.
    Batch(Arc<Batch>),
    /// What comes next, up to this position, is in the database only.
    Behind(i64),
    /// Nothing yet.
    Nothing,
    /// The history is another one than when the stream began.
    Broken,
}

#[derive(Debug, Default)]
struct Ring {
    /// How often the history was replaced by another one.
    generation: u64,
    /// The newest position that is known; none while nobody streams.
    end: Option<i64>,
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    bytes: usize,
}

/// The latest events of this server, and how many stream them.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    changed: watch::Sender<()>,
    streams: AtomicUsize,
    max_streams: usize,
    catching_up: Semaphore,
}

/// A stream's place; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    tail: Tail,
    generation: u64,
    changed: watch::Receiver<()>,
}

impl Tail {
    /// A tail for so many streams at most.
    #[must_use]
    pub fn new(max_streams: usize) -> Self {
        Self(Arc::new(Inner {
            ring: Mutex::default(),
            changed: watch::Sender::new(()),
            streams: AtomicUsize::new(0),
            max_streams,
            catching_up: Semaphore::new(CATCHING_UP),
        }))
    }

    /// Takes a place. Only then should be asked where the stream begins.
    ///
    /// # Errors
    /// `TooManyStreams`.
    pub fn sit(&self) -> Result<Seat> {
        let most = self.0.max_streams;
        let more = |streams: usize| (streams < most).then_some(streams + 1);
        self.0
            .streams
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map_err(|_| Error::TooManyStreams(most))?;
        metrics::gauge!("lessor_event_streams").increment(1.0);
        Ok(Seat {
            generation: self.ring().generation,
            changed: self.0.changed.subscribe(),
            tail: self.clone(),
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest position that is known. Forgets everything when nobody streams.
    fn end(&self) -> Option<i64> {
        let mut ring = self.ring();
        if self.0.streams.load(Ordering::SeqCst) == 0 {
            *ring = Ring {
                generation: ring.generation,
                ..Ring::default()
            };
        }
        ring.end
    }

    /// How long to wait before the next read.
    fn pause(&self) -> Duration {
        let streams = u32::try_from(self.0.streams.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        PAUSE_PER_STREAM.saturating_mul(streams).min(LONGEST_PAUSE)
    }

    fn begin(&self, end: i64) {
        self.ring().end = Some(end);
        self.0.changed.send_replace(());
    }

    /// Takes a batch, which has one event or more.
    fn push(&self, batch: Batch) {
        let mut ring = self.ring();
        ring.end = Some(batch.last());
        ring.events += batch.count();
        ring.bytes += batch.size();
        ring.batches.push_back(Arc::new(batch));
        while ring.events > MAX_EVENTS || ring.bytes > MAX_BYTES {
            let Some(oldest) = ring.batches.pop_front() else {
                break;
            };
            ring.events -= oldest.count();
            ring.bytes -= oldest.size();
        }
        drop(ring);
        self.0.changed.send_replace(());
    }

    fn replaced(&self) {
        let mut ring = self.ring();
        *ring = Ring {
            generation: ring.generation + 1,
            ..Ring::default()
        };
        drop(ring);
        self.0.changed.send_replace(());
    }
}

impl Seat {
    /// What comes after a position. What changes after this call wakes [`Seat::changed`].
    pub fn look(&mut self, after: i64) -> Look {
        self.changed.mark_unchanged();
        let ring = self.tail.ring();
        if ring.generation != self.generation {
            return Look::Broken;
        }
        let Some(end) = ring.end else {
            return Look::Nothing;
        };
        if after >= end {
            return Look::Nothing;
        }
        let first = ring.batches.front().map_or(end + 1, |batch| batch.first());
        if after + 1 < first {
            return Look::Behind(first - 1);
        }
        let at = ring.batches.partition_point(|batch| batch.last() <= after);
        match ring.batches.get(at) {
            Some(batch) => Look::Batch(Arc::clone(batch)),
            None => Look::Nothing,
        }
    }

    /// Resolves once something has changed since the last look.
    pub async fn changed(&mut self) {
        // The sender is in the tail, which this seat keeps alive.
        let _ = self.changed.changed().await;
    }

    /// Where reads from the database take turns, so that those who catch up leave it to others too.
    pub fn catching_up(&self) -> &Semaphore {
        &self.tail.0.catching_up
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tail.0.streams.fetch_sub(1, Ordering::SeqCst);
        metrics::gauge!("lessor_event_streams").decrement(1.0);
    }
}

/// Reads new events until it is cancelled.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.hub.events.notified() => {}
            () = tokio::time::sleep(SAFETY) => {}
        }
        // What comes meanwhile is read with what came first.
        tokio::time::sleep(app.tail.pause()).await;
        loop {
            match advance(&app).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "new events could not be read; that is tried again");
                    break;
                }
            }
        }
    }
}

/// Reads what is new, a page at most; whether there may be more.
async fn advance(app: &App) -> Result<bool> {
    let streams = app.tail.0.streams.load(Ordering::SeqCst);
    let Some(end) = app.tail.end() else {
        if streams > 0 {
            app.tail.begin(kept(app).await?.last);
        }
        return Ok(false);
    };
    let rows = app
        .db
        .read("events::tail", move |conn| {
            Box::pin(async move { store::page(conn, &Filter::default(), end, i64::MAX).await })
        })
        .await?;
    if rows.is_empty() {
        if kept(app).await?.last < end {
            tracing::error!(
                end,
                "the newest event is older than it was: the database is another one"
            );
            app.tail.replaced();
        }
        return Ok(false);
    }
    let dense = rows
        .iter()
        .zip(end + 1..)
        .all(|(row, position)| row.id == position);
    if !dense {
        tracing::error!(
            end,
            "events are missing behind the newest one that was known"
        );
        app.tail.replaced();
        return Ok(true);
    }
    let more = rows.len() == PAGE;
    app.tail.push(Batch::of(rows)?);
    Ok(more)
}

/// Which positions are kept.
pub async fn kept(app: &App) -> Result<Kept> {
    app.db
        .read("events::kept", |conn| Box::pin(store::kept(conn)))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_streams_make_the_pause_longer_up_to_a_limit() {
        let tail = Tail::new(5_000);
        assert_eq!(tail.pause(), Duration::ZERO);
        let mut seats = vec![tail.sit().expect("a seat")];
        assert_eq!(tail.pause(), PAUSE_PER_STREAM);
        seats.extend((1..5_000).map(|_| tail.sit().expect("a seat")));
        assert_eq!(tail.pause(), LONGEST_PAUSE);
    }
}
