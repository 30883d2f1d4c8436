//! Where a URL leads, and how the server there has to prove who it is.
//!
//! `sslmode` and `sslrootcert` are taken out of the URL, since the client library knows three modes and checks
//! nothing itself. What they mean here:
//!
//! | `sslmode` | TLS | the server's certificate |
//! | --- | --- | --- |
//! | `disable` | never | |
//! | `allow`, `prefer` | where the server offers it | is not looked at |
//! | `verify-ca` | always | is of the authority |
//! | `require`, `verify-full` | always | is of the authority, and for the host that the URL names |
//!
//! Without `sslmode` it is `prefer`, and `verify-full` where an authority is named. The authority is that of
//! `sslrootcert`, a PEM file, else any that this system trusts. Over a Unix socket there is no TLS.
//!
//! Invariant: `prefer` is the only mode in which a certificate is not looked at, because it would protect from
//! nobody: who can put himself in between can also say that he has no TLS, and is then spoken to without.
//! `require` is stricter than libpq's, which looks at nothing unless it finds a file with authorities.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::{Parameters, take_out};
use crate::error::{Error, Result};
use crate::outgoing;

/// A database server.
#[derive(Clone, Debug)]
pub struct Target {
    /// How it is reached.
    pub config: Config,
    check: Check,
    /// The file with the authorities; none: those of the system.
    authorities: Option<String>,
}

/// What is looked at of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

