//! What happens by itself: the driver of background tasks, and the list of them all.
//!
//! Every task takes no input and can be run at any time by any server, several at once: each works
//! on what it finds locked by nobody. A task that fails is logged and runs again at its next turn.

mod due;
mod gauges;
mod retention;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::{brake, commands, drains, leases, limits, rebalance};

/// The shortest pause of a task that asks to run again at once.
const BREATH: Duration = Duration::from_millis(5);

/// Looks that find nothing may take this part of the time: what they cost grows with what there is, and with
/// how many dead versions of it an old transaction keeps.
const PART: u32 = 20;

/// The longest pause of a task that looks at leases: one that is granted meanwhile lasts two seconds at least.
const LONGEST: Duration = Duration::from_secs(2);

/// The pause after a look that took so long: the least there is, or longer, but no longer than the most.
fn rest(took: Duration, least: Duration, most: Duration) -> Duration {
    (took * PART).clamp(least, most)
}

/// Starts every task.
pub fn start(app: &Arc<App>, tasks: &TaskTracker, stop: &CancellationToken) {
    // To the next deadline, and no longer than a lease lasts that is granted meanwhile.
    drive(app, tasks, stop, "expiry", |app| async move {
        let begun = Instant::now();
        let next = leases::expire(&app).await?.unwrap_or(LONGEST);
        Ok(next.min(rest(begun.elapsed(), Duration::from_secs(1), LONGEST)))
    });
    let begin = Arc::new(due::Begin::default());
    drive(app, tasks, stop, "due", move |app| {
        let begin = Arc::clone(&begin);
        async move { due::run(&app, &begin).await }
    });
    drive(app, tasks, stop, "brake", |app| async move {
        let begun = Instant::now();
        brake::run(&app).await?;
        Ok(rest(begun.elapsed(), Duration::from_millis(400), LONGEST))
    });
    drive(app, tasks, stop, "lost_domains", |app| async move {
        let begun = Instant::now();
        let more = leases::sweep_lost_domains(&app).await?;
        Ok(if more {
            BREATH
        } else {
            rest(begun.elapsed(), Duration::from_millis(500), LONGEST)
        })
    });
    drive(app, tasks, stop, "drains", |app| async move {
        drains::advance_all(&app).await
    });
    drive(app, tasks, stop, "rebalance", |app| async move {
        rebalance::run(&app).await
    });
    drive(app, tasks, stop, "orphans", |app| async move {
        let begun = Instant::now();
        leases::release_orphans(&app).await?;
        Ok(rest(
            begun.elapsed(),
            Duration::from_secs(10),
            Duration::from_secs(60),
        ))
    });
    drive(app, tasks, stop, "retention", |app| async move {
        let more = retention::run(&app).await?;
        Ok(if more {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(60)
        })
    });
    drive(app, tasks, stop, "commands", |app| async move {
        let more = commands::expire(&app).await?;
        Ok(if more {
            BREATH
        } else {
            Duration::from_millis(250)
        })
    });
    drive(app, tasks, stop, "limits", |app| async move {
        let longest = Duration::from_millis(500);
        Ok(limits::run(&app).await?.unwrap_or(longest).min(longest))
    });
    drive(app, tasks, stop, "gauges", |app| async move {
        Ok(gauges::run_sparingly(&app).await)
    });
}

fn drive<F, R>(
    app: &Arc<App>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    name: &'static str,
    run: F,
) where
    F: Fn(Arc<App>) -> R + Send + 'static,
    R: Future<Output = crate::error::Result<Duration>> + Send,
{
    let (app, stop) = (Arc::clone(app), stop.clone());
    tasks.spawn(async move {
        loop {
            // Not cancelled half-way: what writes runs to its end, then the task stops.
            let pause = match run(Arc::clone(&app)).await {
                Ok(pause) => pause.max(BREATH),
                Err(error) => {
                    tracing::warn!(task = name, %error, "a background task failed and will run again");
                    metrics::counter!("lessor_upkeep_failures_total", "task" => name).increment(1);
                    Duration::from_millis(500)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_take_long_are_made_less_frequently_within_limits() {
        let least = Duration::from_millis(400);
        for (took, pause) in [(1, 400), (20, 400), (50, 1_000), (300, 2_000)] {
            let rested = rest(Duration::from_millis(took), least, LONGEST);
            assert_eq!(rested, Duration::from_millis(pause), "{took}");
        }
    }
}
