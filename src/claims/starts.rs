//! The part of a round that gives out what any agent of the pool may start.
//!
//! It goes queue by queue: which there are for these agents, whose turn it is, and from each queue as
//! many heads as could be needed. Where a queue turns out shorter than its owner's share, the rest is
//! asked of the others, a few times at most.

use std::collections::{BTreeSet, HashMap, VecDeque};

use diesel::sql_types::{Array, Json, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Action, Labels};
use serde::Serialize;
use uuid::Uuid;

use super::dispatch::{LockedAgent, Round};
use super::give::{Given, item, tier};
use super::placement::{Candidate, MayTake, share_out};
use super::watermark::Seen;
use crate::error::Result;
use crate::sessions::{self, Context, SessionRow};
use crate::shares::{self, Queue, Queues};
use crate::store::{AsJson, Conn, Statement};

/// How often a round asks its queues at most.
const MAX_ASKS: usize = 4;

/// A queue while a round gives from it.
struct Line {
    queue: Queue,
    /// What was picked from its head and not given yet.
    heads: VecDeque<SessionRow>,
    /// Whether nothing is behind what was picked.
    exhausted: bool,
    /// How many were given from it.
    given: u64,
}

/// A part of a queue from which heads are picked.
#[derive(Debug, Serialize)]
struct Part<'a> {
    key: &'a str,
    owner: &'a str,
    #[serde(flatten)]
    range: shares::Range,
}

/// The queues of a round with their owners.
struct Lines {
    found: Queues,
    lines: Vec<Line>,
    /// How many more each owner may be given.
    places: Vec<usize>,
    /// What was picked in this round, so that it is not picked again.
    picked: Vec<Uuid>,
}

/// How many more sessions that need a slot this agent takes.
pub(super) fn free(c: &Candidate) -> usize {
    if c.may_take != MayTake::Anything {
        return 0;
    }
    c.room
        .min(usize::try_from(c.capacity - c.slots_used).unwrap_or(0))
}

/// Whether an agent may start what waits in a queue.
fn serves(c: &Candidate, queue: &Queue) -> bool {
    let there = |domain: &String| *domain == c.resource_domain;
    queue.start_domain.as_ref().is_none_or(there) && c.has(&queue.requires)
}

impl Lines {
    async fn find(conn: &mut Conn, round: &Round, able: &[&Candidate]) -> Result<Self> {
        let labels: BTreeSet<&Labels> = able.iter().map(|c| &c.labels).collect();
        let domains: BTreeSet<&str> = able.iter().map(|c| c.resource_domain.as_str()).collect();
        let mut found = shares::queues(
            conn,
            &round.pool,
            &labels,
            &domains,
            &round.walk,
            &round.around,
        )
        .await?;
        // An agent in the right domain, and another one with the right labels, are found as well.
        let is_served = |queue: &Queue| able.iter().any(|c| serves(c, queue));
        found.unsatisfied |= found.queues.iter().any(|queue| !is_served(queue));
        let mut places = vec![usize::MAX; found.turns.count()];
        let limited: Vec<String> = (0..places.len())
            .filter(|turn| found.limited[*turn])
            .map(|turn| found.turns.owner(turn).to_owned())
            .collect();
        if !limited.is_empty() {
            let left = shares::places(conn, &round.pool, limited).await?;
            for (turn, place) in places.iter_mut().enumerate() {
                if let Some(left) = left.get(found.turns.owner(turn)) {
                    *place = *left;
                }
            }
        }
        let lines = std::mem::take(&mut found.queues)
            .into_iter()
            .map(|queue| Line {
                queue,
                heads: VecDeque::new(),
                exhausted: false,
                given: 0,
            })
            .collect();
        Ok(Self {
            found,
            lines,
            places,
            picked: Vec::new(),
        })
    }

