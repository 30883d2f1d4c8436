//! A batch of mapped sessions against what is here: new, changed, the same, or moved on.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use lessor_protocol::{DesiredState, Failure, SessionState};
use serde::Serialize;
use uuid::Uuid;

use super::map::Mapped;
use super::survey::{Home, Survey};
use super::{Mode, verify};
use crate::error::Result;
use crate::import::report::{Finding, Report};
use crate::import::store::{self, Known};
use crate::store::Conn;

/// What batches have in common.
pub struct Batch<'a> {
    /// What to do.
    pub mode: Mode,
    /// What was brought in before.
    pub known: &'a HashMap<String, Known>,
    /// The source's name.
    pub source: &'a str,
    /// The time of this transaction.
    pub now: DateTime<Utc>,
}

/// A row for `insert.sql` or `update.sql`.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    mapped: Mapped,
    id: Uuid,
    was_version: i64,
    fingerprint: String,
    old_state: String,
    platform: String,
    region: Option<String>,
    observed_generation: i64,
    failure: Option<Failure>,
    created_at: DateTime<Utc>,
    queued_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    first_started_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    last_activity_at: Option<DateTime<Utc>>,
    check_at: Option<DateTime<Utc>>,
}

impl Batch<'_> {
    /// Compares a batch, and writes what is to be written.
    pub async fn settle(
        &self,
        conn: &mut Conn,
        batch: Vec<Mapped>,
        survey: &Survey,
        report: &mut Report,
    ) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.mode == Mode::Verify {
            return verify::compare(conn, batch, self.known, self.source, report).await;
        }
        let digests = batch.iter().map(Mapped::digested).collect();
        let digests = store::digests(conn, digests).await?;
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for (mapped, digest) in batch.into_iter().zip(digests) {
            let Some(known) = self.known.get(&mapped.old_id) else {
                new.push((mapped, digest));
                continue;
            };
            let same = known.fingerprint == digest;
            if same && (known.untouched || known.deleted) {
                report.counts.unchanged += 1;
            } else if known.untouched {
                changed.push((mapped, known, digest));
            } else {
                report.counts.moved_on += 1;
                if !same {
                    let detail = format!(
                        "it has changed in the source, to `{}`, and here too; it is left as it is here",
                        mapped.old_state
                    );
                    report.add(Finding::left(&mapped.old_id, "moved_on", detail));
                }
            }
        }
        self.add(conn, new, survey, report).await?;
        self.update(conn, changed, survey, report).await
    }

    async fn add(
        &self,
        conn: &mut Conn,
        new: Vec<(Mapped, String)>,
        survey: &Survey,
        report: &mut Report,
    ) -> Result<()> {
        let names: Vec<String> = new
            .iter()
            .filter_map(|(mapped, _)| mapped.name.clone())
            .collect();
        let resources: Vec<String> = new
            .iter()
            .filter_map(|(mapped, _)| mapped.platform_resource_id.clone())
            .collect();
        let taken = store::taken(conn, names, resources).await?;
        let names: HashSet<&str> = taken.iter().filter_map(|row| row.name.as_deref()).collect();
        // Those that are there for their names only may have no resource.
        let held: HashMap<_, _> = taken
            .iter()
            .filter(|row| row.name.is_none() && row.platform_resource_id.is_some())
            .map(|row| {
                (
                    (
                        &*row.agent_pool,
                        row.resource_domain.as_deref(),
                        row.platform_resource_id.as_deref(),
                    ),
                    row.id,
                )
            })
            .collect();
        let mut rows = Vec::new();
        for (mut mapped, fingerprint) in new {
            let place = (
                &*mapped.pool,
                mapped.resource_domain.as_deref(),
                mapped.platform_resource_id.as_deref(),
            );
            if let (Some(id), false) = (held.get(&place), mapped.state == SessionState::Terminated)
            {
                let why = format!(
                    "its resource is that of session {id} here already; was this source brought in under another --source-name?"
                );
                report.add(Finding::unmapped(
                    "sessions",
                    &mapped.old_id,
                    "resource_taken",
                    why,
                ));
                continue;
            }
            if mapped
                .name
                .as_deref()
                .is_some_and(|name| names.contains(name))
            {
                let detail = "a session here has its name; the id is in the label `session_id`";
                report.add(Finding::note(
                    "sessions",
                    &mapped.old_id,
                    "name_taken",
                    detail,
                ));
                mapped.name = None;
            }
            let Some(home) = survey.home(&mapped.pool) else {
                continue;
            };
            let place = report.counts.new;
            report.counts.new += 1;
            let id = id_of(mapped.created_at.unwrap_or(self.now));
            rows.push(self.row(mapped, id, 0, fingerprint, home, place));
        }
        if self.mode == Mode::Apply && !rows.is_empty() {
            store::insert(conn, rows, self.source).await?;
        }
        Ok(())
    }

    async fn update(
        &self,
        conn: &mut Conn,
        changed: Vec<(Mapped, &Known, String)>,
        survey: &Survey,
        report: &mut Report,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for (mapped, known, fingerprint) in changed {
            let Some(home) = survey.home(&mapped.pool) else {
                continue;
            };
            rows.push(self.row(
                mapped,
                known.session_id,
                known.version,
                fingerprint,
                home,
                0,
            ));
        }
        let mut ids: HashSet<String> = rows.iter().map(|row| row.mapped.old_id.clone()).collect();
        if self.mode == Mode::Apply && !rows.is_empty() {
            for old_id in store::update(conn, rows, self.source).await? {
                ids.remove(&old_id);
                report.counts.updated += 1;
            }
            // Touched since this import began.
            report.counts.moved_on += ids.len() as u64;
        } else {
            report.counts.updated += ids.len() as u64;
        }
        Ok(())
    }

    fn row(
        &self,
        mapped: Mapped,
        id: Uuid,
        was_version: i64,
        fingerprint: String,
        home: &Home,
        place: u64,
    ) -> Row {
        use SessionState as S;
        let now = self.now;
        let past = |at: DateTime<Utc>| at.min(now);
        let created_at = past(mapped.created_at.unwrap_or(now));
        let ran = !matches!(mapped.state, S::Pending | S::Starting);
        let reached = matches!(
            (mapped.state, mapped.desired_state),
            (S::Running, DesiredState::Running)
                | (S::Hibernated, DesiredState::Hibernated)
                | (S::Terminated, DesiredState::Terminated)
        );
        let ended = matches!(mapped.state, S::Terminated | S::Failed);
        let ended_at = ended.then(|| past(mapped.ended_at.unwrap_or(now)));
        // Limits run from the import on: none is reached in the moment in which it is brought in.
        let limit = [mapped.idle_timeout_seconds, mapped.max_duration_seconds]
            .into_iter()
            .flatten()
            .reduce(f64::min)
            .filter(|_| !ended);
        let after = |seconds: f64| now + TimeDelta::milliseconds((seconds * 1e3) as i64);
        Row {
            id,
            was_version,
            fingerprint,
            old_state: mapped.old_state.clone(),
            platform: home.platform.clone(),
            region: home.region.clone(),
            observed_generation: i64::from(reached),
            failure: (mapped.state == S::Failed).then(|| Failure {
                reason: "imported".to_owned(),
                message: mapped
                    .termination_reason
                    .clone()
                    .unwrap_or_else(|| "it had failed before it was brought in".to_owned()),
                exit_code: None,
                retryable: false,
                at: ended_at.unwrap_or(now),
            }),
            created_at,
            // A microsecond apart, as created: in the order of the ids there.
            queued_at: now + TimeDelta::microseconds(i64::try_from(place).unwrap_or(0)),
            started_at: ran.then_some(created_at),
            first_started_at: ran.then_some(now),
            ended_at,
            last_activity_at: match mapped.idle_timeout_seconds {
                Some(_) if !ended => Some(now),
                _ => mapped.last_activity_at.map(past),
            },
            check_at: limit.map(after),
            mapped,
        }
    }
}

/// A UUIDv7 of the time at which the session was made, so that lists have it in its place.
fn id_of(created_at: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(created_at.timestamp()).unwrap_or(0);
    let time = uuid::Timestamp::from_unix_time(seconds, created_at.timestamp_subsec_nanos(), 0, 0);
    Uuid::new_v7(time)
}
