//! Which sessions a rebalance moves, pure.
//!
//! Utilisation is what an agent holds over its capacity, compared without dividing; one without
//! capacity that holds something counts as over-full. A move is worth it while its source stays at
//! least as utilised as its target: it then never has to be undone. That also bounds a plan, since
//! the sum over all agents of held² / capacity falls with each move.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A live agent of one domain that is not cordoned.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name; ties go by it.
    pub name: String,
    /// Its session slots.
    pub capacity: i64,
    /// Slots in use, moves on their way counted as made.
    pub used: i64,
    /// Whether anything may be moved to it: it is not passed over.
    pub takes: bool,
    /// What may be moved away from it.
    pub movable: Vec<Movable>,
}

/// A session that runs, is wanted so, and is in no move yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movable {
    /// The session.
    pub id: Uuid,
    /// The epoch under which it is held.
    pub lease_epoch: i64,
    /// Since when it runs.
    pub started_at: DateTime<Utc>,
}

/// A move, as it is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The session.
    pub session: Movable,
    /// Who holds it.
    pub from: String,
    /// Who is to have it.
    pub to: String,
    /// Why, in numbers.
    pub reason: String,
}

/// The moves that even out one domain, best first: from the most to the least utilised agent, until
/// these two are at most `min_gain` sessions apart (1: none could be evened out further), at most
/// `max_moves`. Of each agent those go first that have run for the shortest time: they have
/// gathered the least.
#[must_use]
pub fn plan(mut members: Vec<Member>, min_gain: i64, max_moves: usize) -> Vec<Planned> {
    for member in &mut members {
        // From the back, the newest.
        member
            .movable
            .sort_unstable_by_key(|session| (session.started_at, session.id));
    }
    let mut planned = Vec::new();
    while planned.len() < max_moves
        && let Some((from, to)) = best_pair(&members, min_gain)
        && let Some(session) = members[from].movable.pop()
    {
        let reason = reason(&members[from], &members[to]);
        members[from].used -= 1;
        members[to].used += 1;
        planned.push(Planned {
            session,
            from: members[from].name.clone(),
            to: members[to].name.clone(),
            reason,
        });
    }
    planned
}

/// Between agents of equal capacity only the fullest source and the emptiest target matter, so that
/// few pairs are compared, however many agents there are.
fn best_pair(members: &[Member], min_gain: i64) -> Option<(usize, usize)> {
    let mut sources: BTreeMap<i64, usize> = BTreeMap::new();
    let mut targets: BTreeMap<i64, usize> = BTreeMap::new();
    let by_name = |a: usize, b: usize| members[a].name.cmp(&members[b].name);
    let utilisation = |a: usize, b: usize| by_utilisation(&members[a], &members[b]);
    let fuller = |a: usize, b: usize| utilisation(b, a).then_with(|| by_name(a, b));
    let emptier = |a: usize, b: usize| utilisation(a, b).then_with(|| by_name(a, b));
    for (index, member) in members.iter().enumerate() {
        if member.used > 0 && !member.movable.is_empty() {
            let fullest = sources.entry(member.capacity).or_insert(index);
            if fuller(index, *fullest) == Ordering::Less {
                *fullest = index;
            }
        }
        if member.takes && member.used < member.capacity {
            let emptiest = targets.entry(member.capacity).or_insert(index);
            if emptier(index, *emptiest) == Ordering::Less {
                *emptiest = index;
            }
        }
    }
    let mut sources: Vec<usize> = sources.into_values().collect();
    let mut targets: Vec<usize> = targets.into_values().collect();
    sources.sort_unstable_by(|a, b| fuller(*a, *b));
    targets.sort_unstable_by(|a, b| emptier(*a, *b));
    sources.iter().find_map(|&from| {
        let to = targets
            .iter()
            .find(|to| is_worth_it(&members[from], &members[**to], min_gain))?;
        Some((from, *to))
    })
}

fn by_utilisation(a: &Member, b: &Member) -> Ordering {
    (a.used * b.capacity).cmp(&(b.used * a.capacity))
}

/// With a least gain of 1: whether after the move the source is still at least as utilised as the
/// target, `(from - 1) / capacity >= (to + 1) / capacity`. With more, they must be apart by so many
/// sessions more, counted on the larger of the two.
fn is_worth_it(from: &Member, to: &Member, min_gain: i64) -> bool {
    let apart = from.used * to.capacity - to.used * from.capacity;
    let (larger, smaller) = if from.capacity > to.capacity {
        (from.capacity, to.capacity)
    } else {
        (to.capacity, from.capacity)
    };
    apart >= min_gain * larger + smaller
}

