//! After a restore of the database: fencing agents that have seen what is now undone.
//!
//! A restored database is in the past. Agents may hold sessions under epochs that it does not know
//! of, and it would give the same epochs and incarnations out again: two agents would then be one
//! to it. So the floors under both are raised, and every lease is ended: each agent registers anew,
//! and says what it drives.
//!
//! Invariants:
//! - Floors first: whatever is given out after that is above all that was given out before, even
//!   when the rest of this fails. It can be run again.
//! - What an agent was driving at the time of the backup, and still drives under that very epoch,
//!   stays with it when it registers. All else waits as long as a lease lasts, since nobody knows
//!   who acts on it.
//!
//! What it does not do: bring back what happened after the backup, or look at platforms; sessions
//! that were made since are unknown now, and an inventory finds what they run.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Nullable, Text};
use diesel_async::RunQueryDsl;

use super::expiry::release_all_of;
use crate::agents;
use crate::error::{Error, Result};
use crate::sessions::{self, Draft};
use crate::store::{Conn, Db, Statement};

/// How far floors are raised: nobody assigns one session, or registers, as often between a backup
/// and its restore.
const MARGIN: i64 = 1_000_000;

/// Agents whose leases end in one transaction.
const BATCH: usize = 20;

/// A running server writes its pulse each second.
const SIGN_OF_LIFE: Duration = Duration::from_millis(2_500);

/// What [`restore_fence`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// No assignment has an epoch below this from now on.
    pub lease_epoch_floor: i64,
    /// No registration has an incarnation below this from now on.
    pub incarnation_floor: i64,
    /// Agents whose lease was ended.
    pub agents: usize,
    /// Sessions that were taken from them.
    pub sessions: usize,
}

#[derive(diesel::QueryableByName)]
struct Floors {
    #[diesel(sql_type = BigInt)]
    lease_epoch_floor: i64,
    #[diesel(sql_type = BigInt)]
    incarnation_floor: i64,
}

#[derive(diesel::QueryableByName)]
struct Pulse {
    #[diesel(sql_type = Nullable<Text>)]
    at: Option<String>,
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Fences every agent of a restored database. Servers must not run on it meanwhile.
///
/// # Errors
/// `ServerRunning` when one does; `DatabaseUnavailable`.
pub async fn restore_fence(db: &Db) -> Result<Fenced> {
    if beats(db).await? {
        return Err(Error::ServerRunning);
    }
    let floors: Floors = db
        .write("leases::restore_fence", |conn| {
            Box::pin(async move {
                Ok(Statement::new(include_str!("restore_fence.sql"))
                    .bind::<BigInt, _>(MARGIN)
                    .get_result(conn)
                    .await?)
            })
        })
        .await?;
    let mut fenced = Fenced {
        lease_epoch_floor: floors.lease_epoch_floor,
        incarnation_floor: floors.incarnation_floor,
        agents: 0,
        sessions: 0,
    };
    loop {
        let (agents, sessions) = db
            .write("leases::end_all", |conn| Box::pin(end_some(conn)))
            .await?;
        if agents == 0 {
            return Ok(fenced);
        }
        fenced.agents += agents;
        fenced.sessions += sessions;
    }
}

/// Whether a server writes its pulse.
async fn beats(db: &Db) -> Result<bool> {
    let pulse = || {
        db.read("leases::last_pulse", |conn| {
            Box::pin(async move {
                let text = "-- leases::last_pulse\nSELECT max(at)::text AS at FROM pulse";
                Ok(Statement::new(text).get_result::<Pulse>(conn).await?.at)
            })
        })
    };
    let before = pulse().await?;
    tokio::time::sleep(SIGN_OF_LIFE).await;
    Ok(pulse().await? != before)
}

/// Ends the leases of some agents; how many, and of how many sessions. None when all have ended.
async fn end_some(conn: &mut Conn) -> Result<(usize, usize)> {
    let names: Vec<Name> = Statement::new(
        "-- leases::some_live\nSELECT name FROM agents WHERE live ORDER BY name LIMIT $1",
    )
    .bind::<BigInt, _>(BATCH as i64)
    .load(conn)
    .await?;
    let names: Vec<String> = names.into_iter().map(|row| row.name).collect();
    let rows = agents::lock(conn, &names).await?;
    let ended = "-- leases::end_restored\nUPDATE agents SET live = false, expired_at = clock_timestamp() \
        WHERE live AND name = ANY ($1)";
    Statement::new(ended)
        .bind::<Array<Text>, _>(names)
        .execute(conn)
        .await?;
    let by = (&sessions::system("restore-fence"), Some("restored"));
    // Nobody is woken: no server runs.
    let (released, _) = release_all_of(conn, &rows, by, Draft::release_after_restore).await?;
    Ok((rows.len(), released))
}
