//! The task of one session: accept, act, report, watch; then the next thing that is wanted of it.
//!
//! There is one task per session, so a slow platform delays that session and nothing else. Dropping
//! the task's future stops every action at its next `await`: that is how fencing and losses work.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lessor_protocol::{Action, Assignment, ReportedState, Session};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::backoff::Backoff;
use super::book::Ending;
use super::driver::{Driver, Exit, Held, Resource, Stop};
use super::queue::Answer;
use super::shared::{Draft, Shared};
use super::work::Work;

/// A platform that does not answer is asked this seldom at most.
const PLATFORM_CAP: Duration = Duration::from_secs(30);

/// Begins the task of a session; `kept` if it was found running at the start.
pub(super) fn spawn<D: Driver>(
    tasks: &TaskTracker,
    driver: &Arc<D>,
    shared: &Arc<Shared>,
    id: Uuid,
    kept: Option<Session>,
) {
    let task = Task {
        id,
        driver: Arc::clone(driver),
        shared: Arc::clone(shared),
    };
    tasks.spawn(task.run(kept));
}

struct Task<D> {
    id: Uuid,
    driver: Arc<D>,
    shared: Arc<Shared>,
}

/// What follows when a step is over.
enum Next {
    /// Something newer is wanted.
    Mail,
    /// The hold has ended.
    Over,
}

/// What an action came to.
enum Acted<T> {
    Done(T),
    Stopped(Stop),
    /// Something newer is wanted, and nothing is going on.
    Mail,
}

impl<D: Driver> Task<D> {
    async fn run(self, mut kept: Option<Session>) {
        loop {
            let Some(cancel) = self.cancellation() else {
                return;
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = self.drive(kept.take()) => self.shared.lock().book.end(self.id, Ending::Forget),
            }
            // From here on nothing acts on it. At a shutdown there is no ending: what the driver
            // remembers is for the next start.
            if self.ending().is_some() {
                self.driver.forget(self.id).await;
            }
            if !self.shared.task_ended(self.id) {
                return;
            }
        }
    }

    fn cancellation(&self) -> Option<CancellationToken> {
        self.shared
            .lock()
            .book
            .get(self.id)
            .map(|slot| slot.cancel.clone())
    }

    fn ending(&self) -> Option<Ending> {
        self.shared
            .lock()
            .book
            .get(self.id)
            .and_then(|slot| slot.ending)
    }

    async fn drive(&self, kept: Option<Session>) {
        let mut next = match kept {
            Some(session) => self.watch(&self.work(session)).await,
            None => Next::Mail,
        };
        while let Next::Mail = next {
            let Some(assignment) = self.shared.take_mail(self.id) else {
                return;
            };
            next = self.step(assignment).await;
        }
    }

    fn work(&self, session: Session) -> Work {
        Work::new(session, Arc::clone(&self.shared))
    }

    async fn step(&self, assignment: Assignment) -> Next {
        let Assignment {
            session, action, ..
        } = assignment;
        let work = self.work(session);
        let accept = match action {
            Action::Start => ReportedState::Starting,
            Action::Wake => ReportedState::Waking,
            Action::Hibernate => ReportedState::Hibernating,
            Action::Terminate => ReportedState::Terminating,
            // Looking is allowed before acceptance, and what is found is the acceptance.
            Action::Adopt => return self.adopt(&work).await,
            Action::Release => return self.release(&work).await,
        };
        match self.tell(Draft::of(accept)).await {
            Some(answer) if answer.accepted() => {}
            _ => return self.refused(&work).await,
        }
        if self.has_mail() {
            return Next::Mail;
        }
        // From here on "held and running" may no longer be true.
        self.shared.settle(self.id, None);
        self.driver.forget(self.id).await;
        let (driver, work) = (&*self.driver, &work);
        match action {
            Action::Wake => {
                let woken = self.act(|| driver.wake(work)).await;
                self.up(work, woken, Draft::of(ReportedState::Running))
                    .await
            }
            Action::Hibernate => {
                let hibernated = self.act(|| driver.hibernate(work)).await;
                self.hibernated(hibernated).await
            }
            Action::Terminate => self.terminate(work).await,
            Action::Start | Action::Adopt | Action::Release => {
                let started = self.act(|| driver.start(work)).await;
                self.up(work, started, Draft::of(ReportedState::Running).fresh())
                    .await
            }
        }
    }

