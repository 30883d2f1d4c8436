//! The files by which agents of one machine find each other's processes.
//!
//! ```text
//! <data dir>/sessions/<session id>/files/       the working folder, kept over attempts
//! <data dir>/sessions/<session id>/<attempt>/
//!     command.json   what to run, written by the agent
//!     lock           held by the shim while it lives: nobody else starts this attempt
//!     record.json    who runs: before the command starts without it, then with it
//!     exit.json      how it ended
//!     stdout stderr shim.log
//! <data dir>/agents/<agent>/<session id>.json   what that agent held when it was last there
//! ```
//!
//! Each JSON file is written beside its place and renamed into it, so that it is there whole or not
//! at all. Nothing is synced: after a crash of the machine the processes are gone, too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lessor_client::agent_loop::Exit;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::proc::ProcessId;

/// What the shim is to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Command {
    /// The session.
    pub session_id: Uuid,
    /// The attempt.
    pub attempt: i32,
    /// The program and its arguments: never empty.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: PathBuf,
}

/// Who runs an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The session.
    pub session_id: Uuid,
    /// The attempt.
    pub attempt: i32,
    /// The boot of the machine in which the pids below mean something.
    pub boot_id: String,
    /// The shim; its pid is also the id of the OS session.
    pub shim: ProcessId,
    /// The command; none until it has started.
    pub process: Option<ProcessId>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It never ran.
    CannotExecute {
        /// Why.
        message: String,
        /// Whether that may pass: no processes or no memory left.
        retryable: bool,
    },
}

impl Ended {
    /// As the loop reports it; none if it never ran.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Code(code) => Some(Exit::Code(*code)),
            Self::Signal(signal) => Some(Exit::Signal(*signal)),
            Self::CannotExecute { .. } => None,
        }
    }
}

/// The folder of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptDir(PathBuf);

impl AttemptDir {
    /// The folder at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is to run.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn command(&self) -> io::Result<Option<Command>> {
        read(&self.file("command.json"))
    }

    /// Who runs.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn record(&self) -> io::Result<Option<Record>> {
        read(&self.file("record.json"))
    }

    /// How it ended.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        read(&self.file("exit.json"))
    }
}

/// The data folder of a machine.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder at `path`, made absolute: sessions have other working folders.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        for part in ["sessions", "agents"] {
            std::fs::create_dir_all(path.join(part))?;
        }
        Ok(Self(path))
    }

    /// The folder of a session.
    #[must_use]
    pub fn session(&self, id: Uuid) -> PathBuf {
        self.0.join("sessions").join(id.to_string())
    }

    /// The folder of one of its attempts.
    #[must_use]
    pub fn attempt(&self, id: Uuid, attempt: i32) -> AttemptDir {
        AttemptDir(self.session(id).join(attempt.to_string()))
    }

    /// The sessions of which there is a folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sessions(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.0.join("sessions"))? {
            // Others' files are none of ours.
            ids.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| Uuid::try_parse(name).ok()),
            );
        }
        Ok(ids)
    }

    /// The folders of all attempts of a session that are there.
    #[must_use]
    pub fn attempts(&self, id: Uuid) -> Vec<AttemptDir> {
        let Ok(entries) = std::fs::read_dir(self.session(id)) else {
            return Vec::new();
        };
        let numbers = entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        numbers.map(|attempt| self.attempt(id, attempt)).collect()
    }

    /// The folder where an agent keeps what it holds.
    #[must_use]
    pub fn held(&self, agent: &str) -> PathBuf {
        self.0.join("agents").join(agent)
    }
}

/// Reads a JSON file; `None` if there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let beside = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}
