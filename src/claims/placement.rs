//! Who gets which session: the pool's placement, pure.
//!
//! `spread` gives each session to the agent that is least utilised at that moment; `pack` to the
//! most utilised one that still has room. Utilisation is used slots over capacity. Work that needs
//! no slot goes by the same order, and may go past capacity. What prefers labels goes to the agents
//! that have most of them, and by the order among those.

use std::cmp::Ordering;

use lessor_protocol::{Labels, Placement, Scheduling};

/// An agent that could be given something, as its locked row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name; ties go by it.
    pub name: String,
    /// Its resource domain.
    pub resource_domain: String,
    /// Its session slots.
    pub capacity: i32,
    /// Slots in use; rises as sessions are given out.
    pub slots_used: i32,
    /// How many more sessions its claim takes; falls as sessions are given out.
    pub room: usize,
    /// What it may be given beyond what it holds.
    pub may_take: MayTake,
    /// Its labels.
    pub labels: Labels,
}

impl Candidate {
    /// Whether it has all of these labels.
    pub fn has(&self, labels: &Labels) -> bool {
        labels.iter().all(|label| self.has_one(label))
    }

    fn has_one(&self, (key, value): (&String, &String)) -> bool {
        self.labels.get(key) == Some(value)
    }

    fn lacks(&self, labels: &Labels) -> usize {
        labels.iter().filter(|label| !self.has_one(*label)).count()
    }
}

/// What an agent may be given beyond what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayTake {
    /// Anything.
    Anything,
    /// Only ends of its domain: it is cordoned, and nobody else there is live.
    Ends,
    /// Nothing: it is cordoned, or passed over because it let offers lapse.
    Nothing,
}

impl MayTake {
    /// What an agent may be given. `last_of_domain` says of a cordoned one that no other agent of its
    /// domain is live.
    pub fn of(passed_over: bool, scheduling: Scheduling, last_of_domain: bool) -> Self {
        match (
            passed_over,
            scheduling != Scheduling::Active,
            last_of_domain,
        ) {
            (false, false, _) => Self::Anything,
            (_, true, true) => Self::Ends,
            _ => Self::Nothing,
        }
    }
}

/// A session to be given to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Only agents of this domain; any if there is none.
    pub domain: Option<String>,
    /// Whether it needs a free slot.
    pub needs_slot: bool,
    /// Whether it uses one, needed or not.
    pub uses_slot: bool,
    /// Whether it is an end, which even a cordoned agent may be given.
    pub is_end: bool,
    /// The agent that is not to get it now.
    pub avoid: Option<String>,
    /// The only agent that is to get it now; any if there is none.
    pub kept_for: Option<String>,
    /// Labels that the agent must have.
    pub requires: Labels,
    /// Labels of which the agent should have as many as can be.
    pub prefers: Labels,
}

/// For each item, in order, the index of the candidate that gets it. Candidates are in the order of their names, of
/// whom the first is taken where several suit as well.
pub fn share_out(
    candidates: &mut [Candidate],
    items: &[Item],
    placement: Placement,
) -> Vec<Option<usize>> {
    items
        .iter()
        .map(|item| {
            let best = candidates
                .iter()
                .enumerate()
                .filter(|(_, candidate)| suits(candidate, item))
                .min_by(|(_, a), (_, b)| {
                    let preferred = a.lacks(&item.prefers).cmp(&b.lacks(&item.prefers));
                    preferred.then_with(|| order(a, b, placement))
                })
                .map(|(index, _)| index)?;
            candidates[best].room -= 1;
            if item.uses_slot {
                candidates[best].slots_used += 1;
            }
            Some(best)
        })
        .collect()
}

fn suits(candidate: &Candidate, item: &Item) -> bool {
    let may = match candidate.may_take {
        MayTake::Anything => true,
        MayTake::Ends => item.is_end,
        MayTake::Nothing => false,
    };
    may && candidate.room > 0
        && item
            .domain
            .as_ref()
            .is_none_or(|domain| *domain == candidate.resource_domain)
        && (!item.needs_slot || candidate.slots_used < candidate.capacity)
        && item.avoid.as_ref() != Some(&candidate.name)
        && item
            .kept_for
            .as_ref()
            .is_none_or(|name| *name == candidate.name)
        && candidate.has(&item.requires)
}

/// The order of preference under a placement.
fn order(a: &Candidate, b: &Candidate, placement: Placement) -> Ordering {
    let utilisation = compare_utilisation((a.slots_used, a.capacity), (b.slots_used, b.capacity));
    match placement {
        Placement::Spread => utilisation,
        Placement::Pack => utilisation.reverse(),
    }
}

