//! One round of a dispatcher: the transaction that gives work to agents.
//!
//! Agents are locked before sessions, in key order; their liveness, incarnation, cordon, claim
//! number and used slots are read from the locked rows. Sessions are picked with SKIP LOCKED, so
//! dispatchers of several servers never wait for each other's sessions. What goes to whom is
//! decided by `placement`, and written with its history by one statement.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Assignment, Command, Labels, Placement, PoolSpec, Scheduling};
use uuid::Uuid;

use super::give::{self, Given};
use super::placement::{Candidate, MayTake};
use super::watermark::Seen;
use crate::commands;
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, SessionRow};
use crate::shares::{self, Around, Memory, Walk, Walked};
use crate::store::{Conn, LabelsColumn, Statement, Word};
use crate::wakeups::Hints;

/// A claim that could be given something.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The agent.
    pub agent: String,
    /// Its incarnation.
    pub incarnation: i64,
    /// The number of its claim.
    pub claim_number: i64,
    /// How many sessions it takes.
    pub max_sessions: usize,
}

/// What a round looks at.
#[derive(Clone, Debug)]
pub struct Round {
    /// The pool.
    pub pool: String,
    /// Who could be given something.
    pub asking: Vec<Asking>,
    /// From when on something may be due to them of what they hold; none if that is not known.
    pub due_from: Option<DateTime<Utc>>,
    /// Which domains to look at.
    pub domains: BTreeSet<String>,
    /// How many sessions to pick at most of each kind; 0 looks only at what is held.
    pub limit: usize,
    /// How many sessions there are said to be to start; 0 where nobody said so.
    pub starts: usize,
    /// Where to begin to look for queues of starts.
    pub walk: Walk,
    /// What walks have found that count still.
    pub memory: Memory,
    /// How to go around what is known to be empty.
    pub around: Around,
    /// Whether some of the starts ask for labels.
    pub selects: bool,
}

impl Round {
    /// That of sessions that are made in it.
    pub(super) fn of_new(pool: String, asking: Vec<Asking>, around: Around) -> Self {
        Self {
            pool,
            asking,
            due_from: None,
            domains: BTreeSet::new(),
            limit: 0,
            starts: 0,
            walk: Walk::default(),
            memory: Memory::default(),
            around,
            selects: false,
        }
    }
}

/// What became of one claim in a round.
#[derive(Debug)]
pub struct Verdict {
    /// The agent's row as it was locked, none if it is gone.
    pub standing: Option<Standing>,
    /// What it was given.
    pub assignments: Vec<Assignment>,
    /// Commands for what it holds.
    pub commands: Vec<Command>,
    /// When it should be looked at again though nobody says so.
    pub look_again_in_seconds: Option<f64>,
}

/// How an agent stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The current incarnation.
    pub incarnation: i64,
    /// Whether its lease holds.
    pub live: bool,
    /// The number of its newest claim.
    pub claim_number: i64,
    /// Whether it is given new sessions.
    pub scheduling: Scheduling,
    /// Its slots.
    pub capacity: i32,
    /// Those in use, after this round.
    pub slots_used: i32,
    /// For how long it is offered nothing new.
    pub passed_over_seconds: Option<f64>,
    /// Sessions that were taken from it.
    pub lost: Vec<Uuid>,
}

/// What a round has done.
#[derive(Debug, Default)]
pub struct Done {
    /// By agent.
    pub verdicts: HashMap<String, Verdict>,
    /// The pool's placement.
    pub placement: Option<Placement>,
    /// How many sessions were given out that any agent may start.
    pub started: usize,
    /// Whether there was more to start than could be given to these agents.
    pub more_starts: bool,
    /// Whether there was something to start that none of these agents has the labels for.
    pub unsatisfied: bool,
    /// Where to begin to look for queues the next time.
    pub walk: Walk,
    /// What is to be remembered of the queues.
    pub walked: Option<Walked>,
    /// Whether these agents could perhaps take more than what was remembered.
    pub look_again: bool,
    /// The heads of queues of starts, and when the round began.
    pub seen: (Vec<Seen>, Option<DateTime<Utc>>),
    /// Who was told all that was due of what it holds, when the round began.
    pub told: Vec<String>,
    /// Domains in which there was more.
    pub more_domains: BTreeSet<String>,
    /// Whom to wake.
    pub hints: Hints,
}

