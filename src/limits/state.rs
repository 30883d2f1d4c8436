//! When a limit of a session is reached, pure.

use chrono::{DateTime, Utc};
use lessor_protocol::{DesiredState, SessionState};

use crate::sessions::duration;

/// A limit of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nobody has used it for its `idle_timeout_seconds`.
    Idle,
    /// It first ran `max_duration_seconds` ago.
    MaxDuration,
}

impl Limit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Idle, Self::MaxDuration];

    /// Its name in metrics, events and `termination_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::MaxDuration => "max_duration",
        }
    }
}

/// What the limits of a session are judged by.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct Facts {
    pub desired: DesiredState,
    pub state: SessionState,
    /// Whether an agent has accepted it: without one, nobody can tell of activity.
    pub held: bool,
    /// Since when its present agent holds it.
    pub held_since: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub first_started_at: Option<DateTime<Utc>>,
    pub idle_timeout_seconds: Option<f64>,
    pub max_duration_seconds: Option<f64>,
    pub last_activity_at: Option<DateTime<Utc>>,
    /// The pool's.
    pub lease_ttl_seconds: f64,
    /// Whether heartbeats can be taken at present.
    pub pulse_is_fresh: bool,
    /// When the last outage of the service was found.
    pub gap_at: Option<DateTime<Utc>>,
}

/// What is to be done about the limits of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No limit runs.
    Nothing,
    /// Look again at this time.
    Later(DateTime<Utc>),
    /// This one is reached.
    Reached(Limit),
}

/// How long to wait for a pulse before looking again.
const PULSE_SECONDS: f64 = 1.0;

/// What is to be done at `now`.
///
/// The longest life counts from the first run, whatever came after it, for as long as the session
/// neither has ended nor is to end. Idleness counts from the last use or, if that is later, from
/// the beginning of the present run. It is judged only where its agent could have told otherwise:
/// while an agent holds it and heartbeats can be taken, and for one lease time neither after an
/// outage nor after another agent has adopted it.
#[must_use]
pub fn judge(facts: &Facts, now: DateTime<Utc>) -> Verdict {
    let (end, idle) = (ends_at(facts), idle_at(facts));
    if end.is_some_and(|at| at <= now) {
        return Verdict::Reached(Limit::MaxDuration);
    }
    let idle = match idle {
        Some(at) if at <= now && facts.pulse_is_fresh => {
            return Verdict::Reached(Limit::Idle);
        }
        Some(at) if at <= now => Some(now + duration(PULSE_SECONDS)),
        other => other,
    };
    [end, idle]
        .into_iter()
        .flatten()
        .min()
        .map_or(Verdict::Nothing, Verdict::Later)
}

fn ends_at(facts: &Facts) -> Option<DateTime<Utc>> {
    let over = facts.desired == DesiredState::Terminated
        || matches!(facts.state, SessionState::Terminated | SessionState::Failed);
    let at = facts.first_started_at? + duration(facts.max_duration_seconds?);
    (!over).then_some(at)
}

fn idle_at(facts: &Facts) -> Option<DateTime<Utc>> {
    let runs = facts.desired == DesiredState::Running && facts.state == SessionState::Running;
    if !runs || !facts.held {
        return None;
    }
    let started_at = facts.started_at?;
    let ttl = duration(facts.lease_ttl_seconds);
    let adopted_at = facts.held_since.filter(|since| *since > started_at);
    let at = facts.last_activity_at.unwrap_or(started_at).max(started_at)
        + duration(facts.idle_timeout_seconds?);
    let could_tell = facts.gap_at.max(adopted_at).map(|since| since + ttl);
    Some(could_tell.map_or(at, |since| at.max(since)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).expect("a time")
    }

    /// It has run since 0, may be idle for 60 s, and its pool's leases last 30 s.
    fn facts(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = Facts {
            desired: DesiredState::Running,
            state: SessionState::Running,
            held: true,
            held_since: Some(at(-1)),
            started_at: Some(at(0)),
            first_started_at: Some(at(0)),
            idle_timeout_seconds: Some(60.0),
            max_duration_seconds: None,
            last_activity_at: None,
            lease_ttl_seconds: 30.0,
            pulse_is_fresh: true,
            gap_at: None,
        };
        change(&mut facts);
        facts
    }

    #[test]
    fn what_is_done_when() {
        use Limit::{Idle, MaxDuration};
        use Verdict::{Later, Nothing, Reached};
        type Change = fn(&mut Facts);
        let cases: &[(&str, Change, i64, Verdict)] = &[
            ("not yet", |_| {}, 59, Later(at(60))),
            ("idle since it started", |_| {}, 60, Reached(Idle)),
            (
                "used",
                |f| f.last_activity_at = Some(at(30)),
                60,
                Later(at(90)),
            ),
            (
                "used, long ago",
                |f| f.last_activity_at = Some(at(30)),
                90,
                Reached(Idle),
            ),
            (
                "used in an earlier run",
                |f| f.last_activity_at = Some(at(-9)),
                59,
                Later(at(60)),
            ),
            ("no limit", |f| f.idle_timeout_seconds = None, 999, Nothing),
            (
                "not running",
                |f| f.state = SessionState::Waking,
                999,
                Nothing,
            ),
            (
                "hibernated is wanted",
                |f| f.desired = DesiredState::Hibernated,
                999,
                Nothing,
            ),
            (
                "its end is wanted",
                |f| f.desired = DesiredState::Terminated,
                999,
                Nothing,
            ),
            ("nobody holds it", |f| f.held = false, 999, Nothing),
            (
                "adopted lately",
                |f| f.held_since = Some(at(50)),
                70,
                Later(at(80)),
            ),
            (
                "adopted",
                |f| f.held_since = Some(at(50)),
                80,
                Reached(Idle),
            ),
            (
                "an outage lately",
                |f| f.gap_at = Some(at(55)),
                84,
                Later(at(85)),
            ),
            ("an outage", |f| f.gap_at = Some(at(55)), 85, Reached(Idle)),
            (
                "an outage goes on",
                |f| f.pulse_is_fresh = false,
                70,
                Later(at(71)),
            ),
            (
                "its life is over",
                |f| f.max_duration_seconds = Some(50.0),
                50,
                Reached(MaxDuration),
            ),
            (
                "its life is over in an outage",
                |f| {
                    f.max_duration_seconds = Some(50.0);
                    f.pulse_is_fresh = false;
                },
                50,
                Reached(MaxDuration),
            ),
            (
                "the sooner of both",
                |f| f.max_duration_seconds = Some(50.0),
                49,
                Later(at(50)),
            ),
            (
                "life counts from the first run",
                |f| {
                    f.first_started_at = Some(at(-40));
                    f.max_duration_seconds = Some(50.0);
                },
                10,
                Reached(MaxDuration),
            ),
            (
                "also at rest, and held by nobody",
                |f| {
                    f.max_duration_seconds = Some(500.0);
                    f.state = SessionState::Hibernated;
                    f.desired = DesiredState::Hibernated;
                    f.held = false;
                },
                500,
                Reached(MaxDuration),
            ),
            (
                "a dead letter",
                |f| {
                    f.max_duration_seconds = Some(50.0);
                    f.state = SessionState::Failed;
                },
                500,
                Nothing,
            ),
            (
                "never ran",
                |f| {
                    f.max_duration_seconds = Some(50.0);
                    f.state = SessionState::Pending;
                    (f.started_at, f.first_started_at) = (None, None);
                },
                500,
                Nothing,
            ),
        ];
        for (what, change, now, verdict) in cases {
            assert_eq!(judge(&facts(change), at(*now)), *verdict, "{what}");
        }
    }
}
