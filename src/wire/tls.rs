//! TLS: the service's certificate, and whose client certificates are taken, from files.
//!
//! The files are looked at each second and read anew when one has changed. A certificate and its key are
//! two files, so for a moment they may not fit: what cannot be read or does not fit is said in the log,
//! and the certificate before it stays. Connections that are open keep theirs.
//!
//! TLS 1.2 and 1.3, by rustls and ring. A client certificate is checked against the configured
//! authorities when one is given, and asked for where it is required.
//!
//! What it does not do: revocation lists; take an authority's file away to refuse what it has signed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How frequently the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and those between it and its authority, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities whose client certificates are taken, PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have one.
    pub client_required: bool,
}

/// Why the files cannot be used. No part of a key is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// Their contents do not go together.
    #[error("{0} and {1} do not go together: {2}")]
    Unfit(PathBuf, PathBuf, rustls::Error),
}

/// The present certificate, and where it comes from.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error`], with the file.
    pub fn read(files: Files) -> Result<Arc<Self>, Error> {
        let config = RwLock::new(config(&files)?);
        Ok(Arc::new(Self { files, config }))
    }

    /// Reads them anew whenever they change, until `stop`.
    pub async fn keep_reading(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.stamps().await;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let now = self.stamps().await;
            if now == seen {
                continue;
            }
            seen = now;
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || config(&files)).await;
            match read {
                Ok(Ok(config)) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was read anew");
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the certificate was not read anew; the one before it stays");
                }
                Err(_) => return,
            }
        }
    }

    /// Shakes hands. Whether HTTP/2 was agreed on comes with the stream.
    ///
    /// # Errors
    /// When the client has no certificate that is taken, or speaks no TLS.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, is_h2))
    }

    /// What tells whether a file is another one than before.
    async fn stamps(&self) -> Vec<Option<(SystemTime, u64, u64)>> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || {
            let paths = [Some(files.cert), Some(files.key), files.client_ca];
            paths.iter().flatten().map(|path| stamp(path)).collect()
        })
        .await
        .unwrap_or_default()
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

fn config(files: &Files) -> Result<Arc<ServerConfig>, Error> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| Error::File(files.key.clone(), error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unfit = |error| Error::Unfit(files.cert.clone(), files.key.clone(), error);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots
                    .add(certificate)
                    .map_err(|error| Error::File(ca.clone(), error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if files.client_required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier
                .build()
                .map_err(|error| Error::File(ca.clone(), error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unread = |why: String| Error::File(path.to_owned(), why);
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unread(error.to_string()))?;
    if found.is_empty() {
        return Err(unread("has no certificate".to_owned()));
    }
    Ok(found)
}
