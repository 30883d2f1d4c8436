//! From what a sign-in says to what it may do. Pure.

use lessor_protocol::Role;
use serde_json::{Map, Value};

use super::super::state::Grant;
use crate::http::is_tenant;

/// The longest name and owner that are taken from a claim, in bytes.
const MAX_BYTES: usize = 256;

/// Which claims say what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The claim with the roles; dots lead into objects, as in `realm_access.roles`.
    pub roles_claim: String,
    /// Which of its values is which role.
    pub roles: Vec<(String, Role)>,
    /// The claim that says whose sessions a `user` has.
    pub owner_claim: String,
    /// The claim that names the tenant, where sign-ins belong to tenants.
    pub tenant_claim: Option<String>,
}

/// Who signed in, and what that allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// What events and the audit call it.
    pub name: String,
    /// Who it is at the provider, for ever.
    pub subject: String,
    /// What it may do.
    pub grant: Grant,
}

/// The roles that people can have, the mightiest first.
pub const OF_PEOPLE: [Role; 4] = [Role::Admin, Role::Operator, Role::Viewer, Role::User];

impl Mapping {
    /// What claims that were found true come to.
    ///
    /// # Errors
    /// Why they allow nothing.
    pub fn person(&self, claims: &Map<String, Value>) -> Result<Person, String> {
        let text = |claim: &str| {
            at(claims, claim)
                .and_then(Value::as_str)
                .filter(|text| (1..=MAX_BYTES).contains(&text.len()))
                .map(str::to_owned)
        };
        let subject = text("sub").ok_or("the sign-in has no subject")?;
        let said = words(at(claims, &self.roles_claim));
        let has = |role: &Role| {
            let mut mapped = self.roles.iter().filter(|(_, to)| to == role);
            mapped.any(|(value, _)| said.contains(&value.as_str()))
        };
        let role = OF_PEOPLE
            .into_iter()
            .find(has)
            .ok_or_else(|| format!("nothing in the claim `{}` is a role here", self.roles_claim))?;
        let tenant = match &self.tenant_claim {
            None => None,
            Some(claim) => Some(
                text(claim)
                    .filter(|tenant| is_tenant(tenant))
                    .ok_or_else(|| format!("the claim `{claim}` does not name a tenant"))?,
            ),
        };
        let owner = match role {
            Role::User => Some(text(&self.owner_claim).ok_or_else(|| {
                format!(
                    "the claim `{}` does not say whose sessions",
                    self.owner_claim
                )
            })?),
            _ => None,
        };
        let name = ["preferred_username", "email", "name"];
        Ok(Person {
            name: name
                .into_iter()
                .find_map(text)
                .unwrap_or_else(|| subject.clone()),
            subject,
            grant: Grant {
                role,
                tenant,
                owner,
                ..Grant::everything()
            },
        })
    }
}

/// The value of a claim; one with this very name goes before a path into objects.
fn at<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(claim) {
        return Some(value);
    }
    let mut parts = claim.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// The words of a list, or of a text with spaces between them.
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping() -> Mapping {
        Mapping {
            roles_claim: "realm_access.roles".to_owned(),
            roles: vec![
                ("ops".to_owned(), Role::Operator),
                ("boss".to_owned(), Role::Admin),
                ("staff".to_owned(), Role::User),
            ],
            owner_claim: "email".to_owned(),
            tenant_claim: None,
        }
    }

    fn person(mapping: &Mapping, claims: Value) -> Result<Person, String> {
        mapping.person(claims.as_object().expect("claims"))
    }

    #[test]
    fn the_mightiest_role_counts() {
        let claims =
            |roles: Value| json!({"sub": "1", "email": "a@b", "realm_access": {"roles": roles}});
        for (roles, expected) in [
            (json!(["staff", "boss", "ops"]), Role::Admin),
            (json!(["x", "ops"]), Role::Operator),
            (json!("staff other"), Role::User),
        ] {
            let found = person(&mapping(), claims(roles)).expect("a person");
            assert_eq!(found.grant.role, expected);
            assert_eq!(found.name, "a@b");
        }
        for none in [
            json!([]),
            json!(["Boss", "bossy"]),
            json!({"boss": true}),
            json!(7),
        ] {
            assert!(person(&mapping(), claims(none)).is_err());
        }
        assert!(person(&mapping(), json!({"sub": "1"})).is_err());
    }

    #[test]
    fn only_users_have_an_owner_and_they_need_one() {
        let claims = json!({"sub": "1", "realm_access": {"roles": ["staff"]}});
        assert!(person(&mapping(), claims).is_err());
        let claims = json!({"sub": "1", "email": "a@b", "realm_access": {"roles": ["staff"]}});
        let found = person(&mapping(), claims).expect("a person");
        assert_eq!(found.grant.owner.as_deref(), Some("a@b"));
        let claims = json!({"sub": "1", "email": "a@b", "realm_access": {"roles": ["ops"]}});
        let found = person(&mapping(), claims).expect("a person");
        assert_eq!((found.grant.owner, found.grant.token_id), (None, None));
    }

    #[test]
    fn where_people_have_tenants_nobody_is_without_one() {
        let mapping = Mapping {
            tenant_claim: Some("org".to_owned()),
            ..mapping()
        };
        let claims =
            |org: Value| json!({"sub": "1", "org": org, "realm_access": {"roles": ["boss"]}});
        let found = person(&mapping, claims(json!("acme"))).expect("a person");
        assert_eq!(found.grant.tenant.as_deref(), Some("acme"));
        for wrong in [
            json!(null),
            json!(""),
            json!("Acme"),
            json!("a~b"),
            json!(["acme"]),
        ] {
            assert!(person(&mapping, claims(wrong)).is_err());
        }
    }
}
