//! A database cluster on disk: made when it is new, checked when it is not, and the command line
//! that serves it.
//!
//! In the service's data folder lie `postgres/` (the cluster), `run/` (the socket), `postgres.log`
//! and `postgres.lock`. Settings are given on the command line, where they win over
//! `postgresql.conf`; what an operator adds to that file for the rest still counts.
//!
//! Invariants:
//! - Whoever has a [`Cluster`] holds the lock on its data folder; two services cannot have one.
//! - `postgres/` is complete or absent (`init.rs`).
//! - Nothing is ever deleted but the remains of an interrupted `initdb`.
//!
//! Everything here blocks, up to some seconds for `initdb`: call it off the async runtime.

use super::{Account, Binaries, Options, PostgresError, socket};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The superuser of every cluster we make, and the user of every connection.
pub(super) const SUPERUSER: &str = "lessor";
/// A service that is just being killed still holds its lock for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A cluster that is ready to be served, locked for this process.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster's folder (PGDATA), absolute and without symbolic links.
    pub data: PathBuf,
    /// The folder of the Unix socket, 0700.
    pub socket: PathBuf,
    /// Where the server's output belongs.
    pub log_path: PathBuf,
    /// Whom its programs run as.
    pub account: Account,
    /// Its programs.
    pub binaries: Binaries,
    /// The service's data folder, which the others lie in.
    pub(super) data_dir: PathBuf,
    fsync: bool,
    max_connections: u32,
    shared_buffers_mb: u32,
    /// Released by the kernel when this is dropped or the process dies; not inherited by PostgreSQL.
    _lock: File,
}

impl Cluster {
    /// Locks the data folder, finds the programs, and makes the cluster if there is none.
    ///
    /// # Errors
    /// All of [`PostgresError`] that are not about a running server.
    pub fn prepare(options: &Options) -> Result<Self, PostgresError> {
        let data_dir = make_data_dir(&options.data_dir)?;
        let lock = lock(&data_dir)?;
        let data = data_dir.join("postgres");
        let data_major = version_of(&data)?;
        let account = Account::choose(&data)?;
        let binaries = Binaries::find(
            options.bin_dir.as_deref(),
            data_major.map(|major| (data.as_path(), major)),
            &account,
        )?;
        account.check_can_enter(&data_dir, &binaries.program("postgres"))?;
        let socket = socket::folder(&data_dir, &account)?;
        let cluster = Self {
            log_path: data_dir.join("postgres.log"),
            data,
            socket,
            account,
            binaries,
            data_dir,
            fsync: options.fsync,
            max_connections: options.max_connections,
            shared_buffers_mb: options.shared_buffers_mb,
            _lock: lock,
        };
        if data_major.is_none() {
            cluster.init(options)?;
        } else if owner_is_root(&cluster.data) && cluster.account.switch {
            cluster.account.own_tree(&cluster.data)?;
        }
        Ok(cluster)
    }

    /// The URL of one of the cluster's databases.
    pub fn url_of(&self, database: &str) -> String {
        socket::url(&self.socket, SUPERUSER, database)
    }

    /// The arguments of `postgres`.
    pub fn server_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![OsString::from("-D"), self.data.clone().into_os_string()];
        let mut set = |name: &str, value: &str| {
            arguments.push("-c".into());
            arguments.push(format!("{name}={value}").into());
        };
        set("listen_addresses", "");
        set("port", "5432");
        set("unix_socket_permissions", "0700");
        set("max_connections", &self.max_connections.to_string());
        set("shared_buffers", &format!("{}MB", self.shared_buffers_mb));
        set("timezone", "UTC");
        set("log_timezone", "UTC");
        set("lc_messages", "C");
        set("cluster_name", "lessor");
        // To stderr, which is our log file.
        set("log_destination", "stderr");
        set("logging_collector", "off");
        set("log_line_prefix", "%m [%p] ");
        set("log_checkpoints", "off");
        // The errors of statements go to the service, which logs what it cannot handle. Logged here
        // too they would be there twice, grow the file without bound, and carry users' data.
        set("log_min_messages", "log");
        set("log_min_error_statement", "panic");
        if self.fsync {
            set("fsync", "on");
            set("synchronous_commit", "on");
            set("full_page_writes", "on");
        } else {
            set("fsync", "off");
            set("full_page_writes", "off");
        }
        arguments.push("-c".into());
        arguments.push(self.socket_setting());
        arguments
    }

    /// `unix_socket_directories` is a list, so the one folder is quoted, as an identifier is.
    fn socket_setting(&self) -> OsString {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut value = b"unix_socket_directories=\"".to_vec();
        for &byte in self.socket.as_os_str().as_bytes() {
            value.push(byte);
            if byte == b'"' {
                value.push(byte);
            }
        }
        value.push(b'"');
        OsString::from_vec(value)
    }

    /// The pid in `postmaster.pid`, and whether that server is ready for connections.
    pub fn postmaster(&self) -> Option<(u32, bool)> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        parse_postmaster(&text)
    }

    /// The error for "somebody else serves this cluster".
    pub(super) fn in_use(&self) -> PostgresError {
        PostgresError::InUse {
            data: self.data_dir.clone(),
            by: self.postmaster().map(|(pid, _)| {
                format!("a PostgreSQL with pid {pid} (`kill -INT {pid}` stops it)")
            }),
        }
    }
}

