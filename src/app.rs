//! The one place where things are wired together.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::access::{
    Access,
    oidc::{self, Oidc},
};
use crate::audit::Audit;
use crate::claims::Dispatchers;
use crate::error::{Error, Result};
use crate::events::{self, Tail};
use crate::http::{Edge, Gate, RateLimit};
use crate::leases::Renewals;
use crate::limits::Activities;
use crate::reports::Reporting;
use crate::sessions::{Creating, CreatingWorker};
use crate::store::Db;
use crate::upkeep;
use crate::wakeups::{self, Hub};
use crate::webhooks::{self, Webhooks, address::Allowed};

/// What an [`App`] is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database.
    pub database_url: String,
    /// Where to LISTEN.
    pub listen_url: String,
    /// A token that allows everything, if any.
    pub admin_token: Option<SecretString>,
    /// Whether nobody is asked for a token.
    pub open: bool,
    /// Who says who people are, if anybody.
    pub oidc: Option<oidc::Settings>,
    /// For how long the audit is kept.
    pub audit_retention: Duration,
    /// How many polls may be parked.
    pub max_waiters: usize,
    /// How many streams of events may be open.
    pub max_event_streams: usize,
    /// For how long events are kept.
    pub event_retention: Duration,
    /// How many connections work shares.
    pub db_connections: usize,
    /// How many are kept for heartbeats.
    pub heartbeat_db_connections: usize,
    /// How many calls of users are worked on at once.
    pub max_requests: usize,
    /// How many calls one caller may make in a minute, if that is limited.
    pub rate_limit_per_minute: Option<u32>,
    /// Which sites' pages may call.
    pub cors_origins: Vec<HeaderValue>,
    /// Where webhooks may be sent besides the public Internet.
    pub webhook_allow: Allowed,
}

impl Settings {
    /// The defaults, over the database at `url`.
    #[must_use]
    pub fn over(url: &str) -> Self {
        Self {
            database_url: url.to_owned(),
            listen_url: url.to_owned(),
            admin_token: None,
            open: true,
            oidc: None,
            audit_retention: Duration::from_secs(365 * 86_400),
            max_waiters: 20_000,
            max_event_streams: 10_000,
            event_retention: Duration::from_secs(30 * 86_400),
            db_connections: 16,
            heartbeat_db_connections: 2,
            max_requests: 2_048,
            rate_limit_per_minute: None,
            cors_origins: Vec::new(),
            webhook_allow: Allowed::default(),
        }
    }
}

/// A running service without its socket.
pub struct App {
    /// The database.
    pub db: Db,
    /// Who is to be woken.
    pub hub: Hub,
    /// Where leases are renewed.
    pub renewals: Renewals,
    /// Where reports are taken.
    pub reporting: Reporting,
    /// Where heartbeats tell of activity.
    pub activities: Activities,
    /// Where sessions that are created arrive together.
    pub creating: Creating,
    /// Where claims are answered.
    pub dispatchers: Dispatchers,
    /// The latest events, for streams.
    pub tail: Tail,
    /// For how long events are kept.
    pub event_retention: Duration,
    /// Where events are sent to.
    pub webhooks: Webhooks,
    /// What `/metrics` shows.
    pub metrics: PrometheusHandle,
    /// Who may call.
    pub access: Access,
    /// Where it is written down who changes what.
    pub audit: Audit,
    /// For how long that is kept.
    pub audit_retention: Duration,
    /// What is judged before anything is done for a request.
    pub edge: Edge,
    /// Cancelled when the service is about to stop: `/readyz` fails, and it serves on as usual.
    pub leaving: CancellationToken,
    /// Cancelled when the service begins to stop: parked polls end, new ones are refused.
    pub stop: CancellationToken,
    /// Writes of requests; they run to their end.
    writes: TaskTracker,
    /// Cancelled when requests are over: heartbeats, upkeep and notifications end.
    halt: CancellationToken,
    background: TaskTracker,
}

