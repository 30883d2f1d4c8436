//! The options of the wire and of what one caller may take.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderValue, Uri};
use ipnet::IpNet;

use super::ConfigError;
use crate::http::Proxies;
use crate::wire::{Limits, tls};

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClientCerts {
    /// One that is given must be right.
    Optional,
    /// Nobody without one.
    Required,
}

/// How the service is reached, and how much by whom.
#[derive(Clone, Debug, clap::Args)]
pub struct WireConfig {
    /// The certificate to serve TLS with, and those up to its authority, as a PEM file; read anew when it changes
    #[arg(long, env = "LESSOR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of LESSOR_TLS_CERT, as a PEM file
    #[arg(long, env = "LESSOR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The authorities whose client certificates are taken, as a PEM file; without it none is asked for
    #[arg(long, env = "LESSOR_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether clients must have a certificate, where LESSOR_TLS_CLIENT_CA is set
    #[arg(long, env = "LESSOR_TLS_CLIENT_CERTS", value_name = "WHETHER", value_enum, default_value_t = ClientCerts::Optional)]
    pub tls_client_certs: ClientCerts,

    /// How many connections may be open on this server
    #[arg(long, env = "LESSOR_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_connections: u32,

    /// How many connections one address may have open; trusted proxies may have more; unset: no limit of its own
    #[arg(long, env = "LESSOR_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_address: Option<u32>,

    /// How many calls of users this server works on at once, and as many reports of agents; beyond it 503
    #[arg(long, env = "LESSOR_MAX_REQUESTS", value_name = "COUNT", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_requests: u32,

    /// How long a client may take to send a head, to send a body, and to take some of an answer
    #[arg(long, env = "LESSOR_SLOW_CLIENT_SECONDS", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub slow_client_seconds: u32,

    /// How many calls a minute one token, or one address without a token, may make of this server; agents' own calls are not counted; unset: no limit
    #[arg(long, env = "LESSOR_RATE_LIMIT_PER_MINUTE", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=60_000_000))]
    pub rate_limit_per_minute: Option<u32>,

    /// The origins whose pages may call, such as `https://console.example.com`, between commas; unset: none
    #[arg(long, env = "LESSOR_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,

    /// The proxies whose `X-Forwarded-For` or `Forwarded` is believed, as addresses or networks between commas
    #[arg(long, env = "LESSOR_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,

    /// Where webhooks may be sent besides the public Internet, and by plain http, as addresses or networks between commas
    #[arg(long, env = "LESSOR_WEBHOOK_ALLOW", value_name = "NETWORKS", value_delimiter = ',', value_parser = network)]
    pub webhook_allow: Vec<IpNet>,
}

impl WireConfig {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(ConfigError::TlsHalf("LESSOR_TLS_CERT", "LESSOR_TLS_KEY")),
            (None, Some(_)) => Err(ConfigError::TlsHalf("LESSOR_TLS_KEY", "LESSOR_TLS_CERT")),
            (None, None) if self.tls_client_ca.is_some() => Err(ConfigError::TlsHalf(
                "LESSOR_TLS_CLIENT_CA",
                "LESSOR_TLS_CERT",
            )),
            _ if self.tls_client_certs == ClientCerts::Required && self.tls_client_ca.is_none() => {
                Err(ConfigError::TlsHalf(
                    "LESSOR_TLS_CLIENT_CERTS",
                    "LESSOR_TLS_CLIENT_CA",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Where the certificates are, if TLS is served.
    #[must_use]
    pub fn tls(&self) -> Option<tls::Files> {
        Some(tls::Files {
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.tls_client_ca.clone(),
            client_required: self.tls_client_certs == ClientCerts::Required,
        })
    }

    /// What one peer may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections as usize,
            connections_per_address: self.max_connections_per_address.map(|most| most as usize),
            slow_after: Duration::from_secs(u64::from(self.slow_client_seconds)),
            proxies: Proxies::new(self.trusted_proxies.clone()),
        }
    }
}

/// A scheme and a host, as browsers send them: no path, no slash at the end.
fn origin(value: &str) -> Result<HeaderValue, String> {
    let wrong =
        || "must be an origin such as https://console.example.com, without a path".to_owned();
    let uri: Uri = value.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(wrong());
    };
    // Nothing else: no path, no query, no user.
    let whole = format!("{scheme}://{authority}");
    let is_origin = value.eq_ignore_ascii_case(&whole) && !authority.as_str().contains('@');
    if !is_origin {
        return Err(wrong());
    }
    HeaderValue::from_str(&value.to_ascii_lowercase()).map_err(|_| wrong())
}