/// Makes the service's data folder if needed; absolute and without symbolic links from here on.
fn make_data_dir(path: &Path) -> Result<PathBuf, PostgresError> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    fs::create_dir_all(path).map_err(PostgresError::io("create", path))?;
    if rustix::process::geteuid().is_root() {
        // The server's user must pass through to its own folder, whatever our umask is, and need
        // not list the rest.
        for folder in missing {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))
                .map_err(PostgresError::io("set the mode of", folder))?;
        }
    }
    fs::canonicalize(path).map_err(PostgresError::io("find", path))
}

/// Locks the data folder for this process.
fn lock(data_dir: &Path) -> Result<File, PostgresError> {
    let path = data_dir.join("postgres.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(PostgresError::io("open", &path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(PostgresError::io("lock", path)(error.into()));
            }
            Err(_) if Instant::now() >= deadline => {
                return Err(PostgresError::InUse {
                    data: data_dir.to_owned(),
                    by: Some("another Lessor".to_owned()),
                });
            }
            Err(_) => std::thread::sleep(LOCK_POLL),
        }
    }
}

/// The major version of the cluster in `data`; None if nothing is there, or an empty folder.
fn version_of(data: &Path) -> Result<Option<u32>, PostgresError> {
    let path = data.join("PG_VERSION");
    let not_a_cluster = || PostgresError::NotACluster {
        folder: data.to_owned(),
    };
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| not_a_cluster()),
        Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_dir(data) {
            Ok(mut entries) => match entries.next() {
                Some(_) => Err(not_a_cluster()),
                None => Ok(None),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PostgresError::io("list", data)(error)),
        },
        Err(error) => Err(PostgresError::io("read", path)(error)),
    }
}

fn owner_is_root(data: &Path) -> bool {
    fs::symlink_metadata(data).is_ok_and(|meta| meta.uid() == 0)
}

/// Line 1 of `postmaster.pid` is the pid, line 8 the status, padded with blanks.
fn parse_postmaster(text: &str) -> Option<(u32, bool)> {
    let pid = text.lines().next()?.trim().parse().ok()?;
    let ready = text
        .lines()
        .nth(7)
        .is_some_and(|line| line.trim() == "ready");
    Some((pid, ready))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::test_folder::TestFolder;

    #[test]
    fn a_pid_file_is_read_even_while_it_is_written() {
        let whole = "4711\n/d/postgres\n1700000000\n5432\n/d/run\n\n  123 4\nready   \n";
        assert_eq!(parse_postmaster(whole), Some((4711, true)));
        assert_eq!(
            parse_postmaster(&whole.replace("ready   ", "starting")),
            Some((4711, false))
        );
        assert_eq!(parse_postmaster("4711\n/d/postgres\n"), Some((4711, false)));
        assert_eq!(parse_postmaster(""), None);
    }

    #[test]
    fn what_is_no_cluster_is_left_alone() -> std::io::Result<()> {
        let folder = TestFolder::new()?;
        let data = folder.path();
        assert!(matches!(version_of(&data.join("absent")), Ok(None)));
        assert!(matches!(version_of(data), Ok(None)));
        fs::write(data.join("holiday.jpg"), "x")?;
        assert!(matches!(
            version_of(data),
            Err(PostgresError::NotACluster { .. })
        ));
        fs::write(data.join("PG_VERSION"), "14\n")?;
        assert!(matches!(version_of(data), Ok(Some(14))));
        Ok(())
    }

    #[test]
    fn a_data_folder_has_one_user() -> Result<(), Box<dyn std::error::Error>> {
        let folder = TestFolder::new()?;
        let first = lock(folder.path())?;
        let Err(second) = lock(folder.path()) else {
            return Err("it was locked twice".into());
        };
        assert!(
            second.to_string().contains("in use by another Lessor"),
            "{second}"
        );
        drop(first);
        lock(folder.path())?;
        Ok(())
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_postmaster_pid() {
        let whole = b"4711\n/d/postgres\n1700000000\n5432\n/d/run\n\n  123 4\nready   \n";
        lessor_fuzz::run(&[whole], &["\n", "ready"], |input| {
            let text = String::from_utf8_lossy(input);
            if let Some((_, true)) = parse_postmaster(&text) {
                assert!(text.lines().count() >= 8);
            }
        });
    }
}
