//! Gathering: what arrives while a batch is being written makes the next one.
//!
//! What comes alone goes at once, without a timer; under load one statement serves hundreds. Each
//! caller gets the answer to what he asked and knows nothing of the others.
//!
//! Invariants:
//! - The queue is bounded; past it callers are told so and nothing is done.
//! - What one caller no longer waits for, and is not being written yet, is left out.
//! - A batch that is being written is written to its end, whoever goes away.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
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
        loop {
            while running.len() >= self.limits.at_once {
                ended(running.join_next().await);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ending = running.join_next(), if !running.is_empty() => ended(ending),
                received = self.queue.recv_many(&mut batch, self.limits.batch) => {
                    if received == 0 {
                        break;
                    }
                    let batch = std::mem::take(&mut batch);
                    running.spawn(answer(Arc::clone(&write), batch));
                }
            }
        }
        self.queue.close();
        while let Ok(late) = self.queue.try_recv() {
            let _ = late.reply.send(Err(Error::Stopping));
        }
        while let Some(ending) = running.join_next().await {
            ended(Some(ending));
        }
    }
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

    type Seen = Arc<Mutex<Vec<Vec<u32>>>>;
    type Running = (CancellationToken, tokio::task::JoinHandle<()>);

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
        }
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_arrives_while_one_is_written_makes_the_next() {
        let (gather, lets, seen, _running) = recorded(limits(20, 1));
        let ask = |n| {
            let gather = gather.clone();
            tokio::spawn(async move { gather.submit(n).await })
        };
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
        let ask = |n| {
            let gather = gather.clone();
            tokio::spawn(async move { gather.submit(n).await })
        };
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
}
