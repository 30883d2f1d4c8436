//! `logs`: what a session has printed, from a place in it or its last lines.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde::Serialize;

/// The most bytes of one answer as JSON, below the 64 KiB of a result.
const MAX_ANSWER_BYTES: usize = 60 * 1024;

/// A piece of a log.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Its text; what is not UTF-8 is replaced.
    pub data: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Where the next piece begins.
    pub next_offset: u64,
    /// How long the log is now.
    pub size: u64,
}

/// A piece that begins at `offset`, of at most `max_bytes`.
///
/// # Errors
/// When the file cannot be read.
pub fn from_offset(file: &mut File, offset: u64, max_bytes: usize) -> io::Result<Piece> {
    let size = file.metadata()?.len();
    let offset = offset.min(size);
    let mut bytes = read(file, offset, max_bytes)?;
    // A character that is cut in two comes whole with the next piece.
    let whole = whole_characters(&bytes);
    if whole > 0 {
        bytes.truncate(whole);
    }
    while is_too_long(&bytes) {
        let shorter = bytes.len() * 3 / 4;
        bytes.truncate(whole_characters(&bytes[..shorter]).max(1));
    }
    Ok(piece(&bytes, offset, size))
}

/// The last `lines` lines, as far as they have at most `max_bytes`.
///
/// # Errors
/// When the file cannot be read.
pub fn last_lines(file: &mut File, lines: usize, max_bytes: usize) -> io::Result<Piece> {
    let size = file.metadata()?.len();
    let start = size.saturating_sub(max_bytes as u64);
    let bytes = read(file, start, max_bytes)?;
    let mut from = first_of_last(&bytes, lines);
    if from == 0 && start > 0 {
        // What was cut off in the middle begins with the rest of a character at most.
        from = bytes
            .iter()
            .take(3)
            .take_while(|b| **b & 0xc0 == 0x80)
            .count();
    }
    while is_too_long(&bytes[from..]) {
        from += (bytes.len() - from).div_ceil(4);
        while from < bytes.len() && bytes[from] & 0xc0 == 0x80 {
            from += 1;
        }
    }
    Ok(piece(&bytes[from..], start + from as u64, size))
}

fn read(file: &mut File, offset: u64, max_bytes: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(max_bytes as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn piece(bytes: &[u8], offset: u64, size: u64) -> Piece {
    let next_offset = offset + bytes.len() as u64;
    Piece {
        data: String::from_utf8_lossy(bytes).into_owned(),
        offset,
        next_offset,
        // It may have grown while it was read.
        size: size.max(next_offset),
    }
}

fn is_too_long(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    serde_json::to_string(&text).map_or(0, |json| json.len()) > MAX_ANSWER_BYTES
}

/// How many bytes there are without a character that has begun at the end and is not complete.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // Other bytes before that: look at the last few alone.
        Err(_) => {
            let tail = bytes.len().saturating_sub(3);
            (tail..bytes.len())
                .find(|at| {
                    let begins = bytes[*at] & 0xc0 == 0xc0;
                    begins
                        && std::str::from_utf8(&bytes[*at..])
                            .is_err_and(|error| error.error_len().is_none())
                })
                .unwrap_or(bytes.len())
        }
    }
}

/// Where the last `lines` lines begin. A line feed at the very end begins no line.
fn first_of_last(bytes: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    let end = bytes.len() - usize::from(bytes.last() == Some(&b'\n'));
    let feeds = bytes[..end].iter().enumerate().rev();
    feeds
        .filter(|(_, byte)| **byte == b'\n')
        .nth(lines - 1)
        .map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn log(bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("lessor-logs-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn the_last_lines_are_whole() {
        // (log, lines, most bytes, data, offset)
        let cases: &[(&str, usize, usize, &str, u64)] = &[
            ("a\nb\nc\n", 2, 100, "b\nc\n", 2),
            ("a\nb\nc", 2, 100, "b\nc", 2),
            ("a\nb\n", 9, 100, "a\nb\n", 0),
            ("a\nb\n", 0, 100, "", 4),
            ("", 5, 100, "", 0),
            ("\n\n\n", 1, 100, "\n", 2),
            ("abcdef", 1, 3, "def", 3),
            ("xäö", 1, 3, "ö", 3),
        ];
        for (text, lines, most, data, offset) in cases {
            let piece = last_lines(&mut log(text.as_bytes()), *lines, *most).unwrap();
            assert_eq!(
                (piece.data.as_str(), piece.offset),
                (*data, *offset),
                "{text:?}"
            );
            assert_eq!(piece.next_offset, text.len() as u64, "{text:?}");
        }
    }

    #[test]
    fn pieces_put_together_are_the_log() {
        let mut text = "zeile äöü € 𝄞\n".repeat(3_000);
        text.push_str(&"\u{1}".repeat(20_000));
        for most in [4, 5, 7, 1_000, 40_000] {
            let mut file = log(text.as_bytes());
            let (mut all, mut at) = (String::new(), 0);
            while at < text.len() as u64 {
                let piece = from_offset(&mut file, at, most).unwrap();
                assert!(piece.offset == at && piece.next_offset > at);
                let size = serde_json::to_vec(&piece).unwrap().len();
                assert!(size < 64 * 1024, "{size}");
                (all, at) = (all + &piece.data, piece.next_offset);
            }
            assert!(all == text, "in pieces of {most}");
        }
        let beyond = from_offset(&mut log(b"abc"), 99, 10).unwrap();
        assert_eq!(
            (beyond.data.as_str(), beyond.offset, beyond.size),
            ("", 3, 3)
        );
        let broken = from_offset(&mut log(b"a\xff\xfeb\xc3"), 0, 10).unwrap();
        assert_eq!(
            (broken.data.as_str(), broken.next_offset),
            ("a\u{fffd}\u{fffd}b", 4)
        );
    }
}
