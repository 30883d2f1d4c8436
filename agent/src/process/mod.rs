//! The process driver: each session is an OS process of this machine, which outlives its agent.
//!
//! A session's command runs under a [`shim`], which writes down who runs and how that ended. All
//! agents that share a data folder (a resource domain) can find, adopt, stop and report each
//! other's processes. Nothing is ever killed because of what is *not* known: only `terminate` kills,
//! and `delete`, which the service asks for.

mod activity;
mod commands;
pub mod exec;
pub mod files;
mod inventory;
pub mod kill;
mod logs;
pub mod look;
pub mod proc;
pub mod shim;
pub mod spec;
mod start;
pub mod watch;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lessor_client::agent_loop::{Driver, Exit, Held, Resource, Stop, Work};
use lessor_protocol::{Command, InventoryResource, ReportedFailure};
use rustix::process::Signal;
use uuid::Uuid;

use files::{DataDir, Ended, Record};
use kill::Family;
use look::{Found, look, settled};
use proc::ProcessId;
use spec::ProcessSpec;

/// How long a session's processes have to end by themselves, unless the session says so.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How to become a shim: a program and the arguments that come before the attempt's folder.
#[derive(Clone, Debug)]
pub struct ShimCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

impl ShimCommand {
    /// This very binary, with the hidden subcommand `shim`, also after it was replaced on disk.
    #[must_use]
    pub fn this_binary() -> Self {
        let program = std::env::current_exe()
            .ok()
            .filter(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        Self {
            program,
            args: vec![shim::SUBCOMMAND.into()],
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ProcessDriver {
    data: DataDir,
    held: PathBuf,
    shim: ShimCommand,
    watched: activity::Watched,
}

impl ProcessDriver {
    /// The driver of the agent `name`, on the data folder that the agents of a machine share.
    ///
    /// # Errors
    /// When the folder cannot be made, or the name cannot be the name of one in it.
    pub fn new(data_dir: &Path, name: &str, shim: ShimCommand) -> io::Result<Self> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(io::Error::other(format!(
                "`{name}` cannot be the name of an agent"
            )));
        }
        let data = DataDir::create(data_dir)?;
        let held = data.held(name);
        std::fs::create_dir_all(&held)?;
        Ok(Self {
            data,
            held,
            shim,
            watched: activity::Watched::default(),
        })
    }

    fn held_file(&self, id: Uuid) -> PathBuf {
        self.held.join(format!("{id}.json"))
    }

    fn resource(&self, work: &Work, process: ProcessId) -> Resource {
        let dir = self.data.attempt(work.id(), work.session().attempt);
        let metadata = serde_json::json!({
            "pid": process.pid,
            "stdout_path": dir.file("stdout"),
            "stderr_path": dir.file("stderr"),
        });
        Resource {
            platform_resource_id: Some(process.to_string()),
            platform_metadata: serde_json::value::to_raw_value(&metadata).ok(),
            endpoint: ProcessSpec::of(work.session())
                .ok()
                .and_then(|spec| spec.endpoint),
        }
    }

    /// The process that the session's resource id names, if it runs and is the session's.
    fn by_resource_id(work: &Work) -> Option<ProcessId> {
        let process: ProcessId = work.session().platform_resource_id.as_ref()?.parse().ok()?;
        let ours = proc::has_env(process.pid, "LESSOR_SESSION_ID", &work.id().to_string());
        (process.is_alive() && ours).then_some(process)
    }

    /// The session's running processes, or why there are none.
    async fn running(&self, work: &Work) -> Result<(Family, ProcessId), Stop> {
        let dir = self.data.attempt(work.id(), work.session().attempt);
        match settled(&dir).await? {
            Found::Running(record, process) => Ok((Family::of(&record), process)),
            Found::Ended(ended) => Err(ended_stop(&ended)),
            Found::Vanished(record) => Err(vanished(&record)),
            Found::Nothing | Found::Unsettled => match Self::by_resource_id(work) {
                Some(process) => Ok((Family::of_process(work.id(), process), process)),
                None => Err(Stop::gone("there is no process of this session")),
            },
        }
    }

    async fn wait_for_exit(&self, work: &Work) -> Exit {
        let dir = self.data.attempt(work.id(), work.session().attempt);
        loop {
            match look(&dir) {
                Ok(Found::Running(record, process)) => {
                    let shim = Some(record.shim).filter(|shim| shim.is_alive());
                    watch::ended(shim.unwrap_or(process)).await;
                }
                Ok(Found::Ended(ended)) => match ended_stop(&ended) {
                    Stop::Ended(exit) => return exit,
                    Stop::Failed(failure) => return Exit::Gone(failure.message),
                    Stop::Again(message) => return Exit::Gone(message),
                },
                Ok(Found::Vanished(_)) => {
                    return Exit::Gone("its process is gone, and how it ended is not known".into());
                }
                Ok(Found::Nothing) => {
                    if let Some(process) = Self::by_resource_id(work) {
                        watch::ended(process).await;
                    }
                    return Exit::Gone("its process is gone, and how it ended is not known".into());
                }
                Ok(Found::Unsettled) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => {
                    tracing::warn!(session = %work.id(), %error, "cannot look");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn end_all(&self, work: &Work) -> Result<(), Stop> {
        let session = work.session();
        let grace = session.grace_seconds.map_or(DEFAULT_GRACE, |seconds| {
            Duration::try_from_secs_f64(seconds).unwrap_or(DEFAULT_GRACE)
        });
        // First of all: nobody starts this attempt any more.
        self.seal(work).await?;
        let mut ends = Vec::new();
        for dir in self.data.attempts(work.id()) {
            if let Ok(Some(record)) = dir.record()
                && record.boot_id == proc::boot_id()
                && Family::of(&record).is_alive()
            {
                ends.push((Some(dir), Family::of(&record)));
            }
        }
        if let Some(process) = Self::by_resource_id(work) {
            ends.push((None, Family::of_process(work.id(), process)));
        }
        let may_act = || work.may_act();
        let ends = ends
            .iter()
            .map(|(dir, family)| family.end(&may_act, dir.as_ref(), grace));
        futures_util::future::try_join_all(ends).await?;
        if session.delete_data {
            work.may_act()?;
            match std::fs::remove_dir_all(self.data.session(work.id())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Stop::Again(format!("cannot delete its data: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn ended_stop(ended: &Ended) -> Stop {
    match (ended.exit(), ended) {
        (Some(exit), _) => Stop::Ended(exit),
        (
            None,
            Ended::CannotExecute {
                message,
                retryable: true,
            },
        ) => Stop::failed("cannot_execute", message),
        (None, Ended::CannotExecute { message, .. }) => Stop::for_good("cannot_execute", message),
        (None, _) => Stop::gone("it has ended"),
    }
}

fn vanished(record: &Record) -> Stop {
    Stop::gone(if record.boot_id == proc::boot_id() {
        "its process is gone, and how it ended is not known"
    } else {
        "the machine was restarted since"
    })
}

impl Driver for ProcessDriver {
    async fn held(&self) -> Vec<Held> {
        let Ok(entries) = std::fs::read_dir(&self.held) else {
            return Vec::new();
        };
        let mut held = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(Some(item)) = files::read::<Held>(&path) else {
                continue;
            };
            let dir = self.data.attempt(item.session.id, item.session.attempt);
            // Also what has ended meanwhile: its end is still to be reported.
            if matches!(look(&dir), Ok(Found::Nothing)) {
                let _ = std::fs::remove_file(&path);
            } else {
                self.watched.watch(item.session.id, item.session.attempt);
                held.push(item);
            }
        }
        held
    }

    async fn remember(&self, held: &Held) {
        self.watched.watch(held.session.id, held.session.attempt);
        // Forgetting too much costs an adoption; it breaks nothing.
        if let Err(error) = files::write(&self.held_file(held.session.id), held) {
            tracing::warn!(session = %held.session.id, %error, "cannot remember that it is held");
        }
    }

    async fn forget(&self, session_id: Uuid) {
        self.watched.leave(session_id);
        let _ = std::fs::remove_file(self.held_file(session_id));
    }

    async fn start(&self, work: &Work) -> Result<Resource, Stop> {
        let spec = ProcessSpec::of(work.session())?;
        let dir = self.data.attempt(work.id(), work.session().attempt);
        if let Found::Nothing = settled(&dir).await? {
            work.may_act()?;
            self.spawn(work, &spec, &dir).await?;
        }
        let process = match self.running(work).await {
            Ok((_, process)) => process,
            // It ran, and it is over already: what is known of it is told all the same, and `wait`
            // says how it ended.
            Err(ended @ Stop::Ended(_)) => match dir
                .record()
                .ok()
                .flatten()
                .and_then(|record| record.process)
            {
                Some(process) => process,
                None => return Err(ended),
            },
            Err(stop) => return Err(stop),
        };
        Ok(self.resource(work, process))
    }

    async fn adopt(&self, work: &Work) -> Result<Resource, Stop> {
        let (_, process) = self.running(work).await?;
        // The endpoint stays what it is: users are connected to it.
        Ok(Resource {
            endpoint: None,
            ..self.resource(work, process)
        })
    }

    async fn wake(&self, work: &Work) -> Result<Resource, Stop> {
        let (family, process) = self.running(work).await?;
        work.may_act()?;
        family.signal(Signal::CONT);
        Ok(self.resource(work, process))
    }

    async fn hibernate(&self, work: &Work) -> Result<Resource, Stop> {
        let (family, process) = self.running(work).await?;
        work.may_act()?;
        family.signal(Signal::STOP);
        Ok(Resource {
            endpoint: None,
            ..self.resource(work, process)
        })
    }

    async fn terminate(&self, work: &Work) -> Result<(), Stop> {
        self.end_all(work).await
    }

    async fn command(
        &self,
        work: &Work,
        command: &Command,
    ) -> Result<serde_json::Value, ReportedFailure> {
        self.do_command(work, command).await
    }

    async fn activity(&self) -> Vec<(Uuid, Duration)> {
        self.watched.idle(&self.data)
    }

    async fn inventory(&self) -> Option<Vec<InventoryResource>> {
        self.look_around().await
    }

    async fn delete(&self, resource: &InventoryResource) -> Result<(), Stop> {
        self.delete_attempt(resource).await
    }

    async fn wait(&self, work: &Work) -> Exit {
        self.wait_for_exit(work).await
    }
}
