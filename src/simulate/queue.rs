//! Which agent is next, pure: agents in the order of the pool's placement, by domain and by selector.
//!
//! Each order is kept up to date with every session that is given out, so that a hundred thousand
//! sessions are no more than as many look-ups.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use lessor_protocol::{Labels, Placement};

use super::state::{Agent, MAX_SELECTORS};
use crate::claims::compare_utilisation;

/// Where an agent stands in an order: what prefers labels looks at those first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rank {
    lacks: usize,
    used: i32,
    capacity: i32,
    packs: bool,
    /// Agents come by name.
    at: usize,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let utilisation =
            compare_utilisation((self.used, self.capacity), (other.used, other.capacity));
        let by_placement = if self.packs {
            utilisation.reverse()
        } else {
            utilisation
        };
        self.lacks
            .cmp(&other.lacks)
            .then(by_placement)
            .then(self.at.cmp(&other.at))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Agents in an order: all of a domain, or those with some labels and a free slot.
#[derive(Debug, Default)]
struct Line {
    ranks: BTreeSet<Rank>,
    /// Whether those without a free slot are left out.
    with_slot: bool,
    /// Whether there was nobody to begin with.
    is_empty: bool,
}

/// What became of a session that any agent with its labels may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anywhere {
    /// It goes to this agent.
    To(usize),
    /// Those that could start it have no free slot.
    Full,
    /// Nobody could start it.
    NoAgent,
    /// It was not looked at: that would be one selector too many.
    TooMany,
}

/// The agents of a pool in every order that is asked for.
#[derive(Debug)]
pub struct Queues<'a> {
    agents: &'a [Agent],
    packs: bool,
    used: Vec<i32>,
    lines: Vec<Line>,
    /// In which lines each agent is, and how many preferred labels it lacks there.
    member_of: Vec<Vec<(usize, usize)>>,
    /// The live agents of each domain.
    live_of: HashMap<&'a str, Vec<usize>>,
    /// By domain: the line of those that take anything there, and of them that with a free slot.
    of_domain: HashMap<String, (usize, usize)>,
    by_selector: HashMap<(Option<String>, Labels, Labels), usize>,
    too_many: bool,
}

impl<'a> Queues<'a> {
    /// The agents of a pool, in the order of their names.
    #[must_use]
    pub fn of(agents: &'a [Agent], placement: Placement) -> Self {
        let mut live_of: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, agent) in agents.iter().enumerate().filter(|(_, agent)| agent.live) {
            let domain = agent.resource_domain.as_str();
            live_of.entry(domain).or_default().push(at);
        }
        Self {
            agents,
            packs: placement == Placement::Pack,
            used: agents.iter().map(|agent| agent.slots_used).collect(),
            lines: Vec::new(),
            member_of: vec![Vec::new(); agents.len()],
            live_of,
            of_domain: HashMap::new(),
            by_selector: HashMap::new(),
            too_many: false,
        }
    }

    /// The slots that an agent uses after what it was given.
    #[must_use]
    pub fn used(&self, at: usize) -> i32 {
        self.used[at]
    }

    /// Whether there were more selectors than are planned for.
    #[must_use]
    pub fn too_many(&self) -> bool {
        self.too_many
    }

    fn rank(&self, at: usize, lacks: usize) -> Rank {
        Rank {
            lacks,
            used: self.used[at],
            capacity: self.agents[at].capacity,
            packs: self.packs,
            at,
        }
    }

    fn has_slot(&self, at: usize) -> bool {
        self.used[at] < self.agents[at].capacity
    }

    /// A line of those of these agents that are given sessions, with how many preferred labels each
    /// lacks.
    fn add_line(&mut self, with_slot: bool, of: &[(usize, usize)]) -> usize {
        let line = self.lines.len();
        let mut ranks = BTreeSet::new();
        let mut is_empty = true;
        for (at, lacks) in of.iter().copied() {
            if self.agents[at].active {
                is_empty = false;
                self.member_of[at].push((line, lacks));
                if !with_slot || self.has_slot(at) {
                    ranks.insert(self.rank(at, lacks));
                }
            }
        }
        self.lines.push(Line {
            ranks,
            with_slot,
            is_empty,
        });
        line
    }

    /// Gives an agent one more session.
    pub fn give(&mut self, at: usize, uses_slot: bool) {
        if !uses_slot {
            return;
        }
        for of in 0..self.member_of[at].len() {
            let (line, lacks) = self.member_of[at][of];
            let rank = self.rank(at, lacks);
            self.lines[line].ranks.remove(&rank);
        }
        self.used[at] += 1;
        for of in 0..self.member_of[at].len() {
            let (line, lacks) = self.member_of[at][of];
            if !self.lines[line].with_slot || self.has_slot(at) {
                let rank = self.rank(at, lacks);
                self.lines[line].ranks.insert(rank);
            }
        }
    }

    fn give_next(&mut self, line: usize, uses_slot: bool) -> Option<usize> {
        let at = self.lines[line].ranks.first()?.at;
        self.give(at, uses_slot);
        Some(at)
    }

    /// Gives the next agent of a domain a session, if there is one, with a free slot if it needs one.
    pub fn give_in_domain(
        &mut self,
        domain: &str,
        needs_slot: bool,
        uses_slot: bool,
    ) -> Option<usize> {
        let lines = match self.of_domain.get(domain) {
            Some(lines) => *lines,
            None => {
                let live = self.live_of.get(domain);
                let of: Vec<_> = live.into_iter().flatten().map(|at| (*at, 0)).collect();
                let lines = (self.add_line(false, &of), self.add_line(true, &of));
                self.of_domain.insert(domain.to_owned(), lines);
                lines
            }
        };
        self.give_next(if needs_slot { lines.1 } else { lines.0 }, uses_slot)
    }

    /// Gives the next agent with these labels and a free slot a session, if there is one; of a domain,
    /// or of any.
    pub fn give_anywhere(
        &mut self,
        domain: Option<&str>,
        requires: &Labels,
        prefers: &Labels,
    ) -> Anywhere {
        let key = (
            domain.map(ToOwned::to_owned),
            requires.clone(),
            prefers.clone(),
        );
        let line = match self.by_selector.get(&key) {
            Some(line) => *line,
            None if self.by_selector.len() >= MAX_SELECTORS => {
                self.too_many = true;
                return Anywhere::TooMany;
            }
            None => {
                let lacks = |agent: &Agent, labels: &Labels| {
                    let has =
                        |(key, value): &(&String, &String)| agent.labels.get(*key) == Some(*value);
                    labels.iter().filter(|label| !has(label)).count()
                };
                let able: Vec<_> = (0..self.agents.len())
                    .map(|at| (at, &self.agents[at]))
                    .filter(|(_, agent)| agent.live && lacks(agent, requires) == 0)
                    .filter(|(_, agent)| domain.is_none_or(|d| agent.resource_domain == d))
                    .map(|(at, agent)| (at, lacks(agent, prefers)))
                    .collect();
                let line = self.add_line(true, &able);
                self.by_selector.insert(key, line);
                line
            }
        };
        match self.give_next(line, true) {
            Some(to) => Anywhere::To(to),
            None if self.lines[line].is_empty => Anywhere::NoAgent,
            None => Anywhere::Full,
        }
    }

    /// The only live agent of a domain, if it is alone.
    #[must_use]
    pub fn only_live_of(&self, domain: &str) -> Option<usize> {
        match self.live_of.get(domain).map(Vec::as_slice) {
            Some([at]) => Some(*at),
            _ => None,
        }
    }
}
