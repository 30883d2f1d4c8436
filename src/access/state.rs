//! What a caller may do and see. Pure.
//!
//! Two questions are asked of each call: whether its operation is for the role ([`super::rules`]), and
//! whether what it is about may be seen by this caller ([`Grant`], [`Scope`]). What may not be seen is
//! treated as what is not there.

use lessor_protocol::{NewToken, Role, TENANT_MARK, tenant_of};
use uuid::Uuid;

/// What a caller was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its token; none for the admin token of the settings, and where nobody is asked for one.
    pub token_id: Option<Uuid>,
    /// Its role.
    pub role: Role,
    /// Its tenant.
    pub tenant: Option<String>,
    /// The pools of enrolling, or the one pool of an agent.
    pub pools: Vec<String>,
    /// The agent that it is.
    pub agent: Option<String>,
    /// Whose sessions.
    pub owner: Option<String>,
}

/// Whose pools, agents and sessions, by the names of pools and agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everybody's.
    #[default]
    Everything,
    /// What belongs to no tenant.
    NoTenant,
    /// What belongs to this one.
    Tenant(String),
}

/// What of lists and of sessions a caller sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In which pools.
    pub reach: Reach,
    /// Sessions of this owner only.
    pub owner: Option<String>,
}

impl Reach {
    /// Whether a pool, an agent or the name of a session is within it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::NoTenant => tenant_of(name).is_none(),
            Self::Tenant(tenant) => tenant_of(name) == Some(tenant),
        }
    }

    /// As an argument of SQL: null for everything, empty for no tenant, else how the names begin.
    #[must_use]
    pub fn as_prefix(&self) -> Option<String> {
        match self {
            Self::Everything => None,
            Self::NoTenant => Some(String::new()),
            Self::Tenant(tenant) => Some(format!("{tenant}{TENANT_MARK}")),
        }
    }

    /// Between which names all of a tenant's are, the first included, in the order of bytes.
    #[must_use]
    pub fn range(tenant: &str) -> (String, String) {
        // What follows the mark.
        (
            format!("{tenant}{TENANT_MARK}"),
            format!("{tenant}{}", '\x7f'),
        )
    }
}

impl Scope {
    /// Whether nothing is hidden.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

impl Grant {
    /// Everything, without a token.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            token_id: None,
            role: Role::Admin,
            tenant: None,
            pools: Vec::new(),
            agent: None,
            owner: None,
        }
    }

    /// What it sees of lists and of sessions.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let reach = match (&self.tenant, self.role) {
            (Some(tenant), _) => Reach::Tenant(tenant.clone()),
            // Owners of two tenants with the same name are two.
            (None, Role::User | Role::Enroll | Role::Agent) => Reach::NoTenant,
            (None, Role::Admin | Role::Operator | Role::Viewer) => Reach::Everything,
        };
        Scope {
            reach,
            owner: self.owner.clone(),
        }
    }

    /// Whether it may see a pool.
    #[must_use]
    pub fn sees_pool(&self, pool: &str) -> bool {
        let is_listed = match self.role {
            Role::Enroll | Role::Agent => self.pools.iter().any(|own| own == pool),
            Role::Admin | Role::Operator | Role::Viewer | Role::User => true,
        };
        is_listed && self.scope().reach.has(pool)
    }

    /// Whether it may see an agent.
    #[must_use]
    pub fn sees_agent(&self, agent: &str) -> bool {
        match &self.agent {
            Some(own) => own == agent,
            None => self.scope().reach.has(agent),
        }
    }

    /// Whether a token with this scope may be handed out and looked after by it.
    #[must_use]
    pub fn may_hand_out(&self, tenant: Option<&str>) -> bool {
        match &self.tenant {
            None => true,
            Some(own) => tenant == Some(own),
        }
    }
}

