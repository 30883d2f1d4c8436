//! Start, and ordered stop.
//!
//! To stop: `/readyz` fails and parked polls end with 200 and empty lists. On SIGTERM everything is
//! then served for a while longer, each answer ending its connection, until load balancers have
//! noticed. Then no connection is accepted any more and those that are open end with their request;
//! then what is being written is waited for; then heartbeats, upkeep and notifications end; last the
//! private PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::access;
use crate::app::{App, Settings};
use crate::config::Config;
use crate::postgres::{Options, PrivatePostgres};
use crate::store::{self, listen, migrate};
use crate::webhooks::address::Allowed;
use crate::wire::tls::Tls;
use crate::wire::{self, Limits};

/// An error that ends the program, as its text says.
pub type Fatal = Box<dyn std::error::Error + Send + Sync>;

/// For how long the database may be away at the start before that is an error.
const DATABASE_PATIENCE: Duration = Duration::from_secs(30);

/// A service that could answer, and does not yet.
pub struct Prepared {
    /// The service.
    pub app: Arc<App>,
    listener: TcpListener,
    address: std::net::SocketAddr,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    postgres: Option<PrivatePostgres>,
    patience: Patience,
}

/// A service that answers.
pub struct Running {
    /// The service.
    pub app: Arc<App>,
    /// Where it answers.
    pub address: std::net::SocketAddr,
    postgres: Option<PrivatePostgres>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    patience: Patience,
}

/// For how long a stop takes account of others.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Serving on, until load balancers have noticed.
    delay: Duration,
    /// Waiting for requests and tasks to end.
    timeout: Duration,
}

/// How the service is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Serve on until load balancers have noticed.
    WhenNoticed,
    /// Begin at once: somebody waits for it at a terminal.
    AtOnce,
}

/// As [`prepare`], unless a signal comes first. Then nobody has been answered and there is nothing to stop in
/// order: what was begun ends with the process.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_unless(
    signals: &mut Signals,
    config: Config,
) -> Result<Option<Prepared>, Fatal> {
    tokio::select! {
        prepared = prepare(config) => prepared.map(Some),
        _ = signals.next() => {
            tracing::info!("stopped before it served");
            Ok(None)
        }
    }
}

/// Prepares the service: socket, database, migrations, background tasks.
///
/// # Errors
/// When any of them cannot be had, with a sentence that says what to do.
pub async fn prepare(config: Config) -> Result<Prepared, Fatal> {
    let config = config.validate()?;
    // The socket first: a port that is taken is found out before a database is started.
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.listen))?;
    let address = listener.local_addr()?;
    let tls = config.wire.tls().map(Tls::read).transpose()?;
    raise_file_limit();
    let (url, postgres) = database(&config).await?;
    let listen_url = config
        .listen_url
        .as_ref()
        .map_or_else(|| url.clone(), |url| config.trust.named_in(url));
    let ran = migrated(&url).await?;
    for migration in &ran {
        tracing::info!(%migration, "the schema was migrated");
    }
    listen::probe(&listen_url, &url).await?;
    let app = App::start(Settings {
        database_url: url.clone(),
        listen_url,
        admin_token: config.admin_token.clone(),
        open: config.is_open(),
        oidc: config.oidc.settings(),
        audit_retention: Duration::from_secs(u64::from(config.audit_retention_days) * 86_400),
        max_waiters: config.max_waiters as usize,
        max_event_streams: config.max_event_streams as usize,
        event_retention: Duration::from_secs(u64::from(config.event_retention_days) * 86_400),
        db_connections: config.db_connections as usize,
        heartbeat_db_connections: config.heartbeat_db_connections as usize,
        max_requests: config.wire.max_requests as usize,
        rate_limit_per_minute: config.wire.rate_limit_per_minute,
        cors_origins: config.wire.cors_origins.clone(),
        webhook_allow: Allowed::new(config.wire.webhook_allow.clone()),
    })?;
    if config.is_open() {
        warn_of_tokens(&app).await;
    }
    tracing::info!(
        database = store::describe(&url),
        version = env!("CARGO_PKG_VERSION"),
        "prepared"
    );
    // A private database has this server alone: nobody could be sent to another.
    let delay = if postgres.is_some() {
        0
    } else {
        config.stop_delay_seconds
    };
    let patience = Patience {
        delay: Duration::from_secs(u64::from(delay)),
        timeout: Duration::from_secs(u64::from(config.stop_timeout_seconds)),
    };
    Ok(Prepared {
        app,
        listener,
        address,
        limits: config.wire.limits(),
        tls,
        postgres,
        patience,
    })
}

/// Whoever made tokens may think that they are asked for.
async fn warn_of_tokens(app: &App) {
    let everything = access::Keeper::everything("start");
    if let Ok(tokens) = access::list(&app.db, &everything, None, 1).await
        && !tokens.is_empty()
    {
        tracing::warn!(
            "access is open: everybody is an administrator, although there are tokens; set LESSOR_ACCESS=tokens to ask \
             for them"
        );
    }
}

