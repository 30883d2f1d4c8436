//! Writing drafts: sessions, agents' counters, events, ledger, leftovers, in one statement.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::args::{
    ArgAgent, ArgLedgerChanged, ArgLedgerOpened, ArgLeftover, ArgLostHold, ArgSession,
    ArgSessionFew,
};
use super::draft::{AgentEffect, Draft, Was};
use super::shape::{self, Few};
use crate::error::{Error, Result};
use crate::events::ArgEvent;
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;
use crate::{commands, shares};

/// A row that has changed, and what it was.
#[derive(Debug)]
pub(super) struct ChangedRow<'a, R> {
    pub(super) was: &'a Was,
    pub(super) row: R,
    /// When its limits are to be looked at, where that has changed.
    pub(super) check_at: Option<DateTime<Utc>>,
}

impl<'a, R> ChangedRow<'a, R> {
    fn of(draft: &'a Draft, row: R) -> Self {
        Self {
            was: &draft.was,
            row,
            check_at: draft.limits_changed(),
        }
    }
}

/// What changes of an agent's counters.
#[derive(Debug, Default)]
pub(super) struct AgentChange<'a> {
    pub(super) agent: &'a str,
    pub(super) slots: i32,
    pub(super) lapsed: i32,
    pub(super) accepted: bool,
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    written: i64,
    #[diesel(sql_type = Array<SqlUuid>)]
    with_commands: Vec<Uuid>,
    #[diesel(sql_type = Array<Text>)]
    uncounted: Vec<String>,
}

/// Writes what changed of the drafts and says whom to wake once the transaction has committed.
///
/// # Errors
/// [`Error::Internal`] when a row is not as it was when it was locked, which would be a fault here.
pub async fn write(conn: &mut Conn, drafts: &[Draft]) -> Result<Hints> {
    let drafts: Vec<&Draft> = drafts.iter().filter(|draft| draft.is_changed()).collect();
    if drafts.is_empty() {
        return Ok(Hints::default());
    }
    let events: Vec<_> = drafts.iter().flat_map(|draft| &draft.events).collect();
    let opened: Vec<_> = drafts
        .iter()
        .filter_map(|draft| draft.opened.as_ref())
        .collect();
    let changed: Vec<_> = drafts.iter().flat_map(|draft| &draft.changed).collect();
    let leftovers: Vec<_> = drafts.iter().flat_map(|draft| &draft.leftovers).collect();
    let lost: Vec<_> = drafts
        .iter()
        .filter_map(|draft| draft.lost.as_ref())
        .collect();
    let few: Option<Vec<_>> = drafts
        .iter()
        .map(|draft| Some(ChangedRow::of(draft, Few::of(&draft.before, &draft.row)?)))
        .collect();
    let statement = match few {
        Some(rows) => Statement::new(shape::FEW.as_str()).bind::<Array<ArgSessionFew>, _>(rows),
        None => {
            let rows = drafts.iter().map(|draft| ChangedRow::of(draft, &draft.row));
            let rows: Vec<_> = rows.collect();
            Statement::new(shape::ALL.as_str()).bind::<Array<ArgSession>, _>(rows)
        }
    };
    let mut of_agents = agent_changes(&drafts);
    let count = statement
        .bind::<Array<ArgAgent>, _>(&of_agents)
        .bind::<Array<ArgEvent>, _>(events)
        .bind::<Array<ArgLedgerOpened>, _>(opened)
        .bind::<Array<ArgLedgerChanged>, _>(changed)
        .bind::<Array<ArgLeftover>, _>(leftovers)
        .bind::<Array<ArgLostHold>, _>(lost)
        .get_result::<Count>(conn)
        .await?;
    if usize::try_from(count.written) != Ok(drafts.len()) {
        return Err(Error::Internal(format!(
            "{} of {} sessions were written",
            count.written,
            drafts.len()
        )));
    }
    of_agents.retain(|change| count.uncounted.iter().any(|agent| agent == change.agent));
    if !of_agents.is_empty() {
        // This one begins now, and sees what the first one had to wait for.
        Statement::new(shape::COUNT.as_str())
            .bind::<Array<ArgAgent>, _>(of_agents)
            .execute(conn)
            .await?;
    }
    let mut hints = Hints::of(drafts.iter().map(|draft| &draft.row));
    hints.migrations = drafts.iter().flat_map(|d| d.migrations.clone()).collect();
    for draft in &drafts {
        // A slot that is free again may be what its agent, parked and full, waits for; and who has
        // lost a session is to hear of it.
        for agent in draft.freed_slot_of().into_iter().chain(draft.taken_from()) {
            // That agent is in the pool that the session was in.
            let pool = hints.pool(&draft.was.pool);
            pool.agents.insert(agent.to_owned());
        }
    }
    let freed: Vec<_> = drafts.iter().filter_map(|d| d.freed_place_of()).collect();
    if !freed.is_empty() {
        // Where an owner's sessions are limited, the next of them can start now.
        let places = u32::try_from(freed.len()).unwrap_or(u32::MAX);
        for pool in shares::limited(conn, freed).await? {
            let hint = hints.pool(&pool);
            hint.starts = hint.starts.saturating_add(places);
            hint.selects = true;
        }
    }
    if !count.with_commands.is_empty() {
        let rows = drafts.iter().map(|draft| &draft.row);
        let with_commands: Vec<_> = rows
            .filter(|row| count.with_commands.contains(&row.id))
            .collect();
        hints.merge(commands::follow(conn, &with_commands).await?);
    }
    Ok(hints)
}

/// What becomes of the counters of the drafts' agents.
pub(super) fn agent_changes<'a>(drafts: &[&'a Draft]) -> Vec<AgentChange<'a>> {
    let mut changes: BTreeMap<&str, AgentChange<'a>> = BTreeMap::new();
    for draft in drafts {
        for (agent, slots) in draft.slot_changes() {
            changes.entry(agent).or_default().slots += slots;
        }
        for effect in &draft.effects {
            match effect {
                AgentEffect::Accepted(agent) => changes.entry(agent).or_default().accepted = true,
                AgentEffect::Lapsed(agent) => changes.entry(agent).or_default().lapsed = 1,
            }
        }
    }
    changes
        .into_iter()
        .map(|(agent, change)| AgentChange { agent, ..change })
        .collect()
}
