//! Parameters of a database's URL that the client library does not know: found, taken out, put in.
//!
//! A URL has them behind a `?`, percent-encoded; a line of keywords and values has them among the others, in
//! quotes where they have spaces. What is not well-formed stays as it is, and whoever reads it then says what
//! is wrong with it.

use std::ops::Range;
use std::path::Path;

/// A URL without the parameters that were looked for, and those.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The URL without them.
    pub rest: String,
    /// Whether and how there is to be TLS.
    pub sslmode: Option<String>,
    /// The file with the authorities.
    pub sslrootcert: Option<String>,
}

/// Takes `sslmode` and `sslrootcert` out of a URL.
#[must_use]
pub fn take_out(url: &str) -> Parameters {
    let mut taken = Parameters::default();
    let found = if is_url(url) {
        in_url(url)
    } else {
        in_line(url).unwrap_or_default()
    };
    let mut from = 0;
    for (place, key, value) in found {
        // The last one counts, as with the client library.
        match key.as_str() {
            "sslmode" => taken.sslmode = Some(value),
            "sslrootcert" => taken.sslrootcert = Some(value),
            _ => continue,
        }
        taken.rest.push_str(&url[from..place.start]);
        from = place.end;
    }
    taken.rest.push_str(&url[from..]);
    if is_url(url) {
        let kept = taken.rest.trim_end_matches(['&', '?']).len();
        if from > 0 {
            taken.rest.truncate(kept);
        }
    }
    taken
}

/// A URL that names this file of authorities, unless it names one.
#[must_use]
pub fn trusting(url: &str, authorities: Option<&Path>) -> String {
    let Some(file) = authorities else {
        return url.to_owned();
    };
    if take_out(url).sslrootcert.is_some() {
        return url.to_owned();
    }
    let file = file.to_string_lossy();
    if is_url(url) {
        let separator = if parameters(url).is_some() { '&' } else { '?' };
        let encoded: String = file.bytes().map(encoded).collect();
        format!("{url}{separator}sslrootcert={encoded}")
    } else {
        let quoted = file.replace('\\', "\\\\").replace('\'', "\\'");
        // In front: what a line that ends with a `=` would take for its value.
        format!("sslrootcert='{quoted}' {url}")
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Where the parameters of a URL begin. A password may have a `?` in it.
fn parameters(url: &str) -> Option<usize> {
    let host = url.find('@').unwrap_or(0);
    url[host..].find('?').map(|at| host + at + 1)
}

type Found = Vec<(Range<usize>, String, String)>;

/// Each parameter with its place, the `&` behind it included.
fn in_url(url: &str) -> Found {
    let Some(begin) = parameters(url) else {
        return Vec::new();
    };
    let mut at = begin;
    let mut found = Vec::new();
    for parameter in url[begin..].split_inclusive('&') {
        let place = at..at + parameter.len();
        at = place.end;
        if let Some((key, value)) = parameter.trim_end_matches('&').split_once('=') {
            found.push((place, decoded(key), decoded(value)));
        }
    }
    found
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = rest.get(1..3).filter(|_| byte == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &rest[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(byte: u8) -> String {
    let stays = byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if stays {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// Each keyword with its value and its place, the space behind it included; none if it is no such line.
fn in_line(line: &str) -> Option<Found> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let begin = line.len() - rest.len();
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start())?;
        rest = after.trim_start();
        let place = begin..line.len() - rest.len();
        found.push((place, key.trim_end().to_owned(), value));
    }
    Some(found)
}

/// The value that a text begins with, and what is behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted.is_some() => return Some((value, &text[at + 1..])),
            space if space.is_whitespace() && quoted.is_none() => {
                return Some((value, &text[at..]));
            }
            other => value.push(other),
        }
    }
    quoted.is_none().then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rest: &str, sslmode: Option<&str>, sslrootcert: Option<&str>) -> Parameters {
        Parameters {
            rest: rest.to_owned(),
            sslmode: sslmode.map(str::to_owned),
            sslrootcert: sslrootcert.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_looked_for_is_taken_out_and_nothing_else() {
        for (url, expected) in [
            ("postgres://h/d", taken("postgres://h/d", None, None)),
            (
                "postgres://u:p?sslmode=x@h/d",
                taken("postgres://u:p?sslmode=x@h/d", None, None),
            ),
            (
                "postgres://h/d?sslmode=verify-ca",
                taken("postgres://h/d", Some("verify-ca"), None),
            ),
            (
                "postgresql://h?a=1&sslmode=x&b=2&sslrootcert=%2Fa%20b",
                taken("postgresql://h?a=1&b=2", Some("x"), Some("/a b")),
            ),
            (
                "host=h sslmode='verify-full' user=u",
                taken("host=h user=u", Some("verify-full"), None),
            ),
            (
                "host=h password='a sslmode=x' sslrootcert=/a\\ b\\'c",
                taken("host=h password='a sslmode=x' ", None, Some("/a b'c")),
            ),
            ("host='h sslmode=x", taken("host='h sslmode=x", None, None)),
        ] {
            assert_eq!(take_out(url), expected, "{url}");
        }
    }

    #[test]
    fn a_file_is_named_once() {
        let file = Some(Path::new("/a b/c'&.pem"));
        for url in [
            "postgres://h/d",
            "postgres://u:p?@h/d?application_name=x",
            "host=h dbname=d",
        ] {
            let named = trusting(url, file);
            assert_eq!(
                take_out(&named).sslrootcert.as_deref(),
                Some("/a b/c'&.pem"),
                "{named}"
            );
            assert_eq!(trusting(&named, Some(Path::new("/other"))), named);
            assert_eq!(take_out(&named).rest.trim(), url, "{named}");
            assert_eq!(trusting(url, None), url);
        }
    }

    #[test]
    fn fuzz_whatever_is_written_is_taken_out_once() {
        let examples: &[&[u8]] = &[
            b"postgres://user:p@host:5432/name?sslmode=require&sslrootcert=%2Fa",
            b"host=h user='u' sslmode=verify-full sslrootcert='/a b'",
        ];
        let words = [
            "sslmode=",
            "sslrootcert=",
            "&",
            "?",
            "'",
            "\\",
            "%",
            " ",
            "=",
        ];
        lessor_fuzz::run(examples, &words, |input| {
            let url = String::from_utf8_lossy(input);
            let once = take_out(&url);
            // Nothing comes to be what was looked for by taking something out.
            if once.sslmode.is_some() || once.sslrootcert.is_some() {
                assert!(once.rest.len() < url.len(), "{url}: {once:?}");
            } else {
                assert_eq!(once.rest, url);
            }
            let file = Path::new("/x y'.pem");
            let named = take_out(&trusting(&url, Some(file)));
            if in_line(&url).is_some() || is_url(&url) {
                assert!(named.sslrootcert.is_some(), "{url}: {named:?}");
            }
        });
    }
}
