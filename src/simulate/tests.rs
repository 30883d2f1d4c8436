//! Plans of what would be lost: single cases, and what holds of every plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::DateTime;
use lessor_protocol::{DesiredState, Labels, OnLost, Placement, SessionState};
use proptest::prelude::*;
use uuid::Uuid;

use super::state::{Affected, Agent, MAX_SELECTORS, Plan, Rules, bound, brakes, plan};

fn agent(name: &str, domain: &str, (slots_used, capacity): (i32, i32)) -> Agent {
    Agent {
        name: name.to_owned(),
        resource_domain: domain.to_owned(),
        live: true,
        active: true,
        capacity,
        slots_used,
        labels: Labels::new(),
    }
}

fn runs(n: u64, domain: &str) -> Affected {
    Affected {
        id: Uuid::from_u64_pair(7, n),
        holder: Some("lost".to_owned()),
        resource_domain: Some(domain.to_owned()),
        state: SessionState::Running,
        desired: DesiredState::Running,
        domain_lost: false,
        owner: None,
        priority: 0,
        queued_at: DateTime::from_timestamp(i64::try_from(n).unwrap_or(0), 0).expect("a time"),
        held_back_until: None,
        start_domain: None,
        requires: Labels::new(),
        prefers: Labels::new(),
    }
}

fn waits(n: u64) -> Affected {
    Affected {
        holder: None,
        resource_domain: None,
        state: SessionState::Pending,
        ..runs(n, "d")
    }
}

fn rules(on_lost: OnLost) -> Rules {
    Rules {
        placement: Placement::Spread,
        on_lost,
        adopt_timeout_seconds: 120.0,
    }
}

fn planned(agents: &[Agent], sessions: Vec<Affected>, on_lost: OnLost) -> Plan {
    plan(agents, sessions, &rules(on_lost), HashMap::new(), false)
}

fn targets(plan: &Plan) -> Vec<&str> {
    plan.moves.iter().map(|step| step.to.as_str()).collect()
}

#[test]
fn what_runs_is_adopted_by_the_least_utilised_of_its_domain_beyond_capacity_too() {
    let fleet = [
        agent("a", "d", (1, 2)),
        agent("b", "d", (0, 2)),
        agent("c", "e", (0, 9)),
    ];
    let plan = planned(&fleet, (0..4).map(|n| runs(n, "d")).collect(), OnLost::Wait);
    assert_eq!(targets(&plan), ["b", "a", "b", "a"]);
    assert!(plan.waiting.is_empty());
    assert_eq!(plan.moves[0].from.as_deref(), Some("lost"));
    assert_eq!(
        plan.moves[2].reason,
        "b adopts it and then uses 2 of 2 slots"
    );
    assert_eq!(
        plan.moves[3].reason,
        "a adopts it and then uses 3 of 2 slots, more than its capacity"
    );
}

#[test]
fn what_becomes_of_a_lost_domain_is_on_losts_choice() {
    let fleet = [agent("c", "e", (0, 1))];
    let two = || vec![runs(0, "d"), runs(1, "d")];
    for policy in [OnLost::Wait, OnLost::Fail] {
        let plan = planned(&fleet, two(), policy);
        assert_eq!((plan.moves.len(), plan.waiting.len()), (0, 2));
        assert!(plan.waiting[0].reason.contains(policy.as_str()), "{plan:?}");
    }
    // Where it is started elsewhere it needs a slot.
    let restart = planned(&fleet, two(), OnLost::Restart);
    assert_eq!(targets(&restart), ["c"]);
    assert_eq!(restart.waiting[0].session_id, two()[1].id);
    // A wanted end goes on without an agent, and what is not wanted to run is not started.
    let ends = Affected {
        desired: DesiredState::Terminated,
        ..runs(0, "d")
    };
    let rests = Affected {
        desired: DesiredState::Hibernated,
        ..runs(1, "d")
    };
    let plan = planned(&fleet, vec![ends, rests], OnLost::Restart);
    assert_eq!((plan.moves.len(), plan.waiting.len()), (0, 2));
    // What has nothing to do is in no list.
    let done = Affected {
        desired: DesiredState::Hibernated,
        state: SessionState::Hibernated,
        ..runs(0, "d")
    };
    assert_eq!(planned(&fleet, vec![done], OnLost::Wait), Plan::default());
}

#[test]
fn cordoned_agents_take_nothing_but_the_ends_of_a_domain_that_has_only_one() {
    let mut last = agent("a", "d", (0, 9));
    last.active = false;
    let ends = Affected {
        desired: DesiredState::Terminated,
        ..runs(1, "d")
    };
    let sessions = vec![runs(0, "d"), ends, waits(2)];
    let plan = planned(
        std::slice::from_ref(&last),
        sessions.clone(),
        OnLost::Restart,
    );
    assert_eq!(targets(&plan), ["a"]);
    assert_eq!(plan.moves[0].session_id, sessions[1].id);
    assert_eq!(plan.waiting.len(), 2);
    let mut other = agent("b", "d", (0, 9));
    other.active = false;
    let plan = planned(&[last, other], sessions, OnLost::Restart);
    assert_eq!(plan.waiting.len(), 3, "each leaves it to the other");
}

