//! A new cluster, by `initdb`.
//!
//! Invariant: the cluster's folder is complete or absent. `initdb` works in a folder beside it, which
//! is renamed when everything is there; what an interrupted one leaves is removed by the next.

use super::cluster::SUPERUSER;
use super::{Cluster, Options, PostgresError, log, process};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;

impl Cluster {
    /// Makes the cluster, beside its place, and moves it there when it is complete.
    pub(super) fn init(&self, options: &Options) -> Result<(), PostgresError> {
        tracing::info!(data = %self.data.display(), major = self.binaries.major, "making a new PostgreSQL cluster");
        let draft = self.data_dir.join("postgres.new");
        let output = match self.run_initdb(&draft, "C.UTF-8", options)? {
            // macOS, and glibc before 2.13 outside of Debian, have no C.UTF-8.
            Err((_, said)) if said.contains("invalid locale name") => {
                self.run_initdb(&draft, "C", options)?
            }
            other => other,
        };
        if let Err((status, said)) = output {
            // Best effort: the next start removes what is left, and the failure matters more.
            let _ = remove_draft(&draft);
            return Err(PostgresError::Initdb {
                data: self.data.clone(),
                status,
                log: log::last_lines(&said),
            });
        }
        fs::rename(&draft, &self.data).map_err(PostgresError::io("move into place", &draft))?;
        File::open(&self.data_dir)
            .and_then(|folder| folder.sync_all())
            .map_err(PostgresError::io("sync", &self.data_dir))
    }

    /// Runs `initdb` once. The inner error is how it ended and what it said.
    fn run_initdb(
        &self,
        draft: &Path,
        locale: &str,
        options: &Options,
    ) -> Result<Result<(), (String, String)>, PostgresError> {
        remove_draft(draft)?;
        DirBuilder::new()
            .mode(0o700)
            .create(draft)
            .map_err(PostgresError::io("create", draft))?;
        self.account.own(draft)?;
        let initdb = self.binaries.program("initdb");
        let mut command = options.guard.command(&self.account, &initdb);
        command.arg("-D").arg(draft).args([
            "--encoding=UTF8",
            &format!("--locale={locale}"),
            // Plain byte order: the fastest, and no upgrade of the C library can corrupt an index.
            "--lc-collate=C",
            "--lc-messages=C",
            &format!("--username={SUPERUSER}"),
            // Whoever can enter the socket's 0700 folder is trusted; nobody else can connect at all.
            "--auth-local=trust",
            "--auth-host=reject",
        ]);
        if !options.fsync {
            command.arg("--no-sync");
        }
        // This thread waits until initdb has ended, as the guard demands.
        let output = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(PostgresError::io("run", &initdb))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = [output.stdout, output.stderr].concat();
        Ok(Err((
            process::describe(output.status),
            String::from_utf8_lossy(&said).into_owned(),
        )))
    }
}

fn remove_draft(draft: &Path) -> Result<(), PostgresError> {
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(PostgresError::io("remove", draft)(error))
        }
        _ => Ok(()),
    }
}
