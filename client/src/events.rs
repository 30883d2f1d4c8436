//! The stream of events, which goes on over lost connections and from server to server.

use std::collections::VecDeque;
use std::time::Duration;

use lessor_protocol::{Event, EventGap};
use reqwest::{Method, Response};
use tokio::time::{sleep, timeout};

use crate::agents::push;
use crate::client::{Call, Client};
use crate::error::Error;

/// The service says something each 15 s: after three times that, the connection is dead.
const SILENCE: Duration = Duration::from_secs(45);

/// The pauses between tries to connect, beginning with the first and doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An event is some kilobytes; more than this without an end is something else.
const MAX_BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// Which events to stream; what is left out does not narrow it.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of this pool.
    pub pool: Option<String>,
    /// With this agent.
    pub agent: Option<String>,
    /// Of this session, by its id or name.
    pub session: Option<String>,
    /// Of sessions of this owner.
    pub owner: Option<String>,
    /// Of these kinds; `session.*` is all that begin with `session.`.
    pub kinds: Vec<String>,
}

/// What a stream gives.
#[derive(Clone, Debug)]
pub enum Streamed {
    /// An event.
    Event(Box<Event>),
    /// Some events cannot be had any more: look at the state of things anew.
    Gap(EventGap),
}

/// A stream of events. It connects when it is first asked, and anew whenever it has to.
#[derive(Debug)]
pub struct Events {
    client: Client,
    filter: EventFilter,
    last_event_id: Option<String>,
    response: Option<Response>,
    parser: Parser,
    failures: u32,
}

impl Client {
    /// Streams events: those after `last_event_id`, all that are kept with `"0"`, and from the next
    /// one on with none.
    #[must_use]
    pub fn events(&self, filter: EventFilter, last_event_id: Option<&str>) -> Events {
        Events {
            client: self.clone(),
            filter,
            last_event_id: last_event_id.map(ToOwned::to_owned),
            response: None,
            parser: Parser::default(),
            failures: 0,
        }
    }
}

impl Events {
    /// Where another stream would go on. It is known once the stream is connected.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Goes on with another service's client, from where it is.
    #[must_use]
    pub fn at(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self.disconnect();
        self
    }

    /// Connects, if it is not. Without a `last_event_id` the stream begins here.
    ///
    /// # Errors
    /// See [`Error`]; it tries once.
    pub async fn connect(&mut self) -> Result<(), Error> {
        if self.response.is_none() {
            let mut query = Vec::new();
            push(&mut query, "pool", self.filter.pool.as_ref());
            push(&mut query, "agent", self.filter.agent.as_ref());
            push(&mut query, "session", self.filter.session.as_ref());
            push(&mut query, "owner", self.filter.owner.as_ref());
            let kinds = self.filter.kinds.join(",");
            push(
                &mut query,
                "kind",
                Some(&kinds).filter(|kinds| !kinds.is_empty()),
            );
            let call = Call::new(Method::GET, &["events"]).query(query);
            let answer = self
                .client
                .stream(call, self.last_event_id.as_deref())
                .await?;
            self.response = Some(answer);
        }
        // The first block says where the stream begins. Without it, one that is cut off before the
        // first event could not go on from there.
        while self.last_event_id.is_none() {
            self.read().await?;
            let first = self.parser.blocks.front();
            self.last_event_id = first.and_then(|block| block.id.clone());
        }
        Ok(())
    }

