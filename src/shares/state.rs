//! Whose turn it is: weighted fair queueing between the owners of a pool, pure.
//!
//! Each owner has a virtual time. The one with the least is next, and each session that it is given
//! moves it on by 1 over its weight. So over any stretch in which the same owners have something
//! waiting, each gets sessions in the measure of its weight, whatever waits behind its first one.
//!
//! Invariants:
//! - An owner counts from the pool's virtual time at least: who was away has saved up nothing.
//! - The pool's virtual time is that of the owner who was last given something, and only rises.
//! - A lone owner moves nothing on.

use std::collections::HashMap;

/// The least weight that counts. Virtual times would lose their small digits to smaller ones.
const MIN_WEIGHT: f64 = 0.001;

/// An owner who has something waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The owner; empty for sessions that have none.
    pub owner: String,
    /// Its weight.
    weight: f64,
    /// Its virtual time when the round began.
    start: f64,
    /// Its virtual time now.
    now: f64,
    /// Its virtual time when it was last given something; none if it is new. Of two with the same
    /// virtual time the one that has waited longer is first.
    last_start: Option<f64>,
}

/// What a round has moved on, to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// Owner, its virtual time after the round, and before.
    pub owners: Vec<(String, f64, f64)>,
    /// The pool's virtual time.
    pub pool_time: f64,
}

/// The owners who have something waiting for the agents of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turns {
    turns: Vec<Turn>,
    pool_time: f64,
}

impl Turns {
    /// Nobody yet, in a pool with this virtual time.
    #[must_use]
    pub fn at(pool_time: f64) -> Self {
        Self {
            turns: Vec::new(),
            pool_time,
        }
    }

    /// Adds an owner, once, and says its place. `kept` is its virtual time and the one at which it was
    /// last given something, as they were kept.
    pub fn join(&mut self, owner: &str, weight: f64, kept: Option<(f64, f64)>) -> usize {
        if let Some(place) = self.turns.iter().position(|turn| turn.owner == owner) {
            return place;
        }
        let start = kept.map_or(self.pool_time, |(time, _)| time.max(self.pool_time));
        self.turns.push(Turn {
            owner: owner.to_owned(),
            weight: weight.max(MIN_WEIGHT),
            start,
            now: start,
            last_start: kept.map(|(_, last_start)| last_start),
        });
        self.turns.len() - 1
    }

