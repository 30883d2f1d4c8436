//! One round of a dispatcher: the transaction that gives work to agents.
//!
//! Agents are locked before sessions, in key order; their liveness, incarnation, cordon, claim
//! number and used slots are read from the locked rows. Sessions are picked with SKIP LOCKED, so
//! dispatchers of several servers never wait for each other's sessions. What goes to whom is
//! decided by `placement`, and written with its history by one statement.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Action, Assignment, Placement};
use uuid::Uuid;

use super::placement::{Candidate, Item, MayTake, share_out};
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Assignee, Context, DOMAIN_WORK, Draft, SessionRow};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

/// The most that one agent is told about what it holds when it asks for no sessions.
const MAX_HELD: usize = 1_000;

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
    /// Which domains to look at.
    pub domains: BTreeSet<String>,
    /// How many sessions to pick at most of each kind; 0 looks only at what is held.
    pub limit: usize,
    /// How many sessions there are said to be to start; 0 where nobody said so.
    pub starts: usize,
}

/// What became of one claim in a round.
#[derive(Debug)]
pub struct Verdict {
    /// The agent's row as it was locked, none if it is gone.
    pub standing: Option<Standing>,
    /// What it was given.
    pub assignments: Vec<Assignment>,
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
    /// Whether it is cordoned.
    pub cordoned: bool,
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
    /// Domains in which there was more.
    pub more_domains: BTreeSet<String>,
    /// Whom to wake.
    pub hints: Hints,
}

#[derive(diesel::QueryableByName)]
struct LockedAgent {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = BigInt)]
    incarnation: i64,
    #[diesel(sql_type = Bool)]
    live: bool,
    #[diesel(sql_type = BigInt)]
    claim_number: i64,
    #[diesel(sql_type = Integer)]
    capacity: i32,
    #[diesel(sql_type = Integer)]
    slots_used: i32,
    #[diesel(sql_type = Bool)]
    cordoned: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    passed_over_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    last_of_domain: bool,
    #[diesel(sql_type = Array<SqlUuid>)]
    lost: Vec<Uuid>,
}

/// Runs a round inside a transaction.
///
/// # Errors
/// When the database refuses.
pub async fn dispatch(conn: &mut Conn, round: &Round) -> Result<Done> {
    metrics::counter!("lessor_claim_statements_total").increment(1);
    let names: Vec<String> = round
        .asking
        .iter()
        .map(|asking| asking.agent.clone())
        .collect();
    let locked: Vec<LockedAgent> = Statement::new(include_str!("lock_agents.sql"))
        .bind::<Array<Text>, _>(names)
        .bind::<Text, _>(round.pool.clone())
        .load(conn)
        .await?;
    let now = sessions::store::now(conn).await?;
    let pool = pools::rules(conn, &round.pool).await?;
    let actor = sessions::system("dispatcher");
    let epoch_floor = pools::epoch_floor(conn).await?;
    let ctx = Context {
        now,
        pool: &pool,
        actor: &actor,
        epoch_floor,
    };

    let mut candidates = Vec::new();
    let mut by_name: HashMap<&str, &LockedAgent> = HashMap::new();
    for agent in &locked {
        by_name.insert(&agent.name, agent);
        let asking = round
            .asking
            .iter()
            .find(|asking| asking.agent == agent.name);
        // Only the newest claim of the current run of a live agent can be given work.
        if let Some(asking) = asking
            && agent.live
            && agent.incarnation == asking.incarnation
            && agent.claim_number == asking.claim_number
        {
            candidates.push(candidate(agent, asking, now));
        }
    }

    let mut given = Given::default();
    given.held(conn, &ctx, &mut candidates).await?;
    if round.limit > 0 {
        given
            .domains(conn, &ctx, round, &mut candidates, &by_name)
            .await?;
        given
            .starts(conn, &ctx, round, &mut candidates, &by_name)
            .await?;
    }
    let hints = sessions::write(conn, &given.drafts).await?;
    let waits = waits(conn, &candidates, &given, &by_name, now).await?;
    let mut done = given.into_done(round, &locked, &candidates, &waits, (now, hints));
    done.placement = Some(pool.placement);
    Ok(done)
}

fn candidate(agent: &LockedAgent, asking: &Asking, now: DateTime<Utc>) -> Candidate {
    let passed_over = agent.passed_over_until.is_some_and(|until| until > now);
    let may_take = match (passed_over, agent.cordoned, agent.last_of_domain) {
        (false, false, _) => MayTake::Anything,
        (_, true, true) => MayTake::Ends,
        _ => MayTake::Nothing,
    };
    Candidate {
        name: agent.name.clone(),
        resource_domain: agent.resource_domain.clone(),
        capacity: agent.capacity,
        slots_used: agent.slots_used,
        room: asking.max_sessions,
        may_take,
    }
}

