//! Where PostgreSQL's programs are.
//!
//! Distributions hide `postgres` and `initdb` outside of PATH, several majors side by side, so the
//! folder is searched for: the explicit setting and nothing else, if there is one; else PATH, then
//! the folders of Debian, of the PGDG packages for Red Hat, and of Homebrew, newest first. Data that
//! exists decides the major, since a cluster can only be opened by the one that wrote it.
//!
//! Invariant: a folder is taken only after its `postgres --version` ran, under the user that will
//! run it. This does not install or download anything.

use super::{Account, PostgresError};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest major we support.
pub const OLDEST_MAJOR: u32 = 14;

/// A folder with `postgres` and `initdb`, and their major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// For instance 15.
    pub major: u32,
}

impl Binaries {
    /// Finds the programs. `set` is the explicit setting; `data` the cluster's folder and the major
    /// version of what is in it, if there is something.
    ///
    /// # Errors
    /// `NotFound` with all places looked at; `BadBinDir` and `WrongMajor` for the explicit setting.
    pub fn find(
        set: Option<&Path>,
        data: Option<(&Path, u32)>,
        account: &Account,
    ) -> Result<Self, PostgresError> {
        match set {
            Some(dir) => Self::explicit(dir, data, account),
            None => {
                let places = Places {
                    path: std::env::var_os("PATH").unwrap_or_default(),
                    root: PathBuf::from("/"),
                };
                places.search(data.map(|(_, major)| major), account)
            }
        }
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn explicit(
        dir: &Path,
        data: Option<(&Path, u32)>,
        account: &Account,
    ) -> Result<Self, PostgresError> {
        let bad = |reason| PostgresError::BadBinDir {
            dir: dir.to_owned(),
            reason,
            install: install_command(),
        };
        let absolute = std::path::absolute(dir).map_err(|error| bad(error.to_string()))?;
        let found = probe(&absolute, account).map_err(bad)?;
        match data {
            Some((data, data_major)) if data_major != found.major => {
                Err(PostgresError::WrongMajor {
                    data: data.to_owned(),
                    data_major,
                    dir: found.dir,
                    major: found.major,
                })
            }
            _ => Ok(found),
        }
    }
}

/// The places of an automatic search; a test has its own.
struct Places {
    path: OsString,
    root: PathBuf,
}

impl Places {
    fn search(&self, wanted: Option<u32>, account: &Account) -> Result<Binaries, PostgresError> {
        let mut looked_at = Vec::new();
        for (place, dirs) in self.candidates() {
            if dirs.is_empty() {
                looked_at.push(format!("{place}: nothing there"));
            }
            for dir in dirs {
                match probe(&dir, account) {
                    Ok(found) if wanted.is_none_or(|major| major == found.major) => {
                        return Ok(found);
                    }
                    Ok(found) => {
                        looked_at.push(format!("{}: PostgreSQL {}", dir.display(), found.major));
                    }
                    Err(reason) => looked_at.push(format!("{}: {reason}", dir.display())),
                }
            }
        }
        Err(PostgresError::NotFound {
            looked_at,
            wanted,
            install: install_command(),
        })
    }

    /// Each place's name, with the folders in it that have a `postgres`, in the order of trying.
    fn candidates(&self) -> Vec<(String, Vec<PathBuf>)> {
        let in_path = std::env::split_paths(&self.path)
            .filter(|dir| dir.is_absolute() && dir.join("postgres").is_file())
            .collect();
        let mut places = vec![(format!("PATH ({})", self.path.display()), in_path)];
        for (parent, prefix) in [
            ("usr/lib/postgresql", ""),
            ("usr", "pgsql-"),
            ("opt/homebrew/opt", "postgresql@"),
            ("usr/local/opt", "postgresql@"),
            ("home/linuxbrew/.linuxbrew/opt", "postgresql@"),
        ] {
            let parent = self.root.join(parent);
            let name = format!("{}/{prefix}*/bin", parent.display());
            places.push((name, versions_under(&parent, prefix)));
        }
        places
    }
}

/// `<parent>/<prefix><number>/bin`, the greatest number first.
fn versions_under(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("postgres").is_file().then_some((number, bin))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// Runs `postgres --version` in `dir`; the error says what is wrong with the folder.
fn probe(dir: &Path, account: &Account) -> Result<Binaries, String> {
    for program in ["postgres", "initdb"] {
        if !dir.join(program).is_file() {
            return Err(format!("there is no `{program}` in it"));
        }
    }
    let output = account
        .command(dir.join("postgres"))
        .arg("--version")
        .output()
        .map_err(|error| format!("`postgres` does not run as {}: {error}", account.name))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let major =
        parse_major(&said).ok_or_else(|| format!("`postgres --version` said {:?}", said.trim()))?;
    if major < OLDEST_MAJOR {
        return Err(format!(
            "PostgreSQL {major} is too old, {OLDEST_MAJOR} is needed"
        ));
    }
    Ok(Binaries {
        dir: dir.to_owned(),
        major,
    })
}

/// The major version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` or `… 18beta1`.
fn parse_major(said: &str) -> Option<u32> {
    let version = said.split_whitespace().nth(2)?;
    let end = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..end].parse().ok()
}

/// What to type on this system to get PostgreSQL.
fn install_command() -> String {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17".to_owned();
    }
    install_command_for(&fs::read_to_string("/etc/os-release").unwrap_or_default()).to_owned()
}

