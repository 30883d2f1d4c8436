//! PostgreSQL for the integration tests: a database per test on one shared cluster, and a cluster of
//! its own for a test that hurts it.
//!
//! Under `cargo nextest` every test is a process of its own, so nothing in memory can be shared. The
//! first test that needs a database starts the cluster, the others find it, and it ends by itself.
//! What they agree on lies in one folder under the temp dir, keyed by user and target folder:
//!
//! | file | meaning |
//! | --- | --- |
//! | `start.lock` | held while somebody finds out whether the cluster is there, or starts it |
//! | `users.lock` | every test process holds it shared for as long as it lives; the kernel releases it |
//! | `watchdog.lock` | held by the watchdog while it lives: the sign that the cluster is good |
//! | `url` | of the database `postgres` |
//! | `data/` | as of [`Cluster`] |
//!
//! The watchdog is the parent of `postgres`, in a session of its own with the log as its output
//! (nextest waits for everybody who holds a test's pipes). When it can take `users.lock` exclusively
//! and nobody has used it for [`IDLE_SECONDS`], it stops the server *while holding that lock*, so a
//! test that comes just then waits, and starts a new one. Data without a watchdog are leftovers of a
//! killed machine: they are thrown away, never repaired.

use lessor::postgres::{Cluster, Guard, Options, PrivatePostgres};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// How long the shared cluster waits for another test.
const IDLE_SECONDS: u32 = 60;
const MAX_CONNECTIONS: u32 = 500;
const POLL: Duration = Duration::from_millis(20);
const START_PATIENCE: Duration = Duration::from_secs(60);