/// What a round gives out, while it does.
#[derive(Default)]
struct Given {
    drafts: Vec<Draft>,
    assignments: HashMap<String, Vec<Assignment>>,
    picked: HashSet<Uuid>,
    avoided_until: HashMap<String, DateTime<Utc>>,
    started: usize,
    more_starts: bool,
    more_domains: BTreeSet<String>,
}

impl Given {
    /// First what they hold: offers and changes that they have not reported on.
    async fn held(
        &mut self,
        conn: &mut Conn,
        ctx: &Context<'_>,
        candidates: &mut [Candidate],
    ) -> Result<()> {
        let names: Vec<String> = candidates
            .iter()
            .map(|candidate| candidate.name.clone())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let text = sessions::store::with_columns(include_str!("pick_held.sql"));
        let rows: Vec<SessionRow> = Statement::new(&text)
            .bind::<Array<Text>, _>(names)
            .load(conn)
            .await?;
        let asked: HashMap<String, usize> = candidates
            .iter()
            .map(|candidate| (candidate.name.clone(), candidate.room))
            .collect();
        for row in rows {
            let holder = candidates
                .iter_mut()
                .find(|c| Some(&c.name) == row.assigned_agent_id.as_ref());
            let Some(holder) = holder else { continue };
            let told = self.assignments.get(&holder.name).map_or(0, Vec::len);
            // A claim for no sessions is still told about what it holds.
            let most = asked
                .get(&holder.name)
                .copied()
                .filter(|asked| *asked > 0)
                .unwrap_or(MAX_HELD);
            if told >= most {
                continue;
            }
            holder.room = holder.room.saturating_sub(1);
            let name = holder.name.clone();
            let mut draft = Draft::of(row);
            draft.deliver(ctx);
            self.push(&name, draft, None);
        }
        Ok(())
    }

