//! One kept-alive HTTP/1.1 connection to the service: as little as a load generator can do.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// A connection on which one request is under way at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Opens a connection to an address such as `127.0.0.1:8080`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| Error::Io {
                what: format!("connect to {address}"),
                error,
            })?;
        stream.set_nodelay(true).map_err(|error| Error::Io {
            what: "set TCP_NODELAY".to_owned(),
            error,
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: address.to_owned(),
        })
    }

    /// Sends a request and gives the status and the body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| Error::said(error.to_string()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    }

    /// Gives what is at a path.
    ///
    /// # Errors
    /// When it is not a 2xx.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let (status, body) = self.send(Method::GET, path, Bytes::new()).await?;
        parse(Method::GET, path, status, &body)
    }

    /// Posts JSON and parses the answer.
    ///
    /// # Errors
    /// When it is not a 2xx, with what was said.
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        let (status, body) = self.send(Method::POST, path, body).await?;
        parse(Method::POST, path, status, &body)
    }

    /// Puts JSON and parses the answer.
    ///
    /// # Errors
    /// When it is not a 2xx, with what was said.
    pub async fn put<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        let (status, body) = self.send(Method::PUT, path, body).await?;
        parse(Method::PUT, path, status, &body)
    }
}

fn parse<T: DeserializeOwned>(
    method: Method,
    path: &str,
    status: StatusCode,
    body: &[u8],
) -> Result<T> {
    if !status.is_success() {
        let said = String::from_utf8_lossy(body);
        return Err(Error::said(format!("{method} {path}: {status}: {said}")));
    }
    Ok(serde_json::from_slice(body)?)
}
