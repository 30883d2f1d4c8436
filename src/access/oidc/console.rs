//! How people sign in at the page of the documentation: by authorization code with PKCE, in their browser.
//!
//! The page is a public client of the provider. It has no secret: what binds a code to who asked for it is
//! the challenge (S256). Nothing of it comes here but the token, as a bearer.

use axum::http::Uri;

use super::provider::{Discovery, must_be_safe};

/// The page as a client of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Under which id the provider knows it.
    pub client_id: String,
    /// What it asks for.
    pub scopes: Vec<String>,
    /// Which of the tokens that it is given it sends.
    pub token: ConsoleToken,
}

/// A token that a provider gives for a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ConsoleToken {
    /// The one for the API that the scopes are of.
    Access,
    /// The one for the client itself, whose audience is the client's id.
    Id,
}

impl ConsoleToken {
    /// What it is called in the answer that has it (RFC 6749, 5.1; OpenID Connect Core, 3.1.3.3).
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Access => "access_token",
            Self::Id => "id_token",
        }
    }
}

/// Where people sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The page of the provider.
    pub authorization: String,
    /// Where the browser exchanges the code for tokens.
    pub token: String,
    /// The origin of that, which the browser must be allowed to call.
    pub token_origin: String,
}

/// Where people sign in at a provider that says this of itself.
///
/// # Errors
/// Why they cannot.
pub fn endpoints(issuer: &str, discovery: &Discovery) -> Result<Endpoints, String> {
    let methods = &discovery.code_challenge_methods_supported;
    if let Some(methods) = methods
        && !methods.iter().any(|method| method == "S256")
    {
        return Err("the provider does not know PKCE with S256".to_owned());
    }
    let place = |what: &str, url: &Option<String>| {
        let url = url.clone().ok_or_else(|| format!("{what} is missing"))?;
        must_be_safe(issuer, what, &url)?;
        let origin = origin(&url).ok_or_else(|| format!("{what} is no web address"))?;
        Ok::<_, String>((url, origin))
    };
    let (authorization, _) = place(
        "its authorization endpoint",
        &discovery.authorization_endpoint,
    )?;
    let (token, token_origin) = place("its token endpoint", &discovery.token_endpoint)?;
    Ok(Endpoints {
        authorization,
        token,
        token_origin,
    })
}

/// The origin of a URL, as a content security policy may name it: nothing that could be more than a host
/// and a port there.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri
        .scheme_str()
        .filter(|s| matches!(*s, "https" | "http"))?;
    let authority = uri.authority()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let host = authority.host();
    if host.is_empty() || !host.bytes().all(plain) || authority.as_str().contains('@') {
        return None;
    }
    Some(match authority.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(authorization: &str, token: &str, methods: Option<&[&str]>) -> Discovery {
        let owned = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
        Discovery {
            authorization_endpoint: Some(authorization.to_owned()),
            token_endpoint: Some(token.to_owned()),
            code_challenge_methods_supported: methods.map(owned),
            ..Discovery::default()
        }
    }

    #[test]
    fn where_people_sign_in_is_safe_and_binds_codes() {
        let (safe, here) = ("https://id.example/realms/a", "http://127.0.0.1:9");
        let (page, token) = (
            "https://id.example/auth",
            "https://tokens.example:444/t?p=1",
        );
        for methods in [None, Some(&["plain", "S256"][..])] {
            let found = endpoints(safe, &said(page, token, methods)).expect("they can");
            assert_eq!((&*found.authorization, &*found.token), (page, token));
            assert_eq!(found.token_origin, "https://tokens.example:444");
        }
        for (wrong, what) in [
            (said(page, token, Some(&["plain"])), "no S256"),
            (said("http://id.example/auth", token, None), "plain http"),
            (said(page, "http://id.example/t", None), "plain http"),
            (said(page, "/token", None), "no address"),
            (said("javascript:alert(1)", token, None), "a script"),
            (Discovery::default(), "nothing"),
        ] {
            assert!(endpoints(safe, &wrong).is_err(), "{what}");
        }
        let script = said("javascript:alert(1)", "http://127.0.0.1:9/t", None);
        assert!(endpoints(here, &script).is_err());
        let local = said("http://127.0.0.1:9/a", "http://127.0.0.1:9/t", None);
        let found = endpoints(here, &local).expect("they can");
        assert_eq!(found.token_origin, "http://127.0.0.1:9");
    }

    #[test]
    fn an_origin_says_nothing_else_in_a_policy() {
        for bad in [
            "https://a.example;script-src/t",
            "https://a.example,b/t",
            "https://*/t",
            "https://*.example/t",
            "https://me@a.example/t",
            "https://a.example'/t",
            "https:///t",
            "data:text/html,x",
        ] {
            assert_eq!(origin(bad), None, "{bad}");
        }
    }
}
