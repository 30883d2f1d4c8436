//! The options of signing in.

use axum::http::Uri;
use clap::builder::NonEmptyStringValueParser;
use lessor_protocol::Role;

use super::ConfigError;
use crate::access::oidc::{Console, ConsoleToken, Mapping, OF_PEOPLE, Settings};

/// Where people sign in, and what they may do.
#[derive(Clone, Debug, clap::Args)]
pub struct OidcConfig {
    /// The OpenID Connect provider at which people sign in: its issuer, spelt as it spells it
    #[arg(long = "oidc-issuer", env = "LESSOR_OIDC_ISSUER", value_name = "URL", value_parser = issuer)]
    pub issuer: Option<String>,

    /// For whom its JWTs must be: the `aud` that the provider gives them for this service
    #[arg(
        long = "oidc-audience",
        env = "LESSOR_OIDC_AUDIENCE",
        value_name = "AUDIENCE"
    )]
    pub audience: Option<String>,

    /// The claim with a person's roles; dots lead into objects, as in `realm_access.roles`
    #[arg(
        long = "oidc-roles-claim",
        env = "LESSOR_OIDC_ROLES_CLAIM",
        value_name = "CLAIM",
        default_value = "roles"
    )]
    pub roles_claim: String,

    /// Which values of that claim are which role: admin, operator, viewer or user [default: lessor-admin=admin, and so for each role]
    #[arg(
        long = "oidc-roles",
        env = "LESSOR_OIDC_ROLES",
        value_name = "VALUE=ROLE",
        value_delimiter = ',',
        value_parser = role
    )]
    pub roles: Vec<(String, Role)>,

    /// The claim that says whose sessions a person with the role `user` has
    #[arg(
        long = "oidc-owner-claim",
        env = "LESSOR_OIDC_OWNER_CLAIM",
        value_name = "CLAIM",
        default_value = "sub"
    )]
    pub owner_claim: String,

    /// The claim that names a person's tenant; with it nobody without a tenant signs in
    #[arg(
        long = "oidc-tenant-claim",
        env = "LESSOR_OIDC_TENANT_CLAIM",
        value_name = "CLAIM"
    )]
    pub tenant_claim: Option<String>,

    /// Lets people sign in at the page `/docs`: the id under which the provider knows it, as a public client
    #[arg(
        long = "oidc-console-client-id",
        env = "LESSOR_OIDC_CONSOLE_CLIENT_ID",
        value_name = "ID",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub console_client_id: Option<String>,

    /// What that page asks the provider for, apart by spaces
    #[arg(
        long = "oidc-console-scopes",
        env = "LESSOR_OIDC_CONSOLE_SCOPES",
        value_name = "SCOPES",
        default_value = "openid"
    )]
    pub console_scopes: String,

    /// Which of the provider's tokens that page sends: its access token, or its ID token
    #[arg(
        long = "oidc-console-token",
        env = "LESSOR_OIDC_CONSOLE_TOKEN",
        value_name = "TOKEN",
        value_enum,
        default_value_t = ConsoleToken::Access
    )]
    pub console_token: ConsoleToken,
}

impl OidcConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match (&self.issuer, &self.audience) {
            (Some(_), None) => Err(ConfigError::IssuerWithoutAudience),
            (None, Some(_)) => Err(ConfigError::AudienceWithoutIssuer),
            (None, None) if self.console_client_id.is_some() => {
                Err(ConfigError::ConsoleWithoutIssuer)
            }
            _ if self
                .console()
                .is_some_and(|console| asks_for_no_id(&console)) =>
            {
                Err(ConfigError::NoIdTokenAskedFor)
            }
            _ => Ok(()),
        }
    }

    fn console(&self) -> Option<Console> {
        let scopes = self.console_scopes.split_whitespace();
        Some(Console {
            client_id: self.console_client_id.clone()?,
            scopes: scopes.map(str::to_owned).collect(),
            token: self.console_token,
        })
    }

    /// What the service needs of it; none where nobody signs in.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        Some(Settings {
            issuer: self.issuer.clone()?,
            audience: self.audience.clone()?,
            mapping: Mapping {
                roles_claim: self.roles_claim.clone(),
                roles: if self.roles.is_empty() {
                    let own = |role: Role| (format!("lessor-{role}"), role);
                    OF_PEOPLE.map(own).to_vec()
                } else {
                    self.roles.clone()
                },
                owner_claim: self.owner_claim.clone(),
                tenant_claim: self.tenant_claim.clone(),
            },
            console: self.console(),
        })
    }
}

