//! Inserting new sessions, in one statement: those that wait and those that are offered already.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::args::{ArgAgent, ArgLedgerOpened, ArgNewSession};
use super::draft::Draft;
use super::fresh::Home;
use super::write::agent_changes;
use crate::error::Result;
use crate::events::ArgEvent;
use crate::store::{Conn, Statement};

/// What is inserted where some cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Those {
    /// All of them or none.
    All,
    /// Those that can be: whose pool is there and whose name is not taken.
    Possible,
}

/// The texts by which a name that is taken is an error, and by which it leaves its session out: an insert that looks
/// for conflicts first costs more.
static TEXTS: LazyLock<[String; 2]> = LazyLock::new(|| {
    ["", "ON CONFLICT (name) WHERE name IS NOT NULL DO NOTHING"].map(|conflict| {
        text_of(&[
            ("{conflict}", conflict),
            ("{may}", ""),
            ("{enough}", "(SELECT count(*) FROM asked) >= $4"),
            ("{given}", "true"),
            ("{more}", " FROM made m"),
        ])
    })
});

impl Those {
    /// The statement's text.
    fn text(self, named: bool) -> &'static str {
        &TEXTS[usize::from(self == Self::Possible && named)]
    }

    /// How many must be possible, of so many, for any to be inserted.
    fn least(self, drafts: usize) -> i64 {
        match self {
            Self::All => i64::try_from(drafts).unwrap_or(i64::MAX),
            Self::Possible => 0,
        }
    }
}

fn text_of(parts: &[(&str, &str)]) -> String {
    let text = include_str!("insert.sql").to_owned();
    let put = |text: String, (name, part): &(&str, &str)| text.replace(name, part);
    parts.iter().fold(text, put)
}

/// The texts of the statements that insert new sessions, so that tests can look at their plans.
#[must_use]
pub fn insert_texts() -> [&'static str; 2] {
    TEXTS.each_ref().map(String::as_str)
}

/// The text of the statement that inserts a new session, offered already, where `may` has a row: a query that may
/// lock the agent. Whether it does is all that `$4` and those after `$6` are for. The statement answers with
/// an [`Inserted`], and the row of `may`.
#[must_use]
pub fn text_if(may: &str) -> String {
    text_of(&[
        ("{conflict}", ""),
        ("{may}", &format!(", may AS MATERIALIZED (\n{may})")),
        ("{enough}", "EXISTS (SELECT FROM may)"),
        ("{given}", "EXISTS (SELECT FROM made)"),
        ("{more}", ", y.* FROM made m, may y"),
    ])
}

/// What such a statement is given: sessions with all that is new with them, as `$1` to `$6`.
pub fn to_insert<'a>(text: &'a str, drafts: &'a [Draft], fourth: i64) -> Statement<'a> {
    let changed: Vec<&Draft> = drafts.iter().collect();
    let pools: BTreeSet<&str> = drafts.iter().map(|d| d.row.agent_pool.as_str()).collect();
    let rows: Vec<_> = drafts.iter().map(|draft| &draft.row).collect();
    let events: Vec<_> = drafts.iter().flat_map(|draft| &draft.events).collect();
    let opened: Vec<_> = drafts.iter().filter_map(|d| d.opened.as_ref()).collect();
    Statement::new(text)
        .bind::<Array<ArgNewSession>, _>(rows)
        .bind::<Array<ArgEvent>, _>(events)
        .bind::<Array<Text>, _>(Vec::from_iter(pools))
        .bind::<BigInt, _>(fourth)
        .bind::<Array<ArgLedgerOpened>, _>(opened)
        .bind::<Array<ArgAgent>, _>(agent_changes(&changed))
}

/// A session that was inserted, as the statement answers.
#[derive(QueryableByName)]
pub struct Inserted {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    platform: String,
    #[diesel(sql_type = Nullable<Text>)]
    region: Option<String>,
    /// When the transaction began.
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
}

impl Inserted {
    /// Places it, the `index`th of its statement, as it stands in the database.
    pub fn place(self, draft: &mut Draft, index: usize) {
        let home = Home {
            name: draft.row.agent_pool.clone(),
            platform: self.platform,
            region: self.region,
        };
        draft.place(&home, self.now, index);
    }
}

/// Inserts new sessions with their events, each into the pool that its row names, and says of each
/// whether it was made: those are placed then, as they stand in the database. `All` says it of all or of none.
///
/// # Errors
/// When the database refuses; a name that is taken is such an error but with `Possible`.
pub async fn insert(conn: &mut Conn, drafts: &mut [Draft], those: Those) -> Result<Vec<bool>> {
    let named = drafts.iter().any(|draft| draft.row.name.is_some());
    let text = those.text(named);
    let made: Vec<Inserted> = to_insert(text, drafts, those.least(drafts.len()))
        .load(conn)
        .await?;
    let mut made: HashMap<Uuid, Inserted> = made.into_iter().map(|made| (made.id, made)).collect();
    Ok(drafts
        .iter_mut()
        .enumerate()
        .map(|(index, draft)| {
            let Some(made) = made.remove(&draft.row.id) else {
                return false;
            };
            made.place(draft, index);
            true
        })
        .collect())
}
