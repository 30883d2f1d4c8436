//! Durations as Go writes them: `2h30m`, `1.5h`, `300ms`.
//!
//! The grammar is that of the documentation of Go's `time.ParseDuration`: an optional sign, then one
//! or more decimal numbers, each with a unit; a bare `0` needs none.

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// A number was expected.
    #[error("a number is missing")]
    NoNumber,
    /// A number stands without its unit.
    #[error("a number has no unit")]
    NoUnit,
    /// The unit is none of Go's.
    #[error("a unit is not one of h, m, s, ms, us, ns")]
    UnknownUnit,
    /// Go could not hold it either.
    #[error("it is longer than 292 years")]
    TooLong,
}

/// The most nanoseconds that Go's type holds.
const MAX_SECONDS: f64 = 9_223_372_036.0;

/// The seconds that a text says, negative ones included.
///
/// # Errors
/// [`NotADuration`], with the reason.
pub fn parse(text: &str) -> Result<f64, NotADuration> {
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(NotADuration::Empty);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let digits = number.bytes().any(|byte| byte.is_ascii_digit());
        if !digits || number.matches('.').count() > 1 {
            return Err(NotADuration::NoNumber);
        }
        let number: f64 = number.parse().map_err(|_| NotADuration::NoNumber)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = tail.split_at(end.unwrap_or(tail.len()));
        seconds += number
            * match unit {
                "" => return Err(NotADuration::NoUnit),
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(NotADuration::UnknownUnit),
            };
        rest = after;
    }
    if seconds > MAX_SECONDS {
        return Err(NotADuration::TooLong);
    }
    Ok(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use NotADuration::{Empty, NoNumber, NoUnit, TooLong, UnknownUnit};

    #[test]
    fn what_go_writes_and_what_it_would_refuse() {
        let cases: &[(&str, Result<f64, NotADuration>)] = &[
            ("2h30m", Ok(9000.0)),
            ("30m0s", Ok(1800.0)),
            ("1.5h", Ok(5400.0)),
            (".5s", Ok(0.5)),
            ("5.s", Ok(5.0)),
            ("300ms", Ok(0.3)),
            ("10us", Ok(1e-5)),
            ("10µs", Ok(1e-5)),
            ("7ns", Ok(7e-9)),
            ("0", Ok(0.0)),
            ("-0", Ok(0.0)),
            ("0s", Ok(0.0)),
            ("-5m", Ok(-300.0)),
            ("+5m", Ok(300.0)),
            ("1h1h", Ok(7200.0)),
            ("", Err(Empty)),
            ("-", Err(Empty)),
            ("2h30", Err(NoUnit)),
            ("30", Err(NoUnit)),
            ("1d", Err(UnknownUnit)),
            ("1H", Err(UnknownUnit)),
            ("1 h", Err(UnknownUnit)),
            ("h", Err(NoNumber)),
            (".s", Err(NoNumber)),
            ("1.2.3s", Err(NoNumber)),
            ("--5m", Err(NoNumber)),
            ("2h-30m", Err(UnknownUnit)),
            ("forever", Err(NoNumber)),
            ("9999999999h", Err(TooLong)),
            ("1e3s", Err(UnknownUnit)),
        ];
        for (text, expected) in cases {
            let found = parse(text);
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert!((found - expected).abs() < 1e-12, "{text}: {found}");
                }
                _ => assert_eq!(found, *expected, "{text}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(h in 0u32..100_000, m in 0u32..60, s in 0u32..60, ms in 0u32..1000) {
            let expected = f64::from(h) * 3600.0 + f64::from(m) * 60.0 + f64::from(s) + f64::from(ms) / 1e3;
            for text in [format!("{h}h{m}m{s}.{ms:03}s"), format!("{h}h{m}m{s}s{ms}ms")] {
                let found = parse(&text).expect("a duration");
                proptest::prop_assert!((found - expected).abs() < 1e-6, "{} {}", text, found);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in ".*") {
            if let Ok(seconds) = parse(&text) {
                proptest::prop_assert!(seconds.is_finite());
            }
        }
    }
}