    /// How many heads to pick of each queue, where any: as many as its owner's share of the `wanted`
    /// next, and no more than the agents that satisfy its selector can take.
    fn asks(&self, candidates: &[Candidate], wanted: usize) -> Vec<(usize, usize)> {
        let mut by_selector: HashMap<&str, usize> = HashMap::new();
        let mut most = vec![0; self.places.len()];
        let mut open = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let key = line.queue.requires_key.as_str();
            let takes = *by_selector.entry(key).or_insert_with(|| {
                candidates
                    .iter()
                    .filter(|c| serves(c, &line.queue))
                    .map(free)
                    .sum()
            });
            if !line.exhausted && takes > 0 {
                let turn = line.queue.turn;
                most[turn] = self.places[turn];
                open.push((index, takes));
            }
        }
        let needs = self.found.turns.needs(&most, wanted);
        open.into_iter()
            .map(|(index, takes)| (index, takes.min(needs[self.lines[index].queue.turn])))
            .filter(|(_, most)| *most > 0)
            .collect()
    }

    /// Picks the heads that were asked for: by one statement, unless that would lock far more than
    /// is asked for because one queue is asked for many and many for few.
    async fn pick(
        &mut self,
        conn: &mut Conn,
        round: &Round,
        avoiding: &[String],
        asks: &[(usize, usize)],
    ) -> Result<()> {
        let asked: usize = asks.iter().map(|(_, most)| most).sum();
        let largest = asks.iter().map(|(_, most)| tier(*most)).max().unwrap_or(1);
        let mut tiers: BTreeSet<usize> = asks.iter().map(|(_, most)| tier(*most)).collect();
        let at_once = largest * asks.len() <= 4 * asked + 64;
        if at_once {
            tiers = BTreeSet::from([largest]);
        }
        for limit in tiers {
            let of_tier: Vec<usize> = asks
                .iter()
                .filter(|(_, most)| at_once || tier(*most) == limit)
                .map(|(index, _)| *index)
                .collect();
            let queues = of_tier.iter().map(|index| &self.lines[*index].queue);
            let parts: Vec<Part<'_>> = queues.flat_map(|queue| self.parts(round, queue)).collect();
            let text = sessions::with_columns(include_str!("pick_start.sql"))
                .replace("{limit}", &limit.to_string());
            let rows: Vec<SessionRow> = Statement::new(&text)
                .bind::<Text, _>(round.pool.clone())
                .bind::<Json, _>(AsJson(parts))
                .bind::<Array<Text>, _>(avoiding.to_vec())
                .bind::<Array<SqlUuid>, _>(self.picked.clone())
                .load(conn)
                .await?;
            let mut picked: HashMap<usize, usize> = HashMap::new();
            for row in rows {
                self.picked.push(row.id);
                let owner = row.owner.as_deref().unwrap_or_default();
                let index = of_tier.iter().copied().find(|index| {
                    let queue = &self.lines[*index].queue;
                    self.found.turns.owner(queue.turn) == owner
                        && queue.requires == row.requires
                        && queue.start_domain == row.start_domain
                });
                if let Some(index) = index {
                    *picked.entry(index).or_default() += 1;
                    self.lines[index].heads.push_back(row);
                }
            }
            for index in of_tier {
                let count = picked.get(&index).copied().unwrap_or(0);
                self.lines[index].exhausted |= count < limit;
            }
        }
        Ok(())
    }

    /// What is left of a queue, as far as that is known.
    fn parts<'a>(
        &'a self,
        round: &Round,
        queue: &'a Queue,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (key, owner) = (&queue.requires_key, self.found.turns.owner(queue.turn));
        let ranges = round.around.ranges_of(key, owner).into_iter();
        ranges.map(move |range| Part { key, owner, range })
    }

    /// The heads of the queues from which something was given. Where there are more queues than a walk
    /// sees, it is not the same ones that are looked at each time, and none is remembered.
    fn seen(&self) -> Vec<Seen> {
        if self.found.next != shares::Walk::default() {
            return Vec::new();
        }
        let given = self.lines.iter().filter(|line| line.given > 0);
        given
            .map(|line| Seen {
                key: line.queue.requires_key.clone(),
                owner: self.found.turns.owner(line.queue.turn).to_owned(),
                rank: line.queue.head.0,
                at: line.queue.head.1,
                given: line.given,
            })
            .collect()
    }

    /// The next session: of the owner whose turn it is, the one with the greatest priority, and of
    /// those the one that has waited longest.
    fn next(&mut self) -> Option<(usize, usize, SessionRow)> {
        let mut with_heads = vec![false; self.places.len()];
        for line in self.lines.iter().filter(|line| !line.heads.is_empty()) {
            with_heads[line.queue.turn] = true;
        }
        let turns = &self.found.turns;
        let turn = turns.next(|turn| with_heads[turn] && self.places[turn] > 0)?;
        let line = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.queue.turn == turn)
            .filter_map(|(index, line)| {
                let head = line.heads.front()?;
                Some(((std::cmp::Reverse(head.priority), head.queued_at), index))
            })
            .min_by_key(|(order, _)| *order)
            .map(|(_, index)| index)?;
        Some((turn, line, self.lines[line].heads.pop_front()?))
    }

    /// Whether something may be waiting that could be given to others.
    fn more(&self) -> bool {
        let is_open = |line: &Line| !line.exhausted || !line.heads.is_empty();
        self.lines
            .iter()
            .any(|line| is_open(line) && self.places[line.queue.turn] > 0)
    }
}