/// `ID` and `ID_LIKE` of os-release(5) name the family.
fn install_command_for(os_release: &str) -> &'static str {
    let family: Vec<&str> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |names: &[&str]| names.iter().any(|name| family.contains(name));
    if is(&["fedora", "rhel", "centos"]) {
        "dnf install postgresql-server"
    } else if is(&["alpine"]) {
        "apk add postgresql"
    } else if is(&["arch"]) {
        "pacman -S postgresql"
    } else if is(&["suse", "opensuse"]) {
        "zypper install postgresql-server"
    } else {
        "apt install postgresql"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::test_folder::TestFolder;
    use std::os::unix::fs::PermissionsExt;

    fn us() -> Account {
        Account {
            name: "us".into(),
            uid: 0,
            gid: 0,
            switch: false,
        }
    }

    /// A folder with a `postgres` that says `version`.
    fn fake(dir: &Path, version: &str) -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        for program in ["postgres", "initdb"] {
            let path = dir.join(program);
            fs::write(
                &path,
                format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n"),
            )?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) 17"), Some(17));
        assert_eq!(parse_major("oops"), None);
    }

    #[test]
    fn the_install_command_follows_the_distribution() {
        assert_eq!(
            install_command_for("ID=ubuntu\nID_LIKE=debian\n"),
            "apt install postgresql"
        );
        assert_eq!(
            install_command_for("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            "dnf install postgresql-server"
        );
        assert_eq!(install_command_for("ID=alpine\n"), "apk add postgresql");
        assert_eq!(install_command_for(""), "apt install postgresql");
    }

    #[test]
    fn path_comes_first_then_the_newest_and_existing_data_decides() -> std::io::Result<()> {
        let folder = TestFolder::new()?;
        let root = folder.path();
        let lib = root.join("usr/lib/postgresql");
        fake(&lib.join("9/bin"), "9.6.2")?;
        fake(&lib.join("14/bin"), "14.2")?;
        fake(&lib.join("16/bin"), "16.1")?;
        fake(&root.join("usr/pgsql-17/bin"), "17.0")?;
        let on_path = root.join("somewhere/bin");
        let places = Places {
            path: on_path.clone().into_os_string(),
            root: root.to_owned(),
        };
        let major = |wanted| places.search(wanted, &us()).map(|found| found.major).ok();
        assert_eq!(
            major(None),
            Some(16),
            "the newest of the first place that has any"
        );
        assert_eq!(major(Some(14)), Some(14));
        assert_eq!(major(Some(17)), Some(17));
        fake(&on_path, "15.3")?;
        assert_eq!(major(None), Some(15), "PATH comes first");
        assert_eq!(major(Some(16)), Some(16));
        let Err(error) = places.search(Some(13), &us()) else {
            panic!("there is no 13");
        };
        let text = error.to_string();
        for expected in [
            "no PostgreSQL 13",
            "somewhere/bin: PostgreSQL 15",
            "9/bin: PostgreSQL 9 is too old",
            "16/bin: PostgreSQL 16",
            "opt/homebrew/opt/postgresql@*/bin: nothing there",
            "DATABASE_URL",
            "install PostgreSQL 13",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
        }
        Ok(())
    }

    #[test]
    fn an_explicit_folder_is_taken_or_refused_but_never_passed_over() -> std::io::Result<()> {
        let folder = TestFolder::new()?;
        let error = Binaries::find(Some(folder.path()), None, &us());
        assert!(
            matches!(error, Err(PostgresError::BadBinDir { .. })),
            "{error:?}"
        );
        fake(folder.path(), "15.1")?;
        let found = Binaries::find(Some(folder.path()), None, &us()).map(|found| found.major);
        assert!(matches!(found, Ok(15)), "{found:?}");
        let data = Path::new("/data/postgres");
        let error = Binaries::find(Some(folder.path()), Some((data, 14)), &us());
        assert!(
            matches!(error, Err(PostgresError::WrongMajor { .. })),
            "{error:?}"
        );
        Ok(())
    }
}
