//! The stream of events with 1,000 readers: whether every event comes to every reader, and how much of
//! their rate the writers keep.
//!
//! Writers create sessions one after the other over a few connections; each creation is an event. In each
//! round they write for a time with no reader, then for the same time with 1,000 streams open without a
//! filter, so that each event is sent 1,000 times. A reader looks at nothing but the ids: they are
//! positions, dense, so one that is not the last plus one is a hole. At the end every reader must come to
//! the newest position there is.
//!
//! Readers are tasks of the bench and share the machine's cores with the service and the database. What
//! it costs to read takes from the writers too; on few cores that is a good part of what is measured.
//! How many events a second were delivered in all is told beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::bench::{Bench, connect};
use crate::error::{Error, Result};
use crate::fleet;
use crate::load;
use crate::measure::{Line, Target};
use crate::scenarios::wake::session;
use crate::service::Service;

const READERS: usize = 1_000;

const WRITERS: usize = 4;

/// How long readers may take to come to the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    fleet::allow_files(4_000)?;
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
    let client = connect(&database.url).await?;
    let readers = bench.effort.size(READERS, 50);
    let (mut rounds, mut missed, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let alone = write(&service, bench.effort.time).await?;
        newest(&client).await?;
        let streams = open(&service, readers).await?;
        let before = newest(&client).await?;
        let begun = Instant::now();
        let with_readers = write(&service, bench.effort.time).await?;
        let until = newest(&client).await?;
        missed.push(streams.end(until).await?);
        let sent = (until - before) * readers as u64;
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        delivered.push(sent as f64 / begun.elapsed().as_secs_f64());
        rounds.push((with_readers, alone));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    let case = format!("writers with {readers} readers");
    Ok(vec![
        Line::ratio(case, "/s", "no reader", &rounds, Target::AtLeast(0.9)),
        Line::value(
            "events missed, all readers",
            "",
            &missed,
            Target::AtMost(0.0),
        ),
        Line::value("events delivered", "/s", &delivered, Target::None),
    ])
}

/// Creates sessions for a time; how many a second.
async fn write(service: &Service, time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let body = serde_json::to_vec(&session("p")?)?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let mut connection = service.connect().await?;
        let body = body.clone();
        writers.push(tokio::spawn(async move {
            let mut written = 0.0;
            while begun.elapsed() < time {
                let sent = connection.send(Method::POST, "/v1/sessions", body.clone());
                let (status, said) = sent.await?;
                if !status.is_success() {
                    let said = String::from_utf8_lossy(&said).into_owned();
                    return Err(Error::said(format!("a session was refused: {said}")));
                }
                written += 1.0;
            }
            Ok(written)
        }));
    }
    let mut written = 0.0;
    for writer in writers {
        written += writer
            .await
            .map_err(|error| Error::said(error.to_string()))??;
    }
    Ok(written / begun.elapsed().as_secs_f64())
}

/// The newest position, once every event has one.
async fn newest(client: &Client) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let row = client
            .query_one(
                "SELECT (SELECT last_position FROM event_head), EXISTS (SELECT FROM event_inbox)",
                &[],
            )
            .await?;
        let (position, waiting): (i64, bool) = (row.get(0), row.get(1));
        if !waiting {
            return Ok(position.unsigned_abs());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::said("events were given no positions"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Open streams.
struct Streams {
    readers: Vec<(Arc<Seen>, JoinHandle<()>)>,
}

/// What a reader has seen.
#[derive(Default)]
struct Seen {
    position: AtomicU64,
    /// Positions that it was not sent.
    skipped: AtomicU64,
    ended: AtomicBool,
}

async fn open(service: &Service, count: usize) -> Result<Streams> {
    let mut readers = Vec::with_capacity(count);
    for _ in 0..count {
        let seen = Arc::new(Seen::default());
        let mut stream = TcpStream::connect(&service.address)
            .await
            .map_err(Error::io("connect to", service.address.as_ref()))?;
        let request = format!(
            "GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n",
            service.address
        );
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(Error::io("write to", service.address.as_ref()))?;
        let task = tokio::spawn(read(stream, Arc::clone(&seen)));
        readers.push((seen, task));
    }
    let streams = Streams { readers };
    // Each is told where it begins.
    streams.come_to(1).await?;
    Ok(streams)
}

impl Streams {
    /// Waits until every reader has come to a position, or for as long as patience lasts.
    async fn come_to(&self, position: u64) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut seen = self.readers.iter().map(|(seen, _)| seen);
            if seen.all(|seen| seen.position.load(Ordering::Relaxed) >= position) {
                return Ok(());
            }
            if self
                .readers
                .iter()
                .any(|(seen, _)| seen.ended.load(Ordering::Relaxed))
            {
                return Err(Error::said("a stream ended"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// How many events were missed in all, up to a position.
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    async fn end(self, until: u64) -> Result<f64> {
        self.come_to(until).await?;
        let mut missed = 0;
        for (seen, task) in &self.readers {
            task.abort();
            missed += seen.skipped.load(Ordering::Relaxed);
            missed += until.saturating_sub(seen.position.load(Ordering::Relaxed));
        }
        Ok(missed as f64)
    }
}

/// Reads ids until the stream ends.
async fn read(mut stream: TcpStream, seen: Arc<Seen>) {
    let mut buffer = vec![0; 64 * 1024];
    // The beginning of a line whose end has not come yet.
    let mut held = 0;
    loop {
        match stream.read(&mut buffer[held..]).await {
            Ok(0) | Err(_) => break,
            Ok(more) => held += more,
        }
        let mut begin = 0;
        while let Some(length) = memchr::memchr(b'\n', &buffer[begin..held]) {
            see(&buffer[begin..begin + length], &seen);
            begin += length + 1;
        }
        buffer.copy_within(begin..held, 0);
        held -= begin;
        if held == buffer.len() {
            break;
        }
    }
    seen.ended.store(true, Ordering::Relaxed);
}

fn see(line: &[u8], seen: &Seen) {
    let id = line
        .strip_prefix(b"id: ")
        .and_then(|id| std::str::from_utf8(id).ok());
    let Some(id) = id.and_then(|id| id.trim().parse::<u64>().ok()) else {
        return;
    };
    let before = seen.position.swap(id, Ordering::Relaxed);
    // The first one is where the stream begins; one that is told again comes with "still here".
    if before > 0 && id > before + 1 {
        seen.skipped.fetch_add(id - before - 1, Ordering::Relaxed);
    }
}
