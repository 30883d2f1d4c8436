//! Events that were read together, as streams send them: the bytes are made once for all streams.

use axum::body::Bytes;
use lessor_protocol::Event;

use super::row::EventRow;
use super::state::Subject;
use crate::error::{Error, Result};

#[derive(Debug)]
struct Item {
    position: i64,
    /// What filters look at.
    subject: Subject,
    /// Where its bytes end in those of its batch.
    end: usize,
}

/// Events that were read together, one or more.
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
    /// Their SSE blocks, one after the other.
    bytes: Bytes,
}

impl Batch {
    /// The events as SSE blocks.
    ///
    /// # Errors
    /// `Internal` when one cannot be written as JSON.
    pub fn of(rows: Vec<EventRow>) -> Result<Self> {
        let mut bytes = Vec::with_capacity(512 * rows.len());
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.push(Item::write(row, &mut bytes)?);
        }
        Ok(Self {
            items,
            bytes: Bytes::from(bytes),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// How many bytes they are.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The position of the last; 0 when there is none.
    pub fn last(&self) -> i64 {
        self.items.last().map_or(0, |item| item.position)
    }

    /// The position of the first; 0 when there is none.
    pub fn first(&self) -> i64 {
        self.items.first().map_or(0, |item| item.position)
    }

    /// The bytes of those after a position that are wanted, in as few pieces as they can be had, and
    /// the position of the last of them.
    pub fn after(
        &self,
        after: i64,
        wanted: impl Fn(&Subject) -> bool,
    ) -> (Vec<Bytes>, Option<i64>) {
        let from = self.items.partition_point(|item| item.position <= after);
        let mut begin = from
            .checked_sub(1)
            .map_or(0, |before| self.items[before].end);
        let (mut pieces, mut last) = (Vec::new(), None);
        let mut end = begin;
        for item in &self.items[from..] {
            if wanted(&item.subject) {
                (end, last) = (item.end, Some(item.position));
                continue;
            }
            if end > begin {
                pieces.push(self.bytes.slice(begin..end));
            }
            (begin, end) = (item.end, item.end);
        }
        if end > begin {
            pieces.push(self.bytes.slice(begin..end));
        }
        (pieces, last)
    }
}

impl Item {
    fn write(row: EventRow, bytes: &mut Vec<u8>) -> Result<Self> {
        let subject = Subject {
            kind: row.kind.clone(),
            pool: row.pool.clone(),
            agent: row.agent.clone(),
            session: row.session_id,
            owner: row.owner.clone(),
        };
        let position = row.id;
        bytes.extend_from_slice(
            format!("id: {position}\nevent: {}\ndata: ", subject.kind).as_bytes(),
        );
        serde_json::to_writer(&mut *bytes, &Event::from(row))
            .map_err(|error| Error::Internal(error.to_string()))?;
        bytes.extend_from_slice(b"\n\n");
        Ok(Self {
            position,
            subject,
            end: bytes.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use lessor_protocol::ActorType;

    use super::*;

    fn batch(kinds: &[&str]) -> Batch {
        let row = |(id, kind): (i64, &&str)| EventRow {
            id,
            kind: (*kind).to_owned(),
            at: DateTime::UNIX_EPOCH,
            pool: "p".to_owned(),
            owner: None,
            session_id: None,
            agent: None,
            incarnation: None,
            lease_epoch: None,
            generation: None,
            actor_type: ActorType::System,
            actor_name: "lessor".to_owned(),
            from_value: None,
            to_value: None,
            reason: None,
            data: serde_json::json!({}),
        };
        Batch::of((5..).zip(kinds).map(row).collect()).expect("a batch")
    }

    fn kinds_of(pieces: &[Bytes]) -> Vec<String> {
        let text = |piece: &Bytes| String::from_utf8(piece.to_vec()).expect("text");
        let kind = |line: &str| line.strip_prefix("event: ").map(str::to_owned);
        pieces
            .iter()
            .map(|piece| {
                text(piece)
                    .lines()
                    .filter_map(kind)
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .collect()
    }

    #[test]
    fn what_is_wanted_comes_in_as_few_pieces_as_can_be() {
        let batch = batch(&["a", "b", "x", "c", "d", "x"]);
        let wanted = |subject: &Subject| subject.kind != "x";
        let (pieces, last) = batch.after(4, |_| true);
        assert_eq!(
            (kinds_of(&pieces), last),
            (vec!["a,b,x,c,d,x".to_owned()], Some(10))
        );
        assert!(
            pieces[0].starts_with(b"id: 5\nevent: a\ndata: {") && pieces[0].ends_with(b"}\n\n")
        );
        let (pieces, last) = batch.after(5, wanted);
        assert_eq!(
            (kinds_of(&pieces), last),
            (vec!["b".to_owned(), "c,d".to_owned()], Some(9))
        );
        let (pieces, last) = batch.after(9, wanted);
        assert_eq!((pieces.len(), last), (0, None));
        assert_eq!(batch.last(), 10);
    }
}
