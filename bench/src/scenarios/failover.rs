//! The failover: how long it takes from an agent's end until a parked agent of its domain has its session.
//!
//! What is simulated of `kill -9`: the agent is a task of the bench. When it "is killed" it beats no more
//! and its connection is closed with nothing said, which is what a kernel does for a dead process. It is
//! killed at the worst moment, right after a beat was answered, so that all of the lease time is ahead.
//! Time is counted from that answer; for "never before the TTL" from the sending of the same beat, which
//! is the earliest that the lease can have been counted from. The adopting agent is parked with a claim
//! and beats beside it. It has the session when its claim is answered with the action `adopt`.
//!
//! Both agents are in a pool with the shortest lease, 2 s; several such pairs run at a time, each in a pool
//! of its own. The heir reports the session as running and is the next to be killed; the dead one
//! registers anew as its heir. An orderly stop is the same with the agent's goodbye: its time is
//! counted from the sending of `DELETE /v1/agents/{agent}`.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::fleet;
use crate::http::Connection;
use crate::load::{self, Agent, Claimed};
use crate::measure::{Line, Target, percentile};
use crate::scenarios::wake::session;
use crate::service::Service;

const TTL: Duration = Duration::from_secs(2);

const BEAT_EVERY: Duration = Duration::from_millis(500);

/// Pairs of agents that run at a time.
const PAIRS: usize = 4;

/// How often an agent of each pair dies; and how often it stops in order.
const DEATHS: usize = 8;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Found {
    /// From the answer of the last beat, in seconds.
    died: Vec<f64>,
    /// From its sending.
    earliest: Vec<f64>,
    /// From the sending of the goodbye, in milliseconds.
    stopped: Vec<f64>,
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    let pairs = (0..PAIRS).map(|number| pair(bench, &service, number));
    let mut found = Found::default();
    for pair in try_join_all(pairs).await? {
        found.died.extend(pair.died);
        found.earliest.extend(pair.earliest);
        found.stopped.extend(pair.stopped);
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    let ttl = TTL.as_secs_f64();
    let least = found.earliest.iter().copied().fold(f64::INFINITY, f64::min);
    let of = |numbers: &[f64], p| [percentile(numbers, p)];
    Ok(vec![
        Line::value(
            "killed: median",
            "s",
            &of(&found.died, 50.0),
            Target::AtMost(ttl + 0.25),
        ),
        Line::value(
            "killed: 99th percentile",
            "s",
            &of(&found.died, 99.0),
            Target::AtMost(ttl + 1.0),
        ),
        Line::value("killed: the earliest", "s", &[least], Target::AtLeast(ttl)),
        Line::value(
            "orderly stop: median",
            "ms",
            &of(&found.stopped, 50.0),
            Target::AtMost(100.0),
        ),
        Line::value(
            "orderly stop: 99th percentile",
            "ms",
            &of(&found.stopped, 99.0),
            Target::None,
        ),
    ])
}

/// An agent that beats beside what it claims.
struct Living {
    agent: Agent,
    connection: Connection,
    beats: Beats,
}

/// The beats of an agent, over a connection of their own.
struct Beats(tokio::task::JoinHandle<Result<()>>);

impl Drop for Beats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Deserialize)]
struct Reported {
    outcome: String,
}

async fn pair(bench: &Bench, service: &Service, number: usize) -> Result<Found> {
    let pool = format!("pair{number}");
    load::pool(service, &pool, TTL.as_secs_f64()).await?;
    let names = [format!("{pool}-a"), format!("{pool}-b")];
    let mut holder = living(service, &pool, &names[0]).await?;
    let mut user = service.connect().await?;
    user.post::<Value>("/v1/sessions", &session(&pool)?).await?;
    holder.take("start").await?;
    let mut found = Found::default();
    let deaths = bench.effort.size(DEATHS, 1);
    for turn in 0..2 * deaths {
        let heir = living(service, &pool, &names[(turn + 1) % 2]).await?;
        let claim = tokio::spawn(heir.adopt());
        // Parked, since its claim is seen there; one more moment for the look at it.
        fleet::parked(service, &pool, 1, PATIENCE).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (sent, answered) = if turn < deaths {
            holder.die().await?
        } else {
            holder.say_goodbye().await?
        };
        let adopted = tokio::time::timeout(PATIENCE, claim).await;
        let adopted = adopted.map_err(|_| Error::said("a session was not adopted"))?;
        let (at, heir) = adopted.map_err(|error| Error::said(error.to_string()))??;
        if turn < deaths {
            found.died.push(at.duration_since(answered).as_secs_f64());
            found.earliest.push(at.duration_since(sent).as_secs_f64());
        } else {
            found
                .stopped
                .push(at.duration_since(sent).as_secs_f64() * 1e3);
        }
        holder = heir;
    }
    Ok(found)
}

