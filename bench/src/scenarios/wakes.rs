//! How long other queues take from before a job is added until its handler begins, on an idle worker.
//!
//! By themselves, for the scenario of our own wakes to be judged beside: see [`crate::peers::wake_latencies`]
//! for what is measured and how. The peer's producer and worker are one process, so none of them pays for
//! HTTP, where ours does.

use crate::bench::Bench;
use crate::error::Result;
use crate::measure::{Line, Target};
use crate::peers;

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let peers = peers::install(bench).await?;
    let (mut names, mut medians, mut worst) = (Vec::new(), Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for round in 0..bench.effort.rounds {
        for (name, wake) in peers::wake_latencies(bench, &peers).await? {
            match wake {
                Err(why) if round == 0 => lines.push(Line::unmeasured(name, why)),
                Err(_) => {}
                Ok(wake) => {
                    let at = names.iter().position(|known| *known == name);
                    let at = at.unwrap_or_else(|| {
                        names.push(name);
                        medians.push(Vec::new());
                        worst.push(Vec::new());
                        names.len() - 1
                    });
                    medians[at].push(wake.median_ms);
                    worst[at].push(wake.p99_ms);
                }
            }
        }
    }
    for ((name, medians), worst) in names.iter().zip(&medians).zip(&worst) {
        lines.push(Line::value(
            format!("{name}, median"),
            "ms",
            medians,
            Target::None,
        ));
        lines.push(Line::value(
            format!("{name}, 99th percentile"),
            "ms",
            worst,
            Target::None,
        ));
    }
    Ok(lines)
}
