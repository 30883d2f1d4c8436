//! The way to the database: TLS as the URL says, with the authorities that were named; and poolers that do
//! not pass notifications on.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Output, Stdio};

use lessor::postgres::{Cluster, Options};
use lessor::store;
use lessor_protocol::PoolSpec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio_postgres::config::Host;

use crate::support::agents::Folder;
use crate::support::authority::Authority;
use crate::support::process::ServerProcess;
use crate::support::{TestAgent, TestServer, database, eventually};

/// A PostgreSQL on a TCP port, with a certificate for `localhost`.
struct Postgres {
    cluster: Cluster,
    server: Child,
    port: u16,
}

impl Postgres {
    async fn start(folder: &Folder, authority: &Authority) -> Self {
        let options = Options {
            fsync: false,
            guard: lessor::postgres::Guard::Setpriv,
            ..Options::new(folder.0.join("data"))
        };
        let made = tokio::task::spawn_blocking(move || Cluster::prepare(&options));
        let cluster = made.await.expect("the task").expect("a cluster");
        let (certificate, key) = authority.signs();
        let write = |name: &str, text: &str| {
            let path = cluster.data.join(name);
            std::fs::write(&path, text).expect("a file");
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, private).expect("its mode");
            cluster.account.own(&path).expect("its owner");
        };
        write("server.crt", &certificate);
        write("server.key", &key);
        write(
            "hba.conf",
            "local all all trust\nhost all all 127.0.0.1/32 trust\n",
        );
        write("ssl.conf", "ssl = on\n");
        let conf = cluster.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).expect("its settings");
        write("postgresql.conf", &format!("{text}\ninclude 'ssl.conf'\n"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let log = std::fs::File::create(&cluster.log_path).expect("its log");
        let server = cluster
            .account
            .command(cluster.binaries.program("postgres"))
            .args(cluster.server_arguments())
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args([
                "-c",
                &format!("hba_file={}", cluster.data.join("hba.conf").display()),
            ])
            .args(["-c", &format!("port={port}")])
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let postgres = Self {
            cluster,
            server,
            port,
        };
        eventually("it answers", || async {
            postgres.speaks("sslmode=disable").await.is_ok()
        })
        .await;
        postgres
    }

    fn url(&self, host: &str, parameters: &str) -> String {
        format!(
            "postgres://lessor@{host}:{}/postgres?{parameters}",
            self.port
        )
    }

    /// Whether TLS is spoken over a connection with these parameters, or why there is none.
    async fn speaks(&self, parameters: &str) -> Result<bool, String> {
        speaks(&self.url("localhost", parameters)).await
    }

    /// Whether it offers TLS from now on.
    async fn offers_tls(&self, on: bool) {
        let text = if on { "ssl = on\n" } else { "ssl = off\n" };
        std::fs::write(self.cluster.data.join("ssl.conf"), text).expect("its settings");
        let url = self.url("localhost", "sslmode=disable");
        let (client, connection) = store::client(&url).await.expect("a connection");
        tokio::spawn(connection);
        let reload = "SELECT pg_reload_conf()";
        client.batch_execute(reload).await.expect("it reads them");
        eventually("it does", || async {
            let said = client.query_one("SHOW ssl", &[]).await.expect("a setting");
            said.get::<_, &str>(0) == if on { "on" } else { "off" }
        })
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whether the server says that it speaks TLS with us.
async fn speaks(url: &str) -> Result<bool, String> {
    let (client, connection) = store::client(url)
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let text = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(text, &[]).await;
    Ok(row.map_err(|error| error.to_string())?.get(0))
}

#[tokio::test]
async fn the_url_and_the_authority_decide_whether_and_to_whom_tls_is_spoken() {
    let folder = Folder::new();
    let right = Authority::named("right ca.pem");
    let wrong = Authority::named("wrong ca.pem");
    let postgres = Postgres::start(&folder, &right).await;
    let right = right.file(&folder.0, "right ca.pem");
    let wrong = wrong.file(&folder.0, "wrong ca.pem");
    let with = |parameters: &str, file: &str| {
        let file = Some(std::path::Path::new(file));
        store::trusting(&postgres.url("localhost", parameters), file)
    };
    for mode in [
        "",
        "sslmode=require",
        "sslmode=verify-ca",
        "sslmode=verify-full",
    ] {
        assert_eq!(speaks(&with(mode, &right)).await, Ok(true), "{mode}");
        let refused = speaks(&with(mode, &wrong)).await.expect_err(mode);
        assert!(refused.contains("UnknownIssuer"), "{mode}: {refused}");
        assert!(refused.contains("LESSOR_DATABASE_CA"), "{mode}: {refused}");
    }
    // Where nothing is checked, there is TLS all the same.
    for parameters in ["", "sslmode=prefer", "sslmode=allow"] {
        assert_eq!(postgres.speaks(parameters).await, Ok(true), "{parameters}");
    }
    assert_eq!(speaks(&with("sslmode=prefer", &wrong)).await, Ok(true));
    assert_eq!(postgres.speaks("sslmode=disable").await, Ok(false));
    // Nobody of this system's authorities has signed it.
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}");
        let refused = postgres.speaks(&parameters).await.expect_err(mode);
        assert!(refused.contains("UnknownIssuer"), "{mode}: {refused}");
    }
    // By another name than that of its certificate.
    let by_address = |mode: &str| {
        let file = std::path::Path::new(&right);
        let url = postgres.url("127.0.0.1", &format!("sslmode={mode}"));
        store::trusting(&url, Some(file))
    };
    assert_eq!(speaks(&by_address("verify-ca")).await, Ok(true));
    for mode in ["require", "verify-full"] {
        let refused = speaks(&by_address(mode)).await.expect_err(mode);
        assert!(refused.contains("not valid for name"), "{mode}: {refused}");
    }
    // And one that has no TLS.
    postgres.offers_tls(false).await;
    assert_eq!(postgres.speaks("sslmode=prefer").await, Ok(false));
    for mode in [
        "",
        "sslmode=require",
        "sslmode=verify-ca",
        "sslmode=verify-full",
    ] {
        let refused = speaks(&with(mode, &right)).await.expect_err(mode);
        assert!(
            refused.contains("does not support TLS"),
            "{mode}: {refused}"
        );
    }
}

