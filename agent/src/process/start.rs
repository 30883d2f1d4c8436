//! Starting a shim, and seeing to it that no other one is started later.

use std::fs::OpenOptions;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use lessor_client::agent_loop::{Stop, Work};
use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{sleep, timeout};

use super::ProcessDriver;
use super::files::{AttemptDir, Command, Ended, write};
use super::spec::ProcessSpec;

/// How long a shim may take to say that it is ready; then the files are looked at all the same.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

impl ProcessDriver {
    /// Starts the attempt under a shim. If another one was faster, that is the one.
    pub(super) async fn spawn(
        &self,
        work: &Work,
        spec: &ProcessSpec,
        dir: &AttemptDir,
    ) -> Result<(), Stop> {
        let session = work.session();
        let again = |what: &str, error: io::Error| Stop::Again(format!("{what}: {error}"));
        let home = self.data.session(session.id).join("files");
        for path in [&home, dir.path()] {
            std::fs::create_dir_all(path)
                .map_err(|error| again("cannot make its folder", error))?;
        }
        let command = Command {
            session_id: session.id,
            attempt: session.attempt,
            command: spec.command.clone(),
            env: spec.environment(session),
            cwd: spec
                .cwd
                .as_ref()
                .map_or_else(|| home.clone(), |cwd| home.join(cwd)),
        };
        write(&dir.file("command.json"), &command)
            .map_err(|error| again("cannot write what to run", error))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.file("shim.log"));
        let mut shim = tokio::process::Command::new(&self.shim.program)
            .args(&self.shim.args)
            .arg(dir.path())
            // The agent's token is nothing for the shim to carry for hours.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from))
            .spawn()
            .map_err(|error| again("cannot start the shim", error))?;
        let stdout = shim.stdout.take();
        // Somebody has to bury it, however long it lives and whatever becomes of this future.
        tokio::spawn(async move { shim.wait().await });
        if let Some(stdout) = stdout {
            let mut line = String::new();
            let _ = timeout(READY_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await;
        }
        // No answer and no record means that the shim itself failed: `shim.log` says why.
        if dir.record().ok().flatten().is_none() && dir.ended().ok().flatten().is_none() {
            return Err(Stop::Again(format!(
                "the shim failed: see {}",
                dir.file("shim.log").display()
            )));
        }
        Ok(())
    }

    /// Sees to it that the session's attempt is not started after this: a shim that another agent
    /// sent on its way may not have arrived yet.
    pub(super) async fn seal(&self, work: &Work) -> Result<(), Stop> {
        let dir = self.data.attempt(work.id(), work.session().attempt);
        for _ in 0..200 {
            work.may_act()?;
            match seal(&dir) {
                Ok(true) => return Ok(()),
                // A shim is at it: a moment later there is a record.
                Ok(false) => sleep(Duration::from_millis(10)).await,
                Err(error) => {
                    return Err(Stop::Again(format!("{}: {error}", dir.path().display())));
                }
            }
        }
        Err(Stop::Again("its shim is stuck".into()))
    }
}

/// Whether the attempt cannot be started (any more).
fn seal(dir: &AttemptDir) -> io::Result<bool> {
    let begun = |dir: &AttemptDir| -> io::Result<bool> {
        Ok(dir.ended()?.is_some() || dir.record()?.is_some_and(|record| record.process.is_some()))
    };
    if begun(dir)? {
        return Ok(true);
    }
    std::fs::create_dir_all(dir.path())?;
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.file("lock"))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return begun(dir);
    }
    if dir.record()?.is_none() && dir.ended()?.is_none() {
        let message = "it was ended before it was started".to_owned();
        write(
            &dir.file("exit.json"),
            &Ended::CannotExecute {
                message,
                retryable: false,
            },
        )?;
    }
    Ok(true)
}
