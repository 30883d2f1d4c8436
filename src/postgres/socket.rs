//! The folder of the Unix socket, which is also the whole of the access control: the server listens
//! nowhere else and trusts whoever reaches the socket, so the folder is 0700.
//!
//! The socket lies beside the data, unless that path is too long for a socket address or holds a
//! comma (in a connection URL a comma separates hosts). Then a folder under the temp dir takes its
//! place. Its name follows from the data folder, so that a restart finds it again instead of leaving
//! another one behind.
//!
//! Invariant: a folder under the temp dir, where anyone may create names, is used only if it is a
//! real folder, belongs to the server's user, and is closed to everybody else.

use super::{Account, PostgresError};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What PostgreSQL calls its socket: it is named after the port, even where no port is used.
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// `sun_path` without its final NUL: 108 bytes on Linux, 104 on macOS and the BSDs.
const LONGEST_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// How many names under the temp dir are tried when others sit on the first ones.
const NAMES_TRIED: u32 = 8;

/// Makes or finds the socket's folder for the service's data folder (absolute, existing).
///
/// # Errors
/// `Io` if no folder can be made.
pub(super) fn folder(data_dir: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    let beside = data_dir.join("run");
    if fits(&beside) {
        match DirBuilder::new().mode(0o700).create(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(PostgresError::io("create", beside)(error));
            }
            _ => {}
        }
        account.own(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o700))
            .map_err(PostgresError::io("set the mode of", &beside))?;
        return Ok(beside);
    }
    let temp = std::env::temp_dir();
    // A temp dir may itself be too long, or lie below our data folder.
    let temp = if fits(&temp.join(name(data_dir, 0))) {
        temp
    } else {
        PathBuf::from("/tmp")
    };
    let mut last = None;
    for attempt in 0..NAMES_TRIED {
        let path = temp.join(name(data_dir, attempt));
        match private(&path, account) {
            Ok(true) => return Ok(path),
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        let taken = std::io::Error::other("all names for it are taken by other users");
        PostgresError::io("create a folder for the socket under", temp)(taken)
    }))
}

/// Creates `path`, or checks that an existing one is as safe as if we had; false if it is not.
fn private(path: &Path, account: &Account) -> Result<bool, PostgresError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => account.own(path).map(|()| true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path).map_err(PostgresError::io("inspect", path))?;
            Ok(meta.is_dir() && meta.uid() == account.uid && meta.mode() & 0o777 == 0o700)
        }
        Err(error) => Err(PostgresError::io("create", path)(error)),
    }
}

fn fits(folder: &Path) -> bool {
    let bytes = folder.as_os_str().as_bytes();
    bytes.len() + 1 + SOCKET_NAME.len() <= LONGEST_PATH_BYTES && !bytes.contains(&b',')
}

fn name(data_dir: &Path, attempt: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(data_dir.as_os_str().as_bytes());
    hash.update(attempt.to_be_bytes());
    let hex: String = hash.finalize()[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("lessor-{hex}")
}

/// `postgres:///<database>?host=<folder>&user=<user>`, as tokio-postgres and libpq read it.
pub(super) fn url(folder: &Path, user: &str, database: &str) -> String {
    let host = percent(folder.as_os_str().as_bytes());
    let database = percent(database.as_bytes());
    format!("postgres:///{database}?host={host}&user={user}")
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn percent(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::test_folder::TestFolder;
    use std::os::unix::fs::symlink;

    fn us() -> Account {
        Account {
            name: "us".into(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            switch: false,
        }
    }

    #[test]
    fn a_url_is_read_as_it_was_meant() -> Result<(), Box<dyn std::error::Error>> {
        let url = url(Path::new("/da ta/ü&x=%2f/run"), "lessor", "one two");
        let config: tokio_postgres::Config = url.parse()?;
        assert_eq!(config.get_dbname(), Some("one two"));
        assert_eq!(config.get_user(), Some("lessor"));
        let host = tokio_postgres::config::Host::Unix("/da ta/ü&x=%2f/run".into());
        assert_eq!(config.get_hosts(), [host]);
        Ok(())
    }

    #[test]
    fn the_longest_path_that_fits_is_used() {
        let longest = "x".repeat(LONGEST_PATH_BYTES - SOCKET_NAME.len() - 2);
        assert!(fits(Path::new(&format!("/{longest}"))));
        assert!(!fits(Path::new(&format!("/{longest}x"))));
        assert!(!fits(Path::new("/a,b")));
    }

    #[test]
    fn a_long_or_awkward_path_falls_back_to_the_same_private_folder()
    -> Result<(), Box<dyn std::error::Error>> {
        let temp = TestFolder::new()?;
        let data = temp.path().join("with,comma");
        let first = folder(&data, &us())?;
        assert!(!first.starts_with(temp.path()) && fits(&first), "{first:?}");
        assert_eq!(fs::metadata(&first)?.mode() & 0o777, 0o700);
        assert_eq!(folder(&data, &us())?, first);
        fs::set_permissions(&first, fs::Permissions::from_mode(0o777))?;
        let second = folder(&data, &us())?;
        assert_ne!(second, first, "one that is open to others is not used");
        fs::remove_dir(&first)?;
        symlink(&second, &first)?;
        assert_eq!(folder(&data, &us())?, second, "a link is not used");
        fs::remove_file(&first)?;
        fs::remove_dir(&second)?;
        Ok(())
    }
}
