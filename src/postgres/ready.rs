//! From "started" to "ready": the wait, what to do when the start fails, and the first statements.
//!
//! Ready is not "something answers on the socket": `postmaster.pid` must hold the pid of our child
//! and the word `ready`, and the server that answers must serve our folder.
//!
//! After a crash the children of the dead postmaster need a moment to notice, and a server that shuts
//! down still holds its lock file; PostgreSQL then refuses to start, so for a while it is tried again.
//!
//! Invariant: on an error, nothing is left running.

use super::process::Child;
use super::{Cluster, Guard, PostgresError, log::Log, stop_child};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How long a start may take. Recovery after a crash replays at most some checkpoints' worth.
const READY_PATIENCE: Duration = Duration::from_secs(300);
const READY_POLL: Duration = Duration::from_millis(20);
/// How often a long wait is mentioned in our log.
const WAIT_NOTICE: Duration = Duration::from_secs(10);
/// How long the remains of an earlier server may be in the way.
const REMAINS_PATIENCE: Duration = Duration::from_secs(20);
const REMAINS_POLL: Duration = Duration::from_millis(250);

/// Starts the server and waits until it says that it is ready.
pub(super) async fn start(cluster: &Cluster, guard: Guard) -> Result<(Child, Log), PostgresError> {
    let deadline = Instant::now() + REMAINS_PATIENCE;
    loop {
        let (child, log) = spawn(cluster, guard).await?;
        match wait_ready(cluster, &child, &log).await {
            Ok(()) => return Ok((child, log)),
            Err(PostgresError::Exited { log, .. }) if is_about_remains(&log) => {
                if Instant::now() >= deadline {
                    return Err(cluster.in_use());
                }
                tracing::debug!("an earlier PostgreSQL is still in the way");
                tokio::time::sleep(REMAINS_POLL).await;
            }
            Err(error) => {
                stop_child(&child).await?;
                return Err(error);
            }
        }
    }
}

async fn spawn(cluster: &Cluster, guard: Guard) -> Result<(Child, Log), PostgresError> {
    let (log, file) = Log::open(&cluster.log_path)?;
    let stdout = file
        .try_clone()
        .map_err(PostgresError::io("open", &log.path))?;
    let program = cluster.binaries.program("postgres");
    let mut command = guard.command(&cluster.account, &program);
    command
        .args(cluster.server_arguments())
        .stdout(stdout)
        .stderr(file);
    let child = Child::spawn(command)
        .await
        .map_err(PostgresError::io("run", program))?;
    Ok((child, log))
}

async fn wait_ready(cluster: &Cluster, child: &Child, log: &Log) -> Result<(), PostgresError> {
    let started = Instant::now();
    let mut next_notice = WAIT_NOTICE;
    loop {
        if let Some(status) = child.end() {
            return Err(PostgresError::Exited {
                status,
                path: log.path.clone(),
                log: log.tail(),
            });
        }
        if cluster.postmaster() == Some((child.pid(), true)) {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited >= READY_PATIENCE {
            return Err(PostgresError::NotReady {
                seconds: READY_PATIENCE.as_secs(),
                path: log.path.clone(),
                log: log.tail(),
            });
        }
        if waited >= next_notice {
            next_notice += WAIT_NOTICE;
            tracing::info!(seconds = waited.as_secs(), log = %log.path.display(), "PostgreSQL is still starting");
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// Whether the start failed only because an earlier server has not quite gone. The messages are in
/// English: `LC_ALL` and `lc_messages` are ours.
fn is_about_remains(log: &str) -> bool {
    log.contains("lock file \"postmaster.pid\" already exists")
        || log.contains("pre-existing shared memory block")
        || (log.contains("lock file")
            && log.contains(".s.PGSQL.")
            && log.contains("already exists"))
}

/// Checks that the server on our socket serves our folder.
pub(super) async fn check_server(cluster: &Cluster) -> Result<(), PostgresError> {
    let (client, connection) = connect(cluster).await?;
    let answer = client.simple_query("SHOW data_directory").await;
    close(client, connection).await;
    let found = first_value(&answer.map_err(sql("query"))?);
    if found.as_deref().map(std::path::Path::new) == Some(cluster.data.as_path()) {
        return Ok(());
    }
    Err(PostgresError::WrongServer {
        socket: cluster.socket.clone(),
        found: found.unwrap_or_else(|| "nothing".to_owned()),
        expected: cluster.data.clone(),
    })
}

/// Creates a database if it is missing; `name` is one of our constants.
pub(super) async fn ensure_database(cluster: &Cluster, name: &str) -> Result<(), PostgresError> {
    let (client, connection) = connect(cluster).await?;
    let made = async {
        let there = client
            .simple_query(&format!(
                "SELECT 1 FROM pg_database WHERE datname = '{name}'"
            ))
            .await?;
        if first_value(&there).is_none() {
            client
                .simple_query(&format!("CREATE DATABASE {name}"))
                .await?;
        }
        Ok(())
    };
    let made = made.await;
    close(client, connection).await;
    made.map_err(sql("create the database of"))
}

type Connection = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

async fn connect(cluster: &Cluster) -> Result<(Client, Connection), PostgresError> {
    // `postgres` exists in every cluster that initdb made.
    let (client, connection) = tokio_postgres::connect(&cluster.url_of("postgres"), NoTls)
        .await
        .map_err(sql("connect to"))?;
    Ok((client, tokio::spawn(connection)))
}

/// Ends the connection's task, so that no session of ours is left.
async fn close(client: Client, connection: Connection) {
    drop(client);
    // What failed on the way has been answered to the statement itself.
    let _ = connection.await;
}

fn first_value(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

fn sql(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    move |source| PostgresError::Sql { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remains_are_told_from_other_failures() {
        assert!(is_about_remains(
            "FATAL:  lock file \"postmaster.pid\" already exists"
        ));
        assert!(is_about_remains(
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use"
        ));
        assert!(is_about_remains(
            "FATAL:  lock file \"/d/run/.s.PGSQL.5432.lock\" already exists"
        ));
        assert!(!is_about_remains(
            "FATAL:  could not create lock file \"postmaster.pid\": No space left on device"
        ));
    }
}
