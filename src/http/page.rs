//! Pages of lists: limits, and cursors that clients hand back unread.
//!
//! A cursor is a position, not a snapshot: it says after which item to go on, so a page costs the
//! same however far down it is, and items that come in meanwhile do not shift it.
//!
//! Invariant: a cursor is only taken back by the kind of list that gave it. It is not signed: what
//! is in it must be harmless in anybody's hands, a position and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lessor_protocol::Page;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// How many items a page has if the client does not say.
pub const DEFAULT_LIMIT: i64 = 50;

/// The most items a page can have.
pub const MAX_LIMIT: i64 = 500;

/// Longer ones were not given out by us.
const MAX_CURSOR_BYTES: usize = 2048;

/// A position in one kind of list.
pub trait Cursor: Serialize + DeserializeOwned {
    /// The list's name; a cursor of another kind is refused.
    const KIND: &'static str;
}

/// The parameters of a list without filters.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items: 1 to 500, by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

impl PageQuery {
    /// The page that is wanted.
    ///
    /// # Errors
    /// `validation_failed`.
    pub fn paging(self) -> Result<Paging, Problem> {
        Paging::new(self.limit, self.cursor)
    }
}

/// Which page of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// How many items: 1 to [`MAX_LIMIT`].
    pub limit: i64,
    /// The cursor, still unread.
    pub cursor: Option<String>,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            cursor: None,
        }
    }
}

