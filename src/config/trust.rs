//! Whose certificates are taken from the database.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use crate::store;

/// The authorities of the database's certificate.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DatabaseTrust {
    /// The authorities of the certificate that the database has to have, as a PEM file; unset: those of this system, where the URL asks for a check
    #[arg(long, env = "LESSOR_DATABASE_CA", value_name = "FILE", global = true)]
    pub database_ca: Option<PathBuf>,
}

impl DatabaseTrust {
    /// A database's URL that names them, unless it names others.
    #[must_use]
    pub fn named_in(&self, url: &SecretString) -> String {
        store::trusting(url.expose_secret(), self.database_ca.as_deref())
    }
}
