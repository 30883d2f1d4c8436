//! Load past the limit: what cannot be done is refused at once, agents keep their leases, memory is
//! bounded, and all of it is over when the load is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lessor_protocol::{NewSession, PoolSpec};
use serde_json::json;

use crate::support::checks::WAIT_FOR_LOCKS;
use crate::support::process::ServerProcess;
use crate::support::{TestAgent, database, eventually};

/// How many calls of users the server takes on at once here.
const ROOM: usize = 16;

/// How many callers there are, each with one call under way: ten times as many.
const CALLERS: usize = 10 * ROOM;

const AGENTS: usize = 20;
const LEASE_TTL_SECONDS: f64 = 10.0;
const LOAD: Duration = Duration::from_secs(12);

/// After how long a caller comes back that was told to come back in a second.
const IMPATIENCE: Duration = Duration::from_millis(200);

/// What the callers met.
#[derive(Default)]
struct Met {
    made: AtomicUsize,
    shed: AtomicUsize,
    slowest_ms: AtomicUsize,
}

/// How much memory a process has ever had, in MiB.
fn peak_mib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    let kib: usize = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kib / 1_024
}

/// Calls again and again, whatever it is told, until it is enough.
async fn insist(http: reqwest::Client, url: String, met: Arc<Met>, enough: Arc<AtomicBool>) {
    let new = NewSession::in_pool("p", &json!({"padding": "x".repeat(20_000)})).expect("a spec");
    let body = serde_json::to_vec(&new).expect("JSON");
    while !enough.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = http
            .post(format!("{url}/v1/sessions"))
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
            .await
            .expect("an answer");
        let (status, retry) = (
            answer.status().as_u16(),
            answer.headers().get("retry-after").cloned(),
        );
        let text = answer.text().await.expect("a body");
        match status {
            201 => met.made.fetch_add(1, Ordering::Relaxed),
            503 => {
                assert_eq!(retry.as_ref().map(|r| r.as_bytes()), Some(&b"1"[..]));
                assert!(text.contains("\"overloaded\""), "{text}");
                met.shed.fetch_add(1, Ordering::Relaxed)
            }
            _ => panic!("{status}: {text}"),
        };
        let ms = usize::try_from(begun.elapsed().as_millis()).expect("small");
        met.slowest_ms.fetch_max(ms, Ordering::Relaxed);
        if status == 503 {
            tokio::time::sleep(IMPATIENCE).await;
        }
    }
}

/// Beats each second, and again at once where it was told to, as agents do; the longest time between a
/// beat and the answer that it was taken.
async fn beat(agent: TestAgent, enough: Arc<AtomicBool>) -> Duration {
    let mut slowest = Duration::ZERO;
    while !enough.load(Ordering::Relaxed) {
        let begun = Instant::now();
        while let Err(error) = agent.beat().await {
            // Never for want of a place: that is what they have their own for.
            let text = format!("{error:?}");
            assert!(
                error.is_retryable() && !text.contains("overloaded"),
                "{text}"
            );
        }
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_secs_f64(LEASE_TTL_SECONDS / 10.0)).await;
    }
    slowest
}