/// `lessor` with these arguments, over a database and with its authorities.
async fn lessor(url: &str, authority: &str, arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(arguments)
        .env("DATABASE_URL", url)
        .env("LESSOR_DATABASE_CA", authority)
        .env("LESSOR_LOG", "warn")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs")
}

#[tokio::test]
async fn a_service_speaks_tls_with_its_database_and_listens_over_it() {
    let folder = Folder::new();
    let right = Authority::named("right.pem");
    let wrong = Authority::named("wrong.pem");
    let postgres = Postgres::start(&folder, &right).await;
    let right = right.file(&folder.0, "right.pem");
    let wrong = wrong.file(&folder.0, "wrong.pem");
    let url = postgres.url("localhost", "sslmode=verify-full");
    for arguments in [
        &["migrate"][..],
        &["token", "create", "--name", "first", "--role", "admin"],
        &["restore-fence"],
    ] {
        let output = lessor(&url, &right, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let trusted = [("LESSOR_DATABASE_CA", right.as_str())];
    let server = ServerProcess::start_with(&url, &trusted, None).await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("a pool");
    let mut agent = TestAgent::new(&server.client, "a", ("p", "d"), 1);
    agent.register(&[]).await;
    // All that it has open, and what it listens over.
    let (client, connection) = store::client(&postgres.url("localhost", "sslmode=disable"))
        .await
        .expect("a connection");
    tokio::spawn(connection);
    let open = "SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl),
            count(*) FILTER (WHERE s.ssl AND a.query ~ '^(SET .*LISTEN|SELECT pg_notify|-- wakeups::wire)')
        FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name = 'lessor' AND a.pid <> pg_backend_pid()";
    // Once it has come up: on a busy machine that which listens is still on its way, or comes anew.
    eventually("it listens over TLS", async || {
        let row = client.query_one(open, &[]).await.expect("backends");
        let (over_tls, without, listening): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(without, 0);
        over_tls > 1 && listening == 1
    })
    .await;

    // Another authority: it says why it does not come up, and does not.
    let said = folder.0.join("said");
    let mistrusted = [("LESSOR_DATABASE_CA", wrong.as_str())];
    let mut other = ServerProcess::begin(&url, &mistrusted, Some(&said)).await;
    eventually("it says why", || async {
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        said.contains("UnknownIssuer") && said.contains("LESSOR_DATABASE_CA")
    })
    .await;
    assert!(!other.is_ready().await);
    other.kill().await;
}

/// A way to the database that passes everything on but notifications, as a pooler between transactions does.
struct Pooler {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Pooler {
    /// Before the database at `url`, which is reached over a Unix socket.
    async fn before(url: &str) -> Self {
        let target: tokio_postgres::Config = url.parse().expect("a URL");
        let Host::Unix(folder) = &target.get_hosts()[0] else {
            panic!("not a socket: {url}");
        };
        let port = target.get_ports().first().copied().unwrap_or(5432);
        let socket = folder.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (user, name) = (target.get_user(), target.get_dbname());
        let url = format!(
            "postgres://{}@127.0.0.1:{port}/{}?sslmode=disable",
            user.expect("a user"),
            name.expect("a database")
        );
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = UnixStream::connect(&socket).await.expect("the database");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                    let _ = to_server.shutdown().await;
                });
                tokio::spawn(async move {
                    let _ = all_but_notifications(&mut from_server, &mut to_client).await;
                    let _ = to_client.shutdown().await;
                });
            }
        });
        Self { url, task }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each message is a letter, its length with these four bytes, and what it says.
