//! The whole life of a private PostgreSQL, with a real one. Skipped with a word on stderr where no
//! PostgreSQL is installed, as on a machine that only builds.

use super::test_folder::TestFolder;
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn options(folder: &TestFolder) -> Options {
    Options {
        fsync: false,
        max_connections: 20,
        shared_buffers_mb: 16,
        guard: if cfg!(target_os = "linux") {
            Guard::Setpriv
        } else {
            Guard::Nothing
        },
        ..Options::new(folder.path().join("data"))
    }
}

fn skip(error: &PostgresError) -> bool {
    let missing = matches!(error, PostgresError::NotFound { .. });
    if missing {
        eprintln!("skipped: {error}");
    }
    missing
}

async fn run(postgres: &PrivatePostgres, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one(sql, &[]).await?;
    drop(client);
    let _ = connection.await;
    row.try_get(0)
}

#[tokio::test]
async fn data_is_found_again_and_a_data_folder_has_one_server() -> Outcome {
    let folder = TestFolder::new()?;
    let first = match PrivatePostgres::start(options(&folder)).await {
        Err(error) if skip(&error) => return Ok(()),
        other => other?,
    };
    let url = first.url();
    run(&first, "WITH made AS (SELECT set_config('a.b', 'c', false)) SELECT datname::text FROM pg_database, made WHERE datname = 'lessor'").await?;
    assert_eq!(run(&first, "SHOW server_encoding").await?, "UTF8");
    assert_eq!(run(&first, "SHOW synchronous_commit").await?, "on");
    assert_eq!(run(&first, "SHOW listen_addresses").await?, "");
    run(&first, "SELECT lo_create(4711)::text").await?;

    let Err(second) = PrivatePostgres::start(options(&folder)).await else {
        return Err("two servers on one data folder".into());
    };
    assert!(matches!(second, PostgresError::InUse { .. }), "{second}");

    first.stop().await?;
    let again = PrivatePostgres::start(options(&folder)).await?;
    assert_eq!(again.url(), url);
    assert_eq!(
        run(&again, "SELECT count(*)::text FROM pg_largeobject_metadata").await?,
        "1"
    );
    again.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_end_of_its_own_is_told_and_the_next_start_recovers() -> Outcome {
    let folder = TestFolder::new()?;
    let first = match PrivatePostgres::start(options(&folder)).await {
        Err(error) if skip(&error) => return Ok(()),
        other => other?,
    };
    let exited = first.exited();
    first.child.signal(Signal::KILL);
    let error = exited.await;
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    drop(first);
    let again = PrivatePostgres::start(options(&folder)).await?;
    let mut exited = Box::pin(again.exited());
    again.stop().await?;
    let silent = tokio::time::timeout(Duration::from_millis(100), &mut exited).await;
    assert!(silent.is_err(), "an end that was asked for is no failure");
    Ok(())
}

#[tokio::test]
async fn a_failed_start_shows_the_log_and_data_of_another_major_is_refused() -> Outcome {
    let folder = TestFolder::new()?;
    let first = match PrivatePostgres::start(options(&folder)).await {
        Err(error) if skip(&error) => return Ok(()),
        other => other?,
    };
    let bin_dir = first.cluster.binaries.dir.clone();
    let data = first.cluster.data.clone();
    first.stop().await?;

    let conf = data.join("postgresql.conf");
    let good = std::fs::read_to_string(&conf)?;
    std::fs::write(&conf, format!("{good}\nwork_mem = 'a lot'\n"))?;
    let error = PrivatePostgres::start(options(&folder)).await;
    let text = error
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        text.contains("invalid value for parameter \"work_mem\""),
        "{text}"
    );

    std::fs::write(data.join("PG_VERSION"), "13\n")?;
    let error = PrivatePostgres::start(Options {
        bin_dir: Some(bin_dir),
        ..options(&folder)
    })
    .await;
    assert!(
        matches!(error, Err(PostgresError::WrongMajor { data_major: 13, .. })),
        "{error:?}"
    );
    let error = PrivatePostgres::start(options(&folder)).await;
    assert!(
        matches!(
            error,
            Err(PostgresError::NotFound {
                wanted: Some(13),
                ..
            })
        ),
        "{error:?}"
    );
    Ok(())
}
