//! The table at a terminal, and the same as JSON.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::measure::{Line, Spread};

/// What a run has found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran, and how busy that was before.
    pub machine: Machine,
    /// The same at the end.
    pub machine_after: Option<Machine>,
    /// By scenario.
    pub scenarios: Vec<Scenario>,
    /// What could not be run.
    pub failures: Vec<Failure>,
}

/// The lines of one scenario.
#[derive(Debug, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it found.
    pub lines: Vec<Line>,
}

/// A scenario that failed.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub error: String,
}

impl Report {
    /// Nothing found yet.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            machine_after: None,
            scenarios: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a scenario's lines, and says them on stderr at once.
    pub fn add(&mut self, name: &'static str, lines: Vec<Line>) {
        let scenario = Scenario { name, lines };
        eprint!("{scenario}");
        self.scenarios.push(scenario);
    }

    /// Adds a failure.
    pub fn fail(&mut self, name: &'static str, error: &Error) {
        let error = error.to_string();
        eprintln!("  failed: {error}");
        self.failures.push(Failure { name, error });
    }

    /// Notes how busy the machine is at the end.
    pub fn end(&mut self, machine: Machine) {
        self.machine_after = Some(machine);
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(path, text).map_err(Error::io("write", path))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in &self.scenarios {
            writeln!(f, "{}", scenario.name)?;
            write!(f, "{scenario}")?;
        }
        for failure in &self.failures {
            writeln!(f, "{}: failed: {}", failure.name, failure.error)?;
        }
        if let Some(after) = &self.machine_after {
            write!(f, "load average at the end: {}", after.load)?;
        }
        Ok(())
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            if let Some(why) = &line.unmeasured {
                writeln!(f, "  {:<38} not measured: {why}", line.case)?;
                continue;
            }
            let met = match line.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let target = line.target.to_string();
            match &line.reference {
                Some((name, theirs)) => writeln!(
                    f,
                    "  {:<38} {:>26} {:<3} beside {:>26} ({name})  ratio {:>22}  {target:<8} {met}",
                    line.case, line.ours, line.unit, theirs, line.ratio,
                )?,
                None => writeln!(
                    f,
                    "  {:<38} {:>26} {:<3}  {target:<8} {met}",
                    line.case, line.ours, line.unit,
                )?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.min == self.max {
            digits(self.median)
        } else {
            format!(
                "{} ({}..{})",
                digits(self.median),
                digits(self.min),
                digits(self.max)
            )
        };
        f.pad(&text)
    }
}

/// Three digits that mean something, or all of a large number's.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
