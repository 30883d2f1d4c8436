//! What one round of a dispatcher gives out: first what agents hold, then their domains' work, then
//! starts, each picked by its own statement and shared out by the rules of placement.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, Text, Timestamptz};
use lessor_protocol::{Action, Assignment};
use uuid::Uuid;

use super::dispatch::{Done, LockedAgent, Round, Standing, Verdict};
use super::placement::{Candidate, Item, MayTake, share_out};
use super::watermark::Seen;
use crate::commands;
use crate::error::Result;
use crate::sessions::{self, Assignee, Context, DOMAIN_WORK, Draft, SessionRow};
use crate::shares;
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

/// The most that one agent is told about what it holds when it asks for no sessions.
const MAX_HELD: usize = 1_000;

/// The most of what is held that one round looks at; `pick_held.sql` says it as a literal.
const MAX_PICKED: usize = 1_000;

/// What a round gives out, while it does.
#[derive(Default)]
pub(super) struct Given {
    pub(super) drafts: Vec<Draft>,
    pub(super) assignments: HashMap<String, Vec<Assignment>>,
    pub(super) commands: commands::Told,
    pub(super) picked: HashSet<Uuid>,
    pub(super) told: Vec<String>,
    pub(super) avoided_until: HashMap<String, DateTime<Utc>>,
    pub(super) started: usize,
    pub(super) more_starts: bool,
    pub(super) unsatisfied: bool,
    pub(super) walk: shares::Walk,
    pub(super) walked: Option<shares::Walked>,
    pub(super) look_again: bool,
    pub(super) seen: Vec<Seen>,
    pub(super) moved: Option<shares::Moved>,
    pub(super) more_domains: BTreeSet<String>,
}

/// What these agents are to be told of what they hold; what was due before `due_from`, they were told.
pub(super) async fn pick_held(
    conn: &Conn,
    agents: Vec<&str>,
    due_from: Option<DateTime<Utc>>,
) -> Result<Vec<SessionRow>> {
    let text = sessions::with_columns(include_str!("pick_held.sql"));
    let statement = Statement::new(&text)
        .bind::<Array<Text>, _>(agents)
        .bind::<Timestamptz, _>(due_from.unwrap_or(DateTime::UNIX_EPOCH));
    sessions::load(conn, statement).await
}

impl Given {
    /// First what they hold: offers and changes that they have not reported on.
    pub(super) fn held(
        &mut self,
        ctx: &Context<'_>,
        rows: Vec<SessionRow>,
        candidates: &mut [Candidate],
    ) {
        let names: Vec<String> = candidates
            .iter()
            .map(|candidate| candidate.name.clone())
            .collect();
        let mut left_out: HashSet<String> = HashSet::new();
        if rows.len() >= MAX_PICKED {
            left_out.extend(names.iter().cloned());
        }
        let asked: HashMap<String, usize> = candidates
            .iter()
            .map(|candidate| (candidate.name.clone(), candidate.room))
            .collect();
        let places: HashMap<String, usize> = candidates
            .iter()
            .enumerate()
            .map(|(at, candidate)| (candidate.name.clone(), at))
            .collect();
        for row in rows {
            let place = row
                .assigned_agent_id
                .as_ref()
                .and_then(|name| places.get(name));
            let Some(holder) = place.and_then(|at| candidates.get_mut(*at)) else {
                continue;
            };
            let told = self.assignments.get(&holder.name).map_or(0, Vec::len);
            // A claim for no sessions is still told about what it holds.
            let most = asked
                .get(&holder.name)
                .copied()
                .filter(|asked| *asked > 0)
                .unwrap_or(MAX_HELD);
            if told >= most {
                left_out.insert(holder.name.clone());
                continue;
            }
            holder.room = holder.room.saturating_sub(1);
            let mut draft = Draft::of(row);
            draft.deliver(ctx);
            self.tell(&draft.row, &holder.name, &holder.resource_domain);
            self.drafts.push(draft);
        }
        let told = names.into_iter().filter(|name| !left_out.contains(name));
        self.told = told.collect();
    }

