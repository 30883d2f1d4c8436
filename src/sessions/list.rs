//! Lists of sessions.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::dsl::AsSelect;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Bool, Json, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::future::BoxFuture;
use lessor_protocol::{Labels, Session, SessionState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::filter::{Coarse, Only, Query, SessionFilter};
use super::row::{SessionRow, SqlColumns};
use crate::app::App;
use crate::error::Result;
use crate::store::schema::sessions;
use crate::store::{AsJson, Conn, Fragment, Statement};

/// What a list selects: sessions, and when each was last used, which is kept elsewhere.
type Selected = (SqlColumns, Nullable<Timestamptz>);

/// A session as a list has it.
type Listed = (SessionRow, Option<DateTime<Utc>>);

/// What a list selects, for Diesel.
fn columns() -> (
    AsSelect<SessionRow, Pg>,
    Fragment<'static, Nullable<Timestamptz>>,
) {
    // By the index, whatever was known of the table when this was planned.
    let used = "(SELECT a.last_activity_at FROM session_activity a WHERE a.session_id >= sessions.id \
        AND a.session_id <= sessions.id ORDER BY a.session_id LIMIT 1)";
    (SessionRow::as_select(), Statement::new(used).typed())
}

/// Which of some labels the fewest sessions have.
const RAREST_LABEL: &str = include_str!("rarest_label.sql");

/// Where a page of sessions ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The id of the last.
    pub id: Uuid,
    /// When that was created.
    pub created_at: DateTime<Utc>,
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "sessions";
}

/// Sessions, newest first, at most `limit`. Ids begin with the time, so their order is that of creation
/// but for the difference of clocks; lists that ask for times of creation are in the order of those, where
/// both ends of a range can be found by an index.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    filter: SessionFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Session>> {
    let listed = match filter.only() {
        Some(only) => {
            let page = by_one(only, after, limit)
                .unwrap_or_else(|| page(filter, after, limit, Vec::new()));
            planned_once(app, page).await?
        }
        None => by_several(app, filter, after, limit).await?,
    };
    let shown = |(row, used): Listed| Session {
        last_activity_at: used,
        ..Session::from(row)
    };
    Ok(listed.into_iter().map(shown).collect())
}

/// A page whose plan does not depend on its values.
async fn planned_once(app: &App, page: Query<Selected>) -> Result<Vec<Listed>> {
    app.db
        .read_often("sessions::list", |conn| {
            Box::pin(async move { Ok(page.load(conn).await?) })
        })
        .await
}

/// A page by several conditions.
async fn by_several(
    app: &App,
    filter: SessionFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Listed>> {
    if let Some(coarse) = filter.coarse() {
        let page = planned_once(app, newest_among(coarse, after, limit)).await?;
        if i64::try_from(page.len()) == Ok(limit) {
            return Ok(page);
        }
    }
    let by_labels = by_labels(app, filter.labels.clone()).await?;
    app.db
        .read("sessions::list", |conn| {
            read(conn, filter, after, limit, by_labels)
        })
        .await
}

fn read(
    conn: &mut Conn,
    filter: SessionFilter,
    after: Option<Position>,
    limit: i64,
    by_labels: Vec<String>,
) -> BoxFuture<'_, Result<Vec<Listed>>> {
    Box::pin(async move {
        let page = |filter| page(filter, after, limit, by_labels.clone());
        let Some(each) = each_in_order(&filter) else {
            return Ok(page(filter).load(conn).await?);
        };
        let pages = each.into_iter().map(page).collect();
        Ok(Merged { pages, limit }.load(conn).await?)
    })
}

/// A page by a single condition, if that has a value: read in the order of its index, from where the page begins.
/// The text asks for just that order and compares as the index does, or asks a table that has no other index, so
/// that it cannot be planned otherwise, however frequent the planner takes a value for.
fn by_one(only: Only, after: Option<Position>, limit: i64) -> Option<Query<Selected>> {
    let query = sessions::table.select(columns()).limit(limit).into_boxed();
    let before = after.map_or(Uuid::max(), |after| after.id);
    let newest = sessions::id.desc();
    Some(match only {
        Only::Plain => return None,
        Only::Column(column, value) => {
            let text =
                format!("(sessions.{column}, sessions.id) < ($1, $2) AND sessions.{column} >= $1");
            let condition = Statement::new(text)
                .bind::<Text, _>(value)
                .bind::<SqlUuid, _>(before)
                .typed::<Bool>();
            let order = Statement::new(format!("sessions.{column} DESC")).typed::<Text>();
            query.filter(condition).order((order, newest))
        }
        Only::States(states) => {
            let text = include_str!("newest_of_states.sql");
            let condition = Statement::new(text)
                .bind::<Array<Text>, _>(states)
                .bind::<SqlUuid, _>(before)
                .bind::<BigInt, _>(limit)
                .typed::<Bool>();
            query.filter(condition).order(newest)
        }
        Only::Label(key, value) => {
            let text = include_str!("newest_with_label.sql");
            let condition = Statement::new(text)
                .bind::<Text, _>(key)
                .bind::<Text, _>(value)
                .bind::<SqlUuid, _>(before)
                .bind::<BigInt, _>(limit)
                .typed::<Bool>();
            query.filter(condition).order(newest)
        }
        Only::Labels(labels) => {
            let text = include_str!("newest_with_labels.sql");
            let condition = Statement::new(text.replace("{rarest}", RAREST_LABEL))
                .bind::<Json, _>(AsJson(labels))
                .bind::<SqlUuid, _>(before)
                .bind::<BigInt, _>(limit)
                .typed::<Bool>();
            query.filter(condition).order(newest)
        }
    })
}

