//! Bringing in a StreamSpace v2 database.
//!
//! The source is read in one snapshot, twice: a survey finds out which pools there are and who has a
//! resource, then each session is mapped, pure, and compared with what is here. A dry run does all of
//! it but the writing.
//!
//! Invariants:
//! - Every row of the source is brought in, or counted as ended long ago, or reported.
//! - What has moved on here is never written.
//! - One transaction: an import that fails has written nothing.

mod course;
mod duration;
mod labels;
mod map;
mod names;
mod place;
mod row;
mod source;
mod survey;
mod target;
mod verify;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use lessor_protocol::SessionState;

use self::course::Commands;
use self::map::{Defaults, Mapped, map, outline};
use self::source::Source;
use self::survey::Survey;
use self::target::Batch;
use super::report::{Finding, Report};
use super::store;
use crate::error::Result;
use crate::store::Conn;

/// How many sessions are compared and written at a time.
const BATCH: usize = 2_000;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Say what would be done.
    DryRun,
    /// Do it.
    Apply,
    /// Say what is not as the source has it.
    Verify,
}

/// How to do it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name under which the source is remembered.
    pub source: String,
    /// The time zone of times without one.
    pub time_zone: String,
    /// What names of new pools begin with.
    pub pool_prefix: String,
    /// The platform of what names none.
    pub default_platform: String,
    /// The resource domain of what names none.
    pub default_domain: Option<String>,
    /// How long nothing is decided about domains that have no agent yet.
    pub grace_seconds: f64,
}

/// Runs an import in the transaction of `conn`.
///
/// # Errors
/// When either database refuses; nothing is then to be committed.
pub async fn run(
    conn: &mut Conn,
    url: &str,
    mode: Mode,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    store::begin(conn, mode == Mode::Apply).await?;
    let source = Source::open(url, &options.time_zone).await?;
    report.missing.clone_from(&source.missing);
    let known = store::known(conn, &options.source).await?;
    let defaults = Defaults {
        platform: names::clean(&options.default_platform)
            .unwrap_or_else(|| "kubernetes".to_owned()),
        domain: options.default_domain.clone(),
    };
    let (commands, findings) = source.commands().await?;
    findings.into_iter().for_each(|finding| report.add(finding));
    let survey = Survey::make(conn, &source, &commands, &defaults, options, report).await?;
    if mode == Mode::Apply {
        survey.create_pools(conn, options).await?;
    }
    let now = crate::sessions::now(conn).await?;
    let mut reader = Reader {
        known: &known,
        survey,
        commands,
        defaults,
        now,
        seen: HashSet::new(),
    };
    let mut batch = Vec::new();
    let target = Batch {
        mode,
        known: &known,
        source: &options.source,
        now,
    };
    let rows = source.sessions().await?;
    futures_util::pin_mut!(rows);
    while let Some(row) = rows.next().await {
        report.counts.sessions += 1;
        if let Some(mapped) = reader.read(row?, report) {
            batch.push(mapped);
        }
        if batch.len() == BATCH {
            target
                .settle(conn, std::mem::take(&mut batch), &reader.survey, report)
                .await?;
        }
    }
    target.settle(conn, batch, &reader.survey, report).await?;
    report.pools = std::mem::take(&mut reader.survey.lines)
        .into_values()
        .collect();
    gone(&known, &reader.seen, mode, report);
    if mode == Mode::Apply {
        reader
            .survey
            .create_domains(conn, options, &report.pools)
            .await?;
        store::note(conn, &options.source, "apply", &report.counts).await?;
    }
    Ok(())
}

/// What was brought in and is not in the source any more.
fn gone(
    known: &HashMap<String, store::Known>,
    seen: &HashSet<String>,
    mode: Mode,
    report: &mut Report,
) {
    let mut gone: Vec<&String> = known
        .keys()
        .filter(|old_id| !seen.contains(*old_id))
        .collect();
    gone.sort_unstable();
    for old_id in gone {
        report.counts.gone_from_source += 1;
        let detail = "it was brought in, and is not in the source any more; it is left as it is";
        report.add(match mode {
            Mode::Verify => Finding::difference(old_id, "gone_from_source", detail),
            Mode::DryRun | Mode::Apply => Finding::left(old_id, "gone_from_source", detail),
        });
    }
}

/// Reads rows one by one.
struct Reader<'a> {
    known: &'a HashMap<String, store::Known>,
    survey: Survey,
    commands: HashMap<String, Commands>,
    defaults: Defaults,
    now: DateTime<Utc>,
    seen: HashSet<String>,
}

impl Reader<'_> {
    /// The row as a session of here; none if it is not to be brought in, which is then reported.
    fn read(
        &mut self,
        row: std::result::Result<row::Row, Finding>,
        report: &mut Report,
    ) -> Option<Mapped> {
        match self.try_read(row, report) {
            Ok(mapped) => mapped,
            Err(finding) => {
                report.add(finding);
                None
            }
        }
    }

    fn try_read(
        &mut self,
        row: std::result::Result<row::Row, Finding>,
        report: &mut Report,
    ) -> std::result::Result<Option<Mapped>, Finding> {
        let row = row?;
        let none = Commands::default();
        let commands = row
            .text("id")
            .and_then(|id| self.commands.get(&id))
            .unwrap_or(&none);
        let outline = outline(&row, &self.survey.agents, commands, &self.defaults)?;
        let id = outline.old_id.clone();
        if !self.seen.insert(id.clone()) {
            return Err(Finding::unmapped(
                "sessions",
                &id,
                "twice",
                "its id comes a second time",
            ));
        }
        let pool = self.survey.pool_of(&outline)?;
        self.survey.may_have_resource(&outline)?;
        let (mapped, notes) = map(&row, &outline, &pool.name, commands)?;
        // What was brought in before is ended here too, however long ago it ended there.
        if mapped.state == SessionState::Terminated && !self.known.contains_key(&id) {
            let ended_at = mapped.ended_at.unwrap_or(self.now);
            let kept = TimeDelta::milliseconds((pool.keep_ended_seconds * 1e3) as i64);
            if self.now - ended_at > kept {
                report.counts.ended_long_ago += 1;
                return Ok(None);
            }
        }
        notes.into_iter().for_each(|note| report.add(note));
        self.survey.count(&mapped);
        Ok(Some(mapped))
    }
}
