//! Connections that the service makes: TLS by the system's certificates, and HTTP that follows no redirect.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

/// How TLS is spoken. By name: nothing in this process installs a default.
#[must_use]
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// TLS that does not know yet whom it trusts.
///
/// # Errors
/// When TLS cannot be set up.
pub fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

/// The authorities that this system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` say which those are). Read once:
/// that takes milliseconds.
pub fn roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate of the system could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    });
    Arc::clone(roots)
}

/// TLS to whoever has a certificate that this system trusts. Made once, so that sessions are resumed.
///
/// # Errors
/// When TLS cannot be set up.
pub fn tls() -> Result<ClientConfig, String> {
    static TLS: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    TLS.get_or_init(|| {
        let trusting = builder()?.with_root_certificates(roots());
        Ok(trusting.with_no_client_auth())
    })
    .clone()
}

/// An HTTP client over that, which follows no redirect.
///
/// # Errors
/// When TLS cannot be set up.
pub fn http() -> Result<reqwest::ClientBuilder, String> {
    Ok(reqwest::Client::builder()
        .user_agent(concat!("lessor/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls()?))
}
