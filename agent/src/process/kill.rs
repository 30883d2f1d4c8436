//! Signals to all that belongs to a session: its process group, its OS session, and whatever has
//! left both but descends from it.

use std::collections::BTreeSet;
use std::time::Duration;

use lessor_client::agent_loop::{Fenced, Stop};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::files::{AttemptDir, Record, write};
use super::proc::{self, ProcessId};
use super::watch;

/// Says to the shim that the end is wanted, and how many seconds what the command leaves may take.
pub const GRACE_FILE: &str = "grace.json";
/// How long something may take to die of SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What belongs to one attempt of a session.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    session_id: Uuid,
    /// Where it is only this attempt, and not all that carries the session's id.
    attempt: Option<i32>,
    shim: Option<ProcessId>,
    process: Option<ProcessId>,
}

impl Family {
    /// As its record says.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            session_id: record.session_id,
            attempt: None,
            shim: Some(record.shim),
            process: record.process,
        }
    }

    /// As its resource id says, where there is no record.
    #[must_use]
    pub fn of_process(session_id: Uuid, process: ProcessId) -> Self {
        Self {
            session_id,
            attempt: None,
            shim: None,
            process: Some(process),
        }
    }

    /// Without what other attempts of the session run.
    #[must_use]
    pub fn only_attempt(self, attempt: i32) -> Self {
        Self {
            attempt: Some(attempt),
            ..self
        }
    }

    /// All of it that runs, without the shim, which is to tell how it ended.
    #[must_use]
    pub fn members(&self) -> Vec<ProcessId> {
        let all = proc::all();
        let mut members = BTreeSet::new();
        let mut add = |found: Vec<ProcessId>| {
            members.extend(found.into_iter().map(|id| (id.pid, id.start_ticks)));
        };
        match self.shim.filter(|shim| shim.is_alive()) {
            Some(shim) => {
                add(proc::descendants(&all, shim.pid));
                let others = |id: &ProcessId| id.pid != shim.pid;
                add(proc::of_session(&all, shim.pid)
                    .into_iter()
                    .filter(others)
                    .collect());
            }
            // Without the shim its number may be somebody else's by now. What carries the session's
            // id in its environment is certainly ours.
            None => {
                let id = self.session_id.to_string();
                let attempt = self.attempt.map(|attempt| attempt.to_string());
                let ours = |pid: i32| {
                    proc::has_env(pid, "LESSOR_SESSION_ID", &id)
                        && attempt
                            .as_ref()
                            .is_none_or(|attempt| proc::has_env(pid, "LESSOR_ATTEMPT", attempt))
                };
                add(all
                    .iter()
                    .map(|s| s.id)
                    .filter(|p| ours(p.pid) && p.is_alive())
                    .collect());
                if let Some(process) = self.process.filter(|process| process.is_alive()) {
                    add(vec![process]);
                    add(proc::descendants(&all, process.pid));
                }
            }
        }
        members
            .into_iter()
            .map(|(pid, start_ticks)| ProcessId { pid, start_ticks })
            .collect()
    }

    /// Whether anything of it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.shim.is_some_and(ProcessId::is_alive) || !self.members().is_empty()
    }

    /// Sends a signal to all of it. Twice over, since it may be forking meanwhile.
    pub fn signal(&self, signal: Signal) {
        let first = self.members();
        first.iter().for_each(|process| process.signal(signal));
        let rest = self
            .members()
            .into_iter()
            .filter(|process| !first.contains(process));
        rest.for_each(|process| process.signal(signal));
    }

    /// Ends all of it: TERM, and KILL when `grace` is over.
    ///
    /// # Errors
    /// When the agent may no longer act, or something does not die.
    pub async fn end(
        &self,
        may_act: &(dyn Fn() -> Result<(), Fenced> + Sync),
        dir: Option<&AttemptDir>,
        grace: Duration,
    ) -> Result<(), Stop> {
        may_act()?;
        if let Some(dir) = dir {
            // Best effort: without it the shim gives no grace to what outlives the command.
            let _ = write(&dir.file(GRACE_FILE), &grace.as_secs_f64());
        }
        if !grace.is_zero() {
            self.signal(Signal::TERM);
            // What is stopped only hears TERM once it goes on.
            self.signal(Signal::CONT);
            let _ = timeout(grace, self.gone()).await;
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        while self.is_alive() {
            may_act()?;
            if Instant::now() > deadline {
                return Err(Stop::Again("some of its processes do not die".into()));
            }
            self.signal(Signal::KILL);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends when nothing of it runs.
    async fn gone(&self) {
        let leader = self.shim.filter(|shim| shim.is_alive()).or(self.process);
        if let Some(leader) = leader {
            watch::ended(leader).await;
        }
        while self.is_alive() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}
