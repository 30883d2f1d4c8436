//! Restores of the database: agents that have seen what is undone by one.

use std::time::Duration;

use lessor::postgres::{Guard, Options, PrivatePostgres};
use lessor_protocol::{
    Assignment, Availability, EndReason, NewSession, PoolSpec, ProblemCode, ReportedState,
    SessionState,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::agents::Folder;
use crate::support::postgres::{OwnCluster, TestDatabase};
use crate::support::process::ServerProcess;
use crate::support::{TestAgent, TestServer, database, eventually, report, runbook};

const PAGE: &str = "backup.md";
const TTL: f64 = 4.0;

fn agent(server: &ServerProcess, name: &str) -> TestAgent {
    TestAgent::new(&server.client, name, ("p", "d"), 10)
}

async fn running(agent: &TestAgent) -> Assignment {
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let made = agent.client.create_session(&new, None).await;
    made.expect("a session");
    agent.runs_one().await
}

/// What happened before the backup: two agents, each with a session that runs.
struct Past {
    stays: TestAgent,
    stayed: Assignment,
    restarts: TestAgent,
    moved: Assignment,
    beats: tokio::task::JoinSet<()>,
}

impl Past {
    async fn of(server: &ServerProcess) -> Self {
        let mut pool = PoolSpec::on("process");
        pool.lease_ttl_seconds = TTL;
        server.client.put_pool("p", &pool).await.expect("the pool");
        let (mut stays, mut restarts) = (agent(server, "stays"), agent(server, "restarts"));
        stays.register(&[]).await;
        let stayed = running(&stays).await;
        restarts.register(&[]).await;
        let moved = running(&restarts).await;
        let mut beats = tokio::task::JoinSet::new();
        for agent in [stays.clone(), restarts.clone()] {
            beats.spawn(async move {
                // Until its server stops, or another instance has taken its place.
                while agent.beat().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            });
        }
        Self {
            beats,
            stays,
            stayed,
            restarts,
            moved,
        }
    }

    /// What happens after the backup, and is undone: one agent is started anew and adopts what it
    /// had, and a session is made.
    async fn goes_on(&mut self) -> Assignment {
        self.restarts.restart(&[]).await;
        let adopted = self.restarts.claim(1, 5.0).await.remove(0);
        assert_eq!(adopted.session.id, self.moved.session.id);
        assert!(adopted.lease_epoch > self.moved.lease_epoch);
        self.restarts
            .accepts(&adopted, ReportedState::Running)
            .await;
        running(&self.stays).await
    }
}

/// What must hold on the restored database, after the fence.
async fn assert_fenced(server: &ServerProcess, past: Past, undone: Assignment) {
    let Past {
        stays,
        stayed,
        restarts,
        moved,
        mut beats,
    } = past;
    beats.abort_all();
    let at = |agent: &TestAgent| TestAgent {
        client: server.client.clone(),
        ..agent.clone()
    };
    let (mut stays, zombie) = (at(&stays), at(&restarts));
    let known = server.client.get_agent("stays").await.expect("the agent");
    assert_eq!(known.availability, Availability::Expired);

    // Who was there all the time registers anew and keeps what it drives.
    let refused = stays.beat().await.expect_err("its lease has ended");
    assert_eq!(refused.code(), Some(ProblemCode::LeaseExpired));
    let held = TestAgent::held(&[stayed.clone(), undone.clone()]);
    let registered = stays.register(&held).await;
    assert!(registered.incarnation > 1_000_000);
    assert_eq!(registered.keep.len(), 1, "{registered:#?}");
    assert_eq!(registered.keep[0].session_id, stayed.session.id);
    assert!(registered.keep[0].lease_epoch > 1_000_000);
    assert_eq!(
        registered.drop[0].session_id, undone.session.id,
        "it was never made"
    );

    // Who registered after the backup is nobody: neither before another one takes its name nor after.
    let refused = zombie.beat().await.expect_err("it is fenced");
    assert_eq!(refused.code(), Some(ProblemCode::AgentSuperseded));
    let mut anew = at(&zombie);
    anew.restart(&[]).await;
    assert!(
        anew.incarnation > zombie.incarnation,
        "the same number again"
    );
    let beats = (anew.keep_beating(0.3), stays.keep_beating(0.3));
    let adopted = anew.claim(10, 20.0).await;
    assert_eq!(adopted.len(), 1, "{adopted:#?}");
    assert_eq!(adopted[0].session.id, moved.session.id);
    assert!(adopted[0].lease_epoch > 1_000_000);
    let stale = zombie
        .try_report(vec![report(&undone, ReportedState::Failed)])
        .await;
    let code = stale.expect_err("it is fenced").code();
    assert_eq!(code, Some(ProblemCode::AgentSuperseded));
    anew.accepts(&adopted[0], ReportedState::Running).await;

    let session = server
        .client
        .get_session(&moved.session.id.to_string())
        .await;
    let session = session.expect("the session");
    assert_eq!(session.state, SessionState::Running);
    let ledger = server
        .client
        .session_leases(&moved.session.id.to_string(), &Default::default())
        .await
        .expect("the ledger");
    assert_eq!(ledger.items.len(), 2, "{ledger:#?}");
    let ended: Vec<_> = ledger
        .items
        .iter()
        .filter_map(|item| item.end_reason)
        .collect();
    assert_eq!(ended, [EndReason::LeaseExpired]);
    beats.0.abort();
    beats.1.abort();
}

/// The name and address of a database that is not there yet, beside another; dropped with the value.
fn beside(database: &TestDatabase) -> TestDatabase {
    let name = format!("test_{}", Uuid::new_v4().simple());
    let url = database.url.replace(&database.name, &name);
    TestDatabase { url, name }
}

#[tokio::test]
async fn a_dump_is_restored_and_agents_that_saw_the_future_are_fenced() {
    let (database, folder) = (database().await, Folder::new());
    let restored = beside(&database);
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("RESTORED_URL", restored.url.as_str()),
        ("RESTORED", restored.name.as_str()),
    ];
    let type_in = async |word: &str, url: &str| {
        runbook::run_those_with(PAGE, word, url, &folder.0, &variables).await
    };
    let mut server = ServerProcess::start(&database.url).await;
    let mut past = Past::of(&server).await;
    type_in("pg_dump", "").await;
    let undone = past.goes_on().await;
    server.terminate();
    server.ends_within(Duration::from_secs(10)).await;
    type_in("pg_restore", "").await;
    let said = type_in("restore-fence", "").await;
    assert!(
        said.contains("fenced: 2 agents must register anew; 2 sessions"),
        "{said}"
    );
    let sql = restored.client().await;
    let held_back =
        "SELECT count(*) FROM sessions WHERE held_back_until > now() - interval '1 minute'";
    assert_eq!(
        ask::<i64>(&sql, held_back).await,
        2,
        "nobody may act on them yet"
    );
    let again = ServerProcess::start(&restored.url).await;
    let listed = type_in("curl", &again.url).await;
    assert!(
        listed.contains(&past.moved.session.id.to_string()),
        "{listed}"
    );
    assert_fenced(&again, past, undone).await;
}

