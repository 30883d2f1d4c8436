//! The queues from which a round gives starts: which there are for its agents, whose turn it is, and as
//! many of their heads as could be needed.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use diesel::sql_types::{Array, BigInt, Json, Nullable, Text, Uuid as SqlUuid};
use lessor_protocol::Labels;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::dispatch::Round;
use super::give::tier;
use super::placement::{Candidate, MayTake};
use super::watermark::Seen;
use crate::error::Result;
use crate::sessions::{self, SessionRow};
use crate::shares::{self, Moved, Queue, Queues, Walk, Walked};
use crate::store::{AsJson, Conn, Statement};

/// A round that goes on with what is remembered looks at the owners who are next: as many as could be
/// given twice as many sessions as it wants, and these, since some may have no place or nothing left.
const SPARE: usize = 16;

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
pub(super) struct Lines {
    /// Where they come from; the queues themselves are in `found`.
    walked: Walked,
    /// Whether that was an earlier round.
    is_remembered: bool,
    found: Queues,
    lines: Vec<Line>,
    /// How many more each owner may be given.
    places: Vec<usize>,
    /// Those who are not next, so that their limits were not looked at: they have no places in this round.
    unasked: Vec<bool>,
    /// What was picked in this round, so that it is not picked again.
    picked: Vec<Uuid>,
}