async fn living(service: &Service, pool: &str, name: &str) -> Result<Living> {
    let mut connection = service.connect().await?;
    let agent = load::register(&mut connection, pool, name, "here").await?;
    let mut over = service.connect().await?;
    let (name, incarnation) = (agent.name.clone(), agent.incarnation);
    let beats = tokio::spawn(async move {
        loop {
            tokio::time::sleep(BEAT_EVERY).await;
            beat(&mut over, &name, incarnation).await?;
        }
    });
    Ok(Living {
        agent,
        connection,
        beats: Beats(beats),
    })
}

async fn beat(connection: &mut Connection, name: &str, incarnation: i64) -> Result<()> {
    let path = format!("/v1/agents/{name}/heartbeat");
    let body = json!({"incarnation": incarnation});
    connection.post::<Value>(&path, &body).await?;
    Ok(())
}

impl Living {
    /// Claims until it has a session, which must come with this action, and reports it as running.
    /// When its claim was answered.
    async fn take(&mut self, action: &str) -> Result<Instant> {
        let path = format!("/v1/agents/{}/claim", self.agent.name);
        let body =
            json!({"incarnation": self.agent.incarnation, "max_sessions": 1, "wait_seconds": 30.0});
        let answer: Claimed = self.connection.post(&path, &body).await?;
        let at = Instant::now();
        let Some(given) = answer.assignments.first() else {
            return Err(Error::said("a claim was answered with nothing"));
        };
        if given.action != action {
            return Err(Error::said(format!(
                "{action} was expected, not {}",
                given.action
            )));
        }
        let offer = given.offer();
        let mut report = load::report(&offer, "running");
        report["platform_resource_id"] = json!("resource");
        let body = json!({"incarnation": self.agent.incarnation, "reports": [report]});
        let path = format!("/v1/agents/{}/reports", self.agent.name);
        let answer: Reports = self.connection.post(&path, &body).await?;
        match answer.results.first() {
            Some(result) if result.outcome == "accepted" => Ok(at),
            _ => Err(Error::said("a report of running was not accepted")),
        }
    }

    async fn adopt(mut self) -> Result<(Instant, Self)> {
        let at = self.take("adopt").await?;
        Ok((at, self))
    }

    /// Ends after one more beat with nothing said. When that was sent, and when it was answered.
    async fn die(mut self) -> Result<(Instant, Instant)> {
        // No other beat may come after it.
        self.beats.0.abort();
        let _ = (&mut self.beats.0).await;
        let sent = Instant::now();
        beat(
            &mut self.connection,
            &self.agent.name,
            self.agent.incarnation,
        )
        .await?;
        Ok((sent, Instant::now()))
    }

    /// Ends in order. When that was begun and done.
    async fn say_goodbye(mut self) -> Result<(Instant, Instant)> {
        self.beats.0.abort();
        let _ = (&mut self.beats.0).await;
        let path = format!(
            "/v1/agents/{}?incarnation={}",
            self.agent.name, self.agent.incarnation
        );
        let sent = Instant::now();
        let (status, said) = self.connection.send(Method::DELETE, &path, "").await?;
        if !status.is_success() {
            let said = String::from_utf8_lossy(&said).into_owned();
            return Err(Error::said(format!("a goodbye was refused: {said}")));
        }
        Ok((sent, Instant::now()))
    }
}

#[derive(Deserialize)]
struct Reports {
    results: Vec<Reported>,
}
