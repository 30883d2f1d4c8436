//! The scenarios: what is measured, beside what, and what it must reach.

mod backlog;
mod claims;
mod owners;
mod soak;

use std::future::Future;
use std::pin::Pin;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::measure::Line;

/// What a scenario's measurement is.
pub type Run = for<'b> fn(&'b Bench) -> Pin<Box<dyn Future<Output = Result<Vec<Line>>> + 'b>>;

/// Something that is measured.
pub struct Scenario {
    /// Its name at the command line.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Its measurement.
    pub run: Run,
}

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "claims",
        about: "claims over HTTP, each carrying the acceptance of the one before, beside a bare claim and accept",
        run: |bench| Box::pin(claims::run(bench)),
    },
    Scenario {
        name: "backlog",
        about: "claims with much waiting, much claimed and not vacuumed, and an old transaction, beside a small database",
        run: |bench| Box::pin(backlog::run(bench)),
    },
    Scenario {
        name: "owners",
        about: "claims where 100,000 owners share and selectors are in use, beside one queue",
        run: |bench| Box::pin(owners::run(bench)),
    },
    Scenario {
        name: "soak",
        about: "an hour of whole lives at half load, last sixth beside first; only when named",
        run: |bench| Box::pin(soak::run(bench)),
    },
];

/// What takes so long that it runs only when it is named, or when it is only to be seen to work.
const ONLY_WHEN_NAMED: [&str; 1] = ["soak"];

/// Those with these names; all if none is named, but for what takes very long.
///
/// # Errors
/// When there is none of a name.
pub fn choose(names: &[String], quick: bool) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        let (skipped, chosen): (Vec<_>, Vec<_>) = ALL
            .iter()
            .partition(|s| !quick && ONLY_WHEN_NAMED.contains(&s.name));
        for scenario in skipped {
            eprintln!("{}: skipped, since it was not named", scenario.name);
        }
        return Ok(chosen);
    }
    names
        .iter()
        .map(|name| {
            ALL.iter().find(|s| s.name == name).ok_or_else(|| {
                let known: Vec<&str> = ALL.iter().map(|s| s.name).collect();
                let known = known.join(", ");
                Error::said(format!("there is no scenario `{name}`; there are {known}"))
            })
        })
        .collect()
}
