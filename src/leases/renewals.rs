//! Renewing leases, a batch at a time.
//!
//! Heartbeats that arrive while a batch is being written make the next one: a lone beat waits for
//! nobody, and under load one statement serves hundreds. The pulse goes through the same
//! connections and the same batches, so that it cannot be well while heartbeats are not.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt as _;
use lessor_protocol::{Lease, Scheduling};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agents;
use crate::error::{Error, Result};
use crate::store::{Company, Conn, Db, MaybeWord, PATIENCE, Statement, take};

/// The most beats in one statement.
const MAX_BATCH: usize = 1_000;

/// The least time between two batches of heartbeats; claims do not wait.
const BEATS_EVERY: Duration = Duration::from_millis(200);

/// How frequently every server writes the pulse.
pub const PULSE_EVERY: Duration = Duration::from_secs(1);

/// A pulse older than this is an outage.
pub const PULSE_GAP_SECONDS: f64 = 5.0;

/// A lease that was renewed, and what the agent is told with it.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The agent's pool.
    pub pool: String,
    /// Its domain.
    pub resource_domain: String,
    /// Its slots.
    pub capacity: i32,
    /// Those in use.
    pub slots_used: i32,
    /// The number of its newest claim.
    pub claim_number: i64,
    /// Whether it is given new sessions.
    pub scheduling: Scheduling,
    /// The terms of the lease.
    pub lease: Lease,
    /// Sessions that were taken from it.
    pub lost: Vec<Uuid>,
    /// Whether an inventory is due.
    pub inventory_wanted: bool,
}

/// The terms of a lease of this length: renew after a third, self-fence after two thirds.
#[must_use]
pub fn lease(ttl_seconds: f64) -> Lease {
    Lease {
        ttl_seconds,
        renew_after_seconds: ttl_seconds / 3.0,
        self_fence_after_seconds: ttl_seconds * 2.0 / 3.0,
    }
}

/// What a claim asks for; noted with its renewal, since parked polls are in no table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClaimOf {
    /// How long it waits at most.
    pub wait_seconds: f64,
    /// How many sessions it takes.
    pub max_sessions: i32,
}

#[derive(Debug)]
struct Request {
    agent: String,
    incarnation: i64,
    claim: Option<ClaimOf>,
    reply: oneshot::Sender<Result<Renewal>>,
}

/// Where heartbeats and claims have their leases renewed.
#[derive(Clone, Debug)]
pub struct Renewals {
    beats: mpsc::Sender<Request>,
    claims: mpsc::Sender<Request>,
}

/// The tasks behind [`Renewals`].
pub struct Workers {
    beats: mpsc::Receiver<Request>,
    claims: mpsc::Receiver<Request>,
}

impl Renewals {
    /// The front, and the workers that must be run for it.
    #[must_use]
    pub fn new() -> (Self, Workers) {
        let (beats, beats_in) = mpsc::channel(4 * MAX_BATCH);
        let (claims, claims_in) = mpsc::channel(32 * MAX_BATCH);
        (
            Self { beats, claims },
            Workers {
                beats: beats_in,
                claims: claims_in,
            },
        )
    }

    /// Renews an agent's lease; a claim raises its claim number as well.
    ///
    /// # Errors
    /// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`.
    pub async fn renew(
        &self,
        agent: &str,
        incarnation: i64,
        claim: Option<ClaimOf>,
    ) -> Result<Renewal> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            agent: agent.to_owned(),
            incarnation,
            claim,
            reply,
        };
        let queue = if claim.is_some() {
            &self.claims
        } else {
            &self.beats
        };
        let answered = async {
            queue.send(request).await.map_err(|_| Error::Stopping)?;
            answer.await.map_err(|_| Error::Stopping)?
        };
        tokio::time::timeout(PATIENCE, answered)
            .await
            .unwrap_or_else(|_| {
                Err(Error::DatabaseUnavailable(
                    "the beat was not written in time".to_owned(),
                ))
            })
    }
}

impl Workers {
    /// Renews until it is cancelled; also writes the pulse.
    pub async fn run(self, db: Db, stop: CancellationToken) {
        tokio::join!(
            work(self.beats, db.clone(), stop.clone(), true),
            work(self.claims, db, stop, false),
        );
    }
}

