//! Answering parked claims: what a round found for each, or why it failed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::dispatch::{Round, Verdict};
use super::dispatcher::Dispatcher;
use super::unoffer;
use super::waiters::Answer;
use crate::agents;
use crate::error::Error;

impl Dispatcher {
    /// Answers one claim, or leaves it parked. Gives back what could not be handed over.
    pub(super) fn settle(
        &mut self,
        agent: &str,
        verdict: Verdict,
        fresh: bool,
    ) -> Option<(unoffer::Gone, Vec<uuid::Uuid>)> {
        let waiter = self.waiters.get_mut(agent)?;
        let Some(standing) = verdict.standing else {
            self.refuse_one(agent, Error::AgentNotRegistered(agent.to_owned()));
            return None;
        };
        if let Err(error) = agents::fence(
            agent,
            waiter.incarnation,
            standing.incarnation,
            standing.live,
        ) {
            self.refuse_one(agent, error);
            return None;
        }
        if standing.claim_number != waiter.claim_number {
            self.refuse_one(agent, Error::ClaimSuperseded(agent.to_owned()));
            return None;
        }
        waiter.capacity = standing.capacity;
        waiter.slots_used = standing.slots_used;
        waiter.passed_over_until = standing
            .passed_over_seconds
            .map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.min(86_400.0)));
        let news = standing.scheduling != waiter.scheduling
            || standing.lost.iter().any(|lost| !waiter.lost.contains(lost));
        let answered_now = fresh && waiter.deadline <= Instant::now();
        let something = !verdict.assignments.is_empty() || !verdict.commands.is_empty();
        if !something && !news && !answered_now {
            if let Some(seconds) = verdict.look_again_in_seconds {
                let at = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.02, 3600.0));
                self.waiters.look_again(agent, at);
            }
            return None;
        }
        let waiter = self.waiters.take(agent)?;
        let offered: Vec<_> = verdict
            .assignments
            .iter()
            .filter(|assignment| assignment.offered_until.is_some())
            .map(|assignment| assignment.session.id)
            .collect();
        let gone = unoffer::Gone {
            agent: waiter.agent.clone(),
            claim_number: waiter.claim_number,
        };
        let answer = Answer {
            assignments: verdict.assignments,
            scheduling: Some(standing.scheduling),
            commands: verdict.commands,
            lost: Some(standing.lost),
        };
        let sent = waiter.reply.send(Ok(answer));
        (sent.is_err() && !offered.is_empty()).then_some((gone, offered))
    }

    /// Ends every poll that is parked now, with an empty answer: its client may poll elsewhere.
    pub(super) fn end_polls(&mut self) {
        for waiter in self.waiters.drain() {
            let _ = waiter.reply.send(Ok(Answer::default()));
        }
    }

    fn refuse_one(&mut self, agent: &str, error: Error) {
        if let Some(waiter) = self.waiters.take(agent) {
            let _ = waiter.reply.send(Err(error));
        }
    }

    /// The database failed a round: who was waiting for it by name is told so, the rest stays
    /// parked for the next safety poll.
    pub(super) fn refuse(&mut self, round: &Round, fresh: &BTreeSet<String>, error: &Error) {
        tracing::warn!(pool = self.pool, %error, "a round of claims failed");
        for asking in round
            .asking
            .iter()
            .filter(|asking| fresh.contains(&asking.agent))
        {
            let error = match error {
                Error::DatabaseUnavailable(why) | Error::Retry(why) | Error::StalePlan(why) => {
                    Error::DatabaseUnavailable(why.clone())
                }
                other => Error::Internal(other.to_string()),
            };
            self.refuse_one(&asking.agent, error);
        }
        self.safety_at = self.safety_at.min(Instant::now() + Duration::from_secs(1));
    }
}
