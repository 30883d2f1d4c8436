//! How a walk over the queues goes around what is known to be empty, pure.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Less than every rank, and no owner or selector is less than the empty one.
const BEFORE_RANKS: i16 = i16::MIN;
/// More than every rank: priorities go from -1000 to 1000.
const AFTER_RANKS: i16 = i16::MAX;
/// More than every selector's key, which is a digest or empty.
const AFTER_KEYS: &str = "~";
/// How often the last character that there is comes in what is more than every owner.
const AFTER_OWNERS: usize = 300;

/// Up to where one rank of a queue has nothing to start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Spent {
    /// The key of the queue's selector.
    pub key: String,
    /// The queue's owner.
    pub owner: String,
    /// The rank: the negated priority.
    pub rank: i16,
    /// Nothing that was queued before this can be started.
    pub below: DateTime<Utc>,
}

/// What is left of the pool's index when what is spent is taken away, as stretches each of which is one
/// look at the index that ends by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Around {
    /// Between the selectors of which something is known.
    pub(super) keys: Vec<KeyStretch>,
    /// Between the owners of which something is known, within those selectors.
    pub(super) owners: Vec<OwnerStretch>,
    /// What is left of the queues of which something is known.
    pub(super) ranges: Vec<QueueRange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct KeyStretch {
    from_key: String,
    to_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OwnerStretch {
    key: String,
    from_owner: String,
    to_owner: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct QueueRange {
    key: String,
    owner: String,
    #[serde(flatten)]
    range: Range,
}

/// A part of a queue: from a place on, up to a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first rank.
    pub from_rank: i16,
    /// In that rank, when the first one was queued; none for the beginning.
    #[serde(serialize_with = "or_the_beginning")]
    pub from_at: Option<DateTime<Utc>>,
    /// The first rank that is not in it.
    pub to_rank: i16,
}

fn or_the_beginning<S: serde::Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => at.serialize(serializer),
        None => serializer.serialize_str("-infinity"),
    }
}

impl Range {
    fn whole() -> Self {
        Self {
            from_rank: BEFORE_RANKS,
            from_at: None,
            to_rank: AFTER_RANKS,
        }
    }
}

/// More than every owner.
pub(super) fn after_owners() -> String {
    char::MAX.to_string().repeat(AFTER_OWNERS)
}

/// The next one after a text, in the order of its bytes.
fn after(text: &str) -> String {
    format!("{text}\u{1}")
}

impl Default for Around {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Around {
    /// Goes around what is spent.
    #[must_use]
    pub fn of(mut spent: Vec<Spent>) -> Self {
        spent.sort();
        let mut around = Self {
            keys: Vec::new(),
            owners: Vec::new(),
            ranges: Vec::new(),
        };
        let mut from_key = String::new();
        for of_key in spent.chunk_by(|a, b| a.key == b.key) {
            let key = &of_key[0].key;
            around.between_keys(&from_key, key);
            from_key = after(key);
            let mut from_owner = String::new();
            for of_queue in of_key.chunk_by(|a, b| a.owner == b.owner) {
                let owner = &of_queue[0].owner;
                around.between_owners(key, &from_owner, owner);
                from_owner = after(owner);
                around.left_of(of_queue);
            }
            around.between_owners(key, &from_owner, &after_owners());
        }
        around.between_keys(&from_key, AFTER_KEYS);
        around
    }

    fn between_keys(&mut self, from: &str, to: &str) {
        if from < to {
            self.keys.push(KeyStretch {
                from_key: from.to_owned(),
                to_key: to.to_owned(),
            });
        }
    }

    fn between_owners(&mut self, key: &str, from: &str, to: &str) {
        if from < to {
            self.owners.push(OwnerStretch {
                key: key.to_owned(),
                from_owner: from.to_owned(),
                to_owner: to.to_owned(),
            });
        }
    }

