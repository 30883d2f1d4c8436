//! A temporary folder for this room's unit tests, removed at the end. Open to other users, so that
//! PostgreSQL's user can pass when the tests run as root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Removed on drop.
pub(super) struct TestFolder(PathBuf);

impl TestFolder {
    pub(super) fn new() -> std::io::Result<Self> {
        let name = format!("lessor-test-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(fs::canonicalize(path)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
