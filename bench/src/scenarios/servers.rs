//! The wake across two servers: the session is posted to one, and the agent is parked on the other.
//!
//! In turn with the same on one server: an agent of one pool is parked where the session is posted, an
//! agent of another pool on the other server. What is judged is the difference of the medians, since
//! what comes between the two servers is a time of its own, whatever the rest takes.

use crate::bench::Bench;
use crate::error::Result;
use crate::load;
use crate::measure::{Line, Target, percentile};
use crate::scenarios::wake::Waiting;
use crate::service::Service;

const SAMPLES: usize = 200;

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let database = bench.database().await?;
    let here = Service::start(bench, &database.url).await?;
    let there = Service::start(bench, &database.url).await?;
    for pool in ["near", "far"] {
        load::pool(&here, pool, load::LONG_LEASE_SECONDS).await?;
    }
    let mut user = here.connect().await?;
    let mut near = Waiting::register(&here, "near", "near", "here").await?;
    let mut far = Waiting::register(&there, "far", "far", "here").await?;
    let (mut rounds, mut more) = (Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let (mut same, mut across) = (Vec::new(), Vec::new());
        for _ in 0..bench.effort.size(SAMPLES, 10) {
            let (took, back) = near
                .park(&here, "near")
                .await?
                .wake(&mut user, "near")
                .await?;
            same.push(took);
            near = back;
            let (took, back) = far
                .park(&there, "far")
                .await?
                .wake(&mut user, "far")
                .await?;
            across.push(took);
            far = back;
        }
        let (across, same) = (percentile(&across, 50.0), percentile(&same, 50.0));
        rounds.push((across, same));
        more.push(across - same);
    }
    there.stop().await?;
    here.stop().await?;
    bench.drop_database(database).await?;
    Ok(vec![
        Line::ratio("median", "ms", "on one server", &rounds, Target::None),
        Line::value("more at the median", "ms", &more, Target::AtMost(15.0)),
    ])
}
