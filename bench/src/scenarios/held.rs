//! The rate of claims while a transaction is held open elsewhere, as by a backup: nothing that was changed since
//! can be cleaned up, and claims change rows again and again. Two databases with a server each, of which one is held;
//! the rate of that by the other's, after ten minutes of claims, beside the same before.

use std::time::Instant;

use crate::bench::{Bench, connect};
use crate::error::Result;
use crate::measure::{Line, Target};
use crate::scenarios::backlog::{IN_FLIGHT, Side};

/// For how long it is held open, unless this says otherwise.
const HELD_SECONDS: f64 = 600.0;
const HELD: &str = "LESSOR_BENCH_HELD_SECONDS";

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let mut other = Side::start(bench).await?;
    let mut held = Side::start(bench).await?;
    let seconds = std::env::var(HELD)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(if bench.effort.quick {
            1.0
        } else {
            HELD_SECONDS
        });
    let before = beside(bench, &mut other, &mut held).await?;
    let holder = connect(&held.database.url).await?;
    holder
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pools")
        .await?;
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let claims = held.claim(IN_FLIGHT, bench.effort.time).await?;
        eprintln!(
            "  {:.0?} held open: {:.0}/s, {:.2} ms",
            begun.elapsed(),
            claims.per_second,
            claims.median()
        );
    }
    let after = beside(bench, &mut other, &mut held).await?;
    holder.batch_execute("COMMIT").await?;
    other.stop(bench).await?;
    held.stop(bench).await?;
    let rounds: Vec<(f64, f64)> = after.into_iter().zip(before).collect();
    Ok(vec![Line::ratio(
        format!("open for {seconds} s"),
        "x",
        "before it",
        &rounds,
        Target::AtLeast(0.6),
    )])
}

/// The rate of the one by that of the other, in turn.
async fn beside(bench: &Bench, other: &mut Side, held: &mut Side) -> Result<Vec<f64>> {
    let mut rates = Vec::new();
    for _ in 0..bench.effort.rounds {
        other.client.batch_execute("VACUUM sessions").await?;
        let ours = held.claim(IN_FLIGHT, bench.effort.time).await?.per_second;
        let theirs = other.claim(IN_FLIGHT, bench.effort.time).await?.per_second;
        rates.push(ours / theirs);
    }
    Ok(rates)
}