/// A network, or an address that is one by itself.
fn network(value: &str) -> Result<IpNet, String> {
    value
        .parse()
        .or_else(|_| value.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "must be an address or a network such as 10.0.0.0/8".to_owned())
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_options() {
        let examples: &[&[u8]] = &[
            b"https://a.example:8443",
            b"10.0.0.0/8",
            b"fd00::/8",
            b"localhost:80",
        ];
        lessor_fuzz::run(
            examples,
            &["://", "@", "/", "*", "null", "[::1]:80"],
            |input| {
                let text = String::from_utf8_lossy(input);
                if let Ok(origin) = origin(&text) {
                    let origin = origin.to_str().expect("visible");
                    assert!(
                        origin.starts_with("http")
                            && !origin.ends_with('/')
                            && !origin.contains('@')
                    );
                }
                let _ = network(&text);
                if let Ok(address) = crate::config::address(&text) {
                    assert!(text.contains(&address.port().to_string()) || text.contains('0'));
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        wire: WireConfig,
    }

    fn wire(arguments: &[&str]) -> Result<WireConfig, String> {
        let arguments = std::iter::once("x").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments)
            .map(|cli| cli.wire)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn everything_is_off_or_bounded_unless_configured() {
        let wire = wire(&[]).expect("settings");
        assert_eq!(wire.validate(), Ok(()));
        assert!(wire.tls().is_none() && wire.cors_origins.is_empty());
        assert_eq!(wire.rate_limit_per_minute, None);
        let limits = wire.limits();
        assert_eq!(limits.connections, 65_536);
        assert_eq!(limits.proxies, Proxies::default());
        assert_eq!(limits.slow_after, Duration::from_secs(60));
    }

    #[test]
    fn tls_is_whole_or_not_at_all() {
        for half in [
            &["--tls-cert", "c"][..],
            &["--tls-key", "k"],
            &["--tls-client-ca", "a"],
            &[
                "--tls-cert",
                "c",
                "--tls-key",
                "k",
                "--tls-client-certs",
                "required",
            ],
        ] {
            let error = wire(half).expect("it parses").validate().expect_err("half");
            assert!(error.to_string().contains("LESSOR_TLS_"), "{error}");
        }
        let whole = wire(&["--tls-cert", "c", "--tls-key", "k"]).expect("settings");
        assert_eq!(whole.validate(), Ok(()));
        assert!(whole.tls().is_some());
    }

    #[test]
    fn lists_are_read() {
        let lists = wire(&[
            "--cors-origins",
            "https://a.example,http://localhost:3000",
            "--trusted-proxies",
            "10.0.0.0/8,192.0.2.1,fd00::/8",
        ]);
        let lists = lists.expect("settings");
        assert_eq!(lists.cors_origins.len(), 2);
        let proxies = lists.limits().proxies;
        assert!(proxies.contain([10, 9, 9, 9].into()) && proxies.contain([192, 0, 2, 1].into()));
        assert!(!proxies.contain([192, 0, 2, 2].into()));
        for wrong in [
            ["--cors-origins", "*"],
            ["--cors-origins", "https://a.example/"],
            ["--cors-origins", "a.example"],
            ["--cors-origins", "https://a.example?x@b"],
            ["--cors-origins", "https://user@a.example"],
            ["--trusted-proxies", "10.0.0.0/33"],
            ["--trusted-proxies", "proxy"],
            ["--max-connections", "0"],
        ] {
            assert!(wire(&wrong).is_err(), "{wrong:?}");
        }
    }
}
