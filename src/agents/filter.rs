//! Which agents are meant: the filter of lists, and of what is done to many.

use diesel::pg::Pg;
use diesel::prelude::*;
use lessor_protocol::{Availability, Labels, Scheduling};

use crate::access::Reach;
use crate::store::LabelsColumn;
use crate::store::schema::agents;

/// Which agents; what is left out filters nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the fields")]
pub struct AgentFilter {
    pub pool: Option<String>,
    pub availability: Option<Availability>,
    pub scheduling: Option<Scheduling>,
    pub resource_domain: Option<String>,
    pub labels: Labels,
    /// Only what this reaches.
    pub reach: Reach,
}

/// A query on agents that is being put together; `ST` is what it selects.
pub(super) type Query<ST> = agents::BoxedQuery<'static, Pg, ST>;

impl AgentFilter {
    /// The query, of those agents only that the filter matches.
    pub(super) fn narrow<ST: 'static>(self, mut query: Query<ST>) -> Query<ST> {
        use agents::dsl;
        query = match self.reach {
            Reach::Everything => query,
            Reach::NoTenant => query.filter(dsl::pool.not_like("%~%")),
            Reach::Tenant(tenant) => {
                let (from, to) = Reach::range(&tenant);
                query.filter(dsl::pool.ge(from).and(dsl::pool.lt(to)))
            }
        };
        if let Some(pool) = self.pool {
            query = query.filter(dsl::pool.eq(pool));
        }
        if let Some(availability) = self.availability {
            query = query.filter(dsl::live.eq(availability == Availability::Live));
        }
        if let Some(scheduling) = self.scheduling {
            query = query.filter(dsl::scheduling.eq(scheduling.as_str()));
        }
        if let Some(domain) = self.resource_domain {
            query = query.filter(dsl::resource_domain.eq(domain));
        }
        if !self.labels.is_empty() {
            query = query.filter(dsl::labels.contains(LabelsColumn(self.labels)));
        }
        query
    }
}
