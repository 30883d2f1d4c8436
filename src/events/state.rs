//! What a stream is asked for: from where, and which events. Pure.

use uuid::Uuid;

use crate::access::Reach;

/// The most kinds that one filter names.
pub const MAX_KINDS: usize = 50;

/// Which events a stream shows; what is left out does not narrow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of pools that this reaches.
    pub reach: Reach,
    /// Of this pool.
    pub pool: Option<String>,
    /// With this agent.
    pub agent: Option<String>,
    /// Of this session.
    pub session: Option<Uuid>,
    /// Of sessions of this owner.
    pub owner: Option<String>,
    /// Of these kinds, or of all where there are none.
    pub kinds: Kinds,
}

/// Kinds by their names, and by how they begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Such as `session.created`.
    pub names: Vec<String>,
    /// Such as `session.`, for `session.*`.
    pub prefixes: Vec<String>,
}

/// What a filter looks at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The event's kind.
    pub kind: String,
    /// Its pool.
    pub pool: String,
    /// Its agent.
    pub agent: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// The owner of its session.
    pub owner: Option<String>,
}

impl Filter {
    /// Whether every event passes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an event passes. `passes.sql` says the same in SQL.
    #[must_use]
    pub fn takes(&self, event: &Subject) -> bool {
        fn wanted<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none() || wanted == found
        }
        self.reach.has(&event.pool)
            && wanted(self.pool.as_ref(), Some(&event.pool))
            && wanted(self.agent.as_ref(), event.agent.as_ref())
            && wanted(self.session.as_ref(), event.session.as_ref())
            && wanted(self.owner.as_ref(), event.owner.as_ref())
            && self.kinds.take(&event.kind)
    }
}

impl Kinds {
    /// From `session.created,agent.*`; a sentence where it is not that.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::of(text.split(',').map(str::trim))
    }

    /// From a list of them, which may be empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut kinds = Self::default();
        for word in words {
            let (name, begins) = match word.strip_suffix('*') {
                Some(before) => (before, true),
                None => (word, false),
            };
            let known = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            let whole = !name.is_empty() && name.chars().all(known);
            if !whole || (begins && !name.ends_with('.')) || word.len() > 128 {
                return Err(
                    "must be kinds such as session.created or session.*, separated by commas"
                        .to_owned(),
                );
            }
            let list = if begins {
                &mut kinds.prefixes
            } else {
                &mut kinds.names
            };
            list.push(name.to_owned());
        }
        if kinds.names.len() + kinds.prefixes.len() > MAX_KINDS {
            return Err(format!("must name at most {MAX_KINDS} kinds"));
        }
        Ok(kinds)
    }

    fn take(&self, kind: &str) -> bool {
        (self.names.is_empty() && self.prefixes.is_empty())
            || self.names.iter().any(|name| name == kind)
            || self.prefixes.iter().any(|prefix| kind.starts_with(prefix))
    }
}