/// Of what kinds agents are: their labels, and their domains.
fn kinds<'a>(able: &[&'a Candidate]) -> (BTreeSet<&'a Labels>, BTreeSet<&'a str>) {
    let labels = able.iter().map(|c| &c.labels).collect();
    let domains = able.iter().map(|c| c.resource_domain.as_str()).collect();
    (labels, domains)
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

/// Which owners are next, by their turns, of those who have something that these agents may start.
fn next_of(found: &Queues, is_served: impl Fn(&Queue) -> bool, wanted: usize) -> Vec<bool> {
    let mut most = vec![0; found.turns.count()];
    for queue in found.queues.iter().filter(|queue| is_served(queue)) {
        most[queue.turn] = usize::MAX;
    }
    let some = wanted.saturating_mul(2).saturating_add(SPARE);
    let needs = found.turns.needs(&most, some);
    needs.into_iter().map(|needed| needed > 0).collect()
}

impl Lines {
    /// The queues as they are remembered, if those are enough for so many sessions; by a walk otherwise.
    pub(super) async fn find(
        conn: &mut Conn,
        round: &Round,
        able: &[&Candidate],
        wanted: usize,
    ) -> Result<Self> {
        let (labels, domains) = kinds(able);
        let is_served = |queue: &Queue| able.iter().any(|c| serves(c, queue));
        let now = Instant::now();
        let recalled = round
            .memory
            .recall(&labels, &domains, wanted, is_served, now);
        match recalled {
            Some(walked) => Self::of(conn, round, able, walked, Some(wanted)).await,
            None => Self::walk(conn, round, able).await,
        }
    }

    /// The queues as they are.
    pub(super) async fn walk(conn: &mut Conn, round: &Round, able: &[&Candidate]) -> Result<Self> {
        metrics::counter!("lessor_queue_walks_total").increment(1);
        let (labels, domains) = kinds(able);
        let begun = Instant::now();
        let queues = shares::queues(
            conn,
            &round.pool,
            &labels,
            &domains,
            &round.walk,
            &round.around,
        )
        .await?;
        let walked = Walked::new(&labels, &domains, queues, (begun, Instant::now()));
        Self::of(conn, round, able, walked, None).await
    }

    /// `remembered_for` so many sessions, or just found.
    async fn of(
        conn: &mut Conn,
        round: &Round,
        able: &[&Candidate],
        mut walked: Walked,
        remembered_for: Option<usize>,
    ) -> Result<Self> {
        let mut found = std::mem::take(&mut walked.queues);
        // An agent in the right domain, and another one with the right labels, are found as well.
        let is_served = |queue: &Queue| able.iter().any(|c| serves(c, queue));
        found.unsatisfied |= found.queues.iter().any(|queue| !is_served(queue));
        let mut places = vec![0; found.turns.count()];
        for queue in &found.queues {
            places[queue.turn] = usize::MAX;
        }
        // Limits are never remembered: what is locked here is what counts.
        let (asked, unasked) = match remembered_for {
            None => (found.limited.clone(), vec![false; places.len()]),
            Some(wanted) => {
                let next = next_of(&found, is_served, wanted);
                let later = next.iter().zip(&places).map(|(n, p)| !n && *p > 0);
                let later = later.collect();
                (next, later)
            }
        };
        if asked.contains(&true) {
            let of = (0..places.len()).filter(|turn| asked[*turn]);
            let owners = of.map(|turn| found.turns.owner(turn).to_owned()).collect();
            let left = shares::places(conn, &round.pool, owners).await?;
            for (turn, place) in places.iter_mut().enumerate() {
                if unasked[turn] {
                    *place = 0;
                } else if let Some(left) = left.get(found.turns.owner(turn)) {
                    *place = (*place).min(*left);
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
            walked,
            is_remembered: remembered_for.is_some(),
            found,
            lines,
            places,
            unasked,
            picked: Vec::new(),
        })
    }

    /// What is to be remembered after this round.
    pub(super) fn into_walked(self) -> Walked {
        let Self {
            mut walked,
            mut found,
            lines,
            places,
            unasked,
            ..
        } = self;
        let has_more = |line: &Line| !line.exhausted || !line.heads.is_empty();
        let may_have = |turn: usize| places[turn] > 0 || unasked[turn];
        found.queues = lines
            .into_iter()
            .filter(|line| has_more(line) && may_have(line.queue.turn))
            .map(|line| line.queue)
            .collect();
        walked.queues = found;
        walked
    }

    /// How many heads to pick of each queue, where any: as many as its owner's share of the `wanted`
    /// next, and no more than the agents that satisfy its selector can take.
    pub(super) fn asks(&self, candidates: &[Candidate], wanted: usize) -> Vec<(usize, usize)> {
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
    pub(super) async fn pick(
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
            let in_tier: Vec<(usize, usize)> = asks
                .iter()
                .copied()
                .filter(|(_, most)| at_once || tier(*most) == limit)
                .collect();
            // Of one queue, as many as are asked for, and one more, which says that there is more, where the
            // literal has room for it.
            let (enough, at_most) = match *in_tier {
                [(_, most)] => ((most + 1).min(limit), i64::try_from(most + 1).ok()),
                _ => (limit, None),
            };
            let queues = in_tier.iter().map(|(index, _)| &self.lines[*index].queue);
            let parts: Vec<Part<'_>> = queues.flat_map(|queue| self.parts(round, queue)).collect();
            let text = sessions::with_columns(include_str!("pick_start.sql"))
                .replace("{limit}", &limit.to_string());
            let statement = Statement::new(&text)
                .bind::<Text, _>(round.pool.clone())
                .bind::<Json, _>(AsJson(parts))
                .bind::<Array<Text>, _>(avoiding.to_vec())
                .bind::<Array<SqlUuid>, _>(self.picked.clone())
                .bind::<Nullable<BigInt>, _>(at_most);
            let rows = sessions::load(conn, statement).await?;
            let mut picked: HashMap<usize, usize> = HashMap::new();
            for row in rows {
                self.picked.push(row.id);
                let owner = row.owner.as_deref().unwrap_or_default();
                let index = in_tier.iter().map(|(index, _)| *index).find(|index| {
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
            for (index, _) in in_tier {
                let count = picked.get(&index).copied().unwrap_or(0);
                self.lines[index].exhausted |= count < enough;
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
    pub(super) fn seen(&self) -> Vec<Seen> {
        if self.found.next != shares::Walk::default() {
            return Vec::new();
        }
        let given = self.lines.iter().filter(|line| line.given > 0);
        given
            .map(|line| Seen {
                key: line.queue.requires_key.clone(),
                owner: self.found.turns.owner(line.queue.turn).to_owned(),
                rank: line.queue.head.0,
                at: (!self.is_remembered).then_some(line.queue.head.1),
                given: line.given,
            })
            .collect()
    }

    /// The next session: of the owner whose turn it is, the one with the greatest priority, and of
    /// those the one that has waited longest.
    pub(super) fn next(&mut self) -> Option<(usize, usize, SessionRow)> {
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

    /// What was picked in another way is not picked here.
    pub(super) fn leave_out(&mut self, picked: &HashSet<Uuid>) {
        self.picked.extend(picked.iter().copied());
    }

    /// What [`Lines::next`] said was given.
    pub(super) fn gave(&mut self, turn: usize, line: usize) {
        self.found.turns.give(turn);
        self.places[turn] = self.places[turn].saturating_sub(1);
        self.lines[line].given += 1;
    }

    /// Whether that is from an earlier round.
    pub(super) fn is_remembered(&self) -> bool {
        self.is_remembered
    }

    /// Whether there is no queue but these for such agents.
    pub(super) fn is_all(&self) -> bool {
        self.found.next == Walk::default() && !self.is_remembered
    }

    /// Whether there are queues whose selector none of the agents satisfies.
    pub(super) fn is_unsatisfied(&self) -> bool {
        self.found.unsatisfied
    }

    /// Whether one of these agents could be given something now.
    pub(super) fn any_for(&self, able: &[&Candidate]) -> bool {
        self.lines.iter().any(|line| {
            self.places[line.queue.turn] > 0 && able.iter().any(|c| serves(c, &line.queue))
        })
    }

    /// Where the next walk is to begin, if there was one.
    pub(super) fn next_walk(&self) -> Option<&Walk> {
        (!self.is_remembered).then_some(&self.found.next)
    }

    /// How owners were moved on, if several compete.
    pub(super) fn moved(&self) -> Option<Moved> {
        let turns = &self.found.turns;
        turns.moved(|turn| self.places[turn] > 0 || self.unasked[turn] || turns.has_moved(turn))
    }

    /// Whether something may be waiting that could be given to others.
    pub(super) fn more(&self) -> bool {
        let is_open = |line: &Line| !line.exhausted || !line.heads.is_empty();
        self.lines
            .iter()
            .any(|line| is_open(line) && self.places[line.queue.turn] > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::Turns;

    #[test]
    fn only_those_are_next_of_whom_something_may_be_started() {
        let mut found = Queues {
            turns: Turns::at(0.0),
            ..Queues::default()
        };
        for n in 0..100 {
            let turn = found.turns.join(&format!("o{n:03}"), 1.0, None);
            found.queues.push(Queue {
                requires_key: String::new(),
                requires: Labels::new(),
                start_domain: (turn < 50).then(|| "elsewhere".to_owned()),
                turn,
                head: (0, chrono::DateTime::UNIX_EPOCH),
            });
        }
        let next = next_of(&found, |queue| queue.start_domain.is_none(), 2);
        let next: Vec<usize> = (0..100).filter(|turn| next[*turn]).collect();
        assert_eq!(next, (50..50 + 4 + SPARE).collect::<Vec<_>>());
    }
}
