//! Gathering: what arrives while a batch is being written makes the next one.
//!
//! What comes alone goes at once, without a timer; under load one statement serves hundreds. Each
//! caller gets the answer to what he asked and knows nothing of the others.
//!
//! Who was answered by one batch comes back for the next at the same time, but not in the same instant. Where
//! the first of them does not wait for the others, each step of a claim is a batch of one and another of all
//! the rest, and half of all transactions are for one. So it waits for those whose tasks can run already
//! ([`Company`]); no clock is involved, and who has come alone lately does not wait.
//!
//! Invariants:
//! - The queue is bounded; past it callers are told so and nothing is done.
//! - What one caller no longer waits for, and is not being written yet, is left out.
//! - A batch that is being written is written to its end, whoever goes away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use crate::error::{Error, Result};

/// Where callers hand things in.
#[derive(Debug)]
pub struct Gather<T, R>(mpsc::Sender<Item<T, R>>);

/// What writes batches for a [`Gather`]; it must be run.
pub struct Batches<T, R> {
    queue: mpsc::Receiver<Item<T, R>>,
    limits: Limits,
}

/// The limits of gathering.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many may wait.
    pub queued: usize,
    /// How many make a batch at most.
    pub batch: usize,
    /// How many batches are written at the same time.
    pub at_once: usize,
    /// How many must wait, or one of them for a tenth of a second, for a batch to begin while another is
    /// written: more make fewer and larger batches. With more than 1, what comes together is waited for as well.
    pub beside: usize,
}

/// So long does nobody wait for many others: the batch that is written may itself wait, for a lock.
const LONG: Duration = Duration::from_millis(100);

/// How many times in a row nothing may have come for those to be all who come together.
const QUIET: usize = 2;

/// Whether what comes has come with others lately, and the wait for those others.
#[derive(Debug, Default)]
pub struct Company {
    /// How many came together: the last time, or a half of it for each time since.
    lately: usize,
}

impl Company {
    /// Some have `come`; lets whoever can run do so, and takes `more` until there are none, or `most` in all.
    /// Who is alone, as those before him, is not held up. `more` says how many it has taken.
    pub async fn gather(&mut self, mut come: usize, most: usize, mut more: impl FnMut() -> usize) {
        let mut quiet = 0;
        while self.lately.max(come) > 1 && quiet < QUIET && come < most {
            tokio::task::yield_now().await;
            let also = more();
            come += also;
            quiet = if also == 0 { quiet + 1 } else { 0 };
        }
        self.lately = come.max(self.lately / 2);
    }

    /// The same for a `batch` that has begun, and what waits in its `queue`.
    pub async fn fill<T>(
        &mut self,
        queue: &mut mpsc::Receiver<T>,
        batch: &mut Vec<T>,
        most: usize,
    ) {
        let come = batch.len();
        self.gather(come, most, || take(queue, batch, most)).await;
    }
}

#[derive(Debug)]
struct Item<T, R> {
    what: T,
    reply: oneshot::Sender<Result<R>>,
}

impl<T, R> Clone for Gather<T, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    /// The front, and what must be run for it.
    #[must_use]
    pub fn new(limits: Limits) -> (Self, Batches<T, R>) {
        let (sender, queue) = mpsc::channel(limits.queued);
        (Self(sender), Batches { queue, limits })
    }

    /// How many wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }

    /// Hands something in and waits for what became of it.
    ///
    /// # Errors
    /// What the batch says of it; `DatabaseUnavailable` when too many wait or it takes too long;
    /// `Stopping`.
    pub async fn submit(&self, what: T) -> Result<R> {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send(Item { what, reply })
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => {
                    Error::DatabaseUnavailable("too much waits to be written".to_owned())
                }
                mpsc::error::TrySendError::Closed(_) => Error::Stopping,
            })?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Internal("a batch ended without answers".to_owned())),
            Err(_) => Err(Error::DatabaseUnavailable(
                "it was not written in time".to_owned(),
            )),
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batches<T, R> {
    /// Writes batches until it is cancelled, then ends those that have begun. `write` answers each
    /// thing of a batch, in their order.
    pub async fn run<F, W>(mut self, stop: CancellationToken, write: F)
    where
        F: Fn(Vec<T>) -> W + Send + Sync + 'static,
        W: Future<Output = Vec<Result<R>>> + Send + 'static,
    {
        let write = Arc::new(write);
        let mut running = JoinSet::new();
        let mut batch = Vec::new();
        let mut company = Company::default();
        let Limits {
            batch: most,
            at_once,
            beside,
            ..
        } = self.limits;
        // When the first of `batch` came.
        let mut since = Instant::now();
        loop {
            let (room, held) = (most - batch.len(), batch.len());
            let is_free = running.len() < at_once;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ending = running.join_next(), if !running.is_empty() => ended(ending),
                received = self.queue.recv_many(&mut batch, room), if is_free && room > 0 => {
                    if received == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(since + LONG), if is_free && held > 0 => {}
            }
            if held == 0 {
                since = Instant::now();
            }
            let enough = batch.len() >= beside || since.elapsed() >= LONG;
            let begins = running.is_empty() || (running.len() < at_once && enough);
            if batch.is_empty() || !begins {
                continue;
            }
            if beside > 1 {
                company.fill(&mut self.queue, &mut batch, most).await;
            }
            running.spawn(answer(Arc::clone(&write), std::mem::take(&mut batch)));
        }
        self.queue.close();
        take(&mut self.queue, &mut batch, usize::MAX);
        for late in batch {
            let _ = late.reply.send(Err(Error::Stopping));
        }
        while let Some(ending) = running.join_next().await {
            ended(Some(ending));
        }
    }
}

