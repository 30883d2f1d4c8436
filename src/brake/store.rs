//! The SQL of the brake.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Double, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::Actor;

use crate::error::Result;
use crate::leases::PULSE_GAP_SECONDS;
use crate::store::{Conn, Statement};

/// How a pool stands.
#[derive(Clone, Debug, QueryableByName)]
pub struct Verdict {
    /// The pool.
    #[diesel(sql_type = Text)]
    pub pool: String,
    /// How many agents are silent.
    #[diesel(sql_type = BigInt)]
    pub silent_agents: i64,
    /// These and those that beat.
    #[diesel(sql_type = BigInt)]
    pub counted_agents: i64,
    /// Whether the brake is on.
    #[diesel(sql_type = Bool)]
    pub holds: bool,
    /// Whether it was turned just now; of a look, whether the pool's row is other than its silence
    /// says.
    #[diesel(sql_type = Bool)]
    pub turned: bool,
}

/// Why a brake is turned.
pub struct Cause {
    /// By an operator: off, whatever the silence says.
    pub released: bool,
    /// By whom.
    pub actor: Actor,
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Text)]
    name: String,
}

pub async fn look(conn: &mut Conn) -> Result<Vec<Verdict>> {
    Ok(Statement::new(include_str!("look.sql"))
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .load(conn)
        .await?)
}

/// Those of the pools that nobody else has locked.
pub async fn lock(conn: &mut Conn, pools: Vec<String>) -> Result<Vec<String>> {
    let locked: Vec<Locked> = Statement::new(include_str!("lock.sql"))
        .bind::<Array<Text>, _>(pools)
        .load(conn)
        .await?;
    Ok(locked.into_iter().map(|pool| pool.name).collect())
}

/// Waits for a pool's row; whether there is one.
pub async fn lock_one(conn: &mut Conn, pool: &str) -> Result<bool> {
    let locked: Vec<Locked> = Statement::new(include_str!("lock_one.sql"))
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    Ok(!locked.is_empty())
}

pub async fn judge(conn: &mut Conn, pools: Vec<String>, cause: &Cause) -> Result<Vec<Verdict>> {
    Ok(Statement::new(include_str!("judge.sql"))
        .bind::<Array<Text>, _>(pools)
        .bind::<Bool, _>(cause.released)
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .bind::<Text, _>(cause.actor.actor_type.as_str())
        .bind::<Text, _>(cause.actor.name.clone())
        .load(conn)
        .await?)
}
