//! Tenants: whose a pool, an agent or a session is, as its name says.
//!
//! The pools, agents and session names of the tenant `acme` are called `acme~<name>`. So two tenants
//! never want the same name, and whether a name is another tenant's can be seen without looking
//! anything up: nothing can be learnt from an answer, nor from how long it takes.

/// What stands between a tenant and a name. No plain name has it.
pub const TENANT_MARK: char = '~';

/// The most bytes of a tenant.
pub const MAX_TENANT_BYTES: usize = 63;

/// The tenant that a name belongs to; none for a name of no tenant.
#[must_use]
pub fn tenant_of(name: &str) -> Option<&str> {
    name.split_once(TENANT_MARK).map(|(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_name_is() {
        assert_eq!(tenant_of("local"), None);
        assert_eq!(tenant_of("acme~local"), Some("acme"));
        assert_eq!(tenant_of("acme~a~b"), Some("acme"));
    }
}
