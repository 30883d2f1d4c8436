//! One stream: from where it is to the newest event, and on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, stream};
use lessor_protocol::EventGap;
use tokio::time::Instant;

use super::batch::Batch;
use super::state::{Beginning, Filter};
use super::store::{self, Kept, PAGE};
use super::tail::{Look, Seat};
use crate::app::App;
use crate::error::Result;

/// After how long without a word the stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many positions one read from the database looks at.
const SCAN: i64 = 10_000;

/// The pause after a read that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// A stream under way. What it has in hand is at most a page.
pub struct Reader {
    app: Arc<App>,
    filter: Filter,
    seat: Seat,
    /// Everything up to this position has been put into `ready`, or does not pass the filter.
    after: i64,
    /// The position that the client was last told.
    told: i64,
    ready: VecDeque<Bytes>,
    quiet_since: Instant,
}

impl Reader {
    /// A stream that begins there; `asked` is what the client has seen, for a gap.
    pub fn new(
        app: Arc<App>,
        seat: Seat,
        filter: Filter,
        at: Beginning,
        asked: i64,
        kept: Kept,
    ) -> Self {
        // The position at once: a client that is cut off before the first event resumes from here.
        // Not where there is a gap: one that is cut off before it hears of that is to hear of it again.
        let hello = if at.gap {
            ": events follow\nretry: 1000\n\n".to_owned()
        } else {
            format!(": events follow\nid: {}\nretry: 1000\n\n", at.after)
        };
        let mut reader = Self {
            app,
            filter,
            seat,
            after: at.after,
            told: at.after,
            ready: VecDeque::from([Bytes::from(hello)]),
            quiet_since: Instant::now(),
        };
        if at.gap {
            reader.skip(asked, at.after, kept);
        }
        reader
    }

    /// The bytes of the stream. It ends when the service stops, and when the history was replaced.
    pub fn into_bytes(
        self,
    ) -> impl Stream<Item = std::result::Result<Bytes, std::convert::Infallible>> {
        stream::unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Some((Ok(bytes), reader))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.app.stop.is_cancelled() {
                return None;
            }
            if let Some(bytes) = self.ready.pop_front() {
                self.quiet_since = Instant::now();
                return Some(bytes);
            }
            if self.quiet_since.elapsed() >= KEEP_ALIVE {
                self.keep_alive();
                continue;
            }
            match self.seat.look(self.after) {
                Look::Broken => return None,
                Look::Batch(batch) => self.take(&batch),
                Look::Behind(until) => self.catch_up(until).await,
                Look::Nothing => {
                    let stop = self.app.stop.clone();
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = self.seat.changed() => {}
                        () = tokio::time::sleep_until(self.quiet_since + KEEP_ALIVE) => {}
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        let (pieces, last) = batch.after(self.after, |subject| {
            self.filter.is_open() || self.filter.takes(subject)
        });
        self.ready.extend(pieces);
        self.told = last.unwrap_or(self.told);
        self.after = batch.last();
    }

    /// Says that it lives, and how far it is: events that do not pass the filter need not be looked
    /// at again after the client was cut off.
    fn keep_alive(&mut self) {
        let mut text = ": still here\n".to_owned();
        if self.after > self.told {
            text.push_str(&format!("id: {}\n", self.after));
            self.told = self.after;
        }
        text.push('\n');
        self.ready.push_back(Bytes::from(text));
    }

    /// Goes on after `to`, and says that what lies between cannot be had.
    fn skip(&mut self, asked: i64, to: i64, kept: Kept) {
        let gap = EventGap {
            asked: asked.to_string(),
            oldest: kept.first.to_string(),
            newest: kept.last.to_string(),
        };
        // Three strings: it cannot fail.
        let json = serde_json::to_string(&gap).unwrap_or_default();
        let block = format!("id: {to}\nevent: gap\ndata: {json}\n\n");
        self.ready.push_back(Bytes::from(block));
        (self.after, self.told) = (to, to);
    }

    /// Reads on from the database; everything up to `until` is there.
    async fn catch_up(&mut self, until: i64) {
        let until = match self.filter.session {
            // There is an index that leads from one event of a session to the next.
            Some(_) => until,
            None => until.min(self.after + SCAN),
        };
        if let Err(error) = self.read(until).await {
            tracing::debug!(%error, "a stream cannot read; that is tried again");
            let stop = self.app.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn read(&mut self, until: i64) -> Result<()> {
        let (filter, after) = (self.filter.clone(), self.after);
        let (rows, kept) = {
            // It is never closed.
            let _turn = self.seat.catching_up().acquire().await;
            self.app
                .db
                .read("events::page", move |conn| {
                    Box::pin(async move {
                        let rows = store::page(conn, &filter, after, until).await?;
                        // After the rows: what retention took before them shows here.
                        Ok((rows, store::kept(conn).await?))
                    })
                })
                .await?
        };
        if kept.first > after + 1 {
            self.skip(after, kept.first - 1, kept);
            return Ok(());
        }
        let full = rows.len() >= PAGE;
        if !rows.is_empty() {
            self.take(&Batch::of(rows)?);
        }
        if !full {
            self.after = until;
        }
        Ok(())
    }
}
