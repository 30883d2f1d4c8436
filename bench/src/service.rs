//! The service as a process of its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::http::Connection;

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// In `/proc` on Linux, on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server.
pub struct Service {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// How long it took from its start until it was ready.
    pub started_in: Duration,
}

/// Processor time and memory of a process, from `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// That of its children which have ended, in seconds.
    pub ended_children_seconds: f64,
    /// Resident memory, in MiB.
    pub resident_mib: f64,
}

impl Service {
    /// Starts a server on a database and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn start(bench: &Bench, url: &str) -> Result<Self> {
        Self::start_with(bench, url, &[]).await
    }

    /// As [`Service::start`], with settings from the environment.
    ///
    /// # Errors
    /// As there.
    pub async fn start_with(bench: &Bench, url: &str, set: &[(&str, &str)]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let log_path = bench.scratch.join("service.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(Error::io("open", &log_path))?;
        let begun = Instant::now();
        let child = Command::new(&bench.program)
            .arg("serve")
            .env("LESSOR_LISTEN", &address)
            .env("DATABASE_URL", url)
            .env("LESSOR_LOG", "warn")
            .env("LESSOR_STOP_DELAY_SECONDS", "0")
            .envs(set.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Error::io("share", &log_path))?)
            .stderr(log)
            .spawn()
            .map_err(Error::io("start", &bench.program))?;
        let mut service = Self {
            child,
            address,
            started_in: Duration::ZERO,
        };
        service.ready(begun, &log_path).await?;
        service.started_in = begun.elapsed();
        Ok(service)
    }

    async fn ready(&mut self, begun: Instant, log: &Path) -> Result<()> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                return Err(Error::said(format!(
                    "the service ended at its start, {status}: {}",
                    last.join(" / ")
                )));
            }
            if let Ok(mut connection) = Connection::open(&self.address).await
                && let Ok((status, _)) = connection.send(Method::GET, "/readyz", "").await
                && status.is_success()
            {
                return Ok(());
            }
            if begun.elapsed() > START_PATIENCE {
                return Err(Error::said("the service is not ready after a minute"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address).await
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.pid())
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let mut connection = self.connect().await?;
        let (_, body) = connection.send(Method::GET, "/metrics", "").await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let values = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        Ok(values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Asks it to stop and waits for it.
    ///
    /// # Errors
    /// When it is there still after half a minute; it is killed then.
    pub async fn stop(mut self) -> Result<()> {
        signal(self.pid(), Signal::TERM)?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_PATIENCE {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Error::said("the service did not stop within half a minute"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that the bench started.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::said("no such pid"))?;
    kill_process(pid, signal).map_err(|error| Error::said(error.to_string()))
}

/// What a process has used so far.
///
/// # Errors
/// When it has ended.
pub fn usage(pid: u32) -> Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).map_err(Error::io("read", Path::new(&path)))
    };
    let stat = read("stat")?;
    // The name, in brackets, may have blanks in it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .unwrap_or_default()
    };
    let status = read("status")?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        ended_children_seconds: (ticks(13) + ticks(14)) / TICKS_PER_SECOND,
        resident_mib: kib / 1024.0,
    })
}

fn free_port() -> Result<u16> {
    let io = |error| Error::Io {
        what: "find a free port".to_owned(),
        error,
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(io)?;
    Ok(listener.local_addr().map_err(io)?.port())
}
