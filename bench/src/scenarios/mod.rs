//! The scenarios: what is measured, beside what, and what it must reach.

mod backlog;
mod claim50;
mod claims;
mod create;
mod events;
mod failover;
mod heartbeats;
mod held;
mod life;
mod list;
mod owners;
mod parked;
mod polls;
mod servers;
mod soak;
mod start;
mod wake;

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
        name: "parked",
        about: "the same from agents that are parked before their work exists",
        run: |bench| Box::pin(parked::run(bench)),
    },
    Scenario {
        name: "wake",
        about: "POST until a parked agent has the session, beside one bare insert",
        run: |bench| Box::pin(wake::run(bench)),
    },
    Scenario {
        name: "servers",
        about: "the same with the agent parked on another server",
        run: |bench| Box::pin(servers::run(bench)),
    },
    Scenario {
        name: "polls",
        about: "10,000 parked polls: their statements, processor time, memory, and wakes",
        run: |bench| Box::pin(polls::run(bench)),
    },
    Scenario {
        name: "heartbeats",
        about: "100,000 sessions on 1,000 agents, a beat each 10 s: their share of the database",
        run: |bench| Box::pin(heartbeats::run(bench)),
    },
    Scenario {
        name: "failover",
        about: "from an agent's end until a parked agent has its session",
        run: |bench| Box::pin(failover::run(bench)),
    },
    Scenario {
        name: "list",
        about: "a page in a million sessions by every filter, beside get by id",
        run: |bench| Box::pin(list::run(bench)),
    },
    Scenario {
        name: "events",
        about: "writers with 1,000 readers of the event stream, beside none",
        run: |bench| Box::pin(events::run(bench)),
    },
    Scenario {
        name: "start",
        about: "a cold start, the size of the program, idle memory",
        run: |bench| Box::pin(start::run(bench)),
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
        name: "backlog",
        about: "claims with much waiting, and much claimed and not vacuumed, beside a small database",
        run: |bench| Box::pin(backlog::run(bench)),
    },
    Scenario {
        name: "held",
        about: "claims while a transaction is held open elsewhere for ten minutes, beside before",
        run: |bench| Box::pin(held::run(bench)),
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
