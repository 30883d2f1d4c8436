//! Drives awa: a job that does nothing, on its default storage, with its path for jobs without a deadline.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use awa::{
    Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig, insert,
    migrations,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::AsyncBufReadExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Done = Result<(), Box<dyn Error>>;

const QUEUE: &str = "nothing";

#[derive(Serialize, Deserialize, JobArgs)]
struct Nothing {}

/// Jobs handled, and when.
struct Handler {
    handled: AtomicU64,
    begun: UnboundedSender<Instant>,
    tell: bool,
}

#[tokio::main]
async fn main() -> Done {
    let wanted = std::env::args().nth(1).ok_or("nothing is wanted")?;
    let wanted: Value = serde_json::from_str(&wanted)?;
    let pool = PgPoolOptions::new()
        .max_connections(24)
        .connect(wanted["url"].as_str().ok_or("no url")?)
        .await?;
    match wanted["mode"].as_str() {
        Some("fill") => fill(&pool, number(&wanted["count"])).await,
        Some("work") => work(&pool, &wanted).await,
        Some("wake") => wake(&pool, &wanted).await,
        _ => Err("no such mode".into()),
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0)
}

fn client(pool: &PgPool, settings: &Value, handler: &Arc<Handler>) -> Result<Client, Box<dyn Error>> {
    let handler = Arc::clone(handler);
    let config = QueueConfig {
        max_workers: number(&settings["workers"]).max(1).try_into()?,
        claimers: number(&settings["claimers"]).max(1).try_into()?,
        deadline_duration: Duration::ZERO,
        poll_interval: Duration::from_millis(50),
        ..QueueConfig::default()
    };
    Ok(Client::builder(pool.clone())
        .queue(QUEUE, config)
        .register::<Nothing, _, _>(move |_, _| {
            handler.handled.fetch_add(1, Ordering::Relaxed);
            if handler.tell {
                let _ = handler.begun.send(Instant::now());
            }
            async { Ok(JobResult::Completed) }
        })
        .build()?)
}

fn handler(tell: bool) -> (Arc<Handler>, UnboundedReceiver<Instant>) {
    let (begun, times) = unbounded_channel();
    let handled = AtomicU64::new(0);
    (Arc::new(Handler { handled, begun, tell }), times)
}

/// Makes its tables where they are missing; its storage is decided when a worker first starts.
async fn prepare(pool: &PgPool) -> Result<QueueStorage, Box<dyn Error>> {
    migrations::run(pool).await?;
    let first = client(pool, &json!({}), &handler(false).0)?;
    first.start().await?;
    first.shutdown(Duration::from_secs(10)).await;
    Ok(QueueStorage::new(QueueStorageConfig::default())?)
}

async fn add(pool: &PgPool, store: &QueueStorage, jobs: usize) -> Done {
    let job = || {
        let opts = InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() };
        insert::params_with(&Nothing {}, opts)
    };
    let jobs = (0..jobs).map(|_| job()).collect::<Result<Vec<_>, _>>()?;
    if jobs.len() == 1 {
        store.enqueue_params_batch(pool, &jobs).await?;
    } else {
        store.enqueue_params_copy(pool, &jobs).await?;
    }
    Ok(())
}

async fn fill(pool: &PgPool, count: usize) -> Done {
    let store = prepare(pool).await?;
    let mut left = count;
    while left > 0 {
        let jobs = left.min(10_000);
        add(pool, &store, jobs).await?;
        left -= jobs;
    }
    Ok(())
}

async fn work(pool: &PgPool, wanted: &Value) -> Done {
    let (handler, _times) = handler(false);
    let client = client(pool, &wanted["settings"], &handler)?;
    println!("{}", json!({"ready": true}));
    let mut line = String::new();
    tokio::io::BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
    client.start().await?;
    let seconds = |name: &str| Duration::from_secs_f64(wanted[name].as_f64().unwrap_or(1.0));
    tokio::time::sleep(seconds("warm_seconds")).await;
    let (before, begun) = (handler.handled.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(seconds("seconds")).await;
    let (after, took) = (handler.handled.load(Ordering::Relaxed), begun.elapsed());
    client.shutdown(Duration::from_secs(30)).await;
    let handled = handler.handled.load(Ordering::Relaxed);
    println!("{}", json!({"count": after - before, "seconds": took.as_secs_f64(), "handled": handled}));
    Ok(())
}

async fn wake(pool: &PgPool, wanted: &Value) -> Done {
    let store = prepare(pool).await?;
    let (handler, mut times) = handler(true);
    let client = client(pool, &wanted["settings"], &handler)?;
    client.start().await?;
    let (samples, unmeasured) = (number(&wanted["samples"]), number(&wanted["unmeasured"]));
    let pause = wanted["pause_ms"].as_f64().unwrap_or(20.0);
    let mut milliseconds = Vec::with_capacity(samples);
    for sample in 0..samples + unmeasured {
        // From half of the pause to one and a half, in steps that do not repeat soon.
        let part = 0.5 + (sample * 37 % 100) as f64 / 100.0;
        tokio::time::sleep(Duration::from_secs_f64(pause * part / 1e3)).await;
        let begun = Instant::now();
        add(pool, &store, 1).await?;
        let woken = times.recv().await.ok_or("no handler")?;
        if sample >= unmeasured {
            milliseconds.push(woken.duration_since(begun).as_secs_f64() * 1e3);
        }
    }
    client.shutdown(Duration::from_secs(10)).await;
    println!("{}", json!({"milliseconds": milliseconds}));
    Ok(())
}