/// A page by conditions that many sessions meet each, if the newest by one of them have as many as it asks for.
/// To plan it for its values takes as long as to read them.
fn newest_among(coarse: Coarse, after: Option<Position>, limit: i64) -> Query<Selected> {
    // Of a state there are fewer than of a pool, but for what has ended.
    let ended = SessionState::Terminated.as_str();
    let (column, value) = match coarse.state {
        Some(state) if state != ended => ("state", state.to_owned()),
        _ => ("agent_pool", coarse.pool.clone()),
    };
    // For what is assigned there is an index of its own, which is small beside a long history.
    let assigned = if column == "agent_pool" && coarse.assigned == Some(true) {
        " AND (x.assigned_agent_id IS NOT NULL) IS TRUE"
    } else {
        ""
    };
    let text = include_str!("newest_among.sql")
        .replace("{column}", column)
        .replace("{assigned}", assigned);
    let condition = Statement::new(text)
        .bind::<Text, _>(value)
        .bind::<SqlUuid, _>(after.map_or(Uuid::max(), |after| after.id))
        .bind::<BigInt, _>(limit)
        .bind::<Text, _>(coarse.pool)
        .bind::<Nullable<Text>, _>(coarse.state)
        .bind::<Nullable<Text>, _>(coarse.desired_state)
        .bind::<Nullable<Bool>, _>(coarse.assigned)
        .typed::<Bool>();
    sessions::table
        .select(columns())
        .limit(limit)
        .into_boxed()
        .filter(condition)
        .order(sessions::id.desc())
}

/// A page of what one filter matches.
fn page(
    filter: SessionFilter,
    after: Option<Position>,
    limit: i64,
    by_labels: Vec<String>,
) -> Query<Selected> {
    use sessions::dsl;
    let mut query = dsl::sessions.select(columns()).limit(limit).into_boxed();
    if filter.asks_for_creation() {
        query = query.order((dsl::created_at.desc(), dsl::id.desc()));
        // Where the range itself begins later, only one of them may say where to begin.
        let before = filter.created_before;
        let inside = |at: DateTime<Utc>| before.is_none_or(|before| at < before);
        if let Some(after) = after.filter(|after| inside(after.created_at)) {
            query = query.filter(
                Statement::new("(sessions.created_at, sessions.id) < ($1, $2)")
                    .bind::<Timestamptz, _>(after.created_at)
                    .bind::<SqlUuid, _>(after.id)
                    .typed::<Bool>(),
            );
        }
    } else {
        query = query.order(dsl::id.desc());
        if let Some(after) = after {
            query = query.filter(dsl::id.lt(after.id));
        }
    }
    let before = after.filter(|_| !filter.asks_for_creation());
    filter.narrow_before(before.map(|after| after.id), by_labels, query)
}

/// One filter for each of several states, if that gives them in the order of lists: there is an index with
/// each state's sessions in that order, so that a page of several is one of each, merged.
fn each_in_order(filter: &SessionFilter) -> Option<Vec<SessionFilter>> {
    let states: BTreeSet<SessionState> = filter.states.iter().copied().collect();
    if filter.asks_for_creation() || states.len() < 2 {
        return None;
    }
    let of_one = |state| SessionFilter {
        states: vec![state],
        ..filter.clone()
    };
    Some(states.into_iter().map(of_one).collect())
}

/// Pages in the order of ids, which have nothing in common, as one.
struct Merged {
    pages: Vec<Query<Selected>>,
    limit: i64,
}