/// The tenant of a token that is to be created: its own, or that of its pools.
///
/// # Errors
/// Where the parts of its scope do not go together, or do not fit its role: the field, and why.
pub fn tenant_of_new(new: &NewToken) -> Result<Option<String>, (&'static str, &'static str)> {
    let of_pools = match new.role {
        Role::Enroll if !(1..=100).contains(&new.pools.len()) => {
            return Err(("/pools", "must name 1 to 100 pools for the role `enroll`"));
        }
        Role::Agent if new.pools.len() != 1 => {
            return Err((
                "/pools",
                "must name the one pool of the agent for the role `agent`",
            ));
        }
        Role::Enroll | Role::Agent => true,
        _ if !new.pools.is_empty() => {
            return Err(("/pools", "is only for the roles `enroll` and `agent`"));
        }
        _ => false,
    };
    match (&new.agent, new.role) {
        (None, Role::Agent) => {
            return Err(("/agent", "is needed for the role `agent`"));
        }
        (Some(_), role) if role != Role::Agent => {
            return Err(("/agent", "is only for the role `agent`"));
        }
        _ => {}
    }
    match (&new.owner, new.role) {
        (None, Role::User) => return Err(("/owner", "is needed for the role `user`")),
        (Some(_), role) if role != Role::User => {
            return Err(("/owner", "is only for the role `user`"));
        }
        _ => {}
    }
    if !of_pools {
        return Ok(new.tenant.clone());
    }
    if new.tenant.is_some() {
        return Err((
            "/tenant",
            "is that of the pools for the roles `enroll` and `agent`",
        ));
    }
    let tenant = new.pools.first().and_then(|pool| tenant_of(pool));
    if new.pools.iter().any(|pool| tenant_of(pool) != tenant) {
        return Err(("/pools", "must all be of one tenant"));
    }
    if new
        .agent
        .as_ref()
        .is_some_and(|agent| tenant_of(agent) != tenant)
    {
        return Err(("/agent", "must be of the tenant of its pool"));
    }
    Ok(tenant.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, tenant: Option<&str>) -> Grant {
        Grant {
            role,
            tenant: tenant.map(str::to_owned),
            ..Grant::everything()
        }
    }

    #[test]
    fn who_sees_which_pools() {
        let names = ["local", "acme~local", "acme2~local", "globex~local"];
        let seen = |grant: &Grant| names.map(|name| u8::from(grant.sees_pool(name)));
        assert_eq!(seen(&grant(Role::Admin, None)), [1, 1, 1, 1]);
        assert_eq!(seen(&grant(Role::Viewer, None)), [1, 1, 1, 1]);
        assert_eq!(seen(&grant(Role::User, None)), [1, 0, 0, 0]);
        for role in [Role::Admin, Role::Operator, Role::Viewer, Role::User] {
            assert_eq!(seen(&grant(role, Some("acme"))), [0, 1, 0, 0], "{role}");
        }
        let enroll = Grant {
            pools: vec!["local".to_owned(), "acme~local".to_owned()],
            ..grant(Role::Enroll, None)
        };
        assert_eq!(seen(&enroll), [1, 0, 0, 0]);
        assert_eq!(seen(&grant(Role::Enroll, None)), [0, 0, 0, 0]);
    }

    #[test]
    fn an_agent_sees_itself() {
        let agent = Grant {
            agent: Some("a".to_owned()),
            pools: vec!["local".to_owned()],
            ..grant(Role::Agent, None)
        };
        assert!(agent.sees_agent("a") && agent.sees_pool("local"));
        assert!(!agent.sees_agent("b") && !agent.sees_pool("other"));
    }

    #[test]
    fn the_range_of_a_tenant_is_what_it_reaches() {
        let (from, to) = Reach::range("acme");
        for (name, within) in [
            ("acme~a", true),
            ("acme~zz~z", true),
            ("acme", false),
            ("acmf", false),
            ("acme2~a", false),
            ("acme-~a", false),
            ("acma~z", false),
        ] {
            assert_eq!(
                (from.as_str()..to.as_str()).contains(&name),
                within,
                "{name}"
            );
            assert_eq!(Reach::Tenant("acme".to_owned()).has(name), within, "{name}");
        }
    }

    #[test]
    fn what_goes_together() {
        let new = |role: Role, pools: &[&str], agent: Option<&str>, owner: Option<&str>| NewToken {
            name: "t".to_owned(),
            role,
            pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
            agent: agent.map(str::to_owned),
            owner: owner.map(str::to_owned),
            tenant: None,
            expires_in_seconds: None,
        };
        let field = |new: &NewToken| tenant_of_new(new).map_err(|(field, _)| field);
        for role in [Role::Admin, Role::Operator, Role::Viewer] {
            assert_eq!(field(&new(role, &[], None, None)), Ok(None));
            assert_eq!(field(&new(role, &["p"], None, None)), Err("/pools"));
            assert_eq!(field(&new(role, &[], Some("a"), None)), Err("/agent"));
            assert_eq!(field(&new(role, &[], None, Some("o"))), Err("/owner"));
        }
        assert_eq!(field(&new(Role::User, &[], None, Some("o"))), Ok(None));
        assert_eq!(field(&new(Role::User, &[], None, None)), Err("/owner"));
        let tenant = Ok(Some("t".to_owned()));
        assert_eq!(
            field(&new(Role::Enroll, &["t~p", "t~q"], None, None)),
            tenant
        );
        assert_eq!(
            field(&new(Role::Enroll, &["t~p", "q"], None, None)),
            Err("/pools")
        );
        assert_eq!(field(&new(Role::Enroll, &[], None, None)), Err("/pools"));
        assert_eq!(
            field(&new(Role::Agent, &["t~p"], Some("t~a"), None)),
            tenant
        );
        assert_eq!(
            field(&new(Role::Agent, &["t~p"], Some("a"), None)),
            Err("/agent")
        );
        assert_eq!(
            field(&new(Role::Agent, &["t~p"], None, None)),
            Err("/agent")
        );
        let both = NewToken {
            tenant: Some("t".to_owned()),
            ..new(Role::Enroll, &["t~p"], None, None)
        };
        assert_eq!(field(&both), Err("/tenant"));
    }
}
