//! The scenarios: what is measured, beside what, and what it must reach.

mod claim50;
mod claims;
mod create;
mod life;
mod wakes;

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
        name: "claim50",
        about: "claims of 50 sessions per request, beside a bare claim and accept of 50",
        run: |bench| Box::pin(claim50::run(bench)),
    },
    Scenario {
        name: "create",
        about: "creating sessions, one and 100 per request, beside bare inserts",
        run: |bench| Box::pin(create::run(bench)),
    },
    Scenario {
        name: "life",
        about: "the whole life of sessions, beside that of jobs in other queues on PostgreSQL",
        run: |bench| Box::pin(life::run(bench)),
    },
    Scenario {
        name: "wakes",
        about: "how long other queues on PostgreSQL take to wake an idle worker",
        run: |bench| Box::pin(wakes::run(bench)),
    },
];

/// Those with these names; all if none is named.
///
/// # Errors
/// When there is none of a name.
pub fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
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
