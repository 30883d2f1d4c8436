//! An agent as its row has it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use lessor_protocol::{Agent, Availability, Cordon, Instance, Labels, Scheduling};

use crate::error::{Error, Result};
use crate::sessions::Assignee;
use crate::store::schema::agents;
use crate::store::{LabelsColumn, Word};

/// A row of `agents`.
#[derive(Clone, Debug, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = agents)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct AgentRow {
    pub name: String,
    pub pool: String,
    pub resource_domain: String,
    pub capacity: i32,
    pub slots_used: i32,
    #[diesel(deserialize_as = LabelsColumn)]
    pub labels: Labels,
    pub agent_version: Option<String>,
    pub protocol_version: i32,
    pub instance_id: Option<String>,
    pub instance_host: Option<String>,
    pub instance_pid: Option<i64>,
    pub incarnation: i64,
    pub live: bool,
    pub lease_expires_at: DateTime<Utc>,
    pub last_heartbeat_at: DateTime<Utc>,
    pub claim_number: i64,
    pub cordoned: bool,
    pub cordon_reason: Option<String>,
    pub cordon_by: Option<String>,
    pub cordon_since: Option<DateTime<Utc>>,
    pub cordon_until: Option<DateTime<Utc>>,
    pub offers_lapsed: i32,
    pub passed_over_until: Option<DateTime<Utc>>,
    pub expired_at: Option<DateTime<Utc>>,
    pub registered_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    #[diesel(deserialize_as = Word<Scheduling>)]
    pub scheduling: Scheduling,
}

impl AgentRow {
    /// Refuses a call that does not come from the current run of the agent, under a lease that has
    /// not ended. The row must be locked.
    ///
    /// # Errors
    /// `AgentSuperseded` or `LeaseExpired`.
    pub fn fence(&self, incarnation: i64) -> Result<()> {
        fence(&self.name, incarnation, self.incarnation, self.live)
    }

    /// It as the one that a session is given to.
    #[must_use]
    pub fn assignee(&self) -> Assignee {
        Assignee {
            name: self.name.clone(),
            incarnation: self.incarnation,
            resource_domain: self.resource_domain.clone(),
        }
    }

    /// It as the API shows it.
    #[must_use]
    pub fn into_agent(self, held_sessions: i64, now: DateTime<Utc>) -> Agent {
        let left = (self.lease_expires_at - now).as_seconds_f64().max(0.0);
        Agent {
            free_slots: (self.capacity - self.slots_used).max(0),
            name: self.name,
            pool: self.pool,
            resource_domain: self.resource_domain,
            capacity: self.capacity,
            held_sessions,
            labels: self.labels,
            agent_version: self.agent_version,
            protocol_version: self.protocol_version,
            instance: self.instance_id.map(|id| Instance {
                id,
                host: self.instance_host,
                pid: self.instance_pid,
            }),
            incarnation: self.incarnation,
            availability: if self.live {
                Availability::Live
            } else {
                Availability::Expired
            },
            scheduling: self.scheduling,
            cordon: self.cordon_since.map(|since| Cordon {
                reason: self.cordon_reason,
                by: self.cordon_by.unwrap_or_default(),
                since,
                until: self.cordon_until,
            }),
            lease_expires_in_seconds: self.live.then_some(left),
            last_heartbeat_at: self.last_heartbeat_at,
            registered_at: self.registered_at,
            created_at: self.created_at,
        }
    }
}

/// As [`AgentRow::fence`], for those who read less of the row.
///
/// # Errors
/// `AgentSuperseded` or `LeaseExpired`.
pub fn fence(agent: &str, given: i64, current: i64, live: bool) -> Result<()> {
    // A number from the future, as after a restore of the database, is fenced as well.
    if given != current {
        return Err(Error::AgentSuperseded {
            agent: agent.to_owned(),
            given: format!("incarnation {given}"),
            current,
        });
    }
    if !live {
        return Err(Error::LeaseExpired(agent.to_owned()));
    }
    Ok(())
}
