//! The SQL of the driver: what is taken in hand, and what came of it.

use diesel::deserialize::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Double, Integer, Nullable, Text, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::error::Result;
use crate::store::{Conn, Statement};

/// A webhook that this server has in hand.
#[derive(Clone, Debug, QueryableByName)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct Taken {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub url: String,
    #[diesel(sql_type = Array<Text>)]
    pub kinds: Vec<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub pool: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub owner: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub tenant: Option<String>,
    #[diesel(sql_type = Array<Binary>)]
    pub secrets: Vec<Vec<u8>>,
    #[diesel(sql_type = BigInt)]
    pub position: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub sending_to: Option<i64>,
    #[diesel(sql_type = Integer)]
    pub failures: i32,
    #[diesel(sql_type = BigInt)]
    pub takes: i64,
}

/// Takes what is due in hand: up to `places`, of which up to `failing` that have failed before.
pub async fn take(conn: &mut Conn, places: i32, failing: i32, seconds: f64) -> Result<Vec<Taken>> {
    Ok(Statement::new(include_str!("take.sql"))
        .bind::<Integer, _>(places)
        .bind::<Integer, _>(failing)
        .bind::<Double, _>(seconds)
        .load(conn)
        .await?)
}

/// Whether any webhook sends.
pub async fn any(conn: &mut Conn) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        any: bool,
    }
    let row: Row = Statement::new(
        "-- webhooks::any\nSELECT EXISTS (SELECT FROM webhooks w WHERE w.enabled) AS any",
    )
    .get_result(conn)
    .await?;
    Ok(row.any)
}

/// What came of what was in hand: nothing is written where it counts no more.
#[derive(Clone, Debug)]
pub enum Done {
    /// Up to this position it was taken, or there was nothing to send.
    Through {
        /// The position.
        position: i64,
        /// Whether something was sent.
        sent: bool,
        /// For how many seconds it stays in hand, where there is more to send.
        hold_seconds: Option<f64>,
    },
    /// It failed, up to there was to be sent, and is tried again after so many seconds.
    Failed {
        /// Why.
        why: String,
        /// Up to where.
        sending_to: i64,
        /// The pause.
        seconds: f64,
        /// After how many seconds of failures it is disabled.
        give_up_seconds: f64,
    },
    /// The receiver wants nothing any more.
    Gone(String),
    /// It was not tried to its end.
    Released,
}

/// Writes down what came of it, and lets go; whether it counts.
pub async fn done(conn: &mut Conn, id: Uuid, takes: i64, done: Done) -> Result<bool> {
    let text = match &done {
        Done::Through { .. } => include_str!("through.sql"),
        Done::Failed { .. } => include_str!("failed.sql"),
        Done::Gone(_) => include_str!("gone.sql"),
        Done::Released => include_str!("released.sql"),
    };
    let statement = Statement::new(text)
        .bind::<SqlUuid, _>(id)
        .bind::<BigInt, _>(takes);
    let statement = match done {
        Done::Through {
            position,
            sent,
            hold_seconds,
        } => statement
            .bind::<BigInt, _>(position)
            .bind::<Bool, _>(sent)
            .bind::<Nullable<Double>, _>(hold_seconds),
        Done::Failed {
            why,
            sending_to,
            seconds,
            give_up_seconds,
        } => statement
            .bind::<Text, _>(why)
            .bind::<BigInt, _>(sending_to)
            .bind::<Double, _>(seconds)
            .bind::<Double, _>(give_up_seconds),
        Done::Gone(why) => statement.bind::<Text, _>(why),
        Done::Released => statement,
    };
    Ok(statement.execute(conn).await? == 1)
}

/// How webhooks are.
#[derive(Debug, QueryableByName)]
pub struct Census {
    /// How many send.
    #[diesel(sql_type = BigInt)]
    pub enabled: i64,
    /// How many of these fail.
    #[diesel(sql_type = BigInt)]
    pub failing: i64,
    /// How many the service has disabled.
    #[diesel(sql_type = BigInt)]
    pub disabled: i64,
    /// How many positions the one that is furthest behind has before it.
    #[diesel(sql_type = BigInt)]
    pub behind: i64,
}

/// How webhooks are.
pub async fn census(conn: &mut Conn) -> Result<Census> {
    Ok(Statement::new(include_str!("census.sql"))
        .get_result(conn)
        .await?)
}
