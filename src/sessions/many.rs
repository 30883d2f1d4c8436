//! One change of many sessions: of all that a filter matches, a batch per transaction.
//!
//! Invariants:
//! - Agents are locked before sessions. A session that was given to an agent after it was picked is
//!   left for another look, since its agent is not locked.
//! - A session is judged once more when it is locked: what the filter does not match any more, or what
//!   the change would not change, stays as it is.
//! - What is changed is no more a candidate, so a change that is repeated begins where it ended.

use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, DesiredState, SessionState};
use uuid::Uuid;

use super::changes::{Change, Ending};
use super::draft::{Context, Draft};
use super::filter::{Query, SessionFilter};
use super::{row::SessionRow, store, write::write};
use crate::error::{Error, Result};
use crate::store::Conn;
use crate::store::schema::sessions;
use crate::store::schema::sessions::dsl;
use crate::wakeups::Hints;
use crate::{agents, leases, pools};

/// Whether what is wanted to end could be ended without an agent, as
/// [`leases::end_if_domain_is_lost`] finds.
const ENDS_BY_FORCE: &str = "(sessions.assigned_agent_id IS NULL \
    AND sessions.resource_domain IS NOT NULL AND NOT EXISTS (SELECT FROM agents a \
    WHERE a.pool = sessions.agent_pool AND a.resource_domain = sessions.resource_domain AND a.live))";

/// A change, and the sessions that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Many {
    /// Which sessions.
    pub filter: SessionFilter,
    /// What is done to them.
    pub change: Change,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Step {
    /// What was changed, in the order of ids.
    pub changed: Vec<Uuid>,
    /// How many were given to agents meanwhile: they need another look.
    pub missed: usize,
    /// Where the next batch begins; none when this was the last one.
    pub next: Option<Uuid>,
    /// Whom to wake once the transaction has committed.
    pub hints: Hints,
}