impl Target {
    /// Reads a URL, or a line of keywords and values.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> std::result::Result<Self, tokio_postgres::Error> {
        let Parameters {
            rest,
            sslmode,
            sslrootcert,
        } = take_out(url);
        let authorities = sslrootcert.filter(|file| file != "system");
        let named = authorities.is_some();
        let (mode, check) = match sslmode.as_deref() {
            Some("disable") => (SslMode::Disable, Check::Nothing),
            None if named => (SslMode::Require, Check::AuthorityAndName),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Check::Nothing),
            Some("verify-ca") => (SslMode::Require, Check::Authority),
            Some("require" | "verify-full") => (SslMode::Require, Check::AuthorityAndName),
            // Whoever reads the rest says what is wrong with it.
            Some(_) => return url.parse::<Config>().map(Self::plain),
        };
        let mut config: Config = rest.parse()?;
        let is_local = |host: &Host| matches!(host, Host::Unix(_));
        let local = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_local);
        config.ssl_mode(if local { SslMode::Disable } else { mode });
        Ok(Self {
            config,
            check,
            authorities,
        })
    }

    fn plain(config: Config) -> Self {
        Self {
            config,
            check: Check::AuthorityAndName,
            authorities: None,
        }
    }

    /// The TLS side of its connections. A file with authorities is read each time, so that a new one counts.
    ///
    /// # Errors
    /// `Internal` when that file cannot be read.
    pub fn tls(&self) -> Result<MakeRustlsConnect> {
        let roots = || self.roots().map_err(Error::Internal);
        let config = match (self.check, &self.authorities) {
            (Check::AuthorityAndName, None) => outgoing::tls().map_err(Error::Internal)?,
            (Check::AuthorityAndName, Some(_)) => builder()?
                .with_root_certificates(roots()?)
                .with_no_client_auth(),
            (Check::Authority, _) => {
                let authorities = WebPkiServerVerifier::builder_with_provider(
                    roots()?,
                    Arc::new(outgoing::provider()),
                );
                let authorities = authorities.build().map_err(|error| {
                    Error::Internal(format!("the authorities of the database: {error}"))
                })?;
                lenient(Some(authorities))?
            }
            (Check::Nothing, _) => lenient(None)?,
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> std::result::Result<Arc<RootCertStore>, String> {
        let Some(file) = &self.authorities else {
            return Ok(outgoing::roots());
        };
        let mut roots = RootCertStore::empty();
        let text = |error: &dyn std::fmt::Display| {
            format!("{file} (LESSOR_DATABASE_CA, or sslrootcert in the URL): {error}")
        };
        let certificates = CertificateDer::pem_file_iter(Path::new(file));
        for certificate in certificates.map_err(|error| text(&error))? {
            let certificate = certificate.map_err(|error| text(&error))?;
            roots.add(certificate).map_err(|error| text(&error))?;
        }
        if roots.is_empty() {
            return Err(text(&"there is no certificate in it"));
        }
        Ok(Arc::new(roots))
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    outgoing::builder().map_err(Error::Internal)
}

fn lenient(authorities: Option<Arc<WebPkiServerVerifier>>) -> Result<ClientConfig> {
    let verifier = Lenient {
        authorities,
        provider: outgoing::provider(),
    };
    Ok(builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Looks at everything but for whom the certificate is, or at nothing where it knows no authorities. What is
/// said in the handshake has to be signed with the certificate's key all the same.
#[derive(Debug)]
struct Lenient {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: CryptoProvider,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is judged last: whoever fails by it alone has a certificate of the authority.
        match authorities.verify_server_cert(certificate, chain, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> (SslMode, Check, Option<String>) {
        let target = Target::parse(url).expect(url);
        let mode = target.config.get_ssl_mode();
        (mode, target.check, target.authorities)
    }

    #[test]
    fn each_mode_means_what_is_written_above() {
        use Check::{Authority, AuthorityAndName, Nothing};
        for (parameters, mode, check) in [
            ("", SslMode::Prefer, Nothing),
            ("sslmode=disable", SslMode::Disable, Nothing),
            ("sslmode=allow", SslMode::Prefer, Nothing),
            ("sslmode=prefer", SslMode::Prefer, Nothing),
            ("sslmode=require", SslMode::Require, AuthorityAndName),
            ("sslmode=verify-ca", SslMode::Require, Authority),
            ("sslmode=verify-full", SslMode::Require, AuthorityAndName),
        ] {
            let url = format!("postgres://u@h/d?{parameters}");
            assert_eq!(of(&url), (mode, check, None), "{url}");
            let line = format!("host=h user=u {parameters}");
            assert_eq!(of(&line), (mode, check, None), "{line}");
        }
        let ca = Some("/etc/a b.pem".to_owned());
        assert_eq!(
            of("postgres://h/d?sslrootcert=/etc/a%20b.pem"),
            (SslMode::Require, AuthorityAndName, ca.clone())
        );
        assert_eq!(
            of(
                "postgres://h/d?sslmode=verify-ca&sslrootcert=%2Fetc%2Fa%20b.pem&application_name=x"
            ),
            (SslMode::Require, Authority, ca.clone())
        );
        assert_eq!(
            of("sslrootcert='/etc/a b.pem' host=h sslmode = prefer"),
            (SslMode::Prefer, Nothing, ca)
        );
        let system = "host=h sslmode=verify-full sslrootcert=system";
        assert_eq!(of(system), (SslMode::Require, AuthorityAndName, None));
    }

    #[test]
    fn over_a_unix_socket_there_is_no_tls() {
        let url = "postgres://u@%2Frun%2Fpg/d?sslmode=verify-full&sslrootcert=/x.pem";
        assert_eq!(of(url).0, SslMode::Disable);
        assert_eq!(of("host=/run/pg sslmode=require").0, SslMode::Disable);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for url in [
            "postgres://h/d?sslmode=always",
            "host=h sslmode=always",
            "postgres://h/d?sslmode=",
            "postgres://h/d?sslkey=x",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_file_that_has_no_authorities_is_named() {
        for file in [
            "/nowhere/ca.pem",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ] {
            let target = Target::parse(&format!("postgres://h/d?sslrootcert={file}"));
            let tls = target.expect("a URL").tls();
            let error = tls.err().expect("no authorities").to_string();
            assert!(error.contains(file), "{error}");
        }
    }
}
