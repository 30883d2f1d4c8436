//! What comes of an attempt to send, and when the next one is. Pure.

use std::time::Duration;

/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// After how long of nothing but failures a webhook is disabled. It keeps its place for as long as events
/// are kept, so that nothing is lost where somebody enables it in time.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 86_400);

/// What is said of a receiver that wants nothing any more.
pub const GONE: &str = "it answered 410: it wants nothing any more";

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status that the receiver answered with, if it did.
    pub status: Option<u16>,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Taken,
    /// It is tried again.
    Failed {
        /// Why.
        why: String,
        /// The pause that the receiver asks for.
        pause: Option<Duration>,
    },
    /// The receiver wants nothing any more.
    Gone,
}

impl Outcome {
    /// Of an answer; `retry_after` is its header.
    #[must_use]
    pub fn answered(status: u16, retry_after: Option<&str>) -> Self {
        let verdict = match status {
            200..300 => Verdict::Taken,
            410 => Verdict::Gone,
            // A redirect too: what it leads to was named by nobody who may.
            _ => Verdict::Failed {
                why: format!("it answered {status}"),
                pause: retry_after
                    .and_then(|text| text.trim().parse().ok())
                    .map(Duration::from_secs),
            },
        };
        Self {
            status: Some(status),
            verdict,
        }
    }

    /// Of an attempt without an answer.
    #[must_use]
    pub fn unanswered(why: impl Into<String>) -> Self {
        Self {
            status: None,
            verdict: Verdict::Failed {
                why: why.into(),
                pause: None,
            },
        }
    }
}

/// The pause after the `failures`-th failure: doubling from a second to ten minutes, less up to a quarter by
/// chance (0 to 1), so that receivers that come back are not met by all at once; longer where the receiver
/// asks for it, an hour at most.
#[must_use]
pub fn pause(failures: i32, asked: Option<Duration>, chance: f64) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1))
        .unwrap_or(0)
        .min(20);
    let pause = FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE);
    let pause = pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0);
    pause.max(asked.unwrap_or_default().min(LONGEST_ASKED))
}

/// The id of a delivery: the same for the same events, however often it is sent.
#[must_use]
pub fn delivery_id(webhook: uuid::Uuid, first: i64, last: i64) -> String {
    format!("{webhook}_{first}_{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_mean() {
        for taken in [200, 201, 202, 204, 299] {
            assert_eq!(Outcome::answered(taken, None).verdict, Verdict::Taken);
        }
        assert_eq!(Outcome::answered(410, None).verdict, Verdict::Gone);
        for failed in [
            100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503,
        ] {
            let verdict = Outcome::answered(failed, None).verdict;
            let why = format!("it answered {failed}");
            assert_eq!(verdict, Verdict::Failed { why, pause: None }, "{failed}");
        }
        for (header, pause) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            let Verdict::Failed { pause: found, .. } = Outcome::answered(503, Some(header)).verdict
            else {
                panic!("it failed");
            };
            assert_eq!(found, pause.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn pauses_double_and_end() {
        let seconds = |failures, asked: Option<u64>, chance| {
            pause(failures, asked.map(Duration::from_secs), chance).as_secs_f64()
        };
        for (failures, expected) in [
            (0, 1.0),
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (10, 512.0),
            (11, 600.0),
            (i32::MAX, 600.0),
        ] {
            assert!(
                (seconds(failures, None, 0.0) - expected).abs() < 1e-9,
                "{failures}"
            );
            assert!(
                (seconds(failures, None, 1.0) - expected * 0.75).abs() < 1e-9,
                "{failures}"
            );
        }
        assert!((seconds(1, Some(30), 1.0) - 30.0).abs() < 1e-9);
        assert!((seconds(1, Some(u64::MAX), 0.5) - 3600.0).abs() < 1e-9);
        assert!((seconds(11, Some(5), 0.0) - 600.0).abs() < 1e-9);
    }
}
