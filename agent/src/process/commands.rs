//! The commands that process agents know: `exec`, `signal`, `logs`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use lessor_client::agent_loop::{Stop, Work};
use lessor_protocol::{Command, ReportedFailure};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::exec::{Outcome, Request};
use super::spec::ProcessSpec;
use super::{ProcessDriver, logs, shim};

/// The most bytes of an answer of `exec` that are read.
const MAX_OUTCOME_BYTES: u64 = 1 << 20;
/// How much of a log is given if the command does not say.
const DEFAULT_LINES: usize = 100;
const DEFAULT_LOG_BYTES: usize = 32 * 1024;
const MAX_LOG_BYTES: usize = 48 * 1024;

type Done = Result<Value, ReportedFailure>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exec {
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: Option<PathBuf>,
    #[serde(default)]
    stdin: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signalling {
    signal: Value,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stream {
    #[default]
    Stdout,
    Stderr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logs {
    #[serde(default)]
    stream: Stream,
    #[serde(default)]
    lines: Option<usize>,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    max_bytes: Option<usize>,
}

fn failed(reason: &str, message: impl Into<String>, retryable: bool) -> ReportedFailure {
    ReportedFailure {
        reason: reason.to_owned(),
        message: message.into(),
        exit_code: None,
        retryable,
        at: None,
    }
}

fn bad(message: impl Into<String>) -> ReportedFailure {
    failed("bad_payload", message, false)
}

fn payload<T: DeserializeOwned>(command: &Command) -> Result<T, ReportedFailure> {
    serde_json::from_str(command.payload.get()).map_err(|error| bad(format!("payload: {error}")))
}

impl ProcessDriver {
    /// Does one command.
    pub(super) async fn do_command(&self, work: &Work, command: &Command) -> Done {
        match command.kind.as_str() {
            "exec" => self.exec(work, payload(command)?).await,
            "signal" => self.signal(work, payload(command)?).await,
            "logs" => self.logs(work, payload(command)?),
            other => Err(failed(
                "unsupported",
                format!("process agents know `exec`, `signal` and `logs`, not `{other}`"),
                false,
            )),
        }
    }

    async fn exec(&self, work: &Work, exec: Exec) -> Done {
        let session = work.session();
        let spec = ProcessSpec::of(session).map_err(|stop| of_stop(&stop))?;
        let mut texts = exec
            .command
            .iter()
            .chain(exec.env.keys())
            .chain(exec.env.values());
        if exec.command.first().is_none_or(String::is_empty) || texts.any(|t| t.contains('\0')) {
            return Err(bad(
                "`command` must name a program, and nothing can hold NUL",
            ));
        }
        if exec
            .env
            .keys()
            .any(|name| name.is_empty() || name.contains('='))
        {
            return Err(bad("`env` has a name that no variable can have"));
        }
        self.running(work).await.map_err(|stop| of_stop(&stop))?;
        let home = self.data.session(session.id).join("files");
        let home = spec
            .cwd
            .as_ref()
            .map_or_else(|| home.clone(), |cwd| home.join(cwd));
        let mut env = spec.environment(session);
        env.extend(exec.env);
        let request = Request {
            command: exec.command,
            env,
            cwd: exec.cwd.map_or_else(|| home.clone(), |cwd| home.join(cwd)),
            stdin: exec.stdin,
        };
        work.may_act()
            .map_err(|fenced| failed("fenced", fenced.to_string(), true))?;
        let outcome = self.run(work, &request).await;
        match outcome.map_err(|error| failed("cannot_execute", error.to_string(), true))? {
            Outcome::Ran(ran) => {
                serde_json::to_value(ran).map_err(|e| failed("bad_result", e.to_string(), false))
            }
            Outcome::CannotExecute(message) => Err(failed("cannot_execute", message, false)),
        }
    }

    /// Runs it under a process that ends it when this future is dropped, or this agent dies.
    async fn run(&self, work: &Work, request: &Request) -> io::Result<Outcome> {
        let dir = self.data.attempt(work.id(), work.session().attempt);
        let mut child = tokio::process::Command::new(&self.shim.program)
            .args(&self.shim.args)
            .arg(dir.path())
            .arg(shim::EXEC_FLAG)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take());
        // Somebody has to bury it, whatever becomes of this future.
        tokio::spawn(async move { child.wait().await });
        let (Some(mut control), Some(answer)) = pipes else {
            return Err(io::Error::other("it has no pipes"));
        };
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        control.write_all(&line).await?;
        control.flush().await?;
        let mut json = Vec::new();
        answer
            .take(MAX_OUTCOME_BYTES)
            .read_to_end(&mut json)
            .await?;
        // Open until here: its end is the end of what was run.
        drop(control);
        serde_json::from_slice(&json)
            .map_err(|_| io::Error::other("what ran it failed, and did not say how it ended"))
    }

    async fn signal(&self, work: &Work, told: Signalling) -> Done {
        let signal = signal_of(&told.signal)
            .ok_or_else(|| bad("`signal` must be a name such as TERM, or the number of one"))?;
        let (_, process) = self.running(work).await.map_err(|stop| of_stop(&stop))?;
        work.may_act()
            .map_err(|fenced| failed("fenced", fenced.to_string(), true))?;
        let sent = Pid::from_raw(process.pid)
            .filter(|_| process.is_alive())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|group| rustix::process::kill_process_group(group, signal));
        match sent {
            Ok(()) => Ok(json!({ "pid": process.pid, "signal": signal.as_raw() })),
            Err(error) => Err(failed("cannot_signal", error.to_string(), true)),
        }
    }

    fn logs(&self, work: &Work, asked: Logs) -> Done {
        let max_bytes = asked.max_bytes.unwrap_or(DEFAULT_LOG_BYTES);
        if !(1..=MAX_LOG_BYTES).contains(&max_bytes) {
            return Err(bad(format!(
                "`max_bytes` must be from 1 to {MAX_LOG_BYTES}"
            )));
        }
        let name = match asked.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let dir = self.data.attempt(work.id(), work.session().attempt);
        let unreadable = |error: io::Error| failed("no_logs", format!("{name}: {error}"), true);
        let mut file = std::fs::File::open(dir.file(name)).map_err(unreadable)?;
        let piece = match (asked.offset, asked.lines) {
            (Some(_), Some(_)) => return Err(bad("give `lines` or `offset`, not both")),
            (Some(offset), None) => logs::from_offset(&mut file, offset, max_bytes),
            (None, lines) => logs::last_lines(&mut file, lines.unwrap_or(DEFAULT_LINES), max_bytes),
        };
        let piece = piece.map_err(unreadable)?;
        serde_json::to_value(piece).map_err(|error| failed("bad_result", error.to_string(), false))
    }
}

/// Why there is nothing to do it on.
fn of_stop(stop: &Stop) -> ReportedFailure {
    match stop {
        Stop::Failed(failure) => failure.clone(),
        Stop::Ended(_) => failed("not_running", "the session's process has ended", true),
        Stop::Again(message) => failed("not_now", message.clone(), true),
    }
}

fn signal_of(told: &Value) -> Option<Signal> {
    const NAMES: &[(&str, Signal)] = &[
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ABRT", Signal::ABORT),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("WINCH", Signal::WINCH),
    ];
    if let Some(number) = told.as_i64() {
        return Signal::from_named_raw(i32::try_from(number).ok()?);
    }
    let name = told.as_str()?;
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for told in [json!("TERM"), json!("SIGTERM"), json!(15)] {
            assert_eq!(signal_of(&told), Some(Signal::TERM), "{told}");
        }
        for told in [
            json!("term"),
            json!(0),
            json!(-9),
            json!(9999),
            json!(1.5),
            json!(null),
        ] {
            assert_eq!(signal_of(&told), None, "{told}");
        }
    }
}
