//! `exec`: a program beside a session's own, with an end of its own.
//!
//! Between the agent and the program stands a process like the shim of a session, but one that does
//! *not* outlive the agent: it reads what to run from its standard input, and when that ends (the
//! agent dropped the command, or died) it kills the program and all that descends from it. What the
//! program printed and how it ended it prints at last, as JSON. It is a subreaper, so that nothing
//! escapes by becoming a daemon; what the program leaves behind is ended with it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::proc;

/// The most bytes that are kept of each stream: the beginning.
pub const MAX_STREAM_BYTES: usize = 28 * 1024;
/// The most bytes of the whole outcome as JSON, below the 64 KiB of a result.
const MAX_OUTCOME_BYTES: usize = 60 * 1024;
/// How long output may take to end once nothing of the program is left.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The program and its arguments: never empty.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// What it reads; nothing if left out.
    pub stdin: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran.
    Ran(Ran),
    /// It could not be started.
    CannotExecute(String),
}

/// How it ended, and what it printed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Its exit code; null where a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The beginning of its standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// The same of its standard error.
    pub stderr: String,
    /// Whether there was more.
    pub stdout_truncated: bool,
    /// Whether there was more.
    pub stderr_truncated: bool,
}

/// Runs one program, as the standard input says, and prints what came of it.
#[must_use]
pub fn run() -> ExitCode {
    let told = (|| -> io::Result<()> {
        // A group of its own: what is typed at the agent's terminal is not meant for it.
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut input = BufReader::new(io::stdin());
        let mut line = String::new();
        input.read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line)?;
        let outcome = execute(request, input)?;
        let mut stdout = io::stdout();
        serde_json::to_writer(&mut stdout, &outcome)?;
        stdout.flush()
    })();
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lessor exec: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(request: Request, control: BufReader<io::Stdin>) -> io::Result<Outcome> {
    let child = std::process::Command::new(&request.command[0])
        .args(&request.command[1..])
        .env_clear()
        .envs(&request.env)
        .current_dir(&request.cwd)
        .stdin(match request.stdin {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let message = format!("cannot execute `{}`: {error}", request.command[0]);
            return Ok(Outcome::CannotExecute(message));
        }
    };

    kill_when_abandoned(control);
    if let (Some(stdin), Some(text)) = (child.stdin.take(), request.stdin) {
        std::thread::spawn(move || feed(stdin, &text));
    }
    let stdout = child.stdout.take().map(gather);
    let stderr = child.stderr.take().map(gather);
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (exit_code, signal) = wait_for(pid)?;
    end_the_rest();
    let deadline = Instant::now() + OUTPUT_TIMEOUT;
    let (stdout, stdout_truncated) = received(stdout, deadline);
    let (stderr, stderr_truncated) = received(stderr, deadline);
    Ok(Outcome::Ran(fitted(Ran {
        exit_code,
        signal,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        stdout_truncated,
        stderr_truncated,
    })))
}

/// The agent keeps its end open as long as it wants the program to run.
fn kill_when_abandoned(mut control: BufReader<io::Stdin>) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut control, &mut io::sink());
        // Until the main thread sees that nothing is left, and this process ends.
        loop {
            kill_all();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

fn kill_all() -> bool {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let rest = proc::descendants(&proc::all(), me);
    rest.iter().for_each(|process| process.signal(Signal::KILL));
    rest.is_empty()
}

/// What the program left behind ends with it. Being the subreaper, this process is their parent.
fn end_the_rest() {
    // What does not die of KILL waits for the disk, and is none of ours to wait for.
    let deadline = Instant::now() + OUTPUT_TIMEOUT;
    while !kill_all() && Instant::now() < deadline {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn feed(mut stdin: ChildStdin, text: &str) {
    // It need not read it all.
    let _ = stdin.write_all(text.as_bytes());
}

/// Reads a stream to its end, and keeps its beginning.
fn gather(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, received) = mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = 0;
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            // One byte more than is kept says that there was more.
            let room = (MAX_STREAM_BYTES + 1).saturating_sub(kept).min(count);
            kept += room;
            if room > 0 && send.send(buffer[..room].to_vec()).is_err() {
                return;
            }
        }
    });
    received
}

fn received(chunks: Option<mpsc::Receiver<Vec<u8>>>, deadline: Instant) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    if let Some(chunks) = chunks {
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok(chunk) = chunks.recv_timeout(left()) {
            all.extend(chunk);
        }
    }
    let more = all.len() > MAX_STREAM_BYTES;
    all.truncate(MAX_STREAM_BYTES);
    (all, more)
}

/// Escapes can make six bytes of one: shortens the longer stream until it all fits.
fn fitted(mut ran: Ran) -> Ran {
    while serde_json::to_vec(&ran).map_or(0, |json| json.len()) > MAX_OUTCOME_BYTES {
        let (text, truncated) = if ran.stdout.len() >= ran.stderr.len() {
            (&mut ran.stdout, &mut ran.stdout_truncated)
        } else {
            (&mut ran.stderr, &mut ran.stderr_truncated)
        };
        let mut at = text.len() * 3 / 4;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        *truncated = true;
    }
    ran
}

/// Waits for the program, and buries whatever else dies meanwhile.
fn wait_for(program: i32) -> io::Result<(Option<i32>, Option<i32>)> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == program => {
                if status.exit_status().is_some() || status.terminating_signal().is_some() {
                    return Ok((status.exit_status(), status.terminating_signal()));
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_printed_fits_into_a_result() {
        for text in ["x", "\u{1}", "\u{fffd}", "\"", "ä"] {
            let ran = fitted(Ran {
                stdout: text.repeat(MAX_STREAM_BYTES),
                stderr: text.repeat(MAX_STREAM_BYTES / 3),
                ..Ran::default()
            });
            let size = serde_json::to_vec(&ran).expect("JSON").len();
            assert!(size <= MAX_OUTCOME_BYTES, "{text:?}: {size}");
            assert!(size > MAX_OUTCOME_BYTES / 3, "{text:?}: {size}");
            assert!(ran.stdout.chars().all(|c| text.contains(c)), "{text:?}");
        }
        let short = fitted(Ran {
            stdout: "out".into(),
            ..Ran::default()
        });
        assert_eq!(
            (short.stdout.as_str(), short.stdout_truncated),
            ("out", false)
        );
    }
}