#[tokio::test]
async fn the_log_is_archived_and_a_moment_is_restored() {
    let (mut cluster, folder) = (OwnCluster::start().await, Folder::new());
    let restored = Folder::new();
    let archive = folder.0.join("archive");
    let base = restored.0.join("postgres");
    std::fs::create_dir(&archive).expect("a folder");
    open_to_all(&[&folder.0, &archive]);
    let url = cluster.url().to_owned();
    let archive_name = archive.to_str().expect("a path");
    let base_name = base.to_str().expect("a path");
    let mut variables = vec![
        ("DATABASE_URL", url.as_str()),
        ("ARCHIVE", archive_name),
        ("BASE", base_name),
    ];
    let run = async |word: &str, variables: &[(&str, &str)]| {
        runbook::run_those_with(PAGE, word, "", &folder.0, variables).await
    };
    run("archive_mode = on", &variables).await;
    cluster.stop().await;
    cluster.start_again().await;
    let mut server = ServerProcess::start(cluster.url()).await;
    run("pg_basebackup", &variables).await;
    let mut past = Past::of(&server).await;
    let (sql, connection) = tokio_postgres::connect(cluster.url(), tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let moment: String = ask(&sql, "SELECT clock_timestamp()::text").await;
    let undone = past.goes_on().await;
    server.terminate();
    server.ends_within(Duration::from_secs(10)).await;
    // What is not archived yet is lost with the machine.
    let _: String = ask(&sql, "SELECT pg_switch_wal()::text").await;
    eventually("the log is archived", || async {
        ask::<i64>(
            &sql,
            "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= \
            pg_walfile_name(pg_current_wal_lsn() - 1)",
        )
        .await
            == 1
    })
    .await;
    drop(sql);
    cluster.stop().await;

    variables.push(("MOMENT", &moment));
    run("recovery_target_time", &variables).await;
    give_to_the_owner_of(&folder.0.join("archive"), &restored.0);
    let options = Options {
        fsync: false,
        guard: Guard::Setpriv,
        ..Options::new(&restored.0)
    };
    let running = PrivatePostgres::start(options).await.expect("it recovers");
    let restored_url = running.url();
    let (sql, connection) = tokio_postgres::connect(&restored_url, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    eventually("it has come to the moment", || async {
        !ask::<bool>(&sql, "SELECT pg_is_in_recovery()").await
    })
    .await;
    variables.push(("RESTORED_URL", &restored_url));
    let said = run("restore-fence", &variables).await;
    assert!(
        said.contains("fenced: 2 agents must register anew; 2 sessions"),
        "{said}"
    );
    let again = ServerProcess::start(&restored_url).await;
    assert_fenced(&again, past, undone).await;
    drop((again, sql));
    running.stop().await.expect("it stops");
}

async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    sql: &tokio_postgres::Client,
    text: &str,
) -> T {
    sql.query_one(text, &[]).await.expect(text).get(0)
}

/// PostgreSQL may run as another user than the tests.
fn open_to_all(folders: &[&std::path::Path]) {
    use std::os::unix::fs::PermissionsExt as _;
    for folder in folders {
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder, all).expect("permissions");
    }
}