async fn metric(server: &ServerProcess, name: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", server.url)).await;
    let text = text.expect("metrics").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_and_no_agent_notices() {
    let database = database().await;
    let room = ROOM.to_string();
    let environment = [
        ("LESSOR_MAX_REQUESTS", room.as_str()),
        ("LESSOR_LOG", "error"),
    ];
    let server = ServerProcess::start_with(&database.url, &environment, None).await;
    let mut pool = PoolSpec::on("process");
    pool.lease_ttl_seconds = LEASE_TTL_SECONDS;
    server.client.put_pool("p", &pool).await.expect("the pool");
    let (enough, met) = (Arc::new(AtomicBool::new(false)), Arc::new(Met::default()));
    let mut beats = Vec::new();
    for n in 0..AGENTS {
        let mut agent = TestAgent::new(&server.client, &format!("a{n}"), ("p", "d"), 1);
        agent.register(&[]).await;
        beats.push(tokio::spawn(beat(agent, Arc::clone(&enough))));
    }
    let before = peak_mib(server.pid());
    let http = reqwest::Client::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            tokio::spawn(insist(
                http.clone(),
                server.url.clone(),
                Arc::clone(&met),
                Arc::clone(&enough),
            ))
        })
        .collect();
    // The load itself is for a time, and longer than a lease.
    tokio::time::sleep(LOAD).await;
    enough.store(true, Ordering::Relaxed);
    let over = Instant::now();
    for caller in callers {
        caller.await.expect("it was answered rightly");
    }
    // It is itself again: what is asked now is done, and soon.
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    server
        .client
        .create_session(&new, None)
        .await
        .expect("there is room again");
    let recovered = over.elapsed();
    let mut slowest_beat = Duration::ZERO;
    for beat in beats {
        slowest_beat = slowest_beat.max(beat.await.expect("every beat was taken"));
    }
    let (made, shed) = (
        met.made.load(Ordering::Relaxed),
        met.shed.load(Ordering::Relaxed),
    );
    let slowest = met.slowest_ms.load(Ordering::Relaxed);
    let grown = peak_mib(server.pid()).saturating_sub(before);
    println!(
        "{made} made, {shed} shed, slowest {slowest} ms, slowest beat {slowest_beat:?}, recovered in \
         {recovered:?}, {grown} MiB more"
    );
    assert!(made > 0, "nothing was done");
    assert!(shed > made, "only {shed} of {} were shed", made + shed);
    assert!(
        slowest_beat.as_secs_f64() < LEASE_TTL_SECONDS * 2.0 / 3.0,
        "{slowest_beat:?}"
    );
    assert!(recovered < Duration::from_secs(3), "{recovered:?}");
    assert!(grown < 100, "{grown} MiB");
    assert_eq!(metric(&server, "lessor_leases_expired_total ").await, 0.0);
    assert_eq!(
        metric(&server, "lessor_http_shed_total ").await,
        shed as f64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_takes_his_place_with_him_only_when_the_work_is_done() {
    use tokio::io::AsyncWriteExt as _;
    let database = database().await;
    let environment = [("LESSOR_MAX_REQUESTS", "2"), ("LESSOR_LOG", "error")];
    let server = ServerProcess::start_with(&database.url, &environment, None).await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("the pool");
    // Changes of this session wait for its lock, on and on.
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("a session");
    let holder = database.client().await;
    let locked = format!(
        "BEGIN; SELECT 1 FROM sessions WHERE id = '{}' FOR UPDATE",
        session.id
    );
    holder.batch_execute(&locked).await.expect("a lock");
    // Not by the holder: what connections there are is seen once for a transaction, and some are opened later.
    let watcher = database.client().await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let body = "{\"priority\":7}";
    let request = format!(
        "PATCH /v1/sessions/{} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        session.id,
        body.len()
    );
    for n in 1..=2 {
        let mut stream = tokio::net::TcpStream::connect(&address)
            .await
            .expect("it connects");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        eventually("its work waits for the lock, too", || async {
            let row = watcher
                .query_one(WAIT_FOR_LOCKS, &[])
                .await
                .expect("a count");
            row.get::<_, i64>(0) == n
        })
        .await;
        drop(stream);
    }
    // Two are at work whose clients have gone: there is no room for a third.
    eventually("there is no room", || async {
        let answer = reqwest::get(format!("{}/v1", server.url)).await;
        answer.is_ok_and(|answer| answer.status() == 503)
    })
    .await;
    holder
        .batch_execute("ROLLBACK")
        .await
        .expect("the lock is given back");
    eventually("there is room", || async {
        let answer = reqwest::get(format!("{}/v1", server.url)).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}