    /// How many owners there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.turns.len()
    }

    /// The owner at a place.
    #[must_use]
    pub fn owner(&self, place: usize) -> &str {
        &self.turns[place].owner
    }

    /// Whose turn it is among those that `may`.
    #[must_use]
    pub fn next(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.turns.len())
            .filter(|place| may(*place))
            .min_by(|a, b| {
                let (a, b) = (&self.turns[*a], &self.turns[*b]);
                let waited = |turn: &Turn| turn.last_start.unwrap_or(f64::NEG_INFINITY);
                a.now
                    .total_cmp(&b.now)
                    .then(waited(a).total_cmp(&waited(b)))
                    .then_with(|| a.owner.cmp(&b.owner))
            })
    }

    /// An owner was given a session.
    pub fn give(&mut self, place: usize) {
        let turn = &mut self.turns[place];
        turn.last_start = Some(turn.now);
        self.pool_time = self.pool_time.max(turn.now);
        turn.now += 1.0 / turn.weight;
    }

    /// How many of the next `wanted` sessions would be each owner's, if each had as many as `most`
    /// says.
    #[must_use]
    pub fn needs(&self, most: &[usize], wanted: usize) -> Vec<usize> {
        let mut ahead = self.clone();
        let mut needs = vec![0; self.turns.len()];
        let could =
            |needs: &[usize], place: usize| most.get(place).is_some_and(|m| needs[place] < *m);
        // A lone owner gets them all, which needs no counting.
        let mut open = (0..needs.len()).filter(|place| could(&needs, *place));
        if let (Some(lone), None) = (open.next(), open.next()) {
            needs[lone] = wanted.min(most[lone]);
            return needs;
        }
        for _ in 0..wanted {
            let Some(place) = ahead.next(|place| could(&needs, place)) else {
                break;
            };
            needs[place] += 1;
            ahead.give(place);
        }
        needs
    }

    /// Begins another round where this one has ended, as if all had been kept and read again; says by how
    /// much each owner who was given something has moved on.
    pub fn settle(&mut self) -> HashMap<String, f64> {
        let mut moved = HashMap::new();
        for turn in &mut self.turns {
            if turn.now > turn.start {
                moved.insert(turn.owner.clone(), turn.now - turn.start);
                turn.last_start = Some(turn.start);
            }
            turn.now = turn.now.max(self.pool_time);
            turn.start = turn.now;
        }
        moved
    }

    /// Owners have moved on by so much, in another round than this.
    pub fn given_elsewhere(&mut self, moved: &HashMap<String, f64>) {
        for turn in &mut self.turns {
            if let Some(by) = moved.get(&turn.owner) {
                turn.last_start = Some(turn.now);
                turn.now += by;
                turn.start = turn.now;
            }
        }
    }

    /// Whether the owner at a place was given something.
    #[must_use]
    pub fn has_moved(&self, place: usize) -> bool {
        self.turns[place].now > self.turns[place].start
    }

    /// What is to be kept; nothing, unless at least two of those that `compete` are there.
    #[must_use]
    pub fn moved(&self, compete: impl Fn(usize) -> bool) -> Option<Moved> {
        let competing = (0..self.turns.len()).filter(|place| compete(*place));
        let owners: Vec<_> = self
            .turns
            .iter()
            .filter(|turn| turn.now > turn.start)
            .map(|turn| (turn.owner.clone(), turn.now, turn.start))
            .collect();
        (competing.count() >= 2 && !owners.is_empty()).then_some(Moved {
            owners,
            pool_time: self.pool_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives out round after round, keeping what moved in between as the tables do.
    struct Pool {
        kept: HashMap<String, (f64, f64)>,
        pool_time: f64,
    }

    impl Pool {
        fn round(&mut self, owners: &[(&str, f64)], slots: usize) -> HashMap<String, usize> {
            let mut turns = Turns::at(self.pool_time);
            for (owner, weight) in owners {
                turns.join(owner, *weight, self.kept.get(*owner).copied());
            }
            let mut got = HashMap::new();
            for _ in 0..slots {
                let place = turns.next(|_| true).expect("somebody");
                *got.entry(turns.owner(place).to_owned()).or_default() += 1;
                turns.give(place);
            }
            if let Some(moved) = turns.moved(|_| true) {
                for (owner, now, start) in moved.owners {
                    self.kept.insert(owner, (now, start));
                }
                self.pool_time = moved.pool_time;
            }
            got
        }
    }

    fn pool() -> Pool {
        Pool {
            kept: HashMap::new(),
            pool_time: 0.0,
        }
    }

    #[test]
    fn each_gets_its_share_and_who_was_away_has_saved_up_nothing() {
        let mut pool = pool();
        let three = [("a", 1.0), ("b", 2.0), ("c", 4.0)];
        let got = pool.round(&three, 700);
        assert_eq!((got["a"], got["b"], got["c"]), (100, 200, 400));
        // One of them goes away for long, comes back, and gets no more than its share.
        pool.round(&three[..2], 3_000);
        let got = pool.round(&three, 70);
        assert!((39..=41).contains(&got["c"]), "{got:?}");
        // A new one is next at once, and then gets its share too.
        let four = [three[0], three[1], three[2], ("d", 1.0)];
        let got = pool.round(&four, 1);
        assert_eq!(got.get("d"), Some(&1), "{got:?}");
        let got = pool.round(&four, 80);
        assert!((9..=11).contains(&got["d"]), "{got:?}");
    }

    #[test]
    fn rounds_that_go_on_with_what_is_remembered_give_what_those_give_that_read_it_again() {
        let owners = [("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 0.3)];
        let mut pool = pool();
        let mut remembered = Turns::at(0.0);
        for (owner, weight) in owners {
            remembered.join(owner, weight, None);
        }
        for round in 0..200 {
            let slots = 1 + round % 5;
            let mut got: HashMap<String, usize> = HashMap::new();
            for _ in 0..slots {
                let place = remembered.next(|_| true).expect("somebody");
                *got.entry(remembered.owner(place).to_owned()).or_default() += 1;
                remembered.give(place);
            }
            let moved = remembered.settle();
            assert_eq!(moved.len(), got.len());
            assert_eq!(got, pool.round(&owners, slots), "round {round}");
        }
    }

    #[test]
    fn what_others_give_moves_an_owner_on() {
        let mut turns = Turns::at(0.0);
        for owner in ["a", "b"] {
            turns.join(owner, 1.0, None);
        }
        turns.given_elsewhere(&HashMap::from([("a".to_owned(), 2.0)]));
        assert_eq!(turns.needs(&[9, 9], 4), [1, 3]);
        assert!(!turns.has_moved(0), "that is kept by others");
    }

    #[test]
    fn a_lone_owner_moves_nothing_on() {
        let mut turns = Turns::at(5.0);
        let lone = turns.join("a", 1.0, None);
        assert_eq!(turns.needs(&[7], 10), [7]);
        turns.give(lone);
        assert_eq!(turns.moved(|_| true), None);
        turns.join("b", 1.0, None);
        let moved = turns.moved(|_| true).expect("two compete");
        assert_eq!(
            (moved.owners, moved.pool_time),
            (vec![("a".into(), 6.0, 5.0)], 5.0)
        );
        assert_eq!(
            turns.moved(|place| place == 0),
            None,
            "the other cannot be served"
        );
    }

    proptest! {
        #[test]
        fn shares_are_the_weights_whatever_the_rounds(
            weights in prop::collection::vec(0.1..10.0f64, 2..7),
            rounds in prop::collection::vec(1..40usize, 1..40),
        ) {
            let names: Vec<String> = (0..weights.len()).map(|n| format!("o{n}")).collect();
            let owners: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let mut pool = pool();
            let mut got: HashMap<String, usize> = HashMap::new();
            for slots in &rounds {
                for (owner, count) in pool.round(&owners, *slots) {
                    *got.entry(owner).or_default() += count;
                }
            }
            let (sum, all): (f64, usize) = (weights.iter().sum(), rounds.iter().sum());
            for (owner, weight) in owners {
                let share = all as f64 * weight / sum;
                let got = got.get(owner).copied().unwrap_or(0) as f64;
                // Never more than a session ahead of each other owner's virtual time.
                prop_assert!(got < share + 2.0 + weight / sum * weights.len() as f64, "{owner} {got} {share}");
                prop_assert!(got > share - 2.0 - weight * weights.len() as f64 / 0.1, "{owner} {got} {share}");
                let slack = 1.0 + weight * weights.iter().map(|w| 1.0 / w).fold(0.0, f64::max);
                prop_assert!((got - share).abs() <= slack + 1.0, "{owner} {got} {share}");
            }
        }

        #[test]
        fn what_is_needed_is_what_is_given(
            weights in prop::collection::vec(0.1..10.0f64, 1..7),
            most in prop::collection::vec(0..30usize, 7),
            wanted in 0..100usize,
        ) {
            let mut turns = Turns::at(3.0);
            for (n, weight) in weights.iter().enumerate() {
                turns.join(&format!("o{n}"), *weight, None);
            }
            let needs = turns.needs(&most, wanted);
            let could: usize = most.iter().take(weights.len()).sum();
            prop_assert_eq!(needs.iter().sum::<usize>(), wanted.min(could));
            prop_assert!(needs.iter().zip(&most).all(|(need, most)| need <= most));
            let mut given = vec![0; weights.len()];
            for _ in 0..wanted {
                let Some(place) = turns.next(|place| given[place] < most[place]) else { break };
                given[place] += 1;
                turns.give(place);
            }
            prop_assert_eq!(needs, given);
        }
    }
}
