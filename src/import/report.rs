//! What an import has to say: counts, pools, and a finding for each row that is not as it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

/// How many findings a screen shows.
const SHOWN: usize = 20;

/// How weighty a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The row was not brought in.
    Unmapped,
    /// Source and target differ.
    Difference,
    /// It is left as it is, since it has changed here.
    Left,
    /// It was brought in, and something of it was left out or changed.
    Note,
}

/// One thing to know about one row.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How weighty it is.
    pub weight: Weight,
    /// The table there.
    pub table: &'static str,
    /// The id there.
    pub id: String,
    /// A word for machines.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: String,
}

impl Finding {
    fn new(
        weight: Weight,
        table: &'static str,
        id: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let short = |text: &str| text.chars().take(300).collect::<String>();
        Self {
            weight,
            table,
            id: short(id),
            code,
            detail: short(&detail.into()),
        }
    }

    /// A row that is not brought in.
    pub fn unmapped(
        table: &'static str,
        id: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(Weight::Unmapped, table, id, code, detail)
    }

    /// A row of which something is left out.
    pub fn note(
        table: &'static str,
        id: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(Weight::Note, table, id, code, detail)
    }

    /// A row that is not the same here.
    pub fn difference(id: &str, code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Weight::Difference, "sessions", id, code, detail)
    }

    /// A row that is left alone.
    pub fn left(id: &str, code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Weight::Left, "sessions", id, code, detail)
    }
}

/// How many rows met which end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "docs/coming-from-streamspace.md says what they count"
)]
pub struct Counts {
    pub sessions: u64,
    pub new: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub moved_on: u64,
    pub ended_long_ago: u64,
    pub unmapped: u64,
    pub gone_from_source: u64,
    pub removed: u64,
    pub differences: u64,
}

/// A pool, and what comes into it.
#[derive(Clone, Debug, Serialize)]
pub struct PoolLine {
    /// Its name here.
    pub pool: String,
    /// `new`, `known` or `existing`.
    pub standing: &'static str,
    /// Its platform.
    pub platform: String,
    /// Its region; empty for none.
    pub region: String,
    /// The cluster there; empty for none.
    pub cluster: String,
    /// The resource domains that its agents are to name.
    pub resource_domains: std::collections::BTreeSet<String>,
    /// Sessions of the source in it, by their state here.
    pub sessions: BTreeMap<String, u64>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `dry_run`, `apply`, `verify` or `rollback`.
    pub mode: &'static str,
    /// The name of the source, without secrets.
    pub source: String,
    /// How long it took.
    pub seconds: f64,
    /// How many rows met which end.
    pub counts: Counts,
    /// The pools.
    pub pools: Vec<PoolLine>,
    /// Findings by weight and code, as `unmapped no_domain`.
    pub codes: BTreeMap<String, u64>,
    /// The first of them, the weighty ones first.
    pub findings: Vec<Finding>,
    /// Columns and tables that the source lacks.
    pub missing: Vec<String>,
    #[serde(skip)]
    file: Option<std::io::BufWriter<std::fs::File>>,
}