    /// The start or wake is over, one way or another.
    async fn up(&self, work: &Work, acted: Acted<Resource>, draft: Draft) -> Next {
        match acted {
            Acted::Mail => Next::Mail,
            Acted::Stopped(stop) => self.stopped(stop).await,
            Acted::Done(resource) => self.running(work, draft.with(resource)).await,
        }
    }

    async fn running(&self, work: &Work, draft: Draft) -> Next {
        let accepted = self.tell(draft).await.is_some_and(Answer::accepted);
        if self.has_mail() {
            return Next::Mail;
        }
        if !accepted {
            return self.refused(work).await;
        }
        self.remember(work).await;
        self.watch(work).await
    }

    async fn remember(&self, work: &Work) {
        let session = work.session().clone();
        if let Some(lease_epoch) = self.shared.settle(self.id, Some(Arc::new(session.clone()))) {
            self.driver
                .remember(&Held {
                    session,
                    lease_epoch,
                })
                .await;
        }
    }

    /// Waits for the resource's own end, or for something to do.
    async fn watch(&self, work: &Work) -> Next {
        loop {
            tokio::select! {
                biased;
                () = self.mail() => return Next::Mail,
                exit = AssertUnwindSafe(self.driver.wait(work)).catch_unwind() => match exit {
                    Ok(exit) => return self.stopped(Stop::Ended(exit)).await,
                    Err(_) => tracing::error!(session = %self.id, "the driver panicked in wait"),
                },
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn adopt(&self, work: &Work) -> Next {
        match self.look(work).await {
            Acted::Mail => Next::Mail,
            Acted::Stopped(stop) => self.stopped(stop).await,
            Acted::Done(found) => {
                self.running(work, Draft::of(ReportedState::Running).with(found))
                    .await
            }
        }
    }

    async fn release(&self, work: &Work) -> Next {
        match self.look(work).await {
            Acted::Mail => Next::Mail,
            Acted::Stopped(stop) => self.stopped(stop).await,
            Acted::Done(_) => {
                self.driver.release(work).await;
                self.finish(|| Draft::of(ReportedState::Running)).await
            }
        }
    }

    async fn terminate(&self, work: &Work) -> Next {
        let mut backoff = Backoff::up_to(PLATFORM_CAP);
        loop {
            match self.act(|| self.driver.terminate(work)).await {
                Acted::Mail => return Next::Mail,
                Acted::Done(()) | Acted::Stopped(Stop::Ended(_)) => {
                    return self.finish(|| Draft::of(ReportedState::Terminated)).await;
                }
                // A wanted end is never given up.
                Acted::Stopped(Stop::Failed(failure)) => {
                    tracing::warn!(session = %self.id, reason = failure.reason, message = failure.message, "cannot terminate yet");
                    if self.pause(&mut backoff).await {
                        return Next::Mail;
                    }
                }
                Acted::Stopped(Stop::Again(_)) => {}
            }
        }
    }

    async fn hibernated(&self, acted: Acted<Resource>) -> Next {
        match acted {
            Acted::Mail => Next::Mail,
            Acted::Stopped(stop) => self.stopped(stop).await,
            Acted::Done(resource) => {
                self.finish(|| Draft::of(ReportedState::Hibernated).with(resource.clone()))
                    .await
            }
        }
    }

    /// The session has failed or ended.
    async fn stopped(&self, stop: Stop) -> Next {
        let failure = match stop {
            Stop::Failed(failure) => Some(failure),
            Stop::Ended(exit) => {
                tracing::info!(session = %self.id, ?exit, "the resource has ended");
                exit.failure()
            }
            // `act` and `look` try again by themselves.
            Stop::Again(message) => Exit::Gone(message).failure(),
        };
        let state = match failure {
            Some(_) => ReportedState::Failed,
            None => ReportedState::Terminated,
        };
        self.finish(|| Draft::of(state).because(failure.clone()))
            .await
    }

    /// Reports an end of the hold until it is taken.
    async fn finish(&self, draft: impl Fn() -> Draft) -> Next {
        let mut backoff = Backoff::up_to(PLATFORM_CAP);
        loop {
            match self.tell(draft()).await {
                Some(answer) if !answer.accepted() && !answer.fenced() => {
                    // Forgetting it now would leave the service with a holder that does nothing.
                    tracing::error!(session = %self.id, ?answer, "the end was refused");
                    if self.pause(&mut backoff).await {
                        return Next::Mail;
                    }
                }
                _ if self.has_newer_epoch() => return Next::Mail,
                _ => return Next::Over,
            }
        }
    }

    /// The report that was to begin an action, or to say that it is done, was not accepted.
    async fn refused(&self, work: &Work) -> Next {
        if self.has_mail() {
            return Next::Mail;
        }
        let running = {
            let mut state = self.shared.lock();
            state.book.refused(self.id);
            state
                .book
                .get(self.id)
                .is_some_and(|slot| slot.held && slot.settled.is_some())
        };
        if running {
            self.watch(work).await
        } else {
            Next::Over
        }
    }

    async fn tell(&self, draft: Draft) -> Option<Answer> {
        self.shared.report(self.id, draft).await.ok()
    }

    /// Calls the driver while the agent may act, and again while the platform cannot be asked.
    async fn act<T, F>(&self, call: impl Fn() -> F) -> Acted<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        let mut backoff = Backoff::up_to(PLATFORM_CAP);
        loop {
            let permit = tokio::select! {
                biased;
                () = self.mail() => return Acted::Mail,
                permit = self.permit() => permit,
            };
            let outcome = tokio::select! {
                biased;
                () = self.shared.fenced() => {
                    tracing::warn!(session = %self.id, "fenced: the action was cut off");
                    continue;
                }
                outcome = AssertUnwindSafe(call()).catch_unwind() => outcome,
            };
            drop(permit);
            match outcome {
                Ok(Ok(done)) => return Acted::Done(done),
                Ok(Err(Stop::Again(why))) => {
                    tracing::warn!(session = %self.id, why, "trying again");
                }
                Ok(Err(stop)) => return Acted::Stopped(stop),
                Err(_) => tracing::error!(session = %self.id, "the driver panicked"),
            }
            if self.pause(&mut backoff).await {
                return Acted::Mail;
            }
        }
    }

    /// Waits for a turn and for the right to act.
    async fn permit(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        loop {
            self.shared.unfenced().await;
            let permit = self.shared.acting.acquire().await.ok();
            if !self.shared.may_act_for().is_zero() {
                return permit;
            }
        }
    }

    /// Asks the driver what is there.
    async fn look(&self, work: &Work) -> Acted<Resource> {
        let mut backoff = Backoff::up_to(PLATFORM_CAP);
        loop {
            let turn = self.shared.looking.acquire().await;
            let found = AssertUnwindSafe(self.driver.adopt(work))
                .catch_unwind()
                .await;
            drop(turn);
            match found {
                Ok(Ok(resource)) => return Acted::Done(resource),
                Ok(Err(Stop::Again(why))) => tracing::warn!(session = %self.id, why, "cannot look"),
                Ok(Err(stop)) => return Acted::Stopped(stop),
                Err(_) => tracing::error!(session = %self.id, "the driver panicked"),
            }
            if self.pause(&mut backoff).await {
                return Acted::Mail;
            }
        }
    }

    fn has_mail(&self) -> bool {
        self.shared
            .lock()
            .book
            .get(self.id)
            .is_some_and(super::book::Slot::has_mail)
    }

    fn has_newer_epoch(&self) -> bool {
        self.shared
            .lock()
            .book
            .get(self.id)
            .is_some_and(super::book::Slot::has_newer_epoch)
    }

    /// Ends when there is mail.
    async fn mail(&self) {
        loop {
            let Some(bell) = self
                .shared
                .lock()
                .book
                .get(self.id)
                .map(|slot| Arc::clone(&slot.bell))
            else {
                return std::future::pending().await;
            };
            let rung = bell.notified();
            if self.has_mail() {
                return;
            }
            rung.await;
        }
    }

    /// Pauses; true if mail came first.
    async fn pause(&self, backoff: &mut Backoff) -> bool {
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(None)) => false,
            () = self.mail() => true,
        }
    }
}