/// `$1` the shared folder, `$2` the idle time, then the command of the server.
const WATCHDOG: &str = r#"
exec 8<"$1/watchdog.lock" 9<"$1/users.lock"
flock -n 8 || exit 1
root=$1 idle=$2; shift 2
"$@" 8<&- 9<&- &
server=$!
busy=$(date +%s)
while kill -0 "$server" 2>/dev/null; do
  sleep 1 8<&- 9<&-
  now=$(date +%s)
  if flock -n -x 9; then
    # A test that came and went between two looks has left its mark in the time of the file.
    touched=$(stat -c %Y "$root/users.lock")
    [ "$touched" -gt "$busy" ] && busy=$touched
    if [ $((now - busy)) -ge "$idle" ]; then
      kill -QUIT "$server"; wait "$server"
      rm -rf "$root"/data/postgres/*
      exit 0
    fi
    flock -u 9
  else
    busy=$now
  fi
done
"#;

/// A database of one test's own, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    /// For tokio-postgres and diesel-async.
    pub url: String,
    /// The database's name.
    pub name: String,
}

impl TestDatabase {
    /// An empty database.
    pub async fn create() -> Self {
        Self::from_template("template0").await
    }

    /// A copy of a template that `migrate` fills, once for each `key` while the cluster lives. The key
    /// stands for all that `migrate` does: pass a hash of the migrations. A `migrate` that panics
    /// leaves no template behind.
    pub async fn create_with<F, Fut>(key: &str, migrate: F) -> Self
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = ()>,
    {
        let template = format!("template_{:016x}", hash(&key));
        let admin = Self::admin_client().await;
        if !is_template(&admin, &template).await {
            // A lock of the session: a test that dies while it holds it gives it back.
            execute(
                &admin,
                &format!("SELECT pg_advisory_lock(hashtext('{template}'))"),
            )
            .await;
            if !is_template(&admin, &template).await {
                // What is there now was left by a `migrate` that failed.
                execute(
                    &admin,
                    &format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)"),
                )
                .await;
                execute(
                    &admin,
                    &format!("CREATE DATABASE {template} TEMPLATE template0"),
                )
                .await;
                migrate(url_of(shared().await, &template)).await;
                // A database that is being copied must have no sessions; pools end theirs late.
                execute(
                    &admin,
                    &format!("ALTER DATABASE {template} ALLOW_CONNECTIONS false"),
                )
                .await;
                let end =
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname";
                execute(&admin, &format!("{end} = '{template}'")).await;
                execute(
                    &admin,
                    &format!("ALTER DATABASE {template} IS_TEMPLATE true"),
                )
                .await;
            }
        }
        drop(admin);
        Self::from_template(&template).await
    }

    /// A connection to this database.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// A connection of a superuser to the database `postgres` of the shared cluster.
    pub async fn admin_client() -> Client {
        connect(shared().await).await
    }

    async fn from_template(template: &str) -> Self {
        let admin = Self::admin_client().await;
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        // Half the time of wal_log, which is the default since 15 brought the choice.
        let strategy = match number(&admin, "SHOW server_version_num").await {
            ..150_000 => "",
            _ => "STRATEGY file_copy",
        };
        execute(
            &admin,
            &format!("CREATE DATABASE {name} TEMPLATE {template} {strategy}"),
        )
        .await;
        let url = url_of(shared().await, &name);
        Self { url, name }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // A thread with a runtime of its own: the test's may be ending, and cannot be waited on here.
        let name = std::mem::take(&mut self.name);
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let work = async {
                    let admin = Self::admin_client().await;
                    execute(
                        &admin,
                        &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
                    )
                    .await;
                };
                let _ = runtime
                    .block_on(async { tokio::time::timeout(Duration::from_secs(10), work).await });
            }
        });
        let _ = dropper.join();
    }
}

/// A cluster of one test's own, to be killed, frozen and started again. Two seconds to make.
#[derive(Debug)]
pub struct OwnCluster {
    folder: PathBuf,
    url: String,
    running: Option<PrivatePostgres>,
}

impl OwnCluster {
    /// Makes and starts it.
    pub async fn start() -> Self {
        sweep_own_folders();
        let unique = uuid::Uuid::new_v4().simple();
        let folder = format!("{OWN_PREFIX}{}-{unique}", std::process::id());
        let mut own = Self {
            folder: std::env::temp_dir().join(folder),
            url: String::new(),
            running: None,
        };
        own.start_again().await;
        own
    }

    /// The URL of its database `lessor`; the same after every start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The pid of the postmaster.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// `kill -9` of the postmaster; returns when it is dead. Its children end themselves soon after.
    pub async fn kill_immediately(&mut self) {
        let running = self.running.take().expect("the cluster runs");
        let exited = running.exited();
        signal(running.pid(), Signal::KILL);
        exited.await;
    }

    /// A clean shutdown.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("the cluster runs");
        running.stop().await.expect("the cluster stops");
    }

    /// Starts it on the same data, at the same URL.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "the cluster runs already");
        let options = Options {
            fsync: false,
            guard: Guard::Setpriv,
            ..Options::new(&self.folder)
        };
        let running = PrivatePostgres::start(options)
            .await
            .expect("a cluster for this test");
        self.url = running.url();
        self.running = Some(running);
    }

    /// SIGSTOP for the postmaster and all its children: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        // The postmaster first: then no new children come.
        signal(self.pid(), Signal::STOP);
        for child in children(self.pid()) {
            signal(child, Signal::STOP);
        }
    }

    /// The end of [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        for process in children(self.pid()).into_iter().chain([self.pid()]) {
            signal(process, Signal::CONT);
        }
    }

    fn running(&self) -> &PrivatePostgres {
        self.running.as_ref().expect("the cluster runs")
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let children = children(running.pid());
            for process in [running.pid()].into_iter().chain(children) {
                signal(process, Signal::KILL);
            }
        }
        // Dying children may still write for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir_all(&self.folder).is_err()
            && self.folder.exists()
            && Instant::now() < deadline
        {
            std::thread::sleep(POLL);
        }
    }
}

const OWN_PREFIX: &str = "lessor-own-";

/// Removes the folders of own clusters whose test was killed. The server ended with the test.
fn sweep_own_folders() {
    let us = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(OWN_PREFIX)?.split('-').next());
        let ours = entry.metadata().is_ok_and(|meta| meta.uid() == us);
        if let Some(pid) = pid
            && ours
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The URL of the shared cluster's database `postgres`; starts the cluster if need be.
async fn shared() -> &'static str {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    let shared = SHARED.get_or_init(|| async {
        tokio::task::spawn_blocking(Shared::join)
            .await
            .expect("the shared PostgreSQL cluster of the tests")
    });
    &shared.await.url
}

/// This process's part in the shared cluster; lives as long as the process.
struct Shared {
    url: String,
    _user: File,
}

impl Shared {
    fn join() -> Self {
        let root = shared_folder();
        let start = lock_file(&root, "start.lock");
        flock(&start, FlockOperation::LockExclusive).expect("start.lock");
        let user = lock_file(&root, "users.lock");
        // Waits while the watchdog stops an idle cluster.
        flock(&user, FlockOperation::LockShared).expect("users.lock");
        user.set_modified(SystemTime::now())
            .expect("touch users.lock");
        if !answers(&root) {
            clear(&root);
            start_shared(&root);
        }
        let url = fs::read_to_string(root.join("url")).expect("the shared cluster's URL");
        Self { url, _user: user }
    }
}

fn shared_folder() -> PathBuf {
    let us = rustix::process::geteuid().as_raw();
    let key = hash(&(
        env!("CARGO_TARGET_TMPDIR"),
        WATCHDOG,
        IDLE_SECONDS,
        MAX_CONNECTIONS,
    ));
    let root = std::env::temp_dir().join(format!("lessor-tests-{us}-{key:016x}"));
    // 0711: as root, PostgreSQL's user has to pass.
    match DirBuilder::new().mode(0o711).create(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            panic!("create {}: {error}", root.display())
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(&root).expect("the folder of the tests' cluster");
    assert!(
        meta.is_dir() && meta.uid() == us,
        "{} is not ours",
        root.display()
    );
    root
}

fn lock_file(root: &Path, name: &str) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o644)
        .open(root.join(name))
        .unwrap_or_else(|error| panic!("open {name}: {error}"))
}

fn watchdog_lives(root: &Path) -> bool {
    let file = lock_file(root, "watchdog.lock");
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Whether a good cluster is there. One that has just died is given the second its watchdog needs to
/// notice.
fn answers(root: &Path) -> bool {
    let Ok(url) = fs::read_to_string(root.join("url")) else {
        return false;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    while watchdog_lives(root) {
        let attempt = async {
            tokio::time::timeout(
                Duration::from_secs(10),
                tokio_postgres::connect(&url, NoTls),
            )
            .await
        };
        match runtime.block_on(attempt) {
            Ok(Ok(_)) => return true,
            Ok(Err(_)) => std::thread::sleep(POLL),
            Err(_) => return false,
        }
    }
    false
}

/// Throws away what an earlier cluster left, and ends it if it runs without a watchdog.
fn clear(root: &Path) {
    let data = root.join("data");
    let pid_file = fs::read_to_string(data.join("postgres/postmaster.pid")).unwrap_or_default();
    if let Some(pid) = pid_file
        .lines()
        .next()
        .and_then(|pid| pid.trim().parse::<u32>().ok())
    {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let needle = data.join("postgres");
        let ours = || {
            fs::read(proc.join("cmdline")).is_ok_and(|text| {
                String::from_utf8_lossy(&text).contains(&*needle.to_string_lossy())
            })
        };
        let deadline = Instant::now() + START_PATIENCE;
        while ours() && Instant::now() < deadline {
            signal(pid, Signal::KILL);
            std::thread::sleep(POLL);
        }
    }
    let _ = fs::remove_file(root.join("url"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while data.exists() {
        if let Err(error) = fs::remove_dir_all(&data) {
            assert!(
                Instant::now() < deadline,
                "remove {}: {error}",
                data.display()
            );
            std::thread::sleep(POLL);
        }
    }
}

fn start_shared(root: &Path) {
    let options = Options {
        fsync: false,
        max_connections: MAX_CONNECTIONS,
        shared_buffers_mb: 64,
        guard: Guard::Setpriv,
        ..Options::new(root.join("data"))
    };
    let cluster = Cluster::prepare(&options).unwrap_or_else(|error| panic!("{error}"));
    let log = File::create(&cluster.log_path).expect("the log of the tests' cluster");
    drop(lock_file(root, "watchdog.lock"));
    let status = cluster
        .account
        .command("setsid")
        .args(["--fork", "sh", "-c", WATCHDOG, "lessor-test-watchdog"])
        .arg(root)
        .arg(IDLE_SECONDS.to_string())
        .arg(cluster.binaries.program("postgres"))
        .args(cluster.server_arguments())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .status()
        .expect("setsid of util-linux");
    assert!(status.success(), "setsid: {status}");
    let deadline = Instant::now() + START_PATIENCE;
    while !(watchdog_lives(root) && cluster.postmaster().is_some_and(|(_, ready)| ready)) {
        let log = || fs::read_to_string(&cluster.log_path).unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "the tests' cluster does not start:\n{}",
            log()
        );
        std::thread::sleep(POLL);
    }
    fs::write(root.join("url"), cluster.url_of("postgres")).expect("write the URL");
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error:?}"));
    // Ends when the client is dropped, or with the test's runtime.
    tokio::spawn(connection);
    client
}

async fn execute(client: &Client, sql: &str) {
    client
        .simple_query(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn number(client: &Client, sql: &str) -> i64 {
    let row = client
        .query_one(sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get::<_, String>(0)
        .parse()
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn is_template(admin: &Client, name: &str) -> bool {
    let sql = "SELECT FROM pg_database WHERE datname = $1 AND datistemplate";
    admin
        .query_opt(sql, &[&name])
        .await
        .expect("pg_database")
        .is_some()
}

/// Names are ours: letters, digits and underscores.
fn url_of(postgres: &str, database: &str) -> String {
    postgres.replacen("/postgres?", &format!("/{database}?"), 1)
}

fn hash(value: &impl Hash) -> u64 {
    // Without a random seed: all processes of one build agree.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// From `/proc/<pid>/stat`: "pid (name) state ppid …", where a name may hold anything.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let ppid: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            (ppid == parent).then_some(pid)
        })
        .collect()
}

#[tokio::test]
async fn a_template_is_made_once_for_a_key_and_copies_are_apart() {
    let key = uuid::Uuid::new_v4().to_string();
    let migrate = |url: String| async move {
        execute(&connect(&url).await, "CREATE TABLE thing (id int)").await;
    };
    let first = TestDatabase::create_with(&key, migrate).await;
    let second = TestDatabase::create_with(&key, |_| async { panic!("made twice") }).await;
    execute(&first.client().await, "INSERT INTO thing VALUES (1)").await;
    assert_eq!(
        number(&second.client().await, "SELECT count(*)::text FROM thing").await,
        0
    );
    let other = TestDatabase::create_with(&format!("{key} changed"), |_| async {}).await;
    assert!(
        other
            .client()
            .await
            .simple_query("SELECT FROM thing")
            .await
            .is_err()
    );
    let name = first.name.clone();
    drop(first);
    let admin = TestDatabase::admin_client().await;
    let left = admin
        .query("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await;
    assert!(
        left.expect("pg_database").is_empty(),
        "{name} was not dropped"
    );
}

#[tokio::test]
async fn an_own_cluster_can_be_hurt() {
    let mut own = OwnCluster::start().await;
    let url = own.url().to_owned();
    execute(&connect(&url).await, "CREATE TABLE thing AS SELECT 1 AS id").await;
    own.kill_immediately().await;
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
    own.start_again().await;
    assert_eq!(own.url(), url);
    let client = connect(&url).await;
    assert_eq!(number(&client, "SELECT count(*)::text FROM thing").await, 1);
    own.freeze();
    let query = number(&client, "SELECT count(*)::text FROM thing");
    tokio::pin!(query);
    let frozen = tokio::time::timeout(Duration::from_millis(200), &mut query).await;
    assert!(frozen.is_err(), "a frozen server answered");
    own.thaw();
    assert_eq!(query.await, 1);
    own.stop().await;
    own.start_again().await;
}