#[derive(diesel::QueryableByName)]
pub(super) struct LockedAgent {
    #[diesel(sql_type = Text)]
    pub(super) name: String,
    #[diesel(sql_type = Text)]
    pub(super) resource_domain: String,
    #[diesel(sql_type = BigInt)]
    pub(super) incarnation: i64,
    #[diesel(sql_type = Bool)]
    pub(super) live: bool,
    #[diesel(sql_type = BigInt)]
    pub(super) claim_number: i64,
    #[diesel(sql_type = Integer)]
    pub(super) capacity: i32,
    #[diesel(sql_type = Integer)]
    pub(super) slots_used: i32,
    #[diesel(sql_type = Text, deserialize_as = Word<Scheduling>)]
    pub(super) scheduling: Scheduling,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub(super) passed_over_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Jsonb, deserialize_as = LabelsColumn)]
    pub(super) labels: Labels,
    #[diesel(sql_type = Timestamptz)]
    pub(super) now: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    pub(super) last_of_domain: bool,
    #[diesel(sql_type = Bool)]
    pub(super) has_commands: bool,
    #[diesel(sql_type = Array<SqlUuid>)]
    pub(super) lost: Vec<Uuid>,
}

/// What the first flight of a round finds.
pub struct Begun {
    locked: Vec<LockedAgent>,
    /// What those who ask are to be told about what they hold.
    held: Vec<SessionRow>,
    rules: PoolSpec,
    epoch_floor: i64,
}

/// Begins a round inside a transaction, in one flight: agents are locked, and after them what they hold.
///
/// # Errors
/// When the database refuses.
pub async fn begin(conn: &Conn, round: &Round) -> Result<Begun> {
    metrics::counter!("lessor_claim_statements_total").increment(1);
    let names: Vec<&str> = round
        .asking
        .iter()
        .map(|asking| asking.agent.as_str())
        .collect();
    let mut to_lock = conn;
    let lock = Statement::new(include_str!("lock_agents.sql"))
        .bind::<Array<Text>, _>(names.clone())
        .bind::<Text, _>(round.pool.clone());
    let (locked, held, rules, epoch_floor) = futures_util::join!(
        lock.load::<LockedAgent>(&mut to_lock),
        give::pick_held(conn, names, round.due_from),
        pools::rules(conn, &round.pool),
        pools::epoch_floor(conn),
    );
    Ok(Begun {
        locked: locked?,
        held: held?,
        rules: rules?,
        epoch_floor: epoch_floor?,
    })
}

