//! Taking back what was offered to a client that is known to have gone.

use uuid::Uuid;

use crate::agents;
use crate::error::Result;
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::{Conn, Db};
use crate::wakeups::{Hints, Hub};

/// A claim whose client has gone.
#[derive(Clone, Debug)]
pub struct Gone {
    /// The agent.
    pub agent: String,
    /// The number of the claim.
    pub claim_number: i64,
}

/// Un-offers sessions that were just offered to it, if they are unaccepted and the agent has not
/// claimed since. It counts against neither the agent nor the session. Where the database fails,
/// the offers lapse by themselves.
pub async fn take_back(db: &Db, hub: &Hub, gone: Gone, offered: Vec<Uuid>) {
    let taken = db
        .write("claims::unoffer", |conn| {
            let (gone, offered) = (gone.clone(), offered.clone());
            Box::pin(async move { unoffer(conn, &gone, &offered).await })
        })
        .await;
    match taken {
        Ok(hints) => hub.committed(hints),
        Err(error) => tracing::warn!(agent = gone.agent, %error, "offers are left to lapse"),
    }
}

async fn unoffer(conn: &mut Conn, gone: &Gone, offered: &[Uuid]) -> Result<Hints> {
    let Some(agent) = agents::lock_one(conn, &gone.agent).await? else {
        return Ok(Hints::default());
    };
    if agent.claim_number != gone.claim_number {
        return Ok(Hints::default());
    }
    let now = sessions::now(conn).await?;
    let pool = pools::rules(conn, &agent.pool).await?;
    let actor = sessions::system("dispatcher");
    let ctx = Context {
        now,
        pool: &pool,
        actor: &actor,
        epoch_floor: 0,
    };
    let mut drafts = Vec::new();
    for row in sessions::lock(conn, offered).await? {
        if row.is_offered() && row.assigned_agent_id.as_ref() == Some(&agent.name) {
            let mut draft = Draft::of(row);
            draft.unoffer(&ctx);
            drafts.push(draft);
        }
    }
    sessions::write(conn, &drafts).await
}
