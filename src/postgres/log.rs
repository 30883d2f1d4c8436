//! The log of the private PostgreSQL: one file, opened by us, appended to by `postgres`.
//!
//! Why a file and no pipe: after a `kill -9` of the service it must still be there to tell the story.
//!
//! Invariant: it stays small. Errors of statements are not logged by the server at all (see
//! `cluster.rs`), and at each start a log above the limit is moved to `<name>.1`.

use super::PostgresError;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log above this is moved away at the next start.
const ROTATE_ABOVE_BYTES: u64 = 4 << 20;
/// How much of the end of a log goes into an error.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 8 << 10;
/// With less space than this left, an error mentions it: a full disk also swallows the log.
const LOW_SPACE_BYTES: u64 = 16 << 20;

/// The log file of one run of the server.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    /// Where in the file this run begins: what an earlier one said would mislead.
    start: u64,
}

impl Log {
    /// Opens the log for appending, readable by us only.
    pub(super) fn open(path: &Path) -> Result<(Self, File), PostgresError> {
        if fs::metadata(path).is_ok_and(|meta| meta.len() > ROTATE_ABOVE_BYTES) {
            fs::rename(path, path.with_extension("log.1"))
                .map_err(PostgresError::io("move away", path))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(PostgresError::io("open", path))?;
        let start = file
            .metadata()
            .map_err(PostgresError::io("inspect", path))?
            .len();
        let log = Self {
            path: path.to_owned(),
            start,
        };
        Ok((log, file))
    }

    /// The last lines of this run, never empty.
    pub(super) fn tail(&self) -> String {
        let text = read_tail(&self.path, self.start)
            .unwrap_or_else(|error| format!("(the log cannot be read: {error})"));
        with_space(&text, &self.path)
    }
}

fn read_tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(TAIL_BYTES)),
    ))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes)))
}

/// The last non-empty lines of a program's output.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Adds a word on the space left, when there is little or when nothing was logged.
fn with_space(text: &str, path: &Path) -> String {
    let mut text = if text.is_empty() {
        "(nothing was logged)".to_owned()
    } else {
        text.to_owned()
    };
    let folder = path.parent().unwrap_or(path);
    if let Ok(stat) = rustix::fs::statvfs(folder) {
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < LOW_SPACE_BYTES {
            let kib = free >> 10;
            text.push_str(&format!(
                "\n({kib} KiB are left on the disk of {})",
                folder.display()
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::test_folder::TestFolder;
    use std::io::Write;

    #[test]
    fn only_this_run_is_shown_and_a_large_log_moves_away() -> Result<(), Box<dyn std::error::Error>>
    {
        let folder = TestFolder::new()?;
        let path = folder.path().join("postgres.log");
        fs::write(&path, "of yesterday\n")?;
        let (log, mut file) = Log::open(&path)?;
        assert!(
            log.tail().starts_with("(nothing was logged)"),
            "{}",
            log.tail()
        );
        file.write_all(b"FATAL: today\n\nHINT: tomorrow\n")?;
        assert!(
            log.tail().starts_with("FATAL: today\nHINT: tomorrow"),
            "{}",
            log.tail()
        );
        file.set_len(ROTATE_ABOVE_BYTES + 1)?;
        let (log, _file) = Log::open(&path)?;
        assert_eq!(
            (
                log.start,
                fs::metadata(folder.path().join("postgres.log.1"))?.len()
            ),
            (0, ROTATE_ABOVE_BYTES + 1)
        );
        Ok(())
    }

    #[test]
    fn a_tail_is_bounded() {
        let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let tail = last_lines(&text);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 999"));
    }
}
