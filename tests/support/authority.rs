//! Certificates for tests.

use std::path::Path;
use std::sync::Arc;

use lessor::wire::tls::{Files, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;

/// An authority that signs for tests.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// A certificate for `localhost` and its key, PEM.
    pub fn signs(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// What serves TLS for `localhost` with a certificate that it signs; the files are in this folder.
    pub fn serves(&self, folder: &Path) -> Arc<Tls> {
        let (cert, key) = self.signs();
        let files = Files {
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            client_ca: None,
            client_required: false,
        };
        std::fs::write(&files.cert, cert).expect("it is written");
        std::fs::write(&files.key, key).expect("it is written");
        Tls::read(files).expect("the files are right")
    }
}