/// Goes on with a round that has begun.
///
/// # Errors
/// When the database refuses.
pub async fn dispatch(conn: &mut Conn, round: &Round, begun: Begun) -> Result<Done> {
    let Begun {
        locked,
        held,
        rules: pool,
        epoch_floor,
    } = begun;
    let now = match locked.as_slice().first() {
        Some(agent) => agent.now,
        None => sessions::now(conn).await?,
    };
    let actor = sessions::system("dispatcher");
    let ctx = Context {
        now,
        pool: &pool,
        actor: &actor,
        epoch_floor,
    };

    let mut candidates = Vec::new();
    let mut by_name: HashMap<&str, &LockedAgent> = HashMap::new();
    let asking_as: HashMap<&str, &Asking> = round
        .asking
        .iter()
        .map(|asking| (asking.agent.as_str(), asking))
        .collect();
    for agent in &locked {
        by_name.insert(&agent.name, agent);
        let asking = asking_as.get(agent.name.as_str());
        candidates.extend(asking.and_then(|asking| candidate(agent, asking, now)));
    }
    in_order(&mut candidates);

    let mut given = Given {
        walk: round.walk.clone(),
        ..Given::default()
    };
    given.held(&ctx, held, &mut candidates);
    if round.limit > 0 {
        given
            .domains(conn, &ctx, round, &mut candidates, &by_name)
            .await?;
        given
            .starts(conn, &ctx, round, &mut candidates, &by_name)
            .await?;
    }
    let hints = sessions::write(conn, &given.drafts).await?;
    let to_tell: Vec<String> = candidates
        .iter()
        .map(|candidate| &candidate.name)
        .filter(|name| by_name[name.as_str()].has_commands)
        .cloned()
        .collect();
    given.commands =
        commands::deliver(conn, &to_tell, now, pool.accept_timeout_seconds, &actor).await?;
    if let Some(moved) = given.moved.take() {
        // Late, since others who give something to these owners wait for the end of it.
        shares::record(conn, &round.pool, moved).await?;
    }
    let waits = waits(conn, &candidates, &given, &by_name, now).await?;
    let mut done = given.into_done(round, &locked, &candidates, &waits, (now, hints));
    done.placement = Some(pool.placement);
    Ok(done)
}

/// What an agent that asks may be given; only the newest claim of the current run of a live one is.
pub(super) fn candidate(
    agent: &LockedAgent,
    asking: &Asking,
    now: DateTime<Utc>,
) -> Option<Candidate> {
    let is_current = agent.live
        && agent.incarnation == asking.incarnation
        && agent.claim_number == asking.claim_number;
    if !is_current {
        return None;
    }
    let passed_over = agent.passed_over_until.is_some_and(|until| until > now);
    let may_take = MayTake::of(passed_over, agent.scheduling, agent.last_of_domain);
    Some(Candidate {
        name: agent.name.clone(),
        resource_domain: agent.resource_domain.clone(),
        capacity: agent.capacity,
        slots_used: agent.slots_used,
        room: asking.max_sessions,
        may_take,
        labels: agent.labels.clone(),
    })
}

/// As sessions are shared out over them: they come in this order already, which no plan promises.
pub(super) fn in_order(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| a.name.cmp(&b.name));
}

#[derive(diesel::QueryableByName)]
struct NextDelivery {
    #[diesel(sql_type = Text)]
    agent: String,
    #[diesel(sql_type = Timestamptz)]
    at: DateTime<Utc>,
}

/// In how many seconds each agent that was given nothing should be looked at again by itself.
async fn waits(
    conn: &mut Conn,
    candidates: &[Candidate],
    given: &Given,
    agents: &HashMap<&str, &LockedAgent>,
    now: DateTime<Utc>,
) -> Result<HashMap<String, f64>> {
    let idle: Vec<String> = candidates
        .iter()
        .filter(|c| {
            !given.assignments.contains_key(&c.name) && !given.commands.contains_key(&c.name)
        })
        .map(|c| c.name.clone())
        .collect();
    let mut waits: HashMap<String, f64> = HashMap::new();
    if idle.is_empty() {
        return Ok(waits);
    }
    let mut note = |agent: &str, at: DateTime<Utc>| {
        let seconds = (at - now).as_seconds_f64().max(0.0);
        let wait = waits.entry(agent.to_owned()).or_insert(seconds);
        *wait = wait.min(seconds);
    };
    for agent in &idle {
        if let Some(at) = agents
            .get(agent.as_str())
            .and_then(|row| row.passed_over_until)
            && at > now
        {
            note(agent, at);
        }
        if let Some(at) = given.avoided_until.get(agent) {
            note(agent, *at);
        }
    }
    let next: Vec<NextDelivery> = Statement::new(include_str!("next_delivery.sql"))
        .bind::<Array<Text>, _>(idle)
        .load(conn)
        .await?;
    for delivery in next {
        note(&delivery.agent, delivery.at);
    }
    Ok(waits)
}