impl Many {
    /// How many sessions it is about: all that the filter matches; of dead letters to retry those.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn matched(&self, conn: &mut Conn) -> Result<i64> {
        let query = sessions::table.select(count_star()).into_boxed();
        Ok(self.about(query).get_result(conn).await?)
    }

    /// How many of them it would change now.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn open(&self, conn: &mut Conn) -> Result<i64> {
        let query = sessions::table.select(count_star()).into_boxed();
        Ok(self.candidates(query).get_result(conn).await?)
    }

    /// The first of those that it would change now, in the order of ids.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn first(&self, conn: &mut Conn, limit: i64) -> Result<Vec<Uuid>> {
        let query = sessions::table
            .select(dsl::id)
            .order(dsl::id)
            .limit(limit)
            .into_boxed();
        Ok(self.candidates(query).load(conn).await?)
    }

    /// The last of them, in the order of ids: what is created from now on has a higher one.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn last(&self, conn: &mut Conn) -> Result<Option<Uuid>> {
        let query = sessions::table
            .select(dsl::id)
            .order(dsl::id.desc())
            .limit(1)
            .into_boxed();
        Ok(self.candidates(query).first(conn).await.optional()?)
    }

    /// Changes the next sessions after an id and up to another, at most `limit`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn step(
        &self,
        conn: &mut Conn,
        (after, until): (Option<Uuid>, Uuid),
        limit: i64,
        actor: &Actor,
    ) -> Result<Step> {
        let picked = self.pick(conn, (after, until), limit).await?;
        let full = i64::try_from(picked.len()) == Ok(limit);
        let next = picked.last().map(|(id, _)| *id).filter(|_| full);
        let mut names: Vec<String> = picked.iter().filter_map(|(_, a)| a.clone()).collect();
        names.sort_unstable();
        names.dedup();
        agents::lock(conn, &names).await?;
        let ids: Vec<Uuid> = picked.iter().map(|(id, _)| *id).collect();
        let locked = store::lock(conn, &ids).await?;
        // Locked, so this holds until the end of the transaction.
        let still = self.still(conn, ids).await?;
        let (rows, missed): (Vec<SessionRow>, Vec<SessionRow>) = locked
            .into_iter()
            .filter(|row| still.contains(&row.id))
            .partition(|row| {
                let agent = row.assigned_agent_id.as_ref();
                agent.is_none_or(|agent| names.binary_search(agent).is_ok())
            });
        let drafts = self.drafts(conn, rows, actor).await?;
        let hints = write(conn, &drafts).await?;
        Ok(Step {
            changed: drafts.iter().map(|draft| draft.row.id).collect(),
            missed: missed.len(),
            next,
            hints,
        })
    }

    async fn pick(
        &self,
        conn: &mut Conn,
        (after, until): (Option<Uuid>, Uuid),
        limit: i64,
    ) -> Result<Vec<(Uuid, Option<String>)>> {
        let mut query = sessions::table
            .select((dsl::id, dsl::assigned_agent_id))
            .filter(dsl::id.le(until))
            .order(dsl::id)
            .limit(limit)
            .into_boxed();
        if let Some(after) = after {
            query = query.filter(dsl::id.gt(after));
        }
        Ok(self.candidates(query).load(conn).await?)
    }

    /// Which of these are still to be changed.
    async fn still(&self, conn: &mut Conn, ids: Vec<Uuid>) -> Result<Vec<Uuid>> {
        let query = sessions::table
            .select(dsl::id)
            .filter(dsl::id.eq_any(ids))
            .into_boxed();
        Ok(self.candidates(query).load(conn).await?)
    }

    async fn drafts(
        &self,
        conn: &mut Conn,
        rows: Vec<SessionRow>,
        actor: &Actor,
    ) -> Result<Vec<Draft>> {
        let now = store::now_that_all_is_locked(conn).await?;
        let rules = pools::rules_of(conn, rows.iter().map(|row| row.agent_pool.as_str())).await?;
        let mut drafts = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(pool) = rules.get(&row.agent_pool) else {
                continue;
            };
            let ctx = Context {
                now,
                pool,
                actor,
                epoch_floor: 0,
            };
            let mut draft = Draft::of(row);
            match self.change.apply(&mut draft, &ctx) {
                Ok(true) => leases::end_if_domain_is_lost(conn, &ctx, &mut draft).await?,
                Ok(false) => {}
                // It cannot be done to this one: it stays as it is.
                Err(Error::SessionNotFailed(..) | Error::TransitionNotAllowed(_)) => continue,
                Err(error) => return Err(error),
            }
            if draft.is_changed() {
                drafts.push(draft);
            }
        }
        Ok(drafts)
    }

    fn about<ST: 'static>(&self, query: Query<ST>) -> Query<ST> {
        let query = self.filter.clone().narrow(query);
        match self.change {
            Change::Retry => query.filter(dsl::state.eq(SessionState::Failed.as_str())),
            Change::End(_) | Change::Want(_) => query,
        }
    }

    /// Those that it would change, as [`Change::apply`] does; a test holds the two against each other.
    fn candidates<ST: 'static>(&self, query: Query<ST>) -> Query<ST> {
        let query = self.about(query);
        let terminated = DesiredState::Terminated.as_str();
        let alive = dsl::desired_state.ne(terminated);
        match &self.change {
            Change::Retry => query.filter(alive),
            Change::End(Ending { force: false, .. }) => query.filter(alive),
            Change::End(Ending { force: true, .. }) => query
                .filter(alive.or(sql::<Bool>(ENDS_BY_FORCE)))
                .filter(dsl::state.ne(SessionState::Terminated.as_str())),
            Change::Want(desired) => query
                .filter(alive)
                .filter(dsl::desired_state.ne(desired.as_str()))
                .filter(dsl::state.ne_all([
                    SessionState::Failed.as_str(),
                    SessionState::Terminated.as_str(),
                ])),
        }
    }
}