/// Whether a start waits that one of these agents could be given now. What none of them has the labels
/// for, and what is of an owner without a place, is not; more queues than a walk sees count as one.
pub(super) async fn would_take_a_start(
    conn: &mut Conn,
    round: &Round,
    candidates: &[Candidate],
) -> Result<bool> {
    let able: Vec<&Candidate> = candidates.iter().filter(|c| free(c) > 0).collect();
    if able.is_empty() {
        return Ok(false);
    }
    let lines = Lines::find(conn, round, &able).await?;
    let is_for_one = |line: &Line| {
        lines.places[line.queue.turn] > 0 && able.iter().any(|c| serves(c, &line.queue))
    };
    Ok(lines.found.next != shares::Walk::default() || lines.lines.iter().any(is_for_one))
}

impl Given {
    /// Last what any agent of the pool may start.
    pub(super) async fn starts(
        &mut self,
        conn: &mut Conn,
        ctx: &Context<'_>,
        round: &Round,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> Result<()> {
        let able: Vec<&Candidate> = candidates.iter().filter(|c| free(c) > 0).collect();
        let mut left = round.limit.min(able.iter().map(|c| free(c)).sum());
        if left == 0 {
            // Nobody here can take any; whether there are some is for others to find out.
            self.more_starts = true;
            return Ok(());
        }
        let mut lines = Lines::find(conn, round, &able).await?;
        let avoiding: Vec<String> = able.iter().map(|c| c.name.clone()).collect();
        // Picked above already, as the work of its own domain.
        lines.picked.extend(self.picked.iter().copied());
        for _ in 0..MAX_ASKS {
            let asks = lines.asks(candidates, left);
            if asks.is_empty() {
                break;
            }
            lines.pick(conn, round, &avoiding, &asks).await?;
            while left > 0
                && let Some((turn, line, row)) = lines.next()
            {
                if self.start(ctx, row, candidates, agents) {
                    lines.found.turns.give(turn);
                    lines.places[turn] = lines.places[turn].saturating_sub(1);
                    lines.lines[line].given += 1;
                    left -= 1;
                }
            }
            left = left.min(candidates.iter().map(free).sum());
            if left == 0 {
                break;
            }
        }
        self.more_starts |= lines.more() || lines.found.next != shares::Walk::default();
        self.unsatisfied = lines.found.unsatisfied;
        let places = &lines.places;
        let competes = |turn: usize| places[turn] > 0 || lines.found.turns.has_moved(turn);
        self.moved = lines.found.turns.moved(competes);
        self.seen = lines.seen();
        self.walk = lines.found.next;
        Ok(())
    }

    /// Offers a session to the agent that suits it best; whether there was one.
    fn start(
        &mut self,
        ctx: &Context<'_>,
        row: SessionRow,
        candidates: &mut [Candidate],
        agents: &HashMap<&str, &LockedAgent>,
    ) -> bool {
        let wanted = [item(&row, ctx.now, false)];
        let Some(to) = share_out(candidates, &wanted, ctx.pool.placement)[0] else {
            self.note_avoided(&row);
            self.more_starts = true;
            return false;
        };
        let agent = agents[candidates[to].name.as_str()];
        // Its own domain came back: there is something to take over.
        let own = row.resource_domain.as_ref() == Some(&agent.resource_domain);
        let action = if own { row.next().action() } else { None };
        self.started += 1;
        self.offer(ctx, row, agent, action.unwrap_or(Action::Start));
        true
    }
}
