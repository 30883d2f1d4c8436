//! A dispatcher takes in what has come: claims, and sessions that are new, on behalf of those who are parked
//! with it.

use tokio::sync::oneshot;

use super::Offered;
use super::dispatch::Asking;
use super::dispatcher::{Dispatcher, MAX_ASKING};
use super::door::Inside;
use super::lone;
use super::newcomers::{self, Made};
use super::unoffer;
use crate::error::{Error, Result};
use crate::sessions::Draft;

/// A session that is new, and who waits for it to be made.
#[derive(Debug)]
pub struct Newcomer {
    /// The session, in no pool yet.
    pub draft: Box<Draft>,
    /// Where it is said what became of it.
    pub reply: oneshot::Sender<Result<Offered>>,
}

impl Newcomer {
    /// It has to be made another way.
    pub fn not_now(self) {
        let _ = self.reply.send(Ok(Offered::NotNow(self.draft)));
    }
}

fn of_one_owner(new: &[Newcomer]) -> bool {
    let mut owners = new.iter().map(|newcomer| &newcomer.draft.row.owner);
    let first = owners.next();
    owners.all(|owner| Some(owner) == first)
}

impl Dispatcher {
    /// Takes what waits at the door; with claims, those who come together with them.
    pub(super) async fn gather(&mut self, inside: &mut Inside, new: &mut Vec<Newcomer>) {
        self.park_all(inside);
        if !self.agents.is_empty() {
            let mut company = std::mem::take(&mut self.company);
            let come = self.agents.len();
            company
                .gather(come, MAX_ASKING, || self.park_all(inside))
                .await;
            self.company = company;
        }
        while let Ok(newcomer) = inside.newcomers.try_recv() {
            new.push(newcomer);
        }
        while let Ok(wake) = inside.wakes.try_recv() {
            self.wake(wake);
        }
    }

    /// Parks the claims that wait at the door; how many.
    pub(super) fn park_all(&mut self, inside: &mut Inside) -> usize {
        let mut parked = 0;
        while let Ok(waiter) = inside.parked.try_recv() {
            self.park(waiter);
            parked += 1;
        }
        parked
    }

    /// Makes sessions and offers them, as far as there is somebody to offer them to. All of them are
    /// answered.
    pub(super) async fn take_in(&mut self, mut new: Vec<Newcomer>) {
        let most = new.len().min(MAX_ASKING);
        let agents = if most == 0 {
            Vec::new()
        } else {
            self.waiters.for_starts(self.placement, most, |_| false)
        };
        let asking = self.asking(&agents);
        let room: usize = asking.iter().map(|asking| asking.max_sessions).sum();
        let room = room.min(MAX_ASKING);
        if new.len() > room {
            // As many as could be offered, the most urgent; whose turn it is among owners, a round finds
            // out. The others are made with those who arrive meanwhile.
            new.sort_by_key(|newcomer| std::cmp::Reverse(newcomer.draft.row.priority));
            let left = if of_one_owner(&new) { room } else { 0 };
            new.split_off(left).into_iter().for_each(Newcomer::not_now);
        }
        if new.is_empty() {
            return;
        }
        let drafts = new
            .iter()
            .map(|newcomer| (*newcomer.draft).clone())
            .collect();
        let made = match self.make(asking, drafts).await {
            Ok(made) => made,
            // Whether they were made is not known.
            Err(Error::DatabaseUnavailable(why)) => {
                for newcomer in new {
                    let _ = newcomer
                        .reply
                        .send(Err(Error::DatabaseUnavailable(why.clone())));
                }
                return;
            }
            Err(error) => {
                tracing::debug!(pool = self.pool, %error, "new sessions are made another way");
                new.into_iter().for_each(Newcomer::not_now);
                return;
            }
        };
        self.known = made.known;
        let (rows, mut done) = (made.rows, made.done);
        self.agents.extend(made.with_work);
        self.placement = done.placement.unwrap_or(self.placement);
        let mut gone = Vec::new();
        for (agent, verdict) in std::mem::take(&mut done.verdicts) {
            gone.extend(self.settle(&agent, verdict, false));
        }
        for (newcomer, row) in new.into_iter().zip(rows) {
            let _ = newcomer.reply.send(Ok(Offered::Made(Box::new(row))));
        }
        // What nobody could be given is announced as anything else that waits.
        self.hub.committed(done.hints);
        for (claim, offered) in gone {
            unoffer::take_back(&self.db, &self.hub, claim, offered).await;
        }
    }

    /// One that comes alone is made by one statement, if the last one was offered.
    async fn make(&mut self, asking: Vec<Asking>, mut drafts: Vec<Draft>) -> Result<Made> {
        let around = self.watermark.around();
        if let (Some(known), [one], [_]) = (self.known.take(), &*asking, &*drafts)
            && let Some(waiter) = self.waiters.get(&one.agent)
            && let Some(draft) = drafts.pop()
        {
            let to = (one.clone(), waiter.resource_domain.clone());
            let made = lone::make(&self.db, &known, around.clone(), to, draft.clone()).await?;
            if let Some(made) = made {
                return Ok(made);
            }
            // What was in the way may be there the next time too.
            let mut made =
                newcomers::make(&self.db, &self.pool, around, asking, vec![draft]).await?;
            made.known = None;
            return Ok(made);
        }
        newcomers::make(&self.db, &self.pool, around, asking, drafts).await
    }
}
