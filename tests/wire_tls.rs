//! TLS: files that change, files that are wrong, clients with and without certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lessor::wire::Limits;
use lessor::wire::tls::{Files, Tls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::agents::Folder;
use crate::support::authority::Authority;
use crate::support::process::ServerProcess;
use crate::support::{TestServer, database, eventually};

/// The files of a server, in a folder of its own.
struct OnDisk {
    folder: Folder,
}

impl OnDisk {
    fn new((cert, key): &(String, String)) -> Self {
        let on_disk = Self {
            folder: Folder::new(),
        };
        on_disk.write("cert.pem", cert);
        on_disk.write("key.pem", key);
        on_disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// As those do who replace such files: another file takes the name.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).expect("it is written");
        fs::rename(self.path("new"), self.path(name)).expect("it is renamed");
    }

    fn files(&self, client_ca: Option<&Authority>, client_required: bool) -> Files {
        if let Some(authority) = client_ca {
            self.write("ca.pem", &authority.pem());
        }
        Files {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: client_ca.map(|_| self.path("ca.pem")),
            client_required,
        }
    }
}

async fn server(files: Files) -> TestServer {
    let tls = Tls::read(files).expect("the files are right");
    let database = database().await;
    let server =
        TestServer::wired(database, |_| {}, Limits::default(), Some(Arc::clone(&tls))).await;
    tokio::spawn(tls.keep_reading(server.app.stop.clone()));
    server
}

/// Asks for `/healthz`, trusting an authority, with or without a certificate of one's own; the answer
/// and what ALPN agreed on.
async fn ask(
    address: &str,
    trusted: &Authority,
    own: Option<&(String, String)>,
    offer: &[&str],
) -> Result<(String, Option<String>), std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .expect("a chain");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    let agreed = agreed.map(|name| String::from_utf8_lossy(name).into_owned());
    if agreed.as_deref() == Some("h2") {
        let (send, connection) = h2::client::handshake(stream)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let mut send = send.ready().await.map_err(std::io::Error::other)?;
        let request = http::Request::get("https://localhost/healthz")
            .body(())
            .expect("a request");
        let (answer, _) = send.send_request(request, true).expect("it is sent");
        let answer = answer.await.map_err(std::io::Error::other)?;
        return Ok((answer.status().to_string(), agreed));
    }
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((String::from_utf8_lossy(&answer).into_owned(), agreed))
}

fn address(server: &TestServer) -> String {
    server.url.trim_start_matches("http://").to_owned()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_under_tls() {
    let authority = Authority::new();
    let on_disk = OnDisk::new(&authority.signs());
    let server = server(on_disk.files(None, false)).await;
    let at = address(&server);
    let (answer, agreed) = ask(&at, &authority, None, &[]).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(agreed, None);
    let offered = ["h2", "http/1.1"];
    let (answer, agreed) = ask(&at, &authority, None, &offered)
        .await
        .expect("an answer");
    assert_eq!((answer.as_str(), agreed.as_deref()), ("200 OK", Some("h2")));
    // Who speaks no TLS is not answered as if he did.
    let plain = reqwest::get(format!("http://{at}/healthz")).await;
    assert!(plain.is_err(), "{plain:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_served_and_a_wrong_one_is_not() {
    let (first, second) = (Authority::new(), Authority::new());
    let on_disk = OnDisk::new(&first.signs());
    let server = server(on_disk.files(None, false)).await;
    let at = address(&server);
    ask(&at, &first, None, &[]).await.expect("the first one");
    // A certificate without its key: the one before stays.
    let (cert, key) = second.signs();
    on_disk.write("cert.pem", &cert);
    let looked = async || {
        // Two looks at the files have passed.
        let seen = std::time::Instant::now();
        eventually("it has looked", || async {
            seen.elapsed() > std::time::Duration::from_millis(2_200)
        })
        .await;
    };
    looked().await;
    ask(&at, &first, None, &[])
        .await
        .expect("the first one still");
    on_disk.write("key.pem", &key);
    eventually("the second one is served", || async {
        ask(&at, &second, None, &[]).await.is_ok()
    })
    .await;
    assert!(ask(&at, &first, None, &[]).await.is_err());
    on_disk.write("cert.pem", "no certificate at all");
    looked().await;
    ask(&at, &second, None, &[])
        .await
        .expect("the second one still");
    server.stop().await;
}

#[tokio::test]
async fn client_certificates_are_verified_when_given_and_asked_for_when_required() {
    let (authority, agents, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (right, wrong) = (agents.signs(), strangers.signs());
    for required in [false, true] {
        let on_disk = OnDisk::new(&authority.signs());
        let server = server(on_disk.files(Some(&agents), required)).await;
        let at = address(&server);
        let (answer, _) = ask(&at, &authority, Some(&right), &[])
            .await
            .expect("one that the authority has signed");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let without = ask(&at, &authority, None, &[]).await;
        assert_eq!(without.is_ok(), !required, "{without:?}");
        let stranger = ask(&at, &authority, Some(&wrong), &[]).await;
        assert!(stranger.is_err(), "{stranger:?}");
        server.stop().await;
    }
}

#[test]
fn files_that_cannot_be_used_are_named_and_no_key_is_shown() {
    let authority = Authority::new();
    let (cert, key) = authority.signs();
    let on_disk = OnDisk::new(&(cert.clone(), key.clone()));
    let secret: String = key.lines().skip(1).take(1).collect();
    let wrong = |name: &str, text: &str| {
        let on_disk = OnDisk::new(&(cert.clone(), key.clone()));
        on_disk.write(name, text);
        let error = Tls::read(on_disk.files(None, false)).expect_err(name);
        let said = format!("{error} {error:?}");
        assert!(said.contains(name) && !said.contains(&secret), "{said}");
    };
    wrong("cert.pem", "nothing");
    wrong("cert.pem", &key);
    wrong("key.pem", "nothing");
    wrong("key.pem", &cert);
    wrong("key.pem", &authority.signs().1);
    let missing = Files {
        key: Path::new("/nowhere/key.pem").to_owned(),
        ..on_disk.files(None, false)
    };
    let error = Tls::read(missing).expect_err("it is not there");
    assert!(error.to_string().contains("/nowhere/key.pem"), "{error}");
}

#[tokio::test]
async fn the_program_serves_tls_from_its_options() {
    let authority = Authority::new();
    let on_disk = OnDisk::new(&authority.signs());
    let (cert, key) = (on_disk.path("cert.pem"), on_disk.path("key.pem"));
    let database = database().await;
    let environment = [
        ("LESSOR_TLS_CERT", cert.to_str().expect("text")),
        ("LESSOR_TLS_KEY", key.to_str().expect("text")),
    ];
    let mut server = ServerProcess::begin(&database.url, &environment, None).await;
    let at = server.url.trim_start_matches("http://").to_owned();
    eventually("it serves", || async {
        ask(&at, &authority, None, &["h2"])
            .await
            .is_ok_and(|(answer, _)| answer == "200 OK")
    })
    .await;
    server.terminate();
    let status = server.ends_within(std::time::Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
}