    /// Then the unassigned work of their domains, kind by kind; none of it waits behind starts.
    async fn domains(
        &mut self,
        conn: &mut Conn,
        ctx: &Context<'_>,
        round: &Round,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> Result<()> {
        let open = |c: &&Candidate| c.room > 0 && c.may_take != MayTake::Nothing;
        let names: Vec<String> = candidates
            .iter()
            .filter(open)
            .map(|c| c.name.clone())
            .collect();
        if names.is_empty() || round.domains.is_empty() {
            return Ok(());
        }
        let limit = tier(round.limit);
        let text = sessions::store::with_columns(include_str!("pick_domain.sql"))
            .replace("{limit}", &limit.to_string());
        let kinds: Vec<&str> = DOMAIN_WORK.iter().map(|(work, _, _)| *work).collect();
        let rows: Vec<SessionRow> = Statement::new(&text)
            .bind::<Text, _>(round.pool.clone())
            .bind::<Array<Text>, _>(round.domains.iter().cloned().collect::<Vec<_>>())
            .bind::<Array<Text>, _>(kinds)
            .bind::<Array<Text>, _>(names)
            .load(conn)
            .await?;
        let items: Vec<Item> = rows.iter().map(|row| item(row, ctx.now, true)).collect();
        let placed = share_out(candidates, &items, ctx.pool.placement);
        for (row, to) in rows.into_iter().zip(placed) {
            let domain = row.resource_domain.clone().unwrap_or_default();
            match to {
                Some(to) => {
                    let action = row.next().action().unwrap_or(Action::Adopt);
                    self.offer(ctx, row, agents[candidates[to].name.as_str()], action);
                }
                None => {
                    self.note_avoided(&row);
                    self.picked.insert(row.id);
                    self.more_domains.insert(domain);
                }
            }
        }
        Ok(())
    }

    /// Last what any agent of the pool may start.
    async fn starts(
        &mut self,
        conn: &mut Conn,
        ctx: &Context<'_>,
        round: &Round,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> Result<()> {
        let free = |c: &Candidate| -> usize {
            if c.may_take != MayTake::Anything {
                return 0;
            }
            c.room
                .min(usize::try_from(c.capacity - c.slots_used).unwrap_or(0))
        };
        let names: Vec<String> = candidates
            .iter()
            .filter(|c| free(c) > 0)
            .map(|c| c.name.clone())
            .collect();
        let wanted = candidates.iter().map(free).sum::<usize>().min(round.limit);
        if wanted == 0 {
            // Nobody here can take any; whether there are some is for others to find out.
            self.more_starts = true;
            return Ok(());
        }
        let limit = tier(wanted);
        let text = sessions::store::with_columns(include_str!("pick_start.sql"))
            .replace("{limit}", &limit.to_string());
        let mut rows: Vec<SessionRow> = Statement::new(&text)
            .bind::<Text, _>(round.pool.clone())
            .bind::<Array<Text>, _>(names)
            .load(conn)
            .await?;
        // Picked above already, as the work of its own domain.
        rows.retain(|row| !self.picked.contains(&row.id));
        self.more_starts = rows.len() >= limit;
        let items: Vec<Item> = rows.iter().map(|row| item(row, ctx.now, false)).collect();
        let placed = share_out(candidates, &items, ctx.pool.placement);
        for (row, to) in rows.into_iter().zip(placed) {
            match to {
                Some(to) => {
                    let agent = agents[candidates[to].name.as_str()];
                    // Its own domain came back: there is something to take over.
                    let own = row.resource_domain.as_ref() == Some(&agent.resource_domain);
                    let action = if own { row.next().action() } else { None };
                    self.started += 1;
                    self.offer(ctx, row, agent, action.unwrap_or(Action::Start));
                }
                None => {
                    self.note_avoided(&row);
                    self.more_starts = true;
                }
            }
        }
        Ok(())
    }

    fn offer(&mut self, ctx: &Context<'_>, row: SessionRow, agent: &LockedAgent, action: Action) {
        let assignee = Assignee {
            name: agent.name.clone(),
            incarnation: agent.incarnation,
            resource_domain: agent.resource_domain.clone(),
        };
        self.picked.insert(row.id);
        let mut draft = Draft::of(row);
        draft.offer(ctx, &assignee, action);
        let name = assignee.name.clone();
        self.push(&name, draft, Some(&assignee));
    }

    fn push(&mut self, agent: &str, draft: Draft, offered_to: Option<&Assignee>) {
        let row = &draft.row;
        let action = row.assigned_action.unwrap_or(Action::Adopt);
        let mut session: lessor_protocol::Session = row.clone().into();
        let elsewhere = offered_to.is_some_and(|to| {
            row.resource_domain
                .as_ref()
                .is_some_and(|domain| *domain != to.resource_domain)
        });
        if elsewhere {
            // It will be a new attempt once it is accepted, and resources are named by that.
            session.attempt += 1;
            session.platform_resource_id = None;
            session.platform_metadata = lessor_protocol::empty_object();
            session.endpoint = None;
        }
        let assignment = Assignment {
            action,
            lease_epoch: row.lease_epoch,
            generation: row.generation,
            offered_until: row.offered_until,
            session,
        };
        self.assignments
            .entry(agent.to_owned())
            .or_default()
            .push(assignment);
        self.drafts.push(draft);
    }

    fn note_avoided(&mut self, row: &SessionRow) {
        if let (Some(agent), Some(until)) = (&row.avoid_agent, row.avoid_until) {
            let at = self.avoided_until.entry(agent.clone()).or_insert(until);
            *at = (*at).min(until);
        }
    }

    fn into_done(
        mut self,
        round: &Round,
        locked: &[LockedAgent],
        candidates: &[Candidate],
        waits: &HashMap<String, f64>,
        (now, hints): (DateTime<Utc>, Hints),
    ) -> Done {
        let mut done = Done {
            started: self.started,
            more_starts: self.more_starts,
            more_domains: self.more_domains,
            hints,
            ..Done::default()
        };
        for asking in &round.asking {
            let row = locked.iter().find(|row| row.name == asking.agent);
            let used = candidates
                .iter()
                .find(|c| c.name == asking.agent)
                .map(|c| c.slots_used);
            let assignments = self.assignments.remove(&asking.agent).unwrap_or_default();
            let standing = row.map(|row| Standing {
                incarnation: row.incarnation,
                live: row.live,
                claim_number: row.claim_number,
                cordoned: row.cordoned,
                capacity: row.capacity,
                slots_used: used.unwrap_or(row.slots_used),
                passed_over_seconds: row
                    .passed_over_until
                    .filter(|until| *until > now)
                    .map(|until| (until - now).as_seconds_f64()),
                // What is given to it anew is not lost to it any more.
                lost: row
                    .lost
                    .iter()
                    .copied()
                    .filter(|lost| assignments.iter().all(|given| given.session.id != *lost))
                    .collect(),
            });
            let verdict = Verdict {
                standing,
                assignments,
                look_again_in_seconds: waits.get(&asking.agent).copied(),
            };
            done.verdicts.insert(asking.agent.clone(), verdict);
        }
        done
    }
}

fn item(row: &SessionRow, now: DateTime<Utc>, own_domain: bool) -> Item {
    let action = row.next().action();
    let needs_slot = match row.next() {
        sessions::Next::Work { needs_slot, .. } => needs_slot || !own_domain,
        sessions::Next::Nothing | sessions::Next::End => true,
    };
    Item {
        domain: row.resource_domain.clone().filter(|_| own_domain),
        needs_slot,
        uses_slot: !matches!(
            row.state,
            lessor_protocol::SessionState::Terminating | lessor_protocol::SessionState::Hibernating
        ),
        is_end: action == Some(Action::Terminate),
        avoid: row
            .avoid_agent
            .clone()
            .filter(|_| row.avoid_until.is_some_and(|until| until > now)),
    }
}

/// Limits are literals in the statement, so there are few of them: each is a prepared statement.
fn tier(wanted: usize) -> usize {
    [1, 4, 16, 64, 256, 1_000]
        .into_iter()
        .find(|tier| *tier >= wanted)
        .unwrap_or(1_000)
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
        .filter(|c| !given.assignments.contains_key(&c.name))
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
