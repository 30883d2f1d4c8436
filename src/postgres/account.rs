//! The system user that PostgreSQL runs as.
//!
//! PostgreSQL refuses to run as root, and root is who containers and init scripts start us as. As an
//! ordinary user, PostgreSQL runs as that user. As root it runs as whoever owns the data already,
//! else as `postgres`, else as `nobody`.
//!
//! Invariant: only the cluster's own folder and the socket's are ever given to another user; parents
//! are left as they are, and one that may not be entered is an error that names it.

use super::PostgresError;
use rustix::process::{getegid, geteuid};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whom PostgreSQL's programs run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// For messages: the name, or "uid N" where the name is not known.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Whether this differs from who we are (only root can switch).
    pub switch: bool,
}

impl Account {
    /// Chooses the user for the cluster in `data`, which need not exist yet.
    ///
    /// # Errors
    /// `NoUser` as root on a system that has no suitable user; `NotOurs` as an ordinary user on
    /// somebody else's data.
    pub fn choose(data: &Path) -> Result<Self, PostgresError> {
        let owner = fs::symlink_metadata(data)
            .ok()
            .map(|meta| (meta.uid(), meta.gid()));
        let us = geteuid();
        if !us.is_root() {
            let uid = us.as_raw();
            return match owner {
                Some((owner, _)) if owner != uid => Err(PostgresError::NotOurs {
                    folder: data.to_owned(),
                    owner,
                    us: uid,
                }),
                _ => Ok(Self {
                    name: format!("uid {uid}"),
                    uid,
                    gid: getegid().as_raw(),
                    switch: false,
                }),
            };
        }
        // Data made earlier under another user stays theirs: running as them needs no chown.
        if let Some((uid, gid)) = owner
            && uid != 0
        {
            return Ok(Self {
                name: format!("uid {uid}"),
                uid,
                gid,
                switch: true,
            });
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| lookup(&passwd, name))
            .ok_or(PostgresError::NoUser)
    }

    /// A command that runs as this user, in a process group of its own (Ctrl-C at the terminal is
    /// the service's to handle), with nothing on stdin and next to nothing in its environment: ours
    /// may hold secrets and `PG…` variables that change what PostgreSQL does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            // English messages: we look for some of them, and people search the web for them.
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        for name in ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.switch {
            // The supplementary groups are cleared by std when root sets another uid.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives `path` to this user, when that is not us.
    ///
    /// # Errors
    /// `Io`.
    pub fn own(&self, path: &Path) -> Result<(), PostgresError> {
        if self.switch {
            lchown(path, Some(self.uid), Some(self.gid))
                .map_err(PostgresError::io("change the owner of", path))?;
        }
        Ok(())
    }

    /// Gives a whole tree to this user: a cluster that root restored from a backup.
    pub(super) fn own_tree(&self, path: &Path) -> Result<(), PostgresError> {
        self.own(path)?;
        let entries = fs::read_dir(path).map_err(PostgresError::io("list", path))?;
        for entry in entries {
            let entry = entry.map_err(PostgresError::io("list", path))?;
            let kind = entry
                .file_type()
                .map_err(PostgresError::io("inspect", entry.path()))?;
            if kind.is_dir() {
                self.own_tree(&entry.path())?;
            } else {
                self.own(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Checks that this user can enter `folder` (absolute), by entering it: mode bits alone do not
    /// know about ACLs. `program` is anything harmless that the user can run.
    pub(super) fn check_can_enter(
        &self,
        folder: &Path,
        program: &Path,
    ) -> Result<(), PostgresError> {
        if !self.switch {
            return Ok(());
        }
        let entered = self
            .command(program)
            .arg("--version")
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match entered {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(PostgresError::NotTraversable {
                    folder: self.first_closed(folder),
                    data: folder.to_owned(),
                    user: self.name.clone(),
                })
            }
            Err(error) => Err(PostgresError::io("enter", folder)(error)),
        }
    }

    /// The first folder from the root downwards that this user may not enter, by its mode bits.
    fn first_closed(&self, folder: &Path) -> PathBuf {
        let mut ancestors: Vec<&Path> = folder.ancestors().collect();
        ancestors.reverse();
        ancestors
            .into_iter()
            .find(|dir| fs::metadata(dir).is_ok_and(|meta| !self.may_enter(&meta)))
            .unwrap_or(folder)
            .to_owned()
    }

    fn may_enter(&self, meta: &fs::Metadata) -> bool {
        let bit = if meta.uid() == self.uid {
            0o100
        } else if meta.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        meta.mode() & bit != 0
    }
}

/// Finds `name` in the text of `/etc/passwd`. Users that exist only in LDAP and the like are not
/// looked for: neither of our two names lives there.
fn lookup(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then(|| Account {
            name: name.to_owned(),
            uid,
            gid,
            switch: true,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        toor:x:0:0::/root:/bin/sh\n\
        broken:x\n\
        nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn a_user_is_found_with_its_group() {
        let found = lookup(PASSWD, "nobody").map(|a| (a.uid, a.gid, a.switch));
        assert_eq!(found, Some((65534, 65533, true)));
    }

    #[test]
    fn unknown_broken_and_root_users_are_not_taken() {
        assert_eq!(lookup(PASSWD, "postgres"), None);
        assert_eq!(lookup(PASSWD, "broken"), None);
        assert_eq!(lookup(PASSWD, "toor"), None);
    }

    #[test]
    fn the_environment_is_not_handed_on() {
        let account = Account {
            name: "x".into(),
            uid: 1,
            gid: 1,
            switch: false,
        };
        let command = account.command("true");
        let names: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        assert!(names.iter().any(|name| name == "LC_ALL"));
        assert!(!names.iter().any(|name| name == "HOME"));
    }
}
