//! A child process with a thread of its own, which makes it, waits for it, and reaps it.
//!
//! Why a thread: the signal at the parent's death (`guard.rs`) comes when the *thread* that made the
//! child ends, and the threads of an async runtime may end at any time. A blocking wait also costs
//! nothing while PostgreSQL runs for months.
//!
//! Invariant: a signal never reaches a stranger. The thread learns of the end without reaping
//! (WNOWAIT), takes the pid away under the lock, and only then reaps, so that while the lock shows a
//! pid, the system cannot have given that pid to another process.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{oneshot, watch};

/// A running or ended child. Dropped while it runs, it gets SIGINT: also when a start is cancelled
/// half-way, nothing is left behind. The thread waits for the end in any case.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    alive: Arc<Mutex<Option<Pid>>>,
    ended: watch::Receiver<Option<String>>,
}

impl Child {
    /// Starts `command` from a new thread.
    pub(super) async fn spawn(mut command: Command) -> io::Result<Self> {
        let (started_tx, started) = oneshot::channel();
        let (ended_tx, ended) = watch::channel(None);
        let alive = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&alive);
        std::thread::Builder::new()
            .name("postgres-parent".to_owned())
            .spawn(move || {
                let mut child = match command.spawn() {
                    Ok(child) => child,
                    Err(error) => {
                        // The receiver may have been dropped: then nobody wants to know.
                        let _ = started_tx.send(Err(error));
                        return;
                    }
                };
                let pid = Pid::from_child(&child);
                *lock(&shared) = Some(pid);
                let _ = started_tx.send(Ok(child.id()));
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while waitid(WaitId::Pid(pid), options).err() == Some(rustix::io::Errno::INTR) {}
                *lock(&shared) = None;
                let end = match child.wait() {
                    Ok(status) => describe(status),
                    Err(error) => format!("its end was missed: {error}"),
                };
                ended_tx.send_replace(Some(end));
            })?;
        let pid = started
            .await
            .map_err(|_| io::Error::other("the thread that starts PostgreSQL panicked"))??;
        Ok(Self { pid, alive, ended })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, unless the child has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = *lock(&self.alive)
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, ?signal, pid = self.pid, "PostgreSQL could not be signalled");
        }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Waits for the end, and says how it was. Owned, so that it can outlive a borrow of the child.
    pub(super) fn wait(&self) -> impl Future<Output = String> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(end) => end.clone().unwrap_or_default(),
                Err(_) => "the thread that waits for it panicked".to_owned(),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::INT);
    }
}

fn lock(alive: &Mutex<Option<Pid>>) -> std::sync::MutexGuard<'_, Option<Pid>> {
    // The value is replaced whole, so a panic cannot have left it half-written.
    alive.lock().unwrap_or_else(PoisonError::into_inner)
}

/// "exit status: 1", "signal: 9 (SIGKILL)".
pub(super) fn describe(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_told_and_a_late_signal_hits_nobody() -> io::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let child = Child::spawn(command).await?;
        assert_eq!(child.wait().await, "exit status: 3");
        assert_eq!(child.end().as_deref(), Some("exit status: 3"));
        assert!(lock(&child.alive).is_none());
        child.signal(Signal::KILL);
        Ok(())
    }

    #[tokio::test]
    async fn a_signal_arrives_and_a_missing_program_is_an_error() -> io::Result<()> {
        let mut command = Command::new("sleep");
        command.arg("600");
        let child = Child::spawn(command).await?;
        assert_eq!(child.end(), None);
        child.signal(Signal::INT);
        assert_eq!(child.wait().await, "signal: 2 (SIGINT)");
        assert!(
            Child::spawn(Command::new("/no/such/program"))
                .await
                .is_err()
        );
        Ok(())
    }
}
