//! Which HTTP a plain connection begins with.
//!
//! HTTP/2 begins with `PRI * HTTP/2.0`, and no method of HTTP/1.1 begins like it beyond its first letter.
//! The bytes are looked at and left where they are. The time is bounded: a parser that has not begun
//! yet has no clock.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// How frequently a lone `P` is looked at again.
const AGAIN: Duration = Duration::from_millis(10);

/// Whether HTTP/2 is spoken, once there is something to tell by.
pub async fn is_h2(stream: &TcpStream, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let mut begin = [0; 2];
        let seen = tokio::time::timeout_at(deadline, stream.peek(&mut begin))
            .await
            .map_err(|_| late())??;
        match &begin[..seen] {
            b"PR" => return Ok(true),
            b"P" if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            b"P" => return Err(late()),
            b"" => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => return Ok(false),
        }
    }
}