#[test]
fn starts_go_by_labels_priority_and_limits() {
    let label = |key: &str| Labels::from([(key.to_owned(), "yes".to_owned())]);
    let mut gpu = agent("gpu", "d", (0, 1));
    gpu.labels = label("gpu");
    let fleet = [agent("bare", "d", (0, 1)), gpu];
    let asks = |n, requires: Labels| Affected {
        requires,
        ..waits(n)
    };
    let plan = planned(
        &fleet,
        vec![
            asks(0, label("tpu")),
            asks(1, label("gpu")),
            Affected {
                priority: 5,
                ..asks(2, label("gpu"))
            },
        ],
        OnLost::Wait,
    );
    assert_eq!(targets(&plan), ["gpu"]);
    assert_eq!(plan.moves[0].session_id, waits(2).id, "the higher priority");
    assert_eq!(plan.moves[0].from, None);
    let why: BTreeSet<&str> = plan.waiting.iter().map(|w| w.reason.as_str()).collect();
    assert_eq!(
        why,
        BTreeSet::from([
            "no agent that could start it has a free slot",
            "no live agent that is not cordoned has tpu=yes",
        ])
    );
    // A migration's target is the only domain in which it may be started.
    let mut there = agent("there", "e", (0, 1));
    there.live = true;
    let bound = |n| Affected {
        start_domain: Some("e".to_owned()),
        ..waits(n)
    };
    let fleet_of_two = [agent("here", "d", (0, 9)), there];
    let plan = planned(&fleet_of_two, vec![bound(0), bound(1)], OnLost::Wait);
    assert_eq!(targets(&plan), ["there"]);
    assert_eq!(
        plan.waiting[0].reason,
        "no agent that could start it has a free slot"
    );
    let plan = planned(&fleet_of_two[..1], vec![bound(0)], OnLost::Wait);
    assert!(
        plan.waiting[0].reason.contains("of its domain e"),
        "{plan:?}"
    );
    // What prefers labels goes where they are, and an owner gets no more than it may.
    let mine = |n| Affected {
        owner: Some("o".to_owned()),
        prefers: label("gpu"),
        ..waits(n)
    };
    let places = HashMap::from([("o".to_owned(), 1)]);
    let plan = super::state::plan(
        &fleet,
        vec![mine(0), mine(1)],
        &rules(OnLost::Wait),
        places,
        false,
    );
    assert_eq!(targets(&plan), ["gpu"]);
    assert!(plan.waiting[0].reason.contains("max_running"));
}

#[test]
fn a_place_that_is_given_back_can_be_taken_again() {
    // Both count against the owner now: one runs in the lost domain, one is offered to the lost agent.
    let mine = |session: Affected| Affected {
        owner: Some("o".to_owned()),
        ..session
    };
    let offered = Affected {
        holder: Some("lost".to_owned()),
        ..waits(1)
    };
    let plan = plan(
        &[agent("c", "e", (0, 9))],
        vec![mine(runs(0, "d")), mine(offered), mine(waits(2))],
        &rules(OnLost::Restart),
        HashMap::from([("o".to_owned(), 0)]),
        true,
    );
    assert_eq!((plan.moves.len(), plan.waiting.len()), (2, 1), "{plan:?}");
    let anew = plan.moves.iter().find(|step| step.reason.contains("anew"));
    assert!(
        anew.is_none_or(|step| step.reason.contains("brake")),
        "{plan:?}"
    );
}

#[test]
fn more_selectors_than_are_planned_for_are_said() {
    let fleet = [agent("a", "d", (0, 1000))];
    let sessions = (0..=MAX_SELECTORS as u64).map(|n| Affected {
        prefers: Labels::from([("n".to_owned(), n.to_string())]),
        ..waits(n)
    });
    let plan = planned(&fleet, sessions.collect(), OnLost::Wait);
    assert!(plan.too_many_selectors);
    assert_eq!((plan.moves.len(), plan.waiting.len()), (MAX_SELECTORS, 1));
}

#[test]
fn more_sessions_than_are_planned_for_are_said() {
    let mut sessions = vec![waits(0), waits(1), waits(2)];
    assert!(bound(&mut sessions, 3));
    assert!(!bound(&mut sessions, 2));
    assert_eq!(
        sessions,
        [waits(0), waits(1)],
        "those that were found first"
    );
}

#[test]
fn when_the_brake_would_be_on() {
    let would = [
        brakes(2, 2),
        brakes(3, 7),
        brakes(3, 6),
        brakes(3, 3),
        brakes(0, 0),
    ];
    assert_eq!(would, [false, false, true, true, false]);
}

