//! Real agents as processes, and what they run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use lessor_protocol::Session;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// A folder of the test's own, removed when it is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    /// An empty one, under the temp folder.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lessor-test-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program of another package of the workspace, which stands beside the service's.
pub fn agent_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_lessor")).with_file_name("lessor-agent");
    assert!(
        program.is_file(),
        "{} is missing; `cargo build -p lessor-agent` makes it",
        program.display()
    );
    program
}

/// A `lessor-agent process`; killed when it is dropped.
pub struct ProcessAgent {
    child: Child,
}

impl ProcessAgent {
    /// Starts one for a pool of a server; agents with the same folder share a resource domain.
    pub fn start(url: &str, pool: &str, name: &str, folder: &Path) -> Self {
        Self::start_in("this-machine", url, pool, name, folder)
    }

    /// As [`ProcessAgent::start`], in a resource domain with this name.
    pub fn start_in(domain: &str, url: &str, pool: &str, name: &str, folder: &Path) -> Self {
        Self::start_with(None, domain, (url, pool, name), folder)
    }

    /// As [`ProcessAgent::start_in`], with a token.
    pub fn start_with(
        token: Option<&str>,
        domain: &str,
        (url, pool, name): (&str, &str, &str),
        folder: &Path,
    ) -> Self {
        let child = Command::new(agent_program())
            .envs(token.map(|token| ("LESSOR_TOKEN", token)))
            .args(["process", "--url", url, "--pool", pool, "--name", name])
            .args(["--resource-domain", domain, "--data-dir"])
            .arg(folder)
            .env("LESSOR_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the agent starts");
        Self { child }
    }

    /// `kill -9`; dead when this returns.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// How it ends by itself.
    pub async fn ends(mut self) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), self.child.wait());
        ended.await.expect("it ends in time").expect("its status")
    }

    /// It stands still, as a hanging process does.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It moves again.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the signal");
    }

    /// SIGTERM; gone when this returns, with exit code 0.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), self.child.wait());
        let status = ended.await.expect("it ends in time").expect("its status");
        assert!(status.success(), "{status}");
    }
}

/// The pid in a session's resource id.
pub fn pid_of(session: &Session) -> i32 {
    let id = session
        .platform_resource_id
        .as_deref()
        .expect("it has a resource");
    id.split('@')
        .next()
        .expect("a pid")
        .parse()
        .expect("a number")
}

/// The state letter of a process in /proc, none if it is gone; a zombie is gone.
pub fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let letter = stat.rsplit(')').next()?.trim_start().chars().next()?;
    (letter != 'Z').then_some(letter)
}

/// Processes that have this word on their command line.
pub fn with_word(word: &str) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0)
                    .any(|part| part == word.as_bytes())
            })
        })
        .filter(|pid| state_of(*pid).is_some())
        .collect()
}
