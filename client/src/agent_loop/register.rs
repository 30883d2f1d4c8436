//! Registration: with what the process still drives, and what the answer means for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lessor_protocol::{DroppedSession, HeldSession, ProblemCode, Register};
use uuid::Uuid;

use super::backoff::Backoff;
use super::book::Ending;
use super::driver::{Driver, Held};
use super::lease::boottime;
use super::{Agent, AgentError, task};
use crate::Error;

/// How many sessions one registration may list, as the protocol says.
const MAX_HELD: usize = 10_000;

#[derive(Default)]
struct Verdict {
    keep: Vec<HeldSession>,
    drop: Vec<DroppedSession>,
}

impl<D: Driver> Agent<D> {
    /// Registers until it succeeds. `found` is what the driver found, at the first registration.
    pub(super) async fn register(&self, found: Option<Vec<Held>>) -> Result<(), AgentError> {
        let first = found.is_some();
        let found: HashMap<Uuid, Held> = found
            .into_iter()
            .flatten()
            .map(|held| (held.session.id, held))
            .collect();
        let mut held: Vec<HeldSession> = found
            .values()
            .map(|held| HeldSession {
                session_id: held.session.id,
                lease_epoch: held.lease_epoch,
            })
            .collect();
        {
            let mut state = self.shared.lock();
            // The answer to what was under way will not come any more.
            state.queue.put_back();
            state.desk.put_back();
            held.extend(state.book.held());
        }
        let verdict = self.register_until_answered(&held, first).await?;
        self.apply(&held, found, verdict).await;
        self.shared.want_inventory();
        Ok(())
    }

    async fn register_until_answered(
        &self,
        held: &[HeldSession],
        first: bool,
    ) -> Result<Verdict, AgentError> {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.register_once(held).await {
                Ok(verdict) => return Ok(verdict),
                Err(error) => error,
            };
            if error.code() == Some(ProblemCode::AgentSuperseded) {
                return Err(AgentError::Superseded(self.config.name.clone()));
            }
            // The first time somebody looks on who can mend it. Later the agent has sessions to
            // look after, and only the protocol itself can be a reason to leave.
            let hopeless = error.code() == Some(ProblemCode::ProtocolVersionUnsupported)
                || (first && !error.is_retryable() && !may_come(&error));
            if hopeless {
                return Err(AgentError::Refused {
                    name: self.config.name.clone(),
                    source: error,
                });
            }
            tracing::warn!(%error, "cannot register yet");
            tokio::time::sleep(backoff.pause(error.retry_after())).await;
        }
    }

    async fn register_once(&self, held: &[HeldSession]) -> Result<Verdict, Error> {
        let mut verdict = Verdict::default();
        let none: [&[HeldSession]; 1] = [&[]];
        let chunks: Vec<_> = if held.is_empty() {
            none.to_vec()
        } else {
            held.chunks(MAX_HELD).collect()
        };
        for chunk in chunks {
            let body = Register {
                pool: self.config.pool.clone(),
                resource_domain: self.config.resource_domain.clone(),
                capacity: self.config.capacity,
                labels: self.config.labels.clone(),
                agent_version: self.config.agent_version.clone(),
                protocol_version: lessor_protocol::PROTOCOL_VERSIONS.last().copied(),
                instance: Some(self.instance.clone()),
                held: chunk.to_vec(),
            };
            let sent_at = boottime();
            let answer = self.client.register_agent(&self.config.name, &body).await?;
            self.call_with(answer.token.as_ref())?;
            self.shared.lock().incarnation = answer.incarnation;
            self.shared.renewed(sent_at, answer.lease);
            tracing::info!(
                agent = self.config.name,
                pool = self.config.pool,
                incarnation = answer.incarnation,
                keep = answer.keep.len(),
                drop = answer.drop.len(),
                released = answer.released.len(),
                "registered"
            );
            verdict.keep.extend(answer.keep);
            verdict.drop.extend(answer.drop);
        }
        Ok(verdict)
    }

    async fn apply(&self, held: &[HeldSession], mut found: HashMap<Uuid, Held>, verdict: Verdict) {
        let mut kept = HashSet::new();
        for HeldSession {
            session_id,
            lease_epoch,
        } in verdict.keep
        {
            kept.insert(session_id);
            if let Some(found) = found.remove(&session_id) {
                self.keep_found(found, lease_epoch).await;
            } else {
                self.keep_in_hand(session_id, lease_epoch).await;
            }
        }
        // Whatever is left of what was found is not ours any more.
        for id in found.into_keys() {
            self.driver.forget(id).await;
        }
        let known: HashMap<_, _> = held.iter().map(|h| (h.session_id, h.lease_epoch)).collect();
        for DroppedSession { session_id, reason } in verdict.drop {
            tracing::info!(session = %session_id, reason, "not ours any more: left alone");
            let in_hand = {
                let mut state = self.shared.lock();
                state.book.end(session_id, Ending::Acknowledge);
                state.book.get(session_id).is_some()
            };
            if let (false, Some(&lease_epoch)) = (in_hand, known.get(&session_id)) {
                self.shared.acknowledge(HeldSession {
                    session_id,
                    lease_epoch,
                });
            }
        }
        // Offers of the earlier lease, and what was kept by nobody.
        let mut state = self.shared.lock();
        let rest: Vec<_> = state
            .book
            .iter()
            .map(|(id, _)| id)
            .filter(|id| !kept.contains(id))
            .collect();
        for id in rest {
            state.book.end(id, Ending::Forget);
        }
        drop(state);
        self.shared.hold_changed();
    }

    async fn keep_found(&self, found: Held, lease_epoch: i64) {
        let Held { mut session, .. } = found;
        session.lease_epoch = lease_epoch;
        let id = session.id;
        {
            let mut state = self.shared.lock();
            let now = state.stamp();
            state.book.keep(&session, now);
        }
        self.shared.settle(id, Some(Arc::new(session.clone())));
        self.driver
            .remember(&Held {
                session: session.clone(),
                lease_epoch,
            })
            .await;
        task::spawn(&self.tasks, &self.driver, &self.shared, id, Some(session));
    }

    async fn keep_in_hand(&self, id: Uuid, lease_epoch: i64) {
        let settled = {
            let mut state = self.shared.lock();
            let before = state.book.get(id).map(|slot| slot.epoch);
            if before.is_none_or(|before| before == lease_epoch) {
                return;
            }
            state.book.change_epoch(id, lease_epoch);
            state.queue.rewrite_epoch(id, lease_epoch);
            state.book.get(id).and_then(|slot| slot.settled.clone())
        };
        if let Some(session) = settled {
            self.driver
                .remember(&Held {
                    session: (*session).clone(),
                    lease_epoch,
                })
                .await;
        }
    }
}

/// A pool is sometimes created after its agents, and an approval comes when somebody gives it.
fn may_come(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(ProblemCode::PoolNotFound | ProblemCode::AgentNotApproved)
    )
}