impl Prepared {
    /// Answers from now on.
    #[must_use]
    pub fn serve(self) -> Running {
        let router = crate::api::router(&self.app);
        let stopping = self.app.stop.clone();
        if let Some(tls) = &self.tls {
            let reading = Arc::clone(tls).keep_reading(stopping.clone());
            self.app.writes().spawn(reading);
        }
        self.app.writes().spawn(give_back(stopping.clone()));
        tracing::info!(address = %self.address, tls = self.tls.is_some(), "serving");
        let server = wire::serve(self.listener, router, self.limits, self.tls, stopping);
        Running {
            app: self.app,
            address: self.address,
            postgres: self.postgres,
            server: tokio::spawn(server),
            patience: self.patience,
        }
    }
}

/// Gives the memory back that the start took: the document of the API is built then, and takes some 18 MB
/// for a moment. The allocator gives back what has been free for a second, and looks for that when a large
/// piece is freed, which on an idle server happens to nobody.
async fn give_back(stopping: CancellationToken) {
    const LARGE: usize = 1 << 20;
    tokio::select! {
        () = stopping.cancelled() => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => drop(std::hint::black_box(vec![1_u8; LARGE])),
    }
}

/// Connections are files, and the limit that processes begin with (1,024 of them) is for programs of
/// another kind. Where it cannot be raised, accepting waits for room.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

async fn database(config: &Config) -> Result<(String, Option<PrivatePostgres>), Fatal> {
    if let Some(url) = config.database() {
        return Ok((url, None));
    }
    let mut options = Options::new(config.data_dir()?);
    options.bin_dir.clone_from(&config.pg_bin_dir);
    options.max_connections = config.db_connections + config.heartbeat_db_connections + 21;
    let postgres = PrivatePostgres::start(options).await?;
    Ok((postgres.url(), Some(postgres)))
}

/// Migrates, waiting for a database that is still coming up.
async fn migrated(url: &str) -> Result<Vec<String>, Fatal> {
    let deadline = tokio::time::Instant::now() + DATABASE_PATIENCE;
    loop {
        match migrate::run(url).await {
            Ok(ran) => return Ok(ran),
            Err(crate::error::Error::DatabaseUnavailable(why))
                if tokio::time::Instant::now() < deadline =>
            {
                tracing::warn!(%why, "waiting for the database");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
}

impl Running {
    /// Serves until `stop` resolves or the private PostgreSQL ends by itself, then stops in order.
    /// A signal that comes while it still serves on ends that.
    ///
    /// # Errors
    /// When PostgreSQL ended by itself, or the socket failed.
    pub async fn until(mut self, stop: impl Future<Output = Stop>) -> Result<(), Fatal> {
        let reason = match self.unless_broken(stop).await {
            Ok(Stop::WhenNoticed) if !self.patience.delay.is_zero() => {
                tracing::info!(delay = ?self.patience.delay, "about to stop; serving on");
                self.app.begin_leave();
                let delay = self.patience.delay;
                let mut again = Signals::listen();
                let noticed = async {
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        _ = again.next() => {}
                    }
                };
                self.unless_broken(noticed).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        tracing::info!("stopping");
        self.app.begin_stop();
        let orderly = async {
            if !self.server.is_finished() {
                let _ = (&mut self.server).await;
            }
            self.app.finish().await;
        };
        if tokio::time::timeout(self.patience.timeout, orderly)
            .await
            .is_err()
        {
            tracing::warn!("what did not end within the stop timeout is cut off");
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        tracing::info!("stopped");
        reason
    }

    /// What `what` resolves to, unless the private PostgreSQL or the server ends by itself before.
    async fn unless_broken<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Fatal> {
        let exited = self.postgres.as_ref().map(PrivatePostgres::exited);
        let exited = async {
            match exited {
                Some(exited) => exited.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            what = what => Ok(what),
            error = exited => Err(error.into()),
            ended = &mut self.server => Err(match ended {
                Ok(Ok(())) => "the server ended".into(),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            }),
        }
    }
}

/// SIGTERM and Ctrl-C. They are heard from when this is made, and no more by what the system does with them: it
/// would end a process that starts, or one that answers already and has not come to listen for them; and as the first
/// of a container it would not hear them at all.
pub struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// Begins to listen.
    #[must_use]
    pub fn listen() -> Self {
        let both = signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
        Self(both.ok())
    }

    /// The next of them since then.
    pub async fn next(&mut self) -> Stop {
        match &mut self.0 {
            Some((terminate, interrupt)) => tokio::select! {
                _ = terminate.recv() => Stop::WhenNoticed,
                _ = interrupt.recv() => Stop::AtOnce,
            },
            // Without handlers the signals end the process, which loses nothing that was acknowledged.
            None => std::future::pending().await,
        }
    }
}