async fn work(mut queue: mpsc::Receiver<Request>, db: Db, stop: CancellationToken, pulses: bool) {
    let mut held_over: Vec<Request> = Vec::new();
    let mut company = Company::default();
    let mut next_at = Instant::now();
    let mut pulse = tokio::time::interval(PULSE_EVERY);
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut batch = std::mem::take(&mut held_over);
        let mut beat_pulse = false;
        if batch.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pulse.tick(), if pulses => beat_pulse = true,
                received = queue.recv_many(&mut batch, MAX_BATCH) => if received == 0 { return },
            }
        } else if stop.is_cancelled() {
            return;
        } else {
            // Many beats of one agent keep it busy for ever, and the pulse is due all the same.
            beat_pulse = pulses && pulse.tick().now_or_never().is_some();
        }
        if pulses && !batch.is_empty() {
            // One commit for all beats of this time: nobody waits for the answer to a beat, and a beat
            // after a pause goes at once.
            tokio::time::sleep_until(next_at).await;
            next_at = Instant::now() + BEATS_EVERY;
        }
        take(&mut queue, &mut batch, MAX_BATCH);
        if !pulses {
            company.fill(&mut queue, &mut batch, MAX_BATCH).await;
        }
        // One statement renews an agent once; a second beat of the same one goes with the next.
        let mut seen = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|request| seen.insert(request.agent.clone()));
        held_over = later;
        serve(&db, now, beat_pulse).await;
    }
}

/// An agent, its incarnation, and what it asks for where it claims.
pub type Asked = (String, i64, Option<ClaimOf>);