fn reason(from: &Member, to: &Member) -> String {
    format!(
        "{} holds {} of {} and {} {} of {}; after this move {} and {}",
        from.name,
        from.used,
        from.capacity,
        to.name,
        to.used,
        to.capacity,
        from.used - 1,
        to.used + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, used: i64, capacity: i64) -> Member {
        let movable = (0..used)
            .map(|n| Movable {
                id: Uuid::from_u64_pair(
                    name.len() as u64 + u64::from(name.as_bytes()[0]),
                    n as u64,
                ),
                lease_epoch: 1,
                started_at: DateTime::from_timestamp(n, 0).expect("a time"),
            })
            .collect();
        Member {
            name: name.to_owned(),
            capacity,
            used,
            takes: true,
            movable,
        }
    }

    /// What each holds after the moves.
    fn after(members: &[Member], moves: &[Planned]) -> Vec<i64> {
        let count = |name: &str, side: fn(&Planned) -> &String| {
            moves.iter().filter(|m| side(m) == name).count() as i64
        };
        members
            .iter()
            .map(|m| m.used - count(&m.name, |p| &p.from) + count(&m.name, |p| &p.to))
            .collect()
    }

    #[test]
    fn three_that_join_get_their_part() {
        let fleet = [
            member("a", 6, 10),
            member("b", 0, 10),
            member("c", 0, 10),
            member("d", 0, 10),
        ];
        let moves = plan(fleet.to_vec(), 1, 100);
        assert_eq!(after(&fleet, &moves), [2, 2, 1, 1]);
        // The newest go first, and the reason has the numbers.
        let seconds: Vec<i64> = moves
            .iter()
            .map(|m| m.session.started_at.timestamp())
            .collect();
        assert_eq!(seconds, [5, 4, 3, 2]);
        assert_eq!(
            moves[0].reason,
            "a holds 6 of 10 and b 0 of 10; after this move 5 and 1"
        );
    }

    #[test]
    fn of_those_that_started_together_the_newest_id_goes_first() {
        let mut a = member("a", 2, 10);
        for session in &mut a.movable {
            session.started_at = DateTime::UNIX_EPOCH;
        }
        let newest = a.movable.iter().map(|s| s.id).max();
        let moves = plan(vec![a, member("b", 0, 10)], 1, 100);
        assert_eq!(moves.first().map(|m| m.session.id), newest);
    }

    #[test]
    fn one_session_apart_is_even() {
        assert!(plan(vec![member("a", 3, 10), member("b", 2, 10)], 1, 100).is_empty());
        assert!(plan(vec![member("a", 3, 10)], 1, 100).is_empty());
        assert!(plan(Vec::new(), 1, 100).is_empty());
    }

    #[test]
    fn a_least_gain_leaves_that_difference() {
        let fleet = [member("a", 9, 20), member("b", 0, 20)];
        for (min_gain, left) in [(1, 1), (2, 1), (3, 3), (4, 3), (8, 7), (9, 9), (100, 9)] {
            let moves = plan(fleet.to_vec(), min_gain, 100);
            let held = after(&fleet, &moves);
            assert_eq!(held[0] - held[1], left, "{min_gain}");
        }
    }

    #[test]
    fn utilisation_counts_and_not_the_number_of_sessions() {
        // 10 of 100 and 1 of 10 are even.
        assert!(plan(vec![member("big", 10, 100), member("small", 1, 10)], 1, 100).is_empty());
        // One of one moves nowhere; those behind it in the order do.
        let fleet = [member("tiny", 1, 1), member("a", 8, 10), member("b", 4, 10)];
        let moves = plan(fleet.to_vec(), 1, 100);
        assert_eq!(after(&fleet, &moves), [1, 6, 6]);
        // What an agent without capacity holds goes elsewhere.
        let fleet = [member("none", 2, 0), member("a", 0, 10)];
        let moves = plan(fleet.to_vec(), 1, 100);
        assert_eq!(after(&fleet, &moves), [0, 2]);
    }

    #[test]
    fn the_full_and_the_passed_over_get_nothing() {
        let mut passed_over = member("b", 0, 10);
        passed_over.takes = false;
        assert!(plan(vec![member("a", 5, 10), passed_over], 1, 100).is_empty());
        assert!(plan(vec![member("a", 9, 0), member("b", 4, 4)], 1, 100).is_empty());
    }

    proptest! {
        #[test]
        fn plans_are_bounded_even_and_final(
            sizes in prop::collection::vec((0..30i64, 0..40i64, any::<bool>()), 1..8),
            equal in any::<bool>(),
            min_gain in 1..6i64,
            max_moves in 0..60usize,
        ) {
            let mut fleet: Vec<Member> = sizes.iter().enumerate().map(|(n, (used, capacity, takes))| {
                let name = String::from(char::from(b'a' + n as u8));
                let mut member = member(&name, *used, if equal { 30 } else { *capacity });
                member.takes = *takes || equal;
                member
            }).collect();
            let moves = plan(fleet.clone(), min_gain, max_moves);
            prop_assert!(moves.len() <= max_moves);
            let mut ids: Vec<Uuid> = moves.iter().map(|m| m.session.id).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), moves.len(), "a session moves once");
            let held = after(&fleet, &moves);
            for (member, held) in fleet.iter().zip(&held) {
                prop_assert!(*held >= 0 && (*held <= member.used || *held <= member.capacity));
                let gains = moves.iter().any(|m| m.to == member.name);
                let gives = moves.iter().any(|m| m.from == member.name);
                prop_assert!(!(gains && gives), "nobody gives and gains");
                prop_assert!(!gains || member.takes);
            }
            if moves.len() < max_moves {
                if equal {
                    let most = held.iter().max().expect("an agent");
                    let least = held.iter().min().expect("an agent");
                    prop_assert!(most - least <= min_gain);
                }
                // Done once, there is nothing to do a second time.
                for (member, held) in fleet.iter_mut().zip(&held) {
                    member.used = *held;
                    member.movable = (0..*held).map(|n| Movable {
                        id: Uuid::from_u64_pair(1, n as u64),
                        lease_epoch: 2,
                        started_at: DateTime::UNIX_EPOCH,
                    }).collect();
                }
                prop_assert!(plan(fleet, min_gain, 100).is_empty());
            }
        }
    }
}