impl Report {
    /// An empty one, which writes every finding to a file if one is given.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(
        mode: &'static str,
        source: &str,
        file: Option<&std::path::Path>,
    ) -> Result<Self, String> {
        let create = |path: &std::path::Path| {
            std::fs::File::create(path)
                .map(std::io::BufWriter::new)
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(Self {
            mode,
            source: source.to_owned(),
            seconds: 0.0,
            counts: Counts::default(),
            pools: Vec::new(),
            codes: BTreeMap::new(),
            findings: Vec::new(),
            missing: Vec::new(),
            file: file.map(create).transpose()?,
        })
    }

    /// Takes a finding in.
    pub fn add(&mut self, finding: Finding) {
        match (finding.weight, finding.table) {
            (Weight::Unmapped, "sessions") => self.counts.unmapped += 1,
            (Weight::Difference, _) => self.counts.differences += 1,
            _ => {}
        }
        let word = match finding.weight {
            Weight::Unmapped => "unmapped",
            Weight::Difference => "difference",
            Weight::Left => "left",
            Weight::Note => "note",
        };
        *self
            .codes
            .entry(format!("{word} {}", finding.code))
            .or_default() += 1;
        if let Some(file) = &mut self.file
            && let Ok(line) = serde_json::to_string(&finding)
            && let Err(error) = writeln!(file, "{line}")
        {
            eprintln!("lessor: the report cannot be written on: {error}");
            self.file = None;
        }
        let at = self
            .findings
            .partition_point(|before| before.weight <= finding.weight);
        if at < SHOWN {
            self.findings.insert(at, finding);
            self.findings.truncate(SHOWN);
        }
    }

    /// Writes out what is left of the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&mut self) -> Result<(), String> {
        self.file
            .as_mut()
            .map_or(Ok(()), std::io::Write::flush)
            .map_err(|error| format!("the report cannot be written: {error}"))
    }

    /// For people.
    pub fn table(&self) -> String {
        let c = &self.counts;
        let mut text = format!(
            "{} of {}: {} sessions in {:.1} s\n",
            self.mode, self.source, c.sessions, self.seconds
        );
        for missing in &self.missing {
            let _ = writeln!(text, "the source has no {missing}");
        }
        let rows = [
            ("new", c.new),
            ("updated", c.updated),
            ("unchanged", c.unchanged),
            ("moved on here", c.moved_on),
            ("ended long ago, left out", c.ended_long_ago),
            ("unmapped", c.unmapped),
            ("gone from the source", c.gone_from_source),
            ("removed", c.removed),
            ("differences", c.differences),
        ];
        let rows = rows.iter().filter(|(_, count)| *count > 0);
        text.push_str(&aligned(
            &rows
                .map(|(what, count)| vec![(*what).to_owned(), count.to_string()])
                .collect::<Vec<_>>(),
        ));
        if !self.pools.is_empty() {
            let head = [
                "POOL", "", "PLATFORM", "REGION", "CLUSTER", "DOMAINS", "SESSIONS",
            ]
            .map(str::to_owned)
            .to_vec();
            let line = |pool: &PoolLine| {
                let sessions: Vec<String> = pool
                    .sessions
                    .iter()
                    .map(|(state, n)| format!("{n} {state}"))
                    .collect();
                let dash = |text: &str| {
                    if text.is_empty() {
                        "-".to_owned()
                    } else {
                        text.to_owned()
                    }
                };
                let domains: Vec<&str> = pool
                    .resource_domains
                    .iter()
                    .map(String::as_str)
                    .take(5)
                    .collect();
                let more = pool.resource_domains.len().saturating_sub(5);
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                vec![
                    pool.pool.clone(),
                    pool.standing.to_owned(),
                    pool.platform.clone(),
                    dash(&pool.region),
                    dash(&pool.cluster),
                    dash(&format!("{}{more}", domains.join(","))),
                    dash(&sessions.join(", ")),
                ]
            };
            let rows: Vec<_> = std::iter::once(head)
                .chain(self.pools.iter().map(line))
                .collect();
            let _ = write!(text, "\n{}", aligned(&rows));
        }
        if !self.codes.is_empty() {
            let rows: Vec<_> = self
                .codes
                .iter()
                .map(|(code, count)| vec![code.clone(), count.to_string()])
                .collect();
            let _ = write!(text, "\n{}", aligned(&rows));
            let total: u64 = self.codes.values().sum();
            let row = |f: &Finding| {
                vec![
                    f.table.to_owned(),
                    plain(&f.id),
                    f.code.to_owned(),
                    plain(&f.detail),
                ]
            };
            let rows: Vec<_> = self.findings.iter().map(row).collect();
            let _ = write!(
                text,
                "\nthe first {} of {total} findings (--report FILE has them all):\n{}",
                rows.len(),
                aligned(&rows)
            );
        }
        text
    }
}

/// Without what could move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.width())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell}{:gap$}", "", gap = width - cell.width() + 2);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