/// The position that a client says it has seen last; none where it is not one.
#[must_use]
pub fn position(text: &str) -> Option<i64> {
    let digits = (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Where a stream begins, of a history that keeps the positions `first` to `last` (`last + 1`
/// where it keeps nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// After this position.
    pub after: i64,
    /// Whether what was asked for cannot be shown in full.
    pub gap: bool,
}

/// Where a stream begins that has `asked` for what comes after a position.
#[must_use]
pub fn beginning(asked: Option<i64>, first: i64, last: i64) -> Beginning {
    match asked {
        None => Beginning {
            after: last,
            gap: false,
        },
        // "From the oldest kept" can miss nothing.
        Some(0) => Beginning {
            after: first - 1,
            gap: false,
        },
        Some(asked) if asked < first - 1 => Beginning {
            after: first - 1,
            gap: true,
        },
        // A position that was never given: the database is an older one. What the client has seen
        // is not what it has now, so it has to look for itself; the stream goes on from here.
        Some(asked) if asked > last => Beginning {
            after: last,
            gap: true,
        },
        Some(asked) => Beginning {
            after: asked,
            gap: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        assert_eq!(position("0"), Some(0));
        assert_eq!(position("9223372036854775807"), Some(i64::MAX));
        for wrong in [
            "",
            "-1",
            "+1",
            " 1",
            "1.0",
            "x",
            "9223372036854775808",
            "99999999999999999999",
            "１",
        ] {
            assert_eq!(position(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn where_a_stream_begins() {
        let at = |asked, first, last| {
            let found = beginning(asked, first, last);
            (found.after, found.gap)
        };
        assert_eq!(at(None, 5, 9), (9, false));
        assert_eq!(at(Some(0), 5, 9), (4, false));
        assert_eq!(at(Some(3), 5, 9), (4, true));
        assert_eq!(at(Some(4), 5, 9), (4, false));
        assert_eq!(at(Some(9), 5, 9), (9, false));
        assert_eq!(at(Some(10), 5, 9), (9, true));
        // Nothing is kept, or nothing ever was.
        assert_eq!(at(Some(0), 10, 9), (9, false));
        assert_eq!(at(Some(8), 10, 9), (9, true));
        assert_eq!(at(Some(9), 10, 9), (9, false));
        assert_eq!(at(Some(0), 1, 0), (0, false));
        assert_eq!(at(Some(1), 1, 0), (0, true));
    }

    #[test]
    fn kinds() {
        let kinds = Kinds::parse("session.created, drain.*").expect("kinds");
        for (kind, taken) in [
            ("session.created", true),
            ("session.created_anew", false),
            ("drain.started", true),
            ("drain", false),
            ("drains.started", false),
        ] {
            assert_eq!(kinds.take(kind), taken, "{kind}");
        }
        assert!(Kinds::default().take("anything"));
        for wrong in [
            "",
            ",",
            "*",
            "session*",
            "a.b,",
            "A.b",
            "a b",
            "a%",
            &"a".repeat(200),
            &"a,".repeat(60),
        ] {
            assert!(Kinds::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Kinds::parse(&vec!["a.b"; 51].join(",")).is_err());
    }

    #[test]
    fn a_filter_narrows_by_each_of_its_parts() {
        let id = Uuid::from_u128(7);
        let event = Subject {
            kind: "session.offered".into(),
            pool: "p".into(),
            agent: Some("a".into()),
            session: Some(id),
            owner: None,
        };
        let open = Filter::default();
        let pool = |pool: &str| Filter {
            pool: Some(pool.into()),
            ..Filter::default()
        };
        let agent = |agent: &str| Filter {
            agent: Some(agent.into()),
            ..Filter::default()
        };
        let session = |session| Filter {
            session: Some(session),
            ..Filter::default()
        };
        let owner = Filter {
            owner: Some("o".into()),
            ..Filter::default()
        };
        for (filter, taken) in [
            (open, true),
            (pool("p"), true),
            (pool("q"), false),
            (agent("a"), true),
            (agent("b"), false),
            (session(id), true),
            (session(Uuid::from_u128(8)), false),
            (owner, false),
        ] {
            assert_eq!(filter.takes(&event), taken, "{filter:?}");
        }
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_kinds_and_positions() {
        let examples: &[&[u8]] = &[b"session.created,agent.*", b"9223372036854775807", b"0"];
        lessor_fuzz::run(examples, &[".*", ",", "session.", "*"], |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(kinds) = Kinds::parse(&text) {
                assert!(kinds.names.len() + kinds.prefixes.len() <= MAX_KINDS);
                assert!(kinds.prefixes.iter().all(|prefix| prefix.ends_with('.')));
                let words = kinds.names.iter().chain(&kinds.prefixes);
                assert!(words.into_iter().all(|word| !word.is_empty()));
                // What is named is taken.
                assert!(kinds.names.iter().all(|name| kinds.take(name)));
            }
            if let Some(position) = position(&text) {
                assert!(position >= 0 && text.parse() == Ok(position));
            }
        });
    }
}
