//! Fuzzing in the ordinary tests: inputs that work, changed at random, for a bounded time.
//!
//! A target is a closure that asserts what must hold of any bytes. Its inputs are changed copies of
//! examples: bytes flipped, cut, repeated, joined with other examples, words and numbers from the
//! dictionary put in. It is a test like any other, so every run of the tests is a short run of each.
//!
//! `LESSOR_FUZZ_SECONDS` says for how long each target runs (half a second unless set), and
//! `LESSOR_TEST_SEED` with which seed. What made a target fail is printed as a Rust byte string.
//!
//! It is not guided by coverage. That needs every dependency compiled once more with instrumentation,
//! which takes longer than everything that it would find; the examples and the dictionary lead it
//! into the parsers instead.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// The longest input, beyond the length of the longest example.
const GROWTH_BYTES: usize = 4_096;

/// Words that parsers of all kinds trip over.
const WORDS: &[&str] = &[
    "\0",
    "\u{feff}",
    "\u{202e}",
    "\u{d7ff}",
    "é",
    "\\u0000",
    "\\ud800",
    "null",
    "NaN",
    "inf",
    "-0",
    "1e999",
    "0x10",
    "9223372036854775807",
    "-9223372036854775809",
    "18446744073709551616",
    "1e-400",
    "0.1",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[",
    ":",
    ",",
    ";",
    "=",
    "&",
    "%",
    "%00",
    "%ff",
    "%2",
    "*",
    "W/",
    "\r\n",
    "\n\n",
    " ",
    "\t",
    "..",
    "/",
    "~0",
    "~1",
    "@",
    "+",
    "--",
];

/// A stream of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit.max(1) as u64).unwrap_or(0)
    }
}

/// Runs a target on changed examples, with more words beside the usual ones.
///
/// # Panics
/// When the target does, after printing the input; and when it was given no example.
pub fn run(examples: &[&[u8]], words: &[&str], target: impl Fn(&[u8])) {
    assert!(!examples.is_empty(), "a target needs an example");
    let seed = number("LESSOR_TEST_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    });
    eprintln!("LESSOR_TEST_SEED={seed}");
    let time =
        number("LESSOR_FUZZ_SECONDS").map_or(Duration::from_millis(500), Duration::from_secs);
    let longest = examples
        .iter()
        .map(|example| example.len())
        .max()
        .unwrap_or(0)
        + GROWTH_BYTES;
    let mut random = Random(seed);
    let begun = Instant::now();
    let mut runs = 0_u64;
    for example in examples {
        judge(&target, example);
    }
    while begun.elapsed() < time {
        let mut input = examples[random.below(examples.len())].to_vec();
        for _ in 0..=random.below(6) {
            change(&mut random, &mut input, examples, words);
        }
        input.truncate(longest);
        judge(&target, &input);
        runs += 1;
    }
    eprintln!("{runs} inputs");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn judge(target: &impl Fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("this input made it fail: b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

fn change(random: &mut Random, input: &mut Vec<u8>, examples: &[&[u8]], words: &[&str]) {
    let at = random.below(input.len() + 1);
    let end = at + random.below(input.len() - at + 1).min(64);
    match random.below(10) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap_or(0),
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        4 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        5 => {
            // Deep, or long: where a limit is, it is met.
            let piece = input[at..end.min(at + 4)].to_vec();
            let many = piece.repeat(1 + random.below(400));
            input.splice(at..at, many);
        }
        6 => {
            let other = examples[random.below(examples.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        7 if !words.is_empty() => {
            let word = words[random.below(words.len())];
            input.splice(at..end, word.bytes());
        }
        8 => {
            let word = WORDS[random.below(WORDS.len())];
            input.splice(at..end, word.bytes());
        }
        _ => {
            let word = WORDS[random.below(WORDS.len())];
            input.splice(at..at, word.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_and_shown() {
        let faulty = |input: &[u8]| assert!(!input.windows(3).any(|three| three == b"a,["));
        let found = catch_unwind(|| run(&[b"a,b", b"[c]"], &[], faulty));
        assert!(found.is_err(), "it found nothing");
        run(&[b"a"], &["b"], |input| {
            assert!(input.len() <= 1 + GROWTH_BYTES)
        });
    }
}
