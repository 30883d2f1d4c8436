//! The rules of explaining, as tables, and against the dispatcher's own.

use super::state::*;
use crate::claims::{Candidate, Item, MayTake, share_out};
use crate::sessions::{Next, Reach};
use chrono::{DateTime, Utc};
use lessor_protocol::{Action, AgentVerdict, Labels, Placement, Scheduling, WaitingFor};
use proptest::prelude::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000, 0).expect("a time")
}

fn later(by_seconds: f64) -> Option<DateTime<Utc>> {
    Some(now() + seconds(by_seconds))
}

fn agent() -> Agent {
    Agent {
        name: "a".to_owned(),
        resource_domain: "d".to_owned(),
        live: true,
        scheduling: Scheduling::Active,
        capacity: 2,
        slots_used: 0,
        passed_over_until: None,
        last_of_domain: false,
        claim: Some(LastClaim {
            at: now() - seconds(10.0),
            wait_seconds: 30.0,
            max_sessions: 1,
        }),
    }
}

fn start() -> Needs {
    Needs {
        action: Action::Start,
        domain: None,
        start_domain: None,
        needs_slot: true,
        elsewhere: false,
        avoid: None,
        kept_for: None,
    }
}

fn of_domain(action: Action) -> Needs {
    Needs {
        action,
        domain: Some("d".to_owned()),
        needs_slot: false,
        ..start()
    }
}

fn judge(agent: &Agent, needs: &Needs, lacks: bool) -> AgentVerdict {
    verdict(agent, needs, lacks, (now(), 30.0))
}

#[test]
fn of_several_reasons_the_first_in_the_order_of_the_protocol() {
    // Everything speaks against it at first; one reason after the other is taken away.
    let mut a = Agent {
        live: false,
        scheduling: Scheduling::Cordoned,
        resource_domain: "e".to_owned(),
        slots_used: 2,
        passed_over_until: later(5.0),
        claim: None,
        ..agent()
    };
    let mut needs = of_domain(Action::Adopt);
    let mut seen = vec![judge(&a, &needs, true)];
    a.live = true;
    seen.push(judge(&a, &needs, true));
    a.scheduling = Scheduling::Active;
    seen.push(judge(&a, &needs, true));
    // Its domain was given up: others may start it.
    needs.elsewhere = true;
    seen.push(judge(&a, &needs, true));
    seen.push(judge(&a, &needs, false));
    a.slots_used = 1;
    seen.push(judge(&a, &needs, false));
    a.passed_over_until = later(0.0);
    seen.push(judge(&a, &needs, false));
    a.claim = agent().claim;
    seen.push(judge(&a, &needs, false));
    assert_eq!(seen, AgentVerdict::ALL);
}

#[test]
fn what_a_domain_has_to_do_needs_neither_labels_nor_slots() {
    let full = Agent {
        slots_used: 2,
        ..agent()
    };
    assert_eq!(
        judge(&full, &of_domain(Action::Adopt), true),
        AgentVerdict::Eligible
    );
    assert_eq!(judge(&full, &start(), false), AgentVerdict::Full);
    let wake = Needs {
        needs_slot: true,
        ..of_domain(Action::Wake)
    };
    assert_eq!(judge(&full, &wake, true), AgentVerdict::Full);
    assert_eq!(judge(&agent(), &wake, true), AgentVerdict::Eligible);
}

#[test]
fn the_last_agent_of_a_domain_sees_to_its_ends_though_cordoned() {
    let last = Agent {
        scheduling: Scheduling::Draining,
        last_of_domain: true,
        passed_over_until: later(5.0),
        ..agent()
    };
    assert_eq!(
        judge(&last, &of_domain(Action::Terminate), true),
        AgentVerdict::Eligible
    );
    assert_eq!(
        judge(&last, &of_domain(Action::Adopt), false),
        AgentVerdict::Cordoned
    );
}

#[test]
fn a_session_avoids_an_agent_or_is_kept_for_one() {
    let avoiding = Needs {
        avoid: Some(("a".to_owned(), now())),
        ..start()
    };
    assert_eq!(judge(&agent(), &avoiding, false), AgentVerdict::PassedOver);
    let kept = |name: &str| Needs {
        kept_for: Some((name.to_owned(), now())),
        ..of_domain(Action::Adopt)
    };
    assert_eq!(judge(&agent(), &kept("b"), false), AgentVerdict::PassedOver);
    assert_eq!(judge(&agent(), &kept("a"), false), AgentVerdict::Eligible);
}

#[test]
fn who_polls() {
    let claimed = |ago: f64, wait: f64, most: i32| {
        let claim = Some(LastClaim {
            at: now() - seconds(ago),
            wait_seconds: wait,
            max_sessions: most,
        });
        judge(&Agent { claim, ..agent() }, &start(), false)
    };
    assert_eq!(claimed(29.9, 30.0, 1), AgentVerdict::Eligible);
    // Between two polls, for 5 s.
    assert_eq!(claimed(34.9, 30.0, 1), AgentVerdict::Eligible);
    assert_eq!(claimed(35.1, 30.0, 1), AgentVerdict::NotPolling);
    assert_eq!(claimed(4.9, 0.0, 1), AgentVerdict::Eligible);
    assert_eq!(claimed(1.0, 30.0, 0), AgentVerdict::NotPolling);
    // With a short lease, for a third of it.
    let quick = |ago: f64| {
        let claim = Some(LastClaim {
            at: now() - seconds(ago),
            wait_seconds: 0.0,
            max_sessions: 1,
        });
        verdict(&Agent { claim, ..agent() }, &start(), false, (now(), 3.0))
    };
    assert_eq!(
        [quick(0.9), quick(1.1)],
        [AgentVerdict::Eligible, AgentVerdict::NotPolling]
    );
}

