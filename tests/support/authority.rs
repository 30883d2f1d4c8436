//! Certificates for tests.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use lessor::wire::Limits;
use lessor::wire::tls::{Files, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// An authority that signs for tests.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        Self::named("an authority")
    }

    /// A new one that is called so.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
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

    /// The path of a file in this folder that has its own certificate.
    pub fn file(&self, folder: &Path, name: &str) -> String {
        let file = folder.join(name);
        std::fs::write(&file, self.pem()).expect("its file");
        file.to_str().expect("text").to_owned()
    }

    /// Its own certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Serves for `localhost` with a certificate that it signs, until the test's runtime ends; the files are in
    /// this folder.
    pub fn serve(&self, listener: TcpListener, router: Router, folder: &Path) {
        let tls = self.serves(folder);
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            lessor::wire::serve(listener, router, Limits::default(), Some(tls), stop)
                .await
                .expect("it serves");
        });
    }

    /// What serves TLS for `localhost` with a certificate that it signs; the files are in this folder.
    fn serves(&self, folder: &Path) -> Arc<Tls> {
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
