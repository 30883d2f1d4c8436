//! Opening connections, with TLS as the URL says (`target.rs`).

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::target::Target;
use crate::error::{Error, Result};

/// The TLS side of a connection.
type Tls = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// Statements here are short, and are estimated dear where many sessions might be read. Compiling one of
/// them anew at each run took half a second of a processor, a hundred times what it ran.
const NO_JIT: &str = "SET jit = off";

/// Where a URL leads, without its password.
#[must_use]
pub fn describe(url: &str) -> String {
    let Ok(Target { config, .. }) = Target::parse(url) else {
        return "an unreadable URL".to_owned();
    };
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    format!("{} at {host}", config.get_dbname().unwrap_or("postgres"))
}

/// A bare client and the connection that drives it, for LISTEN.
///
/// # Errors
/// When the database cannot be reached.
pub async fn client(url: &str) -> Result<(Client, Connection<Socket, Tls>)> {
    let away = |error: tokio_postgres::Error| Error::DatabaseUnavailable(explain(&error));
    let mut target = Target::parse(url).map_err(away)?;
    let tls = target.tls()?;
    let config = &mut target.config;
    if config.get_application_name().is_none() {
        config.application_name("lessor");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(super::PATIENCE);
    }
    config.connect(tls).await.map_err(away)
}

/// A connection for Diesel's pools, with these settings.
pub(super) async fn diesel(url: &str, settings: &str) -> ConnectionResult<AsyncPgConnection> {
    let (client, connection) = client(url)
        .await
        .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
    let mut conn = AsyncPgConnection::try_from_client_and_connection(client, connection).await?;
    conn.batch_execute(&format!("{NO_JIT}; {settings}"))
        .await
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// A connection of its own, for what takes longer than a pool's patience.
///
/// # Errors
/// When the database cannot be reached.
pub async fn dedicated(url: &str) -> Result<AsyncPgConnection> {
    diesel(url, "").await.map_err(|error| {
        Error::DatabaseUnavailable(format!("Lessor's database, {}: {error}", describe(url)))
    })
}

/// The error with its causes: tokio-postgres keeps the interesting part in the source.
fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if text.contains("invalid peer certificate") {
        text +=
            "; LESSOR_DATABASE_CA names a file with the authorities of the database's certificate";
    }
    text
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_urls_are_described_without_their_password() {
        let examples: &[&[u8]] = &[
            b"postgres://user:PASSPHRASE@host:5432/name?sslmode=require",
            b"host=h user=u password=PASSPHRASE dbname=d",
        ];
        lessor_fuzz::run(
            examples,
            &["@", ":", "//", "?", "%40", "password=PASSPHRASE"],
            |input| {
                let url = String::from_utf8_lossy(input);
                let shown = describe(&url);
                // Unless it stands where no password stands, so that nobody could know it for one.
                let reads = Target::parse(&url);
                let elsewhere = reads.is_ok_and(|Target { config, .. }| {
                    let name = config
                        .get_dbname()
                        .unwrap_or_default()
                        .contains("PASSPHRASE");
                    name || format!("{:?}", config.get_hosts()).contains("PASSPHRASE")
                });
                assert!(elsewhere || !shown.contains("PASSPHRASE"), "{shown}");
            },
        );
    }
}