#[test]
fn a_hundred_thousand_sessions_are_planned_in_little_time() {
    let fleet: Vec<Agent> = (0..2_000)
        .map(|n| agent(&format!("a{n:05}"), &format!("d{}", n % 100), (0, 40)))
        .collect();
    let sessions: Vec<Affected> = (0..100_000u64)
        .map(|n| {
            if n % 2 == 0 {
                runs(n, &format!("d{}", n % 100))
            } else {
                waits(n)
            }
        })
        .collect();
    let began = std::time::Instant::now();
    let plan = planned(&fleet, sessions, OnLost::Wait);
    let took = began.elapsed();
    assert_eq!(plan.moves.len() + plan.waiting.len(), 100_000);
    // Without optimisation and on a busy machine; a look at every agent for each session would take
    // minutes.
    assert!(took.as_secs() < 20, "{took:?}");
}

proptest! {
    #[test]
    fn each_session_is_planned_once_and_none_goes_where_it_does_not_fit(
        agents in prop::collection::vec(
            (0..3usize, 0..5i32, 0..5i32, any::<bool>(), any::<bool>(), any::<bool>()), 0..7),
        sessions in prop::collection::vec(
            (0..9usize, 0..3usize, 0..4usize, any::<bool>(), any::<bool>(), -1..2i32), 0..40),
        policy in 0..3usize,
        pack in any::<bool>(),
    ) {
        let label = Labels::from([("gpu".to_owned(), "yes".to_owned())]);
        let labels = |has: bool| if has { label.clone() } else { Labels::new() };
        let fleet: Vec<Agent> = agents.iter().enumerate().map(|(n, (d, used, capacity, live, active, gpu))| Agent {
            live: *live || n % 2 == 0,
            active: *active || n % 3 == 0,
            labels: labels(*gpu),
            ..agent(&format!("a{n}"), &format!("d{d}"), (*used, *capacity))
        }).collect();
        let affected: Vec<Affected> = sessions.iter().enumerate().map(|(n, (state, desired, domain, held, gpu, priority))| {
            let state = SessionState::ALL[*state];
            let up = !matches!(state, SessionState::Pending | SessionState::Terminated | SessionState::Failed);
            Affected {
                holder: held.then(|| "lost".to_owned()),
                resource_domain: up.then(|| format!("d{domain}")),
                state,
                desired: [DesiredState::Running, DesiredState::Hibernated, DesiredState::Terminated][*desired],
                start_domain: None,
                requires: labels(*gpu),
                priority: *priority,
                ..runs(n as u64, "d")
            }
        }).collect();
        let rules = Rules {
            placement: if pack { Placement::Pack } else { Placement::Spread },
            ..rules([OnLost::Wait, OnLost::Restart, OnLost::Fail][policy])
        };
        let plan = plan(&fleet, affected.clone(), &rules, HashMap::new(), false);
        let mut seen: BTreeMap<Uuid, usize> = BTreeMap::new();
        for id in plan.moves.iter().map(|m| m.session_id).chain(plan.waiting.iter().map(|w| w.session_id)) {
            *seen.entry(id).or_default() += 1;
        }
        prop_assert!(seen.values().all(|times| *times == 1), "{plan:?}");
        for session in &affected {
            let has_work = !matches!((session.state, session.desired),
                (SessionState::Terminated, _)
                | (SessionState::Pending | SessionState::Failed | SessionState::Hibernated, DesiredState::Hibernated)
                | (SessionState::Failed, _)
                | (SessionState::Pending, DesiredState::Terminated));
            prop_assert_eq!(seen.contains_key(&session.id), has_work, "{:?}", session);
        }
        let mut used: BTreeMap<&str, i32> = fleet.iter().map(|a| (a.name.as_str(), a.slots_used)).collect();
        for step in &plan.moves {
            let session = affected.iter().find(|s| s.id == step.session_id).expect("it is one of them");
            let to = fleet.iter().find(|a| a.name == step.to).expect("it is one of them");
            let own = session.resource_domain.as_ref() == Some(&to.resource_domain);
            let wakes = session.state == SessionState::Hibernated && session.desired == DesiredState::Running;
            let adopts = own && !wakes;
            prop_assert!(to.live, "{step:?}");
            prop_assert!(to.active || session.desired == DesiredState::Terminated
                || session.state == SessionState::Terminating, "{step:?}");
            if !adopts {
                prop_assert!(used[step.to.as_str()] < to.capacity, "{step:?}");
            }
            if !own {
                prop_assert!(session.requires.iter().all(|(k, v)| to.labels.get(k) == Some(v)), "{step:?}");
                prop_assert!(session.resource_domain.is_none() || rules.on_lost == OnLost::Restart, "{step:?}");
            }
            // What is started anew takes a slot, whatever it was doing.
            if !own || !matches!(session.state, SessionState::Terminating | SessionState::Hibernating) {
                *used.entry(step.to.as_str()).or_default() += 1;
            }
        }
        // What waits for a slot is not passed by: none of those that could start it has one left.
        for wait in plan.waiting.iter().filter(|wait| wait.reason.contains("that could start it")) {
            let session = affected.iter().find(|s| s.id == wait.session_id).expect("it is one of them");
            for a in fleet.iter().filter(|a| a.live && a.active) {
                let has = session.requires.iter().all(|(k, v)| a.labels.get(k) == Some(v));
                prop_assert!(!has || used[a.name.as_str()] >= a.capacity, "{wait:?} {a:?}");
            }
        }
    }
}