    /// What is left of one queue: what is before the first rank of which something is known, then each
    /// such rank from where it goes on, with the unknown ranks behind it.
    fn left_of(&mut self, of_queue: &[Spent]) {
        let mut range = Range::whole();
        for spent in of_queue {
            range.to_rank = spent.rank;
            self.left(spent, range);
            range = Range {
                from_rank: spent.rank,
                from_at: Some(spent.below),
                to_rank: AFTER_RANKS,
            };
        }
        if let Some(last) = of_queue.last() {
            self.left(last, range);
        }
    }

    fn left(&mut self, of: &Spent, range: Range) {
        self.ranges.push(QueueRange {
            key: of.key.clone(),
            owner: of.owner.clone(),
            range,
        });
    }

    /// What is left of a queue, in its order; all of it where nothing is known.
    pub fn ranges_of(&self, key: &str, owner: &str) -> Vec<Range> {
        let of_queue = self.ranges.iter();
        let ranges: Vec<Range> = of_queue
            .filter(|r| r.key == key && r.owner == owner)
            .map(|r| r.range.clone())
            .collect();
        if ranges.is_empty() {
            vec![Range::whole()]
        } else {
            ranges
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(key: &str, owner: &str, rank: i16, below: i64) -> Spent {
        Spent {
            key: key.to_owned(),
            owner: owner.to_owned(),
            rank,
            below: DateTime::from_timestamp(below, 0).unwrap_or_default(),
        }
    }

    /// Whether a place in the index is in one of the stretches, and that it is in one at most.
    fn is_left(around: &Around, key: &str, owner: &str, rank: i16, at: i64) -> bool {
        let at = DateTime::from_timestamp(at, 0).unwrap_or_default();
        let in_keys = around
            .keys
            .iter()
            .filter(|k| *k.from_key <= *key && *key < *k.to_key);
        let in_owners = around
            .owners
            .iter()
            .filter(|o| o.key == key && *o.from_owner <= *owner && *owner < *o.to_owner);
        let in_ranges = around.ranges.iter().filter(|r| {
            let from = (r.range.from_rank, r.range.from_at);
            r.key == key && r.owner == owner && from <= (rank, Some(at)) && rank < r.range.to_rank
        });
        let count = in_keys.count() + in_owners.count() + in_ranges.count();
        assert!(count <= 1, "{key} {owner} {rank} is in {count} stretches");
        count == 1
    }

    #[test]
    fn everything_but_what_is_spent_is_left_and_only_once() {
        let known = [
            ("", "", 0, 50),
            ("", "", -5, 20),
            ("", "ann", 0, 30),
            ("ab", "bob", 3, 10),
        ];
        let marks = known.map(|(key, owner, rank, below)| spent(key, owner, rank, below));
        for count in 0..=known.len() {
            let around = Around::of(marks[..count].to_vec());
            for key in ["", "0", "ab", "ab0", "f"] {
                for owner in [
                    "",
                    "a",
                    "ann",
                    "ann\u{1}",
                    "anna",
                    "bob",
                    "zoë",
                    "\u{10FFFF}",
                ] {
                    for rank in [-1000, -5, -4, 0, 1, 3, 1000] {
                        for at in [0, 9, 10, 19, 20, 29, 30, 49, 50, 99] {
                            let is_spent = known[..count]
                                .iter()
                                .any(|k| (k.0, k.1, k.2) == (key, owner, rank) && at < k.3);
                            let left = is_left(&around, key, owner, rank, at);
                            assert_eq!(left, !is_spent, "{key} {owner} {rank} {at}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn where_nothing_is_known_there_is_one_stretch_and_whole_queues() {
        let around = Around::default();
        assert_eq!((around.keys.len(), around.owners.len()), (1, 0));
        assert_eq!(around.ranges_of("", "ann"), [Range::whole()]);
        let written = serde_json::to_string(&Range::whole()).expect("JSON");
        assert!(written.contains("\"-infinity\""), "{written}");
    }
}
