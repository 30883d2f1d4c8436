//! The shim: a tiny process between an agent and a session's command, which outlives the agent.
//!
//! Only a parent learns how a process ended. So the command's parent is not the agent but this
//! shim, in an OS session of its own: it writes down who runs and how that ended, for whichever
//! agent looks. It is a subreaper: whatever the command leaves behind, daemons included, becomes
//! its child, and is ended with the command, as in a container.
//!
//! Invariant: an attempt's command is started at most once. The lock says that a shim is at it, and
//! the record, written before the command starts, that one has been.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, WaitOptions};

use super::files::{AttemptDir, Command, Ended, Record, write};
use super::kill::GRACE_FILE;
use super::proc::{self, ProcessId};

/// The hidden subcommand by which a binary becomes the shim.
pub const SUBCOMMAND: &str = "shim";
/// The flag with which that becomes the process that runs one `exec` instead.
pub const EXEC_FLAG: &str = "--exec";
/// What the shim says on its standard output once there is something to look at.
pub const READY: &str = "ready";

/// Runs the shim for the attempt in `dir`, until its command has ended.
#[must_use]
pub fn run(dir: &AttemptDir) -> ExitCode {
    match shim(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is `shim.log`.
            eprintln!("lessor shim: {}: {error}", dir.path().display());
            ExitCode::FAILURE
        }
    }
}

fn shim(dir: &AttemptDir) -> io::Result<()> {
    rustix::process::setsid()?;
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.file("lock"))?;
    // Whoever holds the lock is about to write the record: until it has, there is nothing to look
    // at. Should it die before that, this one starts the attempt.
    loop {
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if dir.record()?.is_some() || dir.ended()?.is_some() {
            say_ready();
            return Ok(());
        }
        if locked {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let command = dir
        .command()?
        .ok_or_else(|| io::Error::other("there is no command.json"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut record = Record {
        session_id: command.session_id,
        attempt: command.attempt,
        boot_id: proc::boot_id(),
        shim: ProcessId::now(me).ok_or_else(|| io::Error::other("no /proc"))?,
        process: None,
    };
    write(&dir.file("record.json"), &record)?;
    let child = match spawn(dir, &command) {
        Ok(child) => child,
        Err(error) => {
            let message = format!("cannot execute `{}`: {error}", command.command[0]);
            let ended = Ended::CannotExecute {
                message,
                retryable: may_pass(&error),
            };
            write(&dir.file("exit.json"), &ended)?;
            say_ready();
            return Ok(());
        }
    };
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // A zombie until it is waited for below, so it is there to be read.
    record.process = ProcessId::now(pid);
    write(&dir.file("record.json"), &record)?;
    say_ready();
    let ended = wait_for(pid)?;
    // When the end is wanted, what outlives the command has the same time to end by itself.
    let grace: Option<f64> = super::files::read(&dir.file(GRACE_FILE)).unwrap_or_default();
    end_the_rest(
        me,
        Duration::try_from_secs_f64(grace.unwrap_or_default()).unwrap_or_default(),
    );
    write(&dir.file("exit.json"), &ended)?;
    drop(lock);
    Ok(())
}

fn spawn(dir: &AttemptDir, command: &Command) -> io::Result<std::process::Child> {
    let file = |name: &str| -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.file(name))
    };
    std::process::Command::new(&command.command[0])
        .args(&command.command[1..])
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.cwd)
        .stdin(Stdio::null())
        .stdout(file("stdout")?)
        .stderr(file("stderr")?)
        .process_group(0)
        .spawn()
}

/// Whether starting it later may work: it failed for want of processes, memory or descriptors.
fn may_pass(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [
        Errno::AGAIN,
        Errno::NOMEM,
        Errno::NFILE,
        Errno::MFILE,
        Errno::TXTBSY,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}

/// Tells the agent that started this shim to look. It may be gone, and that is none of our business.
fn say_ready() {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
}

/// Waits for the command, and buries whatever else dies meanwhile.
fn wait_for(command: i32) -> io::Result<Ended> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == as_pid(command)? => {
                if let Some(code) = status.exit_status() {
                    return Ok(Ended::Code(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Ended::Signal(signal));
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn as_pid(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("no pid"))
}

/// Kills all that the command left, after `grace`. Being the subreaper, this process is their parent.
fn end_the_rest(me: i32, grace: Duration) {
    let patience_ends = Instant::now() + grace;
    // What does not die of KILL waits for the disk, and is none of ours to wait for.
    let deadline = patience_ends + Duration::from_secs(2);
    while Instant::now() < deadline {
        let rest = proc::descendants(&proc::all(), me);
        if rest.is_empty() {
            return;
        }
        if Instant::now() >= patience_ends {
            rest.iter().for_each(|process| process.signal(Signal::KILL));
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(10));
    }
}