/// A provider gives an ID token to who asks for `openid` only.
fn asks_for_no_id(console: &Console) -> bool {
    console.token == ConsoleToken::Id && !console.scopes.iter().any(|scope| scope == "openid")
}

/// An issuer is an https URL; plain http is for one on this machine.
fn issuer(value: &str) -> Result<String, String> {
    let uri: Uri = value.parse().map_err(|_| "must be a URL".to_owned())?;
    let host = uri.host().unwrap_or_default();
    let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(value.to_owned()),
        Some("http") if is_here => Ok(value.to_owned()),
        _ => Err("must begin with https://; http:// is for a provider on this machine".to_owned()),
    }
}

fn role(value: &str) -> Result<(String, Role), String> {
    let wrong =
        || "must be a value of the claim, `=`, and one of admin, operator, viewer, user".to_owned();
    let (said, role) = value.rsplit_once('=').ok_or_else(wrong)?;
    let role = OF_PEOPLE.into_iter().find(|of| of.as_str() == role);
    match role {
        Some(role) if !said.is_empty() => Ok((said.to_owned(), role)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        oidc: OidcConfig,
    }

    const PROVIDER: [&str; 4] = [
        "--oidc-issuer",
        "https://id.example",
        "--oidc-audience",
        "a",
    ];

    fn oidc(provider: &[&str], console: &[&str]) -> Result<Option<Settings>, ConfigError> {
        let arguments = ["lessor"].iter().chain(provider).chain(console);
        let oidc = Cli::try_parse_from(arguments).expect("arguments").oidc;
        oidc.validate().map(|()| oidc.settings())
    }

    #[test]
    fn people_sign_in_at_the_documentation_where_it_is_a_client() {
        let settings = oidc(&PROVIDER, &[]).expect("settings");
        assert_eq!(settings.and_then(|settings| settings.console), None);
        let id = ["--oidc-console-client-id", "c"];
        let console = |more: &[&str]| {
            let settings = oidc(&PROVIDER, &[&id, more].concat()).expect("settings");
            let console = settings.and_then(|settings| settings.console);
            let console = console.expect("it is a client");
            (console.scopes.join(","), console.token.field())
        };
        assert_eq!(console(&[]), ("openid".to_owned(), "access_token"));
        let more = ["--oidc-console-scopes", " openid  api://x/use"];
        assert_eq!(console(&more).0, "openid,api://x/use");
        assert_eq!(console(&["--oidc-console-token", "id"]).1, "id_token");
        let nowhere = oidc(&[], &id).expect_err("no provider");
        assert_eq!(nowhere, ConfigError::ConsoleWithoutIssuer);
        let scopes = [
            "--oidc-console-scopes",
            "profile",
            "--oidc-console-token",
            "id",
        ];
        let none = oidc(&PROVIDER, &[&id[..], &scopes].concat()).expect_err("no openid");
        assert_eq!(none, ConfigError::NoIdTokenAskedFor);
        assert!(Cli::try_parse_from(["lessor", "--oidc-console-client-id", ""]).is_err());
    }

    #[test]
    fn an_issuer_is_reached_safely_or_is_here() {
        for good in [
            "https://id.example",
            "https://id.example/realms/a",
            "http://127.0.0.1:9",
            "http://localhost:9/x",
        ] {
            assert_eq!(issuer(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "id.example",
            "http://id.example",
            "http://127.0.0.1.example",
            "ftp://id.example",
            "https://",
        ] {
            assert!(issuer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_of_agents_are_none_of_people() {
        assert_eq!(role("a=b=admin"), Ok(("a=b".to_owned(), Role::Admin)));
        for bad in ["admin", "=admin", "x=agent", "x=enroll", "x=root", "x="] {
            assert!(role(bad).is_err(), "{bad}");
        }
    }
}
