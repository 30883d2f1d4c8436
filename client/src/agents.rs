//! Calls by agents and about agents.

use std::time::Duration;

use lessor_protocol::{
    Agent, AgentBulk, AgentBulkRequest, Availability, Claim, Claimed, CordonRequest, Heartbeat,
    Inventory, Labels, Leftover, LeftoverKind, Page, Register, Registered, Renewed, ReportResults,
    Reports, Scheduling, Verdicts,
};
use reqwest::Method;

use crate::client::{BULK_TIMEOUT, Call, Client, POLL_MARGIN, Paging};
use crate::error::Error;

/// Which agents to list; what is left out does not narrow it.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Of this pool.
    pub pool: Option<String>,
    /// Whose lease holds, or has ended.
    pub availability: Option<Availability>,
    /// Which are, or are not, given new sessions.
    pub scheduling: Option<Scheduling>,
    /// Of this resource domain.
    pub resource_domain: Option<String>,
    /// With all of these labels.
    pub labels: Labels,
    /// The page.
    pub paging: Paging,
}

/// Which leftovers to list; what is left out does not narrow it.
#[derive(Clone, Debug, Default)]
pub struct LeftoverFilter {
    /// Of this pool.
    pub pool: Option<String>,
    /// Of this resource domain.
    pub resource_domain: Option<String>,
    /// Of this kind.
    pub kind: Option<LeftoverKind>,
    /// The page.
    pub paging: Paging,
}

impl AgentFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        push(&mut query, "pool", self.pool.as_ref());
        push(&mut query, "availability", self.availability.as_ref());
        push(&mut query, "scheduling", self.scheduling.as_ref());
        push(&mut query, "resource_domain", self.resource_domain.as_ref());
        push_labels(&mut query, &self.labels);
        self.paging.query(&mut query);
        query
    }
}

pub(crate) fn push(
    query: &mut Vec<(&'static str, String)>,
    name: &'static str,
    value: Option<&impl ToString>,
) {
    query.extend(value.map(|value| (name, value.to_string())));
}

pub(crate) fn push_labels(query: &mut Vec<(&'static str, String)>, labels: &Labels) {
    query.extend(
        labels
            .iter()
            .map(|(key, value)| ("label", format!("{key}:{value}"))),
    );
}

impl Client {
    /// Registers an agent, or renews its registration.
    ///
    /// # Errors
    /// See [`Error`]; `agent_superseded` means that this run must exit.
    pub async fn register_agent(&self, agent: &str, body: &Register) -> Result<Registered, Error> {
        self.fetch(Call::new(Method::PUT, &["agents", agent]).json(body)?)
            .await
    }

    /// One agent.
    ///
    /// # Errors
    /// See [`Error`]; `agent_not_registered`.
    pub async fn get_agent(&self, agent: &str) -> Result<Agent, Error> {
        self.fetch(Call::new(Method::GET, &["agents", agent])).await
    }

    /// A page of the agents.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_agents(&self, filter: &AgentFilter) -> Result<Page<Agent>, Error> {
        self.fetch(Call::new(Method::GET, &["agents"]).query(filter.query()))
            .await
    }

    /// An agent's goodbye when `incarnation` is its own; an operator's removal without it. The
    /// agent's sessions can be claimed at once, and their resources run on.
    ///
    /// # Errors
    /// See [`Error`]; `agent_live` when an operator removes a live agent without `force`.
    pub async fn deregister_agent(
        &self,
        agent: &str,
        incarnation: Option<i64>,
        force: bool,
    ) -> Result<(), Error> {
        let mut query = Vec::new();
        push(&mut query, "incarnation", incarnation.as_ref());
        push(&mut query, "force", force.then_some("true").as_ref());
        self.done(Call::new(Method::DELETE, &["agents", agent]).query(query))
            .await
    }

    /// Renews an agent's lease.
    ///
    /// # Errors
    /// See [`Error`]; `lease_expired` and `agent_not_registered` mean: register again.
    pub async fn heartbeat(&self, agent: &str, body: &Heartbeat) -> Result<Renewed, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "heartbeat"]).json(body)?)
            .await
    }

    /// Claims work: the long poll. It takes as long as `wait_seconds`, and at most 10 s more.
    ///
    /// # Errors
    /// See [`Error`]; a claim that ends with `claim_superseded` must not be retried.
    pub async fn claim(&self, agent: &str, body: &Claim) -> Result<Claimed, Error> {
        let wait = Duration::try_from_secs_f64(body.wait_seconds).unwrap_or_default();
        let path = ["agents", agent, "claim"];
        let call = Call::new(Method::POST, &path).json(body)?;
        self.fetch(call.timeout(wait + POLL_MARGIN)).await
    }

    /// Reports on sessions, at most 1,000. Each item stands alone.
    ///
    /// # Errors
    /// See [`Error`]. A report that was fenced or rejected is no error of the call.
    pub async fn report(&self, agent: &str, body: &Reports) -> Result<ReportResults, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "reports"]).json(body)?)
            .await
    }

    /// Tells what an agent sees of its domain: all of it, or do not call this.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send_inventory(&self, agent: &str, body: &Inventory) -> Result<Verdicts, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "inventory"]).json(body)?)
            .await
    }

    /// A page of what sessions left behind, and of what is in quarantine.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_leftovers(&self, filter: &LeftoverFilter) -> Result<Page<Leftover>, Error> {
        let mut query = Vec::new();
        push(&mut query, "pool", filter.pool.as_ref());
        push(
            &mut query,
            "resource_domain",
            filter.resource_domain.as_ref(),
        );
        push(&mut query, "kind", filter.kind.as_ref());
        filter.paging.query(&mut query);
        self.fetch(Call::new(Method::GET, &["leftovers"]).query(query))
            .await
    }

    /// Acts on every agent that a filter matches; repeat it while its answer says `more`.
    ///
    /// # Errors
    /// See [`Error`]; what was done before an error stays done, and the call can be repeated.
    pub async fn bulk_agents(&self, body: &AgentBulkRequest) -> Result<AgentBulk, Error> {
        self.fetch(
            Call::new(Method::POST, &["agents", "bulk"])
                .json(body)?
                .timeout(BULK_TIMEOUT),
        )
        .await
    }

    /// Gives an agent no new sessions.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cordon_agent(&self, agent: &str, body: &CordonRequest) -> Result<Agent, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "cordon"]).json(body)?)
            .await
    }

    /// Lifts a cordon.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn uncordon_agent(&self, agent: &str) -> Result<Agent, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "uncordon"]))
            .await
    }
}