/// Compares used / capacity without dividing; an agent without capacity counts as full.
pub fn compare_utilisation(a: (i32, i32), b: (i32, i32)) -> Ordering {
    let full = |(used, capacity): (i32, i32)| {
        if capacity == 0 {
            (1, 1)
        } else {
            (i64::from(used), i64::from(capacity))
        }
    };
    let ((a_used, a_capacity), (b_used, b_capacity)) = (full(a), full(b));
    (a_used * b_capacity).cmp(&(b_used * a_capacity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent(name: &str, slots_used: i32, capacity: i32) -> Candidate {
        Candidate {
            name: name.to_owned(),
            resource_domain: "d".to_owned(),
            capacity,
            slots_used,
            room: 1000,
            may_take: MayTake::Anything,
            labels: Labels::new(),
        }
    }

    fn start() -> Item {
        Item {
            domain: None,
            needs_slot: true,
            uses_slot: true,
            is_end: false,
            avoid: None,
            kept_for: None,
            requires: Labels::new(),
            prefers: Labels::new(),
        }
    }

    fn used(candidates: &[Candidate]) -> Vec<i32> {
        candidates
            .iter()
            .map(|candidate| candidate.slots_used)
            .collect()
    }

    #[test]
    fn spread_evens_out_and_pack_fills_up() {
        let mut agents = [agent("a", 0, 20), agent("b", 0, 20), agent("c", 0, 20)];
        share_out(&mut agents, &vec![start(); 30], Placement::Spread);
        assert_eq!(used(&agents), [10, 10, 10]);
        let mut agents = [agent("a", 0, 20), agent("b", 0, 20), agent("c", 0, 20)];
        share_out(&mut agents, &vec![start(); 30], Placement::Pack);
        assert_eq!(used(&agents), [20, 10, 0]);
    }

    #[test]
    fn utilisation_is_relative_to_capacity() {
        let mut agents = [agent("big", 5, 100), agent("small", 1, 4)];
        let given = share_out(&mut agents, &[start()], Placement::Spread);
        assert_eq!(given, [Some(0)]);
    }

    #[test]
    fn a_full_agent_adopts_and_does_not_start() {
        let mut agents = [agent("a", 4, 4)];
        let adopt = Item {
            domain: Some("d".to_owned()),
            needs_slot: false,
            ..start()
        };
        let elsewhere = Item {
            domain: Some("other".to_owned()),
            ..adopt.clone()
        };
        let given = share_out(&mut agents, &[start(), adopt, elsewhere], Placement::Spread);
        assert_eq!(given, [None, Some(0), None]);
        assert_eq!(used(&agents), [5]);
    }

    #[test]
    fn cordoned_passed_over_and_avoided_agents_are_left_alone() {
        let end = Item {
            domain: Some("d".to_owned()),
            needs_slot: false,
            uses_slot: false,
            is_end: true,
            ..start()
        };
        let mut agents = [agent("a", 0, 4)];
        agents[0].may_take = MayTake::Ends;
        assert_eq!(
            share_out(&mut agents, &[start(), end.clone()], Placement::Spread),
            [None, Some(0)]
        );
        agents[0].may_take = MayTake::Nothing;
        assert_eq!(
            share_out(&mut agents, &[start(), end], Placement::Spread),
            [None, None]
        );
        agents[0].may_take = MayTake::Anything;
        let avoided = Item {
            avoid: Some("a".to_owned()),
            ..start()
        };
        assert_eq!(
            share_out(&mut agents, &[avoided], Placement::Spread),
            [None]
        );
    }

    #[test]
    fn what_is_kept_for_one_agent_goes_to_no_other() {
        let kept = Item {
            domain: Some("d".to_owned()),
            needs_slot: false,
            kept_for: Some("b".to_owned()),
            ..start()
        };
        let mut agents = [agent("a", 0, 4), agent("b", 4, 4)];
        let given = share_out(&mut agents, std::slice::from_ref(&kept), Placement::Spread);
        assert_eq!(given, [Some(1)]);
        let given = share_out(&mut agents[..1], &[kept], Placement::Spread);
        assert_eq!(given, [None]);
    }

    #[test]
    fn what_is_required_must_be_there_and_what_is_preferred_comes_before_placement() {
        let label = |key: &str| (key.to_owned(), "yes".to_owned());
        let mut agents = [agent("bare", 0, 4), agent("gpu", 2, 4), agent("both", 3, 4)];
        agents[1].labels.extend([label("gpu")]);
        agents[2].labels.extend([label("gpu"), label("ssd")]);
        let gpu = Item {
            requires: Labels::from([label("gpu")]),
            ..start()
        };
        let ssd = Item {
            prefers: Labels::from([label("ssd"), label("gpu")]),
            ..start()
        };
        let given = share_out(
            &mut agents,
            &[gpu.clone(), ssd.clone(), ssd.clone(), ssd, gpu],
            Placement::Spread,
        );
        assert_eq!(given, [Some(1), Some(2), Some(1), Some(0), None]);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_his_slots_or_his_room(
            sizes in prop::collection::vec((0..8i32, 0..8i32, 0..6usize), 1..6),
            items in 0..40usize,
            pack in any::<bool>(),
        ) {
            let mut agents: Vec<_> = sizes.iter().enumerate().map(|(index, (used, capacity, room))| {
                let mut agent = agent(&format!("a{index}"), *used, *capacity);
                agent.room = *room;
                agent
            }).collect();
            let placement = if pack { Placement::Pack } else { Placement::Spread };
            let given = share_out(&mut agents, &vec![start(); items], placement);
            let could: usize = sizes.iter()
                .map(|(used, capacity, room)| usize::try_from((capacity - used).max(0)).unwrap_or(0).min(*room))
                .sum();
            prop_assert_eq!(given.iter().flatten().count(), could.min(items));
            for (index, (used, capacity, _)) in sizes.iter().enumerate() {
                let got = given.iter().flatten().filter(|to| **to == index).count();
                prop_assert!(got == 0 || i32::try_from(got).unwrap_or(i32::MAX) + used <= *capacity);
            }
        }
    }
}