#[test]
fn what_it_waits_for() {
    let idle = Standing {
        next: Next::Nothing,
        offered_until: None,
        assigned: false,
        is_behind: false,
        phase_deadline_at: None,
        drain_deadline_at: None,
        held_back_until: None,
        needs: Some(start()),
        domain_live: true,
        decided_at: later(9.0),
    };
    let work = Next::Work {
        action: Action::Start,
        reach: Reach::Assignee,
        needs_slot: true,
    };
    let held = Standing {
        assigned: true,
        phase_deadline_at: later(3.0),
        ..idle.clone()
    };
    let lost = Standing {
        needs: Some(of_domain(Action::Adopt)),
        domain_live: false,
        ..idle.clone()
    };
    let given_up = Standing {
        needs: Some(Needs {
            elsewhere: true,
            ..of_domain(Action::Adopt)
        }),
        ..lost.clone()
    };
    for (standing, expected) in [
        (idle.clone(), (WaitingFor::Agent, None)),
        (
            Standing {
                next: work,
                offered_until: later(2.0),
                ..held.clone()
            },
            (WaitingFor::Acceptance, later(2.0)),
        ),
        (
            Standing {
                next: work,
                ..held.clone()
            },
            (WaitingFor::Report, later(3.0)),
        ),
        (
            Standing {
                is_behind: true,
                ..held.clone()
            },
            (WaitingFor::Report, later(3.0)),
        ),
        (
            Standing {
                drain_deadline_at: later(8.0),
                ..held.clone()
            },
            (WaitingFor::Agent, later(8.0)),
        ),
        (
            Standing {
                next: work,
                phase_deadline_at: None,
                drain_deadline_at: later(8.0),
                ..held.clone()
            },
            (WaitingFor::Report, later(8.0)),
        ),
        (held, (WaitingFor::Nothing, None)),
        (
            Standing {
                held_back_until: later(4.0),
                ..lost.clone()
            },
            (WaitingFor::Backoff, later(4.0)),
        ),
        (
            Standing {
                held_back_until: later(4.0),
                needs: None,
                ..idle.clone()
            },
            (WaitingFor::Nothing, None),
        ),
        (lost.clone(), (WaitingFor::Domain, later(9.0))),
        (
            Standing {
                domain_live: true,
                ..lost
            },
            (WaitingFor::Agent, None),
        ),
        (given_up, (WaitingFor::Agent, None)),
    ] {
        assert_eq!(waiting_for(&standing), expected, "{standing:?}");
    }
}

proptest! {
    /// An agent that polls is called eligible exactly where the dispatcher's own rule would give
    /// it the session.
    #[test]
    fn eligible_is_who_would_be_given_it(
        words in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        slots in (0..4i32, 0..4i32),
        kind in 0..5usize,
        has in any::<bool>(),
        avoid in 0..3usize,
        kept in 0..3usize,
        elsewhere in any::<bool>(),
    ) {
        let (cordoned, last, passed_over, own, drains) = words;
        let label = Labels::from([("gpu".to_owned(), "yes".to_owned())]);
        let names = [None, Some("a"), Some("b")];
        let (action, needs_slot) = [
            (Action::Start, true), (Action::Adopt, false), (Action::Terminate, false),
            (Action::Wake, true), (Action::Hibernate, false),
        ][kind];
        let by_pool = kind == 0;
        let elsewhere = elsewhere && matches!(action, Action::Adopt | Action::Wake);
        let scheduling = match (cordoned, drains) {
            (false, _) => Scheduling::Active,
            (true, false) => Scheduling::Cordoned,
            (true, true) => Scheduling::Draining,
        };
        let a = Agent {
            scheduling,
            last_of_domain: cordoned && last,
            passed_over_until: passed_over.then(now).map(|at| at + seconds(5.0)),
            resource_domain: if own { "d" } else { "e" }.to_owned(),
            capacity: slots.0,
            slots_used: slots.1,
            ..agent()
        };
        // What was given up is kept for nobody: nobody has let go of it.
        let kept_for = if by_pool || elsewhere { None } else { names[kept] };
        let named = |of: Option<&str>| of.map(|name| (name.to_owned(), now()));
        let needs = Needs {
            action,
            domain: (!by_pool).then(|| "d".to_owned()),
            start_domain: None,
            needs_slot,
            elsewhere,
            avoid: named(names[avoid]),
            kept_for: kept_for.map(|name| (name.to_owned(), now())),
        };
        let candidate = Candidate {
            name: a.name.clone(),
            resource_domain: a.resource_domain.clone(),
            capacity: a.capacity,
            slots_used: a.slots_used,
            room: 1,
            may_take: MayTake::of(passed_over, scheduling, a.last_of_domain),
            labels: if has { label.clone() } else { Labels::new() },
        };
        let item = |own_domain: bool| Item {
            domain: needs.domain.clone().filter(|_| own_domain),
            needs_slot: needs_slot || !own_domain,
            uses_slot: true,
            is_end: action == Action::Terminate,
            avoid: names[avoid].map(ToOwned::to_owned),
            kept_for: kept_for.filter(|_| own_domain).map(ToOwned::to_owned),
            requires: if own_domain { Labels::new() } else { label.clone() },
            prefers: Labels::new(),
        };
        let takes = |own_domain| {
            share_out(&mut [candidate.clone()], &[item(own_domain)], Placement::Spread)[0].is_some()
        };
        let given = (!by_pool && takes(true)) || ((by_pool || elsewhere) && takes(false));
        let called = judge(&a, &needs, !has) == AgentVerdict::Eligible;
        prop_assert_eq!(called, given, "{:?} {:?} {}", a, needs, has);
    }
}