async fn all_but_notifications(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let length = from.read_u32().await?;
        let mut rest = vec![0; length as usize - 4];
        from.read_exact(&mut rest).await?;
        if kind != b'A' {
            let mut message = vec![kind];
            message.extend(length.to_be_bytes());
            message.extend(rest);
            to.write_all(&message).await?;
        }
    }
}

#[tokio::test]
async fn where_notifications_do_not_arrive_the_service_says_so_and_does_not_start() {
    let database = database().await;
    let pooler = Pooler::before(&database.url).await;
    store::listen::probe(&database.url, &database.url)
        .await
        .expect("they arrive");
    // They are sent through the pooler, which does no harm.
    store::listen::probe(&database.url, &pooler.url)
        .await
        .expect("they arrive");
    let lost = store::listen::probe(&pooler.url, &pooler.url).await;
    let lost = lost.expect_err("they do not").to_string();
    assert!(lost.contains("notifications do not arrive"), "{lost}");

    let folder = Folder::new();
    let said = folder.0.join("said");
    let mut server = ServerProcess::begin(&pooler.url, &[], Some(&said)).await;
    let status = server.ends_within(std::time::Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1));
    let said = std::fs::read_to_string(&said).expect("what it said");
    assert!(said.contains("notifications do not arrive"), "{said}");
    assert!(said.contains("set LESSOR_LISTEN_URL to a direct"), "{said}");

    // With a direct connection for them it serves, and hears what others say.
    let direct = [("LESSOR_LISTEN_URL", database.url.as_str())];
    let server = ServerProcess::start_with(&pooler.url, &direct, None).await;
    let other = TestServer::over(database, |_| {}).await;
    other.pool("p", |_| {}).await;
    let mut agent = TestAgent::new(&server.client, "a", ("p", "d"), 1);
    agent.register(&[]).await;
    let parked = agent.park(1, 50.0);
    eventually("the poll is parked", || async {
        let text = reqwest::get(format!("{}/metrics", server.url)).await;
        let text = text.expect("metrics").text().await.expect("text");
        text.contains("lessor_waiters{pool=\"p\"} 1\n")
    })
    .await;
    let session = other.session("p").await;
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, session.id);
    other.stop().await;
}