async fn serve(db: &Db, batch: Vec<Request>, beat_pulse: bool) {
    let asked: Vec<Asked> = batch
        .iter()
        .map(|r| (r.agent.clone(), r.incarnation, r.claim))
        .collect();
    let answered = db
        .beat("leases::renew", |conn| {
            let asked = asked.clone();
            Box::pin(async move {
                let renewed = if asked.is_empty() {
                    Vec::new()
                } else {
                    renew(conn, asked).await?
                };
                // Last, so that nobody waits for the pulse while this waits for an agent.
                if beat_pulse {
                    write_pulse(conn).await?;
                }
                Ok(renewed)
            })
        })
        .await;
    match answered {
        Ok(rows) => {
            let mut rows: HashMap<String, Row> = rows
                .into_iter()
                .map(|row| (row.agent.clone(), row))
                .collect();
            for request in batch {
                let answer = rows.remove(&request.agent).map_or_else(
                    || Err(Error::AgentNotRegistered(request.agent.clone())),
                    Row::into_renewal,
                );
                // A client that hung up has been renewed all the same: the beat had arrived.
                let _ = request.reply.send(answer);
            }
        }
        Err(error) => {
            let said = error.to_string();
            tracing::warn!(error = %said, beats = batch.len(), "heartbeats could not be written");
            for request in batch {
                let _ = request
                    .reply
                    .send(Err(Error::DatabaseUnavailable(said.clone())));
            }
        }
    }
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    agent: String,
    #[diesel(sql_type = BigInt)]
    given: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    current: Option<i64>,
    #[diesel(sql_type = Nullable<Bool>)]
    live: Option<bool>,
    #[diesel(sql_type = Bool)]
    renewed: bool,
    #[diesel(sql_type = Nullable<Text>)]
    pool: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    resource_domain: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    capacity: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    slots_used: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    claim_number: Option<i64>,
    #[diesel(sql_type = Nullable<Text>, deserialize_as = MaybeWord<Scheduling>)]
    scheduling: Option<Scheduling>,
    #[diesel(sql_type = Nullable<Double>)]
    lease_ttl_seconds: Option<f64>,
    #[diesel(sql_type = Array<SqlUuid>)]
    lost: Vec<Uuid>,
    #[diesel(sql_type = Bool)]
    inventory_wanted: bool,
    #[diesel(sql_type = Bool)]
    has_let_lapse: bool,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

impl Row {
    fn into_renewal(self) -> Result<Renewal> {
        let (Some(current), Some(live)) = (self.current, self.live) else {
            return Err(Error::AgentNotRegistered(self.agent));
        };
        if !self.renewed {
            // What it was before the lock: where that looks well, the expiry came in between.
            agents::fence(&self.agent, self.given, current, live)?;
            return Err(Error::LeaseExpired(self.agent));
        }
        Ok(Renewal {
            pool: self.pool.unwrap_or_default(),
            resource_domain: self.resource_domain.unwrap_or_default(),
            capacity: self.capacity.unwrap_or_default(),
            slots_used: self.slots_used.unwrap_or_default(),
            claim_number: self.claim_number.unwrap_or_default(),
            scheduling: self.scheduling.unwrap_or(Scheduling::Active),
            lease: lease(self.lease_ttl_seconds.unwrap_or_default()),
            lost: self.lost,
            inventory_wanted: self.inventory_wanted,
        })
    }
}

/// The text of `renew.sql`, by how what it has locked is found, and what becomes of whom others have locked.
fn renew_text(found: &str, others: &str) -> String {
    let text = include_str!("renew.sql");
    text.replace("{found}", found).replace("{others}", others)
}

static RENEW: LazyLock<String> = LazyLock::new(|| renew_text("a.ctid = l.place", ""));
static RENEW_BY_NAME: LazyLock<String> =
    LazyLock::new(|| renew_text("a.name = ANY (ARRAY[l.name])", ""));
static RENEW_FREE: LazyLock<String> =
    LazyLock::new(|| renew_text("a.ctid = l.place", " SKIP LOCKED"));

/// The texts of the statements that renew, so that tests can look at their plans: the first one, that for
/// those whom somebody else changed meanwhile, and that for whom nobody else has locked.
#[must_use]
pub fn renew_texts() -> [&'static str; 3] {
    [&RENEW, &RENEW_BY_NAME, &RENEW_FREE]
}

/// An agent that was renewed, and stays locked.
#[derive(Debug)]
pub struct Renewed {
    /// The agent.
    pub agent: String,
    /// Its incarnation, which is the one that was asked for.
    pub incarnation: i64,
    /// What it is told.
    pub renewal: Renewal,
    /// Whether offers to it have lapsed since it took one.
    pub has_let_lapse: bool,
    /// When the transaction began.
    pub now: DateTime<Utc>,
}

/// Renews, in a transaction of others, the agents of them whom nobody else has locked, each at most once. Who is
/// not among the answers was not renewed: why not, is found out by asking for it alone.
///
/// # Errors
/// When the database refuses.
pub async fn renew_free(conn: &Conn, asked: &[Asked]) -> Result<Vec<Renewed>> {
    let rows = renew_by(conn, &RENEW_FREE, asked).await?;
    let renewed = rows.into_iter().filter(|row| row.renewed).map(|row| {
        Ok(Renewed {
            agent: row.agent.clone(),
            incarnation: row.given,
            has_let_lapse: row.has_let_lapse,
            now: row.now,
            renewal: row.into_renewal()?,
        })
    });
    renewed.collect()
}

async fn renew(conn: &mut Conn, mut asked: Vec<Asked>) -> Result<Vec<Row>> {
    let mut rows = renew_by(conn, &RENEW, &asked).await?;
    // They are locked now, so that a statement that begins now finds them as they are, and finds why not
    // where it does not renew them either.
    let again: HashSet<String> = rows
        .iter()
        .filter(|row| !row.renewed && row.live == Some(true) && row.current == Some(row.given))
        .map(|row| row.agent.clone())
        .collect();
    if !again.is_empty() {
        rows.retain(|row| !again.contains(&row.agent));
        asked.retain(|(agent, ..)| again.contains(agent));
        rows.append(&mut renew_by(conn, &RENEW_BY_NAME, &asked).await?);
    }
    Ok(rows)
}

async fn renew_by(mut conn: &Conn, text: &str, asked: &[Asked]) -> Result<Vec<Row>> {
    let mut agents = Vec::with_capacity(asked.len());
    let mut incarnations = Vec::with_capacity(asked.len());
    let mut waits = Vec::with_capacity(asked.len());
    let mut most = Vec::with_capacity(asked.len());
    for (agent, incarnation, claim) in asked {
        agents.push(agent.as_str());
        incarnations.push(*incarnation);
        waits.push(claim.map(|claim| claim.wait_seconds));
        most.push(claim.map(|claim| claim.max_sessions));
    }
    Ok(Statement::new(text)
        .bind::<Array<Text>, _>(agents)
        .bind::<Array<BigInt>, _>(incarnations)
        .bind::<Array<Nullable<Double>>, _>(waits)
        .bind::<Array<Nullable<Integer>>, _>(most)
        .load(&mut conn)
        .await?)
}

#[derive(diesel::QueryableByName)]
struct Pulse {
    #[diesel(sql_type = Bool)]
    gap: bool,
}

async fn write_pulse(conn: &mut Conn) -> Result<()> {
    let pulse: Pulse = Statement::new(include_str!("pulse.sql"))
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .get_result(conn)
        .await?;
    if pulse.gap {
        metrics::counter!("lessor_outages_total").increment(1);
        tracing::info!(
            "no server wrote the pulse for a while; no lease ends for one lease time from now"
        );
    }
    Ok(())
}
