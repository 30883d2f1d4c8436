//! Waiting for processes that are not children of ours: by pidfds, which cost nothing while nothing
//! happens, and where there is none by looking twice a second.
//!
//! One thread waits for all of them in one epoll. tokio's `AsyncFd` would do without the thread, but
//! since 1.54 it is only had with `unsafe` or with a constructor deprecated as unsound.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use super::proc::ProcessId;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Ends when `process` has ended; at once if it is another one that has its pid.
pub async fn ended(process: ProcessId) {
    let watch = Watch::begin(process);
    // The descriptor is taken first: if the process is the right one now, the descriptor is its.
    if process.is_alive()
        && let Some(watch) = watch
    {
        watch.ended().await;
    }
    // Without a descriptor this is all there is; with one it is over already.
    while process.is_alive() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The one epoll of this process. Its thread lives as long as the process: it holds nothing that
/// would have to be let go of in order.
struct Watcher {
    epoll: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    last_key: u64,
    by_key: HashMap<u64, (OwnedFd, oneshot::Sender<()>)>,
}

/// A process that is being watched; no more once this is dropped.
struct Watch {
    watcher: &'static Watcher,
    key: u64,
    ended: oneshot::Receiver<()>,
}

impl Watch {
    fn begin(process: ProcessId) -> Option<Self> {
        let watcher = Watcher::get()?;
        let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
        let (ring, ended) = oneshot::channel();
        let mut watched = watcher.lock();
        watched.last_key += 1;
        let key = watched.last_key;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(
            &watcher.epoll,
            &pidfd,
            epoll::EventData::new_u64(key),
            flags,
        )
        .ok()?;
        watched.by_key.insert(key, (pidfd, ring));
        drop(watched);
        Some(Self {
            watcher,
            key,
            ended,
        })
    }

    async fn ended(mut self) {
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing the descriptor takes it out of the epoll.
        drop(self.watcher.lock().by_key.remove(&self.key));
    }
}

impl Watcher {
    fn get() -> Option<&'static Self> {
        static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
        static THREAD: OnceLock<bool> = OnceLock::new();
        let made = || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).ok()?;
            Some(Self {
                epoll,
                watched: Mutex::default(),
            })
        };
        let watcher = WATCHER.get_or_init(made).as_ref()?;
        let begin = || {
            let thread = std::thread::Builder::new().name("process-ends".to_owned());
            thread.spawn(|| watcher.run()).is_ok()
        };
        THREAD.get_or_init(begin).then_some(watcher)
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Never seen; waiting a little is better than spinning.
                    tracing::error!(error = %io::Error::from(error), "cannot wait for processes");
                    std::thread::sleep(LOOK_EVERY);
                }
            }
            let mut watched = self.lock();
            for event in &events {
                if let Some((_, ring)) = watched.by_key.remove(&event.data.u64()) {
                    // Whoever waited may have been cancelled.
                    let _ = ring.send(());
                }
            }
        }
    }
}