/// Takes what waits already, up to `most` in all; how many.
pub fn take<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>, most: usize) -> usize {
    let before = batch.len();
    while batch.len() < most
        && let Ok(more) = queue.try_recv()
    {
        batch.push(more);
    }
    batch.len() - before
}

async fn answer<T, R, F, W>(write: Arc<F>, batch: Vec<Item<T, R>>)
where
    F: Fn(Vec<T>) -> W,
    W: Future<Output = Vec<Result<R>>>,
{
    let waited_for = batch.into_iter().filter(|item| !item.reply.is_closed());
    let (things, replies): (Vec<T>, Vec<_>) =
        waited_for.map(|item| (item.what, item.reply)).unzip();
    if things.is_empty() {
        return;
    }
    for (reply, answer) in replies.into_iter().zip(write(things).await) {
        // Whoever has gone since has had it done all the same.
        let _ = reply.send(answer);
    }
}

/// A batch that panicked has answered nobody, which its callers notice.
fn ended(ending: Option<std::result::Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ending {
        tracing::error!(%error, "a batch did not end well");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    type Seen = Arc<Mutex<Vec<Vec<u32>>>>;
    type Running = (CancellationToken, JoinHandle<()>);

    /// Writes when it is let, and keeps what each batch had.
    fn recorded(limits: Limits) -> (Gather<u32, u32>, Arc<Semaphore>, Seen, Running) {
        let (gather, batches) = Gather::new(limits);
        let (lets, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
        let stop = CancellationToken::new();
        let (may, keep) = (Arc::clone(&lets), Arc::clone(&seen));
        let running = tokio::spawn(batches.run(stop.clone(), move |things: Vec<u32>| {
            let (may, keep) = (Arc::clone(&may), Seen::clone(&keep));
            async move {
                keep.lock().expect("seen").push(things.clone());
                may.acquire().await.expect("it is let").forget();
                assert!(!things.contains(&13), "an unlucky one");
                things.into_iter().map(|n| Ok(n * 2)).collect()
            }
        }));
        (gather, lets, seen, (stop, running))
    }

    fn limits(queued: usize, at_once: usize) -> Limits {
        Limits {
            queued,
            batch: 10,
            at_once,
            beside: 1,
        }
    }

    /// A second batch begins when three wait.
    const THREE_BESIDE: Limits = Limits {
        queued: 20,
        batch: 10,
        at_once: 2,
        beside: 3,
    };

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    fn ask(gather: &Gather<u32, u32>, n: u32) -> JoinHandle<Result<u32>> {
        let gather = gather.clone();
        tokio::spawn(async move { gather.submit(n).await })
    }

    /// Lets every task run as far as it comes: there is one thread for all of them.
    async fn all_have_run() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_arrives_while_one_is_written_makes_the_next() {
        let (gather, lets, seen, _running) = recorded(limits(20, 1));
        let ask = |n| ask(&gather, n);
        let first = ask(1);
        until(|| seen.lock().expect("seen").len() == 1).await;
        let later: Vec<_> = (2..=5).map(ask).collect();
        let gone = ask(6);
        until(|| gather.0.capacity() == 15).await;
        gone.abort();
        let _ = gone.await;
        lets.add_permits(2);
        assert_eq!(first.await.expect("it ends").expect("an answer"), 2);
        for (n, asked) in (2..).zip(later) {
            assert_eq!(asked.await.expect("it ends").expect("an answer"), n * 2);
        }
        assert_eq!(*seen.lock().expect("seen"), [vec![1], vec![2, 3, 4, 5]]);
    }

    #[tokio::test]
    async fn past_the_limit_it_refuses_and_a_panic_harms_only_its_batch() {
        let (gather, lets, seen, (stop, running)) = recorded(limits(1, 2));
        let ask = |n| ask(&gather, n);
        let unlucky = ask(13);
        until(|| seen.lock().expect("seen").len() == 1).await;
        let second = ask(2);
        until(|| seen.lock().expect("seen").len() == 2).await;
        let waiting = ask(3);
        until(|| gather.0.capacity() == 0).await;
        assert!(matches!(
            gather.submit(4).await,
            Err(Error::DatabaseUnavailable(_))
        ));
        lets.add_permits(3);
        assert!(matches!(
            unlucky.await.expect("it ends"),
            Err(Error::Internal(_))
        ));
        assert_eq!(second.await.expect("it ends").expect("an answer"), 4);
        assert_eq!(waiting.await.expect("it ends").expect("an answer"), 6);
        stop.cancel();
        running.await.expect("it ends well");
        assert!(matches!(gather.submit(5).await, Err(Error::Stopping)));
    }

    #[tokio::test]
    async fn few_wait_for_the_batch_that_is_written_and_many_do_not() {
        let (gather, lets, seen, _running) = recorded(THREE_BESIDE);
        let ask = |n| ask(&gather, n);
        let mut asked = vec![ask(1)];
        until(|| seen.lock().expect("seen").len() == 1).await;
        asked.extend([ask(2), ask(3)]);
        all_have_run().await;
        assert_eq!(seen.lock().expect("seen").len(), 1, "two wait");
        asked.push(ask(4));
        until(|| seen.lock().expect("seen").len() == 2).await;
        assert_eq!(*seen.lock().expect("seen"), [vec![1], vec![2, 3, 4]]);
        lets.add_permits(2);
        for (n, asked) in (1..).zip(asked) {
            assert_eq!(asked.await.expect("it ends").expect("an answer"), n * 2);
        }
        // One that waits for a batch that does not end does not wait for long.
        let stuck = ask(5);
        until(|| seen.lock().expect("seen").len() == 3).await;
        let begun = Instant::now();
        let alone = ask(6);
        until(|| seen.lock().expect("seen").len() == 4).await;
        assert!((LONG..20 * LONG).contains(&begun.elapsed()));
        lets.add_permits(2);
        assert_eq!(stuck.await.expect("it ends").expect("an answer"), 10);
        assert_eq!(alone.await.expect("it ends").expect("an answer"), 12);
    }

    #[tokio::test]
    async fn who_is_held_when_it_stops_is_told_so() {
        let (gather, lets, seen, (stop, running)) = recorded(THREE_BESIDE);
        let ask = |n| ask(&gather, n);
        let written = ask(1);
        until(|| seen.lock().expect("seen").len() == 1).await;
        let held = ask(2);
        all_have_run().await;
        stop.cancel();
        assert!(matches!(held.await.expect("it ends"), Err(Error::Stopping)));
        lets.add_permits(1);
        assert_eq!(written.await.expect("it ends").expect("an answer"), 2);
        running.await.expect("it ends well");
    }

    #[tokio::test]
    async fn who_comes_together_is_waited_for_and_who_is_alone_is_not() {
        let mut company = Company::default();
        let mut looks = 0;
        company
            .gather(1, 100, || {
                looks += 1;
                0
            })
            .await;
        assert_eq!(looks, 0, "one who is alone is held up");

        // Each comes as the one before him has been let run.
        let (sender, mut queue) = mpsc::channel(10);
        tokio::spawn(async move {
            for n in 0..6 {
                sender.send(n).await.expect("somebody takes it");
                tokio::task::yield_now().await;
            }
        });
        let mut batch = vec![100, 101];
        company.fill(&mut queue, &mut batch, 100).await;
        assert_eq!(batch.len(), 8);

        // Those after them are taken for the first of many, for a while.
        let mut looks = Vec::new();
        for _ in 0..5 {
            let mut looked = 0;
            company
                .gather(1, 100, || {
                    looked += 1;
                    0
                })
                .await;
            looks.push(looked);
        }
        assert_eq!(looks, [QUIET, QUIET, QUIET, 0, 0]);

        let mut more = std::iter::repeat_n(1, 50);
        company
            .gather(2, 20, || more.next().unwrap_or_default())
            .await;
        assert_eq!(more.len(), 32, "no more than fit are taken");
    }
}
