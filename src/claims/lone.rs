//! A new session that comes alone, made and offered by one statement: nobody waits for this program between its
//! beginning and its commit.
//!
//! Whether it may be offered is asked in the statement (`may_offer.sql`), by the rules of `newcomers.rs`. What it is
//! written with is what the last new session of this pool was made by; where that does not hold any more, or
//! anything else speaks against it, nothing is done, and it is made the other way.

use std::collections::HashMap;
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{Integer, Json};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Action, Actor, Labels, PoolSpec, Scheduling};

use super::dispatch::{Asking, LockedAgent, Round};
use super::give::Given;
use super::newcomers::Made;
use crate::error::Result;
use crate::sessions::{self, Assignee, Context, Draft, Inserted};
use crate::shares::{self, Around};
use crate::store::{AsJson, Db};
use crate::wakeups::Hints;

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let waits = shares::waits_in("n.agent_pool", "$7::json");
    let may = include_str!("may_offer.sql").replace("{waits}", &waits);
    format!("-- claims::lone\n{}", sessions::insert_text_if(&may))
});

/// The text of the statement, so that tests can look at its plan.
#[must_use]
pub fn text() -> &'static str {
    &TEXT
}

/// What a new session of a pool is made by.
#[derive(Clone, Debug)]
pub struct Known {
    /// The pool's rules.
    pub rules: PoolSpec,
    /// No new lease epoch is below this.
    pub epoch_floor: i64,
}

impl Known {
    /// What is changed by it at a moment.
    pub fn context<'a>(&'a self, actor: &'a Actor, now: DateTime<Utc>) -> Context<'a> {
        Context {
            now,
            pool: &self.rules,
            actor,
            epoch_floor: self.epoch_floor,
        }
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(embed)]
    inserted: Inserted,
    #[diesel(sql_type = Integer)]
    capacity: i32,
    #[diesel(sql_type = Integer)]
    slots_used: i32,
}

/// Makes a new session of a pool, offered to the one who asks. None if that may not be: then nothing was done.
///
/// # Errors
/// What the database says; then it was not made, unless it is `DatabaseUnavailable`.
pub async fn make(
    db: &Db,
    known: &Known,
    around: Around,
    (asking, resource_domain): (Asking, String),
    draft: Draft,
) -> Result<Option<Made>> {
    let pool = draft.row.agent_pool.clone();
    let actor = sessions::system("dispatcher");
    let assignee = Assignee {
        name: asking.agent.clone(),
        incarnation: asking.incarnation,
        resource_domain: resource_domain.clone(),
    };
    // The statement says all moments anew by its own time.
    let mut as_sent = draft.clone();
    let any_time = known.context(&actor, Utc::now());
    as_sent.offer(&any_time, &assignee, Action::Start);
    let claim_number = asking.claim_number;
    let goes_around = around.clone();
    let made: Option<Row> = db
        .write_at_once("claims::lone", |conn| {
            Box::pin(async move {
                let drafts = [as_sent];
                let statement = sessions::to_insert(text(), &drafts, claim_number)
                    .bind::<Json, _>(AsJson(goes_around));
                let mut rows: Vec<Row> = statement.load(conn).await?;
                Ok(rows.pop())
            })
        })
        .await?;
    let Some(row) = made else {
        return Ok(None);
    };
    metrics::counter!("lessor_claim_statements_total").increment(1);
    let (mut draft, now) = (draft, row.inserted.now);
    row.inserted.place(&mut draft, 0);
    let agent = LockedAgent {
        name: asking.agent.clone(),
        resource_domain,
        incarnation: asking.incarnation,
        live: true,
        claim_number: asking.claim_number,
        capacity: row.capacity,
        slots_used: row.slots_used + 1,
        scheduling: Scheduling::Active,
        passed_over_until: None,
        labels: Labels::new(),
        now,
        last_of_domain: false,
        has_commands: false,
        lost: Vec::new(),
    };
    let mut given = Given::default();
    let ctx = known.context(&actor, now);
    given.offer_new(&ctx, &mut draft, &agent, Action::Start);
    let rows = vec![draft.row];
    let hints = Hints::of_new(rows.iter());
    let round = Round::of_new(pool, vec![asking], around);
    let mut done = given.into_done(&round, &[agent], &[], &HashMap::new(), (now, hints));
    done.placement = Some(known.rules.placement);
    Ok(Some(Made {
        rows,
        done,
        with_work: Vec::new(),
        known: Some(known.clone()),
    }))
}