impl App {
    /// Starts the background tasks over a migrated database.
    ///
    /// # Errors
    /// When the connection pools cannot be built; the database itself may be away.
    pub fn start(settings: Settings) -> Result<Arc<Self>> {
        let db = Db::new(
            &settings.database_url,
            settings.db_connections,
            settings.heartbeat_db_connections,
        )?;
        let metrics = crate::telemetry::install_metrics();
        count_from_zero();
        let (hub, outgoing) = Hub::new();
        let (renewals, workers) = Renewals::new();
        let (reporting, taking) = Reporting::new();
        let (activities, activity_worker) = Activities::new();
        let (creating, creating_worker) = CreatingWorker::new();
        let oidc = settings.oidc.map(Oidc::new).transpose()?;
        let (access, access_watch) =
            Access::new(settings.admin_token.as_ref(), settings.open, oidc);
        let (audit, audit_writers) = Audit::new();
        let leaving = CancellationToken::new();
        let (stop, halt) = (CancellationToken::new(), CancellationToken::new());
        let background = TaskTracker::new();
        let dispatchers = Dispatchers::new(settings.max_waiters, background.clone(), stop.clone());
        let app = Arc::new(Self {
            db: db.clone(),
            hub: hub.clone(),
            renewals,
            reporting,
            activities,
            creating,
            dispatchers,
            tail: Tail::new(settings.max_event_streams),
            event_retention: settings.event_retention,
            webhooks: Webhooks::new(settings.webhook_allow)?,
            metrics,
            access,
            audit,
            audit_retention: settings.audit_retention,
            edge: Edge {
                leaving: leaving.clone(),
                gate: Arc::new(Gate::new(settings.max_requests, settings.max_waiters)),
                rate_limit: settings
                    .rate_limit_per_minute
                    .map(|quota| Arc::new(RateLimit::per_minute(quota))),
                cors_origins: settings.cors_origins,
            },
            leaving,
            stop,
            writes: TaskTracker::new(),
            halt: halt.clone(),
            background: background.clone(),
        });
        background.spawn(workers.run(db.clone(), halt.clone()));
        background.spawn(taking.run(db.clone(), hub.clone(), halt.clone()));
        background.spawn(activity_worker.run(db.clone(), halt.clone()));
        background.spawn(creating_worker.run(db.clone(), hub.clone(), halt.clone()));
        background.spawn(audit_writers.run(db.clone(), halt.clone()));
        background.spawn(access_watch.run(db, halt.clone()));
        background.spawn(wakeups::carry(
            settings.listen_url,
            hub,
            outgoing,
            halt.clone(),
        ));
        events::start(&app, &background, &halt);
        webhooks::start(&app, &background, &halt);
        upkeep::start(&app, &background, &halt);
        Ok(app)
    }

    /// Runs what writes in a task of its own: a client that hangs up does not cancel it half-way.
    ///
    /// # Errors
    /// What the work says; `Internal` when it panicked.
    pub fn detached<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.writes.spawn(work.in_current_span());
        async move {
            task.await
                .unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
        }
    }

    /// Where tasks of requests are tracked.
    #[must_use]
    pub fn writes(&self) -> &TaskTracker {
        &self.writes
    }

    /// Says that the service will stop: `/readyz` fails, and what is parked ends with empty answers.
    /// Everything is served as before, polls that come now included, until whoever sends requests
    /// here has noticed; each answer asks its client to open its next connection elsewhere.
    pub fn begin_leave(&self) {
        self.leaving.cancel();
        self.hub.end_polls();
    }

    /// Begins to stop: parked polls end with empty answers, `/readyz` fails, new polls are refused.
    pub fn begin_stop(&self) {
        self.leaving.cancel();
        self.stop.cancel();
    }

    /// Waits for what requests still write, then ends the background tasks and waits for them.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.writes.close();
        self.writes.wait().await;
        self.halt.cancel();
        self.background.close();
        self.background.wait().await;
    }
}

/// A counter that is not there until it is first raised looks like a missing metric.
fn count_from_zero() {
    metrics::counter!("lessor_claim_statements_total").absolute(0);
    metrics::counter!("lessor_queue_walks_total").absolute(0);
    metrics::counter!("lessor_leases_expired_total").absolute(0);
    metrics::counter!("lessor_outages_total").absolute(0);
    metrics::counter!("lessor_phase_timeouts_total", "phase" => "terminate").absolute(0);
    crate::drains::count_from_zero();
    metrics::counter!("lessor_inventories_total").absolute(0);
    for verdict in lessor_protocol::Verdict::ALL {
        metrics::counter!("lessor_verdicts_total", "verdict" => verdict.as_str()).absolute(0);
    }
    for outcome in lessor_protocol::Outcome::ALL {
        metrics::counter!("lessor_reports_total", "outcome" => outcome.as_str()).absolute(0);
    }
    metrics::counter!("lessor_activity_failures_total").absolute(0);
    metrics::counter!("lessor_audit_unfinished_total").absolute(0);
    metrics::counter!("lessor_http_shed_total").absolute(0);
    metrics::counter!("lessor_connections_refused_total").absolute(0);
    metrics::counter!("lessor_events_sequenced_total").absolute(0);
    metrics::gauge!("lessor_event_streams").increment(0.0);
    webhooks::count_from_zero();
    for limit in crate::limits::Limit::ALL {
        metrics::counter!("lessor_session_limits_total", "limit" => limit.as_str()).absolute(0);
    }
    for waiting_for in lessor_protocol::WaitingFor::ALL {
        let waiting_for = waiting_for.as_str();
        metrics::counter!("lessor_explanations_total", "waiting_for" => waiting_for).absolute(0);
    }
    for fits in ["true", "false"] {
        metrics::counter!("lessor_simulations_total", "fits" => fits).absolute(0);
    }
    let bulk = lessor_protocol::BulkAction::ALL.iter().map(|a| a.as_str());
    let agents = lessor_protocol::AgentBulkAction::ALL;
    for action in bulk.chain(agents.iter().map(|a| a.as_str())) {
        metrics::counter!("lessor_bulk_changed_total", "action" => action).absolute(0);
    }
    for status in lessor_protocol::CommandStatus::ALL {
        metrics::counter!("lessor_commands_total", "status" => status.as_str()).absolute(0);
    }
}