impl Paging {
    /// From the parameters `limit` and `cursor`.
    ///
    /// # Errors
    /// `validation_failed` when `limit` is out of its range.
    pub fn new(limit: Option<i64>, cursor: Option<String>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::invalid(
                "limit",
                format!("must be from 1 to {MAX_LIMIT}"),
            ));
        }
        Ok(Self { limit, cursor })
    }

    /// The position after which the page begins; none for the first page.
    ///
    /// # Errors
    /// `validation_failed` when the cursor is not one of this kind.
    pub fn after<C: Cursor>(&self) -> Result<Option<C>, Problem> {
        self.cursor.as_deref().map(decode_cursor).transpose()
    }

    /// How many rows to fetch: one more than the page has, which tells whether there is a next one.
    #[must_use]
    pub fn fetch(&self) -> i64 {
        self.limit.saturating_add(1)
    }

    /// The page out of up to [`Paging::fetch`] rows.
    pub fn page<T, C: Cursor>(&self, mut rows: Vec<T>, position: impl FnOnce(&T) -> C) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|last| encode_cursor(&position(last)));
        Page {
            items: rows,
            next_cursor,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<K, P> {
    k: K,
    p: P,
}

/// A position as an opaque word, fit for a URL.
pub fn encode_cursor<C: Cursor>(position: &C) -> String {
    // A plain struct cannot fail to serialise; if one did, its cursor would be refused.
    let json = serde_json::to_vec(&Envelope {
        k: C::KIND,
        p: position,
    })
    .unwrap_or_default();
    URL_SAFE_NO_PAD.encode(json)
}

/// The position that [`encode_cursor`] made a word of.
///
/// # Errors
/// `validation_failed`, pointer `cursor`, for anything that it did not make for this kind.
pub fn decode_cursor<C: Cursor>(cursor: &str) -> Result<C, Problem> {
    let refused = || Problem::invalid("cursor", "is not a cursor of this list");
    if cursor.len() > MAX_CURSOR_BYTES {
        return Err(refused());
    }
    let json = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    // Ours hold no NUL, and PostgreSQL would fail on one.
    if json.windows(6).any(|bytes| bytes == br"\u0000") {
        return Err(refused());
    }
    let envelope: Envelope<String, C> = serde_json::from_slice(&json).map_err(|_| refused())?;
    if envelope.k == C::KIND {
        Ok(envelope.p)
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Position {
        name: String,
    }
    impl Cursor for Position {
        const KIND: &'static str = "pools";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other {
        name: String,
    }
    impl Cursor for Other {
        const KIND: &'static str = "agents";
    }

    #[test]
    fn limits() {
        assert_eq!(Paging::new(None, None), Ok(Paging::default()));
        assert_eq!(
            Paging::new(Some(500), None).map(|paging| paging.fetch()),
            Ok(501)
        );
        for limit in [0, -1, 501, i64::MAX, i64::MIN] {
            assert_eq!(
                Paging::new(Some(limit), None)
                    .expect_err("out of range")
                    .errors[0]
                    .pointer,
                "limit"
            );
        }
    }

    #[test]
    fn cursors_come_back_and_only_to_their_list() {
        let cursor = encode_cursor(&Position {
            name: "a/ü".into()
        });
        assert!(
            cursor
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{cursor}"
        );
        assert_eq!(
            decode_cursor(&cursor),
            Ok(Position {
                name: "a/ü".into()
            })
        );
        let nul = encode_cursor(&Position { name: "\0".into() });
        for wrong in [
            decode_cursor::<Other>(&cursor).err(),
            decode_cursor::<Position>("").err(),
            decode_cursor::<Position>("e30").err(),
            decode_cursor::<Position>(&"a".repeat(100_000)).err(),
            decode_cursor::<Position>("ü").err(),
            decode_cursor::<Position>(&nul).err(),
        ] {
            assert_eq!(wrong.expect("a refusal").errors[0].pointer, "cursor");
        }
    }

    #[test]
    fn a_page_knows_whether_there_is_more() {
        let paging = Paging::new(Some(2), None).expect("a limit");
        let position = |name: &String| Position { name: name.clone() };
        let rows = |count: usize| {
            ["a", "b", "c"][..count]
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(paging.page(rows(0), position).next_cursor, None);
        assert_eq!(paging.page(rows(2), position).next_cursor, None);
        let page = paging.page(rows(3), position);
        assert_eq!(page.items, ["a", "b"]);
        let next = Paging::new(None, page.next_cursor).expect("a limit");
        assert_eq!(next.after(), Ok(Some(Position { name: "b".into() })));
        assert_eq!(Paging::default().after::<Position>(), Ok(None));
    }
}

#[cfg(test)]
mod fuzz {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct At(String, i64, Option<bool>);

    impl Cursor for At {
        const KIND: &'static str = "things";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Elsewhere(String, i64, Option<bool>);

    impl Cursor for Elsewhere {
        const KIND: &'static str = "others";
    }

    #[test]
    fn fuzz_cursors() {
        let examples = [
            At("a".to_owned(), 7, None),
            At("\u{e9}".to_owned(), -1, Some(true)),
        ]
        .map(|at| encode_cursor(&at).into_bytes());
        let examples: Vec<&[u8]> = examples.iter().map(Vec::as_slice).collect();
        let words = ["eyJrIjoi", "AA", "=", "-_"];
        lessor_fuzz::run(&examples, &words, |input| {
            // As it comes, and as what it says: changes of base64 rarely are JSON.
            for text in [
                String::from_utf8_lossy(input).into_owned(),
                URL_SAFE_NO_PAD.encode(input),
            ] {
                if let Ok(at) = decode_cursor::<At>(&text) {
                    assert!(!at.0.contains('\0') && text.len() <= MAX_CURSOR_BYTES);
                    assert_eq!(decode_cursor::<At>(&encode_cursor(&at)).ok(), Some(at));
                }
            }
        });
    }

    proptest! {
        #[test]
        fn a_cursor_leads_back_to_where_it_was_given_out(name in "[^\0]{0,40}", at in any::<i64>(), flag in any::<Option<bool>>()) {
            let position = At(name, at, flag);
            let word = encode_cursor(&position);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            prop_assert!(word.bytes().all(plain));
            prop_assert!(decode_cursor::<Elsewhere>(&word).is_err());
            prop_assert_eq!(decode_cursor::<At>(&word).ok(), Some(position));
        }

        #[test]
        fn no_page_is_longer_than_asked_for_and_none_is_lost(count in 0_usize..40, limit in 1_i64..20) {
            let paging = Paging::new(Some(limit), None).expect("a limit");
            let all: Vec<i64> = (0..i64::try_from(count).expect("small")).collect();
            let (mut seen, mut from) = (Vec::new(), 0_usize);
            loop {
                let fetch = usize::try_from(paging.fetch()).expect("small");
                let rows: Vec<i64> = all.iter().skip(from).take(fetch).copied().collect();
                let page = paging.page(rows, |at| At(String::new(), *at, None));
                prop_assert!(page.items.len() <= usize::try_from(limit).expect("small"));
                seen.extend(page.items);
                let Some(next) = page.next_cursor else { break };
                let At(_, at, _) = decode_cursor(&next).expect("our own");
                from = usize::try_from(at).expect("small") + 1;
            }
            prop_assert_eq!(seen, all);
        }
    }
}
