//! Resource domains without a live agent, and what the pool wants done about their sessions.
//!
//! `lost_since` is set when a domain's last live agent goes and cleared when one comes, in the same
//! transaction; the pulse moves it on by the length of every outage. Once the pool's
//! `adopt_timeout_seconds` have passed since, `on_lost` decides about what runs there, and a wanted
//! end is given without an agent, whatever the policy. None of it is decided while the pool's brake
//! is on.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::sql_types::{Array, Bool, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::{DesiredState, OnLost, SessionState};
use uuid::Uuid;

use crate::app::App;
use crate::error::Result;
use crate::sessions::{self, Context, Draft, SessionRow};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;
use crate::{brake, pools};

/// Notes for these domains of a pool whether each has a live agent.
///
/// # Errors
/// When the database refuses.
pub async fn refresh(conn: &mut Conn, pool: &str, domains: Vec<String>) -> Result<()> {
    Statement::new(include_str!("refresh_domains.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Array<Text>, _>(domains)
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Lost {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    pool: String,
}

#[derive(diesel::QueryableByName)]
struct LostStart {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    start_domain: String,
}

/// Decides about sessions of domains that have been lost for too long; whether there may be more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn sweep(app: &Arc<App>) -> Result<bool> {
    // In a transaction of its own: domains are locked after sessions everywhere else.
    app.db
        .write("leases::settle_domains", |conn| {
            Box::pin(async move {
                Statement::new(include_str!("settle_domains.sql"))
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await?;
    let (more, hints, verdicts) = app
        .db
        .write("leases::lost_domains", |conn| {
            Box::pin(async move {
                let lost: Vec<Lost> = Statement::new(include_str!("lost_sessions.sql"))
                    .load(conn)
                    .await?;
                let starts: Vec<LostStart> = Statement::new(include_str!("lost_starts.sql"))
                    .load(conn)
                    .await?;
                let mut hints = Hints::default();
                let mut by_pool = std::collections::BTreeMap::<String, Vec<Uuid>>::new();
                for row in &lost {
                    by_pool.entry(row.pool.clone()).or_default().push(row.id);
                }
                for row in &starts {
                    by_pool.entry(row.pool.clone()).or_default().push(row.id);
                }
                let bound: HashMap<Uuid, String> = starts
                    .into_iter()
                    .map(|row| (row.id, row.start_domain))
                    .collect();
                let mut verdicts = Vec::new();
                for (pool, ids) in by_pool {
                    let rows = sessions::lock(conn, &ids).await?;
                    // Once every lock was had: agents may have fallen silent meanwhile.
                    let verdict = brake::judge(conn, &pool).await?;
                    if verdict.as_ref().is_some_and(|verdict| !verdict.holds) {
                        hints.merge(decide(conn, &pool, rows, &bound).await?);
                    }
                    verdicts.extend(verdict);
                }
                let more = lost.len() >= 500 || bound.len() >= 500;
                Ok((more, hints, verdicts))
            })
        })
        .await?;
    brake::tell(&verdicts);
    app.hub.committed(hints);
    Ok(more)
}

async fn decide(
    conn: &mut Conn,
    pool: &str,
    rows: Vec<SessionRow>,
    bound: &HashMap<Uuid, String>,
) -> Result<Hints> {
    let now = sessions::now(conn).await?;
    let rules = pools::rules(conn, pool).await?;
    let actor = sessions::system("lost_domain");
    let ctx = Context {
        now,
        pool: &rules,
        actor: &actor,
        epoch_floor: 0,
    };
    let mut drafts = Vec::new();
    for row in rows {
        // Claimed since it was found: its domain is not lost any more.
        if row.assigned_agent_id.is_some() || row.agent_pool != pool {
            continue;
        }
        if row.resource_domain.is_none() {
            // Sent elsewhere since it was found: that domain may have agents.
            if row.start_domain.is_some() && row.start_domain.as_ref() == bound.get(&row.id) {
                let mut draft = Draft::of(row);
                draft.give_up_start_domain(&ctx);
                drafts.push(draft);
            }
            continue;
        }
        let mut draft = Draft::of(row);
        if draft.row.desired_state == DesiredState::Terminated {
            draft.end_without_agent(&ctx);
        } else if draft.row.is_migrating() {
            draft.give_up_domain(&ctx);
        } else if draft.row.state == SessionState::Terminating && rules.on_lost != OnLost::Wait {
            // Nobody wanted its end, and it was ending: as on_lost says of the rest.
            draft.fail_with_domain(&ctx);
        } else {
            match rules.on_lost {
                OnLost::Wait => {}
                OnLost::Restart if draft.row.desired_state == DesiredState::Running => {
                    if !draft.row.domain_lost {
                        draft.give_up_domain(&ctx);
                    }
                }
                OnLost::Restart => {}
                OnLost::Fail => draft.fail_with_domain(&ctx),
            }
        }
        drafts.push(draft);
    }
    sessions::write(conn, &drafts).await
}

/// With `force`, a wanted end does not wait: where the session's domain has no live agent now, it
/// is given at once. The session's row is locked.
///
/// # Errors
/// When the database refuses.
pub async fn end_if_domain_is_lost(
    conn: &mut Conn,
    ctx: &Context<'_>,
    draft: &mut Draft,
) -> Result<()> {
    #[derive(diesel::QueryableByName)]
    struct Live {
        #[diesel(sql_type = Bool)]
        live: bool,
    }
    let Some(domain) = draft.row.resource_domain.clone() else {
        return Ok(());
    };
    if draft.row.assigned_agent_id.is_some() || draft.row.desired_state != DesiredState::Terminated
    {
        return Ok(());
    }
    let live: Live = Statement::new(
        "-- leases::domain_is_live\nSELECT EXISTS (SELECT FROM agents \
         WHERE pool = $1 AND resource_domain = $2 AND live) AS live",
    )
    .bind::<Text, _>(draft.row.agent_pool.clone())
    .bind::<Text, _>(domain)
    .get_result(conn)
    .await?;
    if !live.live {
        draft.end_without_agent(ctx);
    }
    Ok(())
}