/// What root has written is to be read by whoever PostgreSQL runs as, who has written the archive.
fn give_to_the_owner_of(archive: &std::path::Path, folder: &std::path::Path) {
    use std::os::unix::fs::MetadataExt as _;
    let entry = std::fs::read_dir(archive).expect("the archive").next();
    let owner = entry
        .expect("a file")
        .expect("a file")
        .metadata()
        .expect("its owner");
    let to = format!("{}:{}", owner.uid(), owner.gid());
    let done = std::process::Command::new("chown")
        .args(["-R", &to])
        .arg(folder)
        .status();
    assert!(done.expect("chown").success());
}

#[tokio::test]
async fn the_fence_is_not_raised_under_a_running_server() {
    let server = TestServer::start().await;
    let db = lessor::store::Db::new(&server.database.url, 1, 1).expect("connections");
    eventually("the server writes its pulse", || async {
        let sql = server.database.client().await;
        let count = sql.query_one("SELECT count(*) FROM pulse", &[]).await;
        count.expect("a count").get::<_, i64>(0) == 1
    })
    .await;
    let refused = lessor::leases::restore_fence(&db)
        .await
        .expect_err("it runs");
    assert!(
        matches!(refused, lessor::error::Error::ServerRunning),
        "{refused}"
    );
    let sql = server.database.client().await;
    let floors = sql
        .query_one("SELECT lease_epoch_floor FROM fences", &[])
        .await;
    assert_eq!(floors.expect("the floors").get::<_, i64>(0), 0);
    server.stop().await;
}
