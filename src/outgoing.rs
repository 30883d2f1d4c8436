//! Connections that the service makes: TLS by the system's certificates, and HTTP that follows no redirect.

use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;

/// TLS to whoever has a certificate that this system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` say which
/// those are). Made once: reading the system's certificates takes milliseconds.
///
/// # Errors
/// When TLS cannot be set up.
pub fn tls() -> Result<ClientConfig, String> {
    static TLS: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    TLS.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate of the system could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        // By name: nothing in this process installs a default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth())
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
