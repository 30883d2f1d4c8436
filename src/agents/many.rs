//! One change of many agents: of all that a filter matches, an agent per transaction.
//!
//! Invariant: an agent is judged once more when it is locked. What the filter does not match any more,
//! and what is so already, stays as it is; so a change that is repeated changes nothing.

use chrono::{DateTime, Utc};
use diesel::dsl::count_star;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, DrainRequest, Scheduling};

use super::filter::{AgentFilter, Query};
use super::store;
use crate::app::App;
use crate::drains;
use crate::error::{Error, Result};
use crate::store::Conn;
use crate::store::schema::agents;
use crate::store::schema::agents::dsl;
use crate::wakeups::Hints;

/// What is done to agents.
#[derive(Clone, Debug)]
pub enum AgentChange {
    /// They are given no new sessions: why, and until when.
    Cordon(Option<String>, Option<DateTime<Utc>>),
    /// They are given some again.
    Uncordon,
    /// Each is drained.
    Drain(DrainRequest),
}

/// What became of one of them: what is to be said once it has committed.
#[derive(Debug)]
#[must_use = "who waits would not be woken"]
pub struct Changed(Done);

#[derive(Debug)]
enum Done {
    Cordoned(Hints),
    Drained(drains::Begun),
}

impl Changed {
    /// It has committed.
    pub fn committed(self, app: &App) {
        match self.0 {
            Done::Cordoned(hints) => app.hub.committed(hints),
            Done::Drained(begun) => begun.committed(app),
        }
    }
}

/// A change, and the agents that it is for.
#[derive(Clone, Debug)]
pub struct ManyAgents {
    /// Which agents.
    pub filter: AgentFilter,
    /// What is done to them.
    pub change: AgentChange,
}

impl ManyAgents {
    /// How many agents the filter matches.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn matched(&self, conn: &mut Conn) -> Result<i64> {
        let query = agents::table.select(count_star()).into_boxed();
        Ok(self.filter.clone().narrow(query).get_result(conn).await?)
    }

    /// The first of those that would be changed now, by name.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn first(&self, conn: &mut Conn, limit: i64) -> Result<Vec<String>> {
        let query = agents::table
            .select(dsl::name)
            .order(dsl::name)
            .limit(limit)
            .into_boxed();
        Ok(self.candidates(query).load(conn).await?)
    }

    /// Changes one of them; none if it is not one of them any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn change_one(
        &self,
        conn: &mut Conn,
        name: &str,
        actor: &Actor,
    ) -> Result<Option<Changed>> {
        let Some(row) = store::lock_one(conn, name).await? else {
            return Ok(None);
        };
        let query = agents::table
            .select(dsl::name)
            .filter(dsl::name.eq(name.to_owned()))
            .into_boxed();
        let still: Option<String> = self.candidates(query).first(conn).await.optional()?;
        if still.is_none() {
            return Ok(None);
        }
        let done = match &self.change {
            AgentChange::Cordon(reason, until) => {
                let cordon = Some((reason.clone(), *until));
                let hints = super::cordon_in(conn, &row, cordon, actor).await;
                hints.map(Done::Cordoned)
            }
            AgentChange::Uncordon => {
                let hints = super::cordon_in(conn, &row, None, actor).await;
                hints.map(Done::Cordoned)
            }
            AgentChange::Drain(request) => {
                let begun = drains::start_one(conn, name, request, actor).await;
                begun.map(Done::Drained)
            }
        };
        match done {
            Ok(done) => Ok(Some(Changed(done))),
            Err(Error::DrainInProgress(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those that would be changed.
    fn candidates<ST: 'static>(&self, query: Query<ST>) -> Query<ST> {
        let query = self.filter.clone().narrow(query);
        let active = Scheduling::Active.as_str();
        match self.change {
            AgentChange::Cordon(..) => query.filter(dsl::scheduling.eq(active)),
            AgentChange::Uncordon => query.filter(dsl::scheduling.ne(active)),
            // One that has been drained holds nothing, and is given nothing.
            AgentChange::Drain(_) => {
                query.filter(dsl::scheduling.eq_any([active, Scheduling::Cordoned.as_str()]))
            }
        }
    }
}