impl QueryFragment<Pg> for Merged {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for (index, page) in self.pages.iter().enumerate() {
            out.push_sql(if index == 0 { "(" } else { " UNION ALL (" });
            QueryFragment::<Pg>::walk_ast(page, out.reborrow())?;
            out.push_sql(")");
        }
        out.push_sql(" ORDER BY id DESC LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

impl QueryId for Merged {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl diesel::query_builder::Query for Merged {
    type SqlType = Selected;
}

#[derive(QueryableByName)]
struct Key {
    #[diesel(sql_type = Text)]
    key: String,
}

/// By which labels a page is looked up: by the rarest alone. The planner knows how many sessions have a label
/// only of the most frequent ones, and would go through those. For the same reason it must not choose how the
/// rarest is found: it expects few of each, and so would read all of the most frequent one and sort it.
async fn by_labels(app: &App, labels: Labels) -> Result<Vec<String>> {
    if labels.len() < 2 {
        return Ok(labels.into_keys().collect());
    }
    app.db
        .read_often("sessions::rarest_label", |conn| {
            Box::pin(async move {
                let text = format!("-- sessions::rarest_label\n{RAREST_LABEL}");
                let rarest: Vec<Key> = Statement::new(text)
                    .bind::<Json, _>(AsJson(labels))
                    .load(conn)
                    .await?;
                Ok(rarest.into_iter().map(|rarest| rarest.key).collect())
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_by_one_condition_are_prepared_once() {
        let after = Position {
            id: Uuid::max(),
            created_at: DateTime::UNIX_EPOCH,
        };
        for only in [
            Only::Column("owner", "ann".to_owned()),
            Only::States(vec!["failed", "pending"]),
            Only::Label("team".to_owned(), "a".to_owned()),
            Only::Labels(Labels::new()),
        ] {
            let page = by_one(only.clone(), Some(after), 10).expect("it has a value");
            let once = QueryFragment::<Pg>::is_safe_to_cache_prepared(&page, &Pg);
            assert_eq!(once, Ok(true), "{only:?}");
        }
        let by_time = SessionFilter {
            created_after: Some(DateTime::UNIX_EPOCH),
            ..SessionFilter::default()
        };
        for filter in [SessionFilter::default(), by_time] {
            assert_eq!(filter.only(), Some(Only::Plain));
            let page = page(filter, Some(after), 10, Vec::new());
            let once = QueryFragment::<Pg>::is_safe_to_cache_prepared(&page, &Pg);
            assert_eq!(once, Ok(true));
        }
    }

    #[test]
    fn what_many_sessions_meet_is_prepared_once_and_nothing_else_is_taken_for_that() {
        let coarse = SessionFilter {
            pool: Some("p".to_owned()),
            states: vec![SessionState::Running],
            assigned: Some(true),
            ..SessionFilter::default()
        };
        let page = newest_among(coarse.coarse().expect("it is"), None, 10);
        let once = QueryFragment::<Pg>::is_safe_to_cache_prepared(&page, &Pg);
        assert_eq!(once, Ok(true));
        let mut of_owner = coarse.clone();
        of_owner.owner = Some("ann".to_owned());
        let mut of_caller = coarse.clone();
        of_caller.scope.owner = Some("ann".to_owned());
        let mut of_tenant = coarse.clone();
        of_tenant.scope.reach = crate::access::Reach::Tenant("t".to_owned());
        let mut of_states = coarse.clone();
        of_states.states.push(SessionState::Pending);
        let mut of_any_pool = coarse.clone();
        of_any_pool.pool = None;
        let mut since = coarse;
        since.created_after = Some(DateTime::UNIX_EPOCH);
        for filter in [
            of_owner,
            of_caller,
            of_tenant,
            of_states,
            of_any_pool,
            since,
        ] {
            assert_eq!(filter.coarse(), None, "{filter:?}");
        }
    }

    #[test]
    fn between_several_conditions_the_planner_chooses() {
        let owner = SessionFilter {
            owner: Some("ann".to_owned()),
            ..SessionFilter::default()
        };
        let only = Only::Column("owner", "ann".to_owned());
        assert_eq!(owner.only(), Some(only));
        let mut with_state = owner.clone();
        with_state.states.push(SessionState::Failed);
        let mut with_agent = owner.clone();
        with_agent.assigned_agent_id = Some("a".to_owned());
        let mut of_tenant = owner;
        of_tenant.scope.reach = crate::access::Reach::Tenant("t".to_owned());
        for filter in [with_state, with_agent, of_tenant] {
            assert_eq!(filter.only(), None, "{filter:?}");
        }
        let twice = SessionFilter {
            states: vec![SessionState::Failed; 2],
            ..SessionFilter::default()
        };
        let only = Only::Column("state", "failed".to_owned());
        assert_eq!(twice.only(), Some(only));
    }
}