    /// Then the unassigned work of their domains, kind by kind; none of it waits behind starts.
    pub(super) async fn domains(
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
        let text = sessions::with_columns(include_str!("pick_domain.sql"))
            .replace("{limit}", &limit.to_string());
        let kinds: Vec<&str> = DOMAIN_WORK.iter().map(|(work, _, _)| *work).collect();
        let statement = Statement::new(&text)
            .bind::<Text, _>(round.pool.clone())
            .bind::<Array<Text>, _>(round.domains.iter().cloned().collect::<Vec<_>>())
            .bind::<Array<Text>, _>(kinds)
            .bind::<Array<Text>, _>(names);
        let rows = sessions::load(conn, statement).await?;
        let items: Vec<Item> = rows.iter().map(|row| item(row, ctx.now, true)).collect();
        // As much as was asked for: there may be more behind it.
        let mut found: HashMap<&str, usize> = HashMap::new();
        for domain in rows.iter().filter_map(|row| row.resource_domain.as_deref()) {
            *found.entry(domain).or_default() += 1;
        }
        let full = found.into_iter().filter(|(_, count)| *count >= limit);
        self.more_domains
            .extend(full.map(|(domain, _)| domain.to_owned()));
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

    pub(super) fn offer(
        &mut self,
        ctx: &Context<'_>,
        row: SessionRow,
        agent: &LockedAgent,
        action: Action,
    ) {
        let assignee = assignee(agent);
        self.picked.insert(row.id);
        let mut draft = Draft::of(row);
        draft.offer(ctx, &assignee, action);
        self.tell(&draft.row, &assignee.name, &assignee.resource_domain);
        self.drafts.push(draft);
    }

    /// Offers a session that this transaction makes, and that its maker writes.
    pub(super) fn offer_new(
        &mut self,
        ctx: &Context<'_>,
        draft: &mut Draft,
        agent: &LockedAgent,
        action: Action,
    ) {
        let assignee = assignee(agent);
        draft.offer(ctx, &assignee, action);
        self.tell(&draft.row, &assignee.name, &assignee.resource_domain);
    }

    fn tell(&mut self, row: &SessionRow, agent: &str, domain: &str) {
        let action = row.assigned_action.unwrap_or(Action::Adopt);
        let mut session: lessor_protocol::Session = row.clone().into();
        let own = row.resource_domain.as_deref();
        let elsewhere = row.is_offered() && own.is_some_and(|own| own != domain);
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
    }

    pub(super) fn note_avoided(&mut self, row: &SessionRow) {
        if let (Some(agent), Some(until)) = (&row.avoid_agent, row.avoid_until) {
            let at = self.avoided_until.entry(agent.clone()).or_insert(until);
            *at = (*at).min(until);
        }
    }

    pub(super) fn into_done(
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
            unsatisfied: self.unsatisfied,
            walk: self.walk,
            walked: self.walked,
            look_again: self.look_again,
            seen: (self.seen, Some(now)),
            told: self.told,
            more_domains: self.more_domains,
            hints,
            ..Done::default()
        };
        let locked: HashMap<&str, &LockedAgent> =
            locked.iter().map(|row| (row.name.as_str(), row)).collect();
        let used: HashMap<&str, i32> = candidates
            .iter()
            .map(|c| (c.name.as_str(), c.slots_used))
            .collect();
        for asking in &round.asking {
            let row = locked.get(asking.agent.as_str());
            let used = used.get(asking.agent.as_str()).copied();
            let assignments = self.assignments.remove(&asking.agent).unwrap_or_default();
            let standing = row.map(|row| Standing {
                incarnation: row.incarnation,
                live: row.live,
                claim_number: row.claim_number,
                scheduling: row.scheduling,
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
                commands: self.commands.remove(&asking.agent).unwrap_or_default(),
                look_again_in_seconds: waits.get(&asking.agent).copied(),
            };
            done.verdicts.insert(asking.agent.clone(), verdict);
        }
        done
    }
}

fn assignee(agent: &LockedAgent) -> Assignee {
    Assignee {
        name: agent.name.clone(),
        incarnation: agent.incarnation,
        resource_domain: agent.resource_domain.clone(),
    }
}

pub(super) fn item(row: &SessionRow, now: DateTime<Utc>, own_domain: bool) -> Item {
    let action = row.next().action();
    let needs_slot = match row.next() {
        sessions::Next::Work { needs_slot, .. } => needs_slot || !own_domain,
        sessions::Next::Nothing | sessions::Next::End => true,
    };
    Item {
        domain: if own_domain {
            row.resource_domain.clone()
        } else {
            row.start_domain.clone()
        },
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
        kept_for: row
            .reserved_for
            .clone()
            .filter(|_| own_domain && row.reserved_until.is_some_and(|until| until > now)),
        // What a domain has to do is for whoever is there.
        requires: row
            .requires
            .clone()
            .into_iter()
            .filter(|_| !own_domain)
            .collect(),
        prefers: row
            .prefers
            .clone()
            .into_iter()
            .filter(|_| !own_domain)
            .collect(),
    }
}

/// Limits are literals in the statement, so there are few of them: each is a prepared statement.
pub(super) fn tier(wanted: usize) -> usize {
    [1, 4, 16, 64, 256, 1_000]
        .into_iter()
        .find(|tier| *tier >= wanted)
        .unwrap_or(1_000)
}