    /// The next event. Where the connection is lost or the service is away it waits and connects
    /// anew; nothing is skipped and nothing comes twice. May be dropped and called again.
    ///
    /// # Errors
    /// What no waiting cures: see [`Error::is_retryable`].
    pub async fn next(&mut self) -> Result<Streamed, Error> {
        loop {
            while let Some(block) = self.parser.blocks.pop_front() {
                let streamed = block.read()?;
                if block.id.is_some() {
                    self.last_event_id = block.id;
                }
                if let Some(streamed) = streamed {
                    return Ok(streamed);
                }
            }
            match self.receive().await {
                Ok(()) => self.failures = 0,
                Err(error) if error.is_retryable() => {
                    // What has not been read in full comes again.
                    self.disconnect();
                    let pause = FIRST_PAUSE * 2_u32.pow(self.failures.min(6));
                    self.failures += 1;
                    sleep(error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Error> {
        self.connect().await?;
        if self.parser.blocks.is_empty() {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads what has come.
    async fn read(&mut self) -> Result<(), Error> {
        let response = self.response.as_mut().ok_or_else(lost)?;
        let chunk = timeout(SILENCE, response.chunk()).await;
        let chunk = chunk.map_err(|_| lost())??.ok_or_else(lost)?;
        self.parser.take(&chunk).then_some(()).ok_or_else(lost)
    }

    fn disconnect(&mut self) {
        self.response = None;
        self.parser = Parser::default();
    }
}

/// The stream ended, or nothing came over it: to be tried again.
fn lost() -> Error {
    Error::Unexpected {
        status: 408,
        retry_after: None,
        body: "the stream ended".to_owned(),
    }
}

/// Lines of server-sent events, put together to blocks. Only what this service sends is
/// understood: lines end with `\n`.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    block: Block,
    /// Bytes of the block so far, its lines without the present one.
    block_bytes: usize,
    blocks: VecDeque<Block>,
}

#[derive(Debug, Default)]
struct Block {
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Takes bytes as they come; whether they can still become something.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            self.block_bytes += line.len();
            if line.is_empty() {
                self.block_bytes = 0;
                self.blocks.push_back(std::mem::take(&mut self.block));
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "id" => self.block.id = Some(value),
                "event" => self.block.event = Some(value),
                "data" => match &mut self.block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    data => *data = Some(value),
                },
                _ => {}
            }
        }
        self.block_bytes + self.line.len() <= MAX_BLOCK_BYTES
    }
}

impl Block {
    fn read(&self) -> Result<Option<Streamed>, Error> {
        let Some(data) = &self.data else {
            return Ok(None);
        };
        let decode = |source| Error::Decode {
            call: "GET /v1/events".to_owned(),
            source,
        };
        Ok(Some(if self.event.as_deref() == Some("gap") {
            Streamed::Gap(serde_json::from_str(data).map_err(decode)?)
        } else {
            Streamed::Event(Box::new(serde_json::from_str(data).map_err(decode)?))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_put_together_wherever_they_were_cut() {
        let text = ": hello\nid: 7\nretry: 1000\n\nid: 8\nevent: gap\ndata: {\"asked\":\"é\",\ndata:\"oldest\":\"2\",\"newest\":\"3\"}\n\n: still here\n\nid: 9\n";
        for size in [1, 2, 3, 7, text.len()] {
            let mut parser = Parser::default();
            assert!(text.as_bytes().chunks(size).all(|bytes| parser.take(bytes)));
            let ids: Vec<_> = parser
                .blocks
                .iter()
                .map(|block| block.id.as_deref())
                .collect();
            assert_eq!(ids, [Some("7"), Some("8"), None], "{size}");
            let read: Vec<_> = parser
                .blocks
                .iter()
                .map(|b| b.read().expect("JSON"))
                .collect();
            assert!(
                matches!(&read[1], Some(Streamed::Gap(gap)) if gap.asked == "é" && gap.newest == "3")
            );
            assert!(read[0].is_none() && read[2].is_none(), "{read:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut parser = Parser::default();
        assert!(parser.take(&[b'x'; MAX_BLOCK_BYTES]));
        assert!(!parser.take(b"x"));
    }

    #[test]
    fn a_block_without_an_end_is_given_up() {
        let mut parser = Parser::default();
        let line = [&b"data: "[..], &[b'x'; 1_000], b"\n"].concat();
        let taken = (0..10_000).take_while(|_| parser.take(&line)).count();
        assert!((4_000..4_300).contains(&taken), "{taken} lines");
        // The next one begins anew.
        let mut parser = Parser::default();
        let whole = [&line[..], b"\n"].concat();
        assert!((0..10_000).all(|_| parser.take(&whole)));
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    const STREAM: &[u8] =
        b"id: 7\nevent: gap\ndata: {\"from\":1}\n\n: ping\n\nid: 8\ndata: {}\ndata: x\n\n";

    #[test]
    fn fuzz_streams() {
        lessor_fuzz::run(&[STREAM], &["data: x\n", "id:", "event: gap\n"], |input| {
            let (whole, cut) = input.split_at(input.len() / 2);
            let (mut at_once, mut in_parts) = (Parser::default(), Parser::default());
            let good = at_once.take(input);
            if in_parts.take(whole) {
                in_parts.take(cut);
            }
            // Wherever it was cut, the same blocks come out.
            if good {
                let blocks = |parser: &Parser| format!("{:?}", parser.blocks);
                assert_eq!(blocks(&at_once), blocks(&in_parts));
            }
            for block in &at_once.blocks {
                let _ = block.read();
            }
        });
    }
}
