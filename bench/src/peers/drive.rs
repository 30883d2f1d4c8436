//! Runs a peer's driver: a small program of ours (`bench/peers/`) around the peer's library.
//!
//! A driver is given one argument, JSON. It answers with lines of JSON. `fill` adds jobs that do nothing;
//! `work` says that it is ready, waits for a line, then works the backlog off, and after a time of warming
//! up counts for a time the jobs that its handler was called for; `wake` adds jobs one by one to an idle
//! worker and says how long each took until its handler began.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::install::Program;
use crate::error::{Error, Result};

/// How long a driver may take for what takes no time by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one process has counted.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Counted {
    /// Jobs handled in the time measured.
    pub count: f64,
    /// That time.
    pub seconds: f64,
    /// Jobs handled from its start to its end.
    pub handled: f64,
}

#[derive(Deserialize)]
struct Woken {
    milliseconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Ready {
    ready: bool,
}

/// Adds jobs, or does whatever else answers nothing.
///
/// # Errors
/// When it fails.
pub async fn fill(program: &Program, wanted: &Value) -> Result<()> {
    let mut driver = Driver::start(program, wanted)?;
    driver.ended().await
}

/// Works with so many processes at once, which begin together.
///
/// # Errors
/// When one fails, or is not done in time.
pub async fn work(
    program: &Program,
    wanted: &Value,
    processes: usize,
    time: Duration,
) -> Result<Vec<Counted>> {
    let mut drivers = Vec::with_capacity(processes);
    for _ in 0..processes {
        drivers.push(Driver::start(program, wanted)?);
    }
    for driver in &mut drivers {
        if !driver.line::<Ready>(PATIENCE).await?.ready {
            return Err(Error::said("a peer's driver is not ready"));
        }
    }
    for driver in &mut drivers {
        driver.go().await?;
    }
    let mut counted = Vec::with_capacity(processes);
    for driver in &mut drivers {
        counted.push(driver.line(time + PATIENCE).await?);
    }
    for mut driver in drivers {
        driver.ended().await?;
    }
    Ok(counted)
}

/// How long each of the jobs took until its handler began, in milliseconds.
///
/// # Errors
/// When it fails, or is not done in time.
pub async fn wake(program: &Program, wanted: &Value, time: Duration) -> Result<Vec<f64>> {
    let mut driver = Driver::start(program, wanted)?;
    let woken: Woken = driver.line(time + PATIENCE).await?;
    driver.ended().await?;
    Ok(woken.milliseconds)
}

struct Driver {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    fn start(program: &Program, wanted: &Value) -> Result<Self> {
        let mut command = Command::new(&program.file);
        command
            .args(program.script.as_deref())
            .arg(wanted.to_string())
            .env("NODE_ENV", "production")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(Error::io("start", &program.file))?;
        let out = child.stdout.take();
        let out = out.ok_or_else(|| Error::said("a peer's driver says nothing"))?;
        let lines = BufReader::new(out).lines();
        Ok(Self { child, lines })
    }

    async fn go(&mut self) -> Result<()> {
        let told = match self.child.stdin.as_mut() {
            Some(input) => input.write_all(b"go\n").await,
            None => Ok(()),
        };
        told.map_err(|error| Error::Io {
            what: "tell a peer's driver to begin".to_owned(),
            error,
        })
    }

    async fn line<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        let line = tokio::time::timeout(patience, self.lines.next_line())
            .await
            .map_err(|_| Error::said("a peer's driver took too long"))?
            .map_err(|error| Error::Io {
                what: "read from a peer's driver".to_owned(),
                error,
            })?;
        let line = line.ok_or_else(|| Error::said("a peer's driver ended early; see above"))?;
        Ok(serde_json::from_str(&line)?)
    }

    async fn ended(&mut self) -> Result<()> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| Error::said("a peer's driver did not end"))?
            .map_err(|error| Error::Io {
                what: "wait for a peer's driver".to_owned(),
                error,
            })?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::said(format!(
                "a peer's driver ended with {status}; see above"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shell(code: &str) -> Program {
        let name = format!("lessor-bench-driver-{}-{}", std::process::id(), code.len());
        let script = std::env::temp_dir().join(name);
        std::fs::write(&script, code).expect("written");
        Program {
            file: "sh".into(),
            script: Some(script),
        }
    }

    #[tokio::test]
    async fn drivers_begin_when_all_are_ready_and_are_asked() {
        let program = shell(
            r#"echo '{"ready": true}'; read go; echo "{\"count\": 10, \"seconds\": 2, \"handled\": 12}""#,
        );
        let counted = work(&program, &json!({}), 2, Duration::ZERO).await;
        let counted = counted.expect("counted");
        assert_eq!(counted.len(), 2);
        assert_eq!((counted[0].count, counted[0].seconds), (10.0, 2.0));
    }

    #[tokio::test]
    async fn a_driver_that_fails_is_an_error() {
        let program = shell("exit 3");
        assert!(work(&program, &json!({}), 1, Duration::ZERO).await.is_err());
        assert!(fill(&program, &json!({})).await.is_err());
    }

    #[tokio::test]
    async fn the_times_of_wakes_are_read() {
        let program = shell(r#"echo '{"milliseconds": [1.5, 2]}'"#);
        let woken = wake(&program, &json!({}), Duration::ZERO).await;
        assert_eq!(woken.expect("woken"), vec![1.5, 2.0]);
    }
}
