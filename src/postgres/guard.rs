//! Ties a child's life to ours: when this process dies, by `kill -9` even, PostgreSQL gets SIGINT,
//! which is its fast and clean shutdown.
//!
//! Linux can send a signal at the death of a parent (PDEATHSIG, prctl(2)), but a process has to ask
//! for it itself, between fork and exec. Running code there needs `unsafe`, which this workspace
//! forbids, so a small program goes in between, asks, and then *becomes* PostgreSQL by `exec`: same
//! pid, same parent, and the request survives an exec.
//!
//! That program is our own binary under a hidden subcommand, through `/proc/self/exe`. It needs
//! nothing installed (`setpriv` of util-linux can do the same, but the `setpriv` of Alpine's busybox
//! cannot), it works when the binary was replaced by an upgrade or lies in a folder that the
//! `postgres` user may not enter, and it can close the race in which the parent died before the
//! request was made. Where our own binary is not `lessor`, as in tests, [`Guard::Setpriv`] does it.
//!
//! Invariants:
//! - The signal is sent at the end of the *thread* that made the child, so the child must be made by
//!   a thread that lives as long (`process.rs` has one).
//! - The request is made after the switch of user, because the kernel forgets it at that switch.
//!
//! Outside of Linux there is no such signal: there PostgreSQL survives a `kill -9` of the service,
//! and the next start says that the data folder is in use, and by which pid.

use super::Account;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The name of the hidden subcommand; `main.rs` gives its arguments to [`run_guarded_child`].
pub const GUARD_SUBCOMMAND: &str = "postgres-guard";

/// In POSIX shell: go on only if the parent is still the expected one, else its death was missed.
const CHECK_PARENT: &str = r#"[ "$PPID" = "$1" ] || exit 71; shift; exec "$@""#;

/// What stands between us and PostgreSQL at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// This very executable, with the subcommand [`GUARD_SUBCOMMAND`]: only in the `lessor` binary.
    #[default]
    OwnBinary,
    /// `setpriv --pdeathsig` of util-linux 2.33 or later: for test binaries, on Linux.
    Setpriv,
    /// Nothing: PostgreSQL survives a `kill -9` of this process.
    Nothing,
}

impl Guard {
    /// A command that runs `program` as `account`, with this guard in front.
    pub(super) fn command(self, account: &Account, program: &Path) -> Command {
        let parent = std::process::id().to_string();
        match self {
            Self::OwnBinary if cfg!(target_os = "linux") => {
                let mut command = account.command("/proc/self/exe");
                command.arg0("lessor");
                command.args([GUARD_SUBCOMMAND, &parent]).arg(program);
                command
            }
            Self::Setpriv if cfg!(target_os = "linux") => {
                let mut command = account.command("setpriv");
                command
                    .args([
                        "--pdeathsig",
                        "INT",
                        "--",
                        "/bin/sh",
                        "-c",
                        CHECK_PARENT,
                        "guard",
                    ])
                    .arg(parent)
                    .arg(program);
                command
            }
            _ => account.command(program),
        }
    }
}

/// The arguments of the hidden subcommand: `postgres-guard <parent's pid> <program> [arguments…]`.
#[derive(clap::Args, Clone, Debug)]
pub struct GuardArgs {
    /// The pid of the process that must be our parent
    pub parent: u32,
    /// The program to become, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<OsString>,
}

/// The body of the hidden subcommand: asks for SIGINT at the parent's death, and becomes the
/// program. To be called from the main thread, before anything else is started. Returns never; when
/// it cannot do its work it exits with 71 (EX_OSERR) after saying why on stderr, which is the log.
pub fn run_guarded_child(args: &GuardArgs) -> ! {
    let reason = match args.command.split_first() {
        None => "there is no program to run".to_owned(),
        Some((program, rest)) => match ask_for_signal(args.parent) {
            Err(reason) => reason,
            Ok(()) => become_program(program, rest),
        },
    };
    // Not tracing: in this process nothing has set it up.
    eprintln!("lessor {GUARD_SUBCOMMAND}: {reason}");
    std::process::exit(71)
}

/// Returns only when it failed, with the reason.
fn become_program(program: &OsStr, args: &[OsString]) -> String {
    let error = Command::new(program).args(args).exec();
    format!("could not run {}: {error}", program.display())
}

#[cfg(target_os = "linux")]
fn ask_for_signal(parent: u32) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::INT))
        .map_err(|error| format!("could not ask for a signal at the parent's death: {error}"))?;
    // If the parent died before the line above, nobody will ever send the signal.
    let now = getppid().map_or(0, |pid| pid.as_raw_pid());
    if i64::from(now) == i64::from(parent) {
        Ok(())
    } else {
        Err(format!("the parent {parent} has died already"))
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_signal(_parent: u32) -> Result<(), String> {
    Ok(())
}
