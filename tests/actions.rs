//! The protocol's table "What there is to do", row by row: against the rules in code, over every combination,
//! and against the service, a session for each row, put there by reports: who is given it, and to do what.

use std::collections::BTreeSet;

use lessor::sessions::{Next, Reach, Situation, allowed, next};
use lessor_protocol::{
    Action, DesiredState, DrainRequest, ReportedState, SessionPatch, SessionState,
};
use uuid::Uuid;

use crate::support::rules::{By, Known, TABLE, ToDo, report_allowed, to_do};
use crate::support::{TestAgent, TestServer, report};

use SessionState as S;

#[test]
fn the_rules_are_the_table_of_the_protocol_row_by_row() {
    let mut rows = BTreeSet::new();
    for bits in 0..16 {
        let flag = |bit: i32| bits & (1 << bit) != 0;
        for &desired in DesiredState::ALL {
            for &state in SessionState::ALL {
                let known = Known {
                    desired,
                    state,
                    has_domain: flag(0),
                    has_holder: flag(1),
                    handing_over: flag(2),
                };
                let situation = Situation {
                    desired,
                    state,
                    has_domain: known.has_domain,
                    assigned: known.has_holder,
                    domain_lost: flag(3),
                    handing_over: known.handing_over,
                };
                let said = match next(situation) {
                    Next::Nothing => ToDo::Nothing,
                    Next::End => ToDo::EndsAtOnce,
                    // Nobody is in a domain that is not known.
                    Next::Work {
                        reach: Reach::Domain,
                        ..
                    } if !known.has_domain => ToDo::Nothing,
                    Next::Work {
                        action,
                        reach,
                        needs_slot,
                    } => {
                        let by = match reach {
                            Reach::Pool => By::Pool,
                            Reach::Domain => By::Domain,
                            Reach::Assignee => By::Holder,
                        };
                        ToDo::Act(action, by, needs_slot)
                    }
                };
                let (row, expected) = to_do(known);
                assert_eq!(said, expected, "{row:?}: {situation:?}");
                rows.extend(row);
            }
        }
    }
    let all: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(rows, all, "a row that nothing comes to");
}

#[test]
fn the_reports_that_are_allowed_are_those_of_the_protocol() {
    for &action in Action::ALL {
        for &from in SessionState::ALL {
            for &to in SessionState::ALL {
                let expected = report_allowed(action, from, to);
                assert_eq!(
                    allowed(action, from, to),
                    expected,
                    "{action}: {from} to {to}"
                );
            }
        }
    }
}

/// A pool of a case's own, its session, and those who could be given it.
struct Case<'a> {
    server: &'a TestServer,
    pool: String,
    holder: TestAgent,
    id: Uuid,
}

impl<'a> Case<'a> {
    async fn new(server: &'a TestServer, number: usize) -> Self {
        let pool = format!("p{number}");
        server.pool(&pool, |_| {}).await;
        let id = server.session(&pool).await.id;
        let holder = server
            .agent(&format!("{pool}-holder"), &pool, &format!("{pool}-d"), 1)
            .await;
        Self {
            server,
            pool,
            holder,
            id,
        }
    }

    async fn wants(&self, desired: DesiredState) {
        let id = self.id.to_string();
        let client = &self.server.client;
        if desired == DesiredState::Terminated {
            let how = lessor_client::DeleteSession::default();
            client.delete_session(&id, &how).await.expect("202");
            return;
        }
        let patch = SessionPatch {
            desired_state: Some(desired),
            ..SessionPatch::default()
        };
        client.patch_session(&id, &patch).await.expect("a wish");
    }

    /// Its holder claims, and reports these, one after the other, under what it is given.
    async fn reports(&self, states: &[ReportedState]) {
        let given = self.holder.claim(1, 5.0).await.remove(0);
        for &state in states {
            self.holder.accepts(&given, state).await;
        }
    }

    /// Brings it to a state, as somebody who wants it there would, with its holder.
    async fn bring_to(&self, state: SessionState) {
        use ReportedState as R;
        match state {
            S::Pending => {}
            S::Starting => self.reports(&[R::Starting]).await,
            S::Failed => self.fails_for_good().await,
            _ => self.reports(&[R::Starting, R::Running]).await,
        }
        match state {
            S::Hibernating => {
                self.wants(DesiredState::Hibernated).await;
                self.reports(&[R::Hibernating]).await;
            }
            S::Hibernated | S::Waking => {
                self.wants(DesiredState::Hibernated).await;
                self.reports(&[R::Hibernated]).await;
            }
            S::Terminating => {
                self.wants(DesiredState::Terminated).await;
                self.reports(&[R::Terminating]).await;
            }
            S::Terminated => {
                self.wants(DesiredState::Terminated).await;
                self.reports(&[R::Terminated]).await;
            }
            _ => {}
        }
        if state == S::Waking {
            self.wants(DesiredState::Running).await;
            self.reports(&[R::Waking]).await;
        }
        assert_eq!(self.server.get(self.id).await.state, state);
    }

    /// It fails, and may not be tried again.
    async fn fails_for_good(&self) {
        let given = self.holder.claim(1, 5.0).await.remove(0);
        self.holder.accepts(&given, ReportedState::Running).await;
        let mut failed = report(&given, ReportedState::Failed);
        failed.failure = Some(Some(lessor_protocol::ReportedFailure {
            reason: "test".to_owned(),
            message: "it was made to fail".to_owned(),
            exit_code: None,
            retryable: false,
            at: None,
        }));
        self.holder.try_report(vec![failed]).await.expect("taken");
    }

    /// The first of these to be given it, and to do what: its holder if it has one, else a stranger with no
    /// free slot, an agent of the domain with none, a stranger with a slot, and one of the domain with one.
    async fn who_is_given_it(&self, held: bool) -> Option<(&'static str, Action)> {
        let pool = &self.pool;
        let mut asked = Vec::new();
        for (who, near, capacity) in [
            ("a full stranger", false, 0),
            ("a full agent of the domain", true, 0),
            ("a stranger", false, 1),
            ("an agent of the domain", true, 1),
        ] {
            let name = format!("{pool}-{}", asked.len());
            let domain = if near {
                format!("{pool}-d")
            } else {
                name.clone()
            };
            asked.push((who, self.server.agent(&name, pool, &domain, capacity).await));
        }
        // While it is held nobody else is given it; then its holder is.
        if held {
            asked.push(("its holder", self.holder.clone()));
        }
        for (who, agent) in asked {
            if let Some(given) = agent.claim(1, 0.0).await.pop() {
                return Some((who, given.action));
            }
        }
        None
    }
}

#[tokio::test]
async fn a_session_of_each_row_is_given_to_whom_the_table_names() {
    let server = TestServer::start().await;
    use DesiredState::{Hibernated, Running, Terminated};
    let stranger = |action| Some(("a stranger", action));
    let near = |action| Some(("a full agent of the domain", action));
    let near_with_slot = |action| Some(("an agent of the domain", action));
    let holder = |action| Some(("its holder", action));
    let (held, free) = (true, false);
    // What is wanted, what was observed, whether somebody holds it; who is given it.
    let cases = [
        (Terminated, S::Terminated, free, None),
        (Running, S::Failed, free, None),
        (Terminated, S::Failed, free, near(Action::Terminate)),
        (Terminated, S::Starting, free, near(Action::Terminate)),
        (Terminated, S::Starting, held, holder(Action::Terminate)),
        (Terminated, S::Running, free, near(Action::Terminate)),
        (Terminated, S::Running, held, holder(Action::Terminate)),
        (Terminated, S::Hibernating, free, near(Action::Terminate)),
        (Terminated, S::Hibernated, free, near(Action::Terminate)),
        (Terminated, S::Waking, held, holder(Action::Terminate)),
        (Terminated, S::Terminating, free, near(Action::Terminate)),
        (Hibernated, S::Pending, free, None),
        (Hibernated, S::Starting, free, near(Action::Hibernate)),
        (Hibernated, S::Waking, free, near(Action::Hibernate)),
        (Hibernated, S::Running, free, near(Action::Hibernate)),
        (Hibernated, S::Running, held, holder(Action::Hibernate)),
        (Hibernated, S::Hibernating, free, near(Action::Hibernate)),
        (Hibernated, S::Hibernated, free, None),
        (Running, S::Pending, free, stranger(Action::Start)),
        (Running, S::Starting, free, near(Action::Start)),
        (Running, S::Running, held, None),
        (Running, S::Running, free, near(Action::Adopt)),
        (Running, S::Hibernating, free, near(Action::Wake)),
        (Running, S::Hibernating, held, holder(Action::Wake)),
        (Running, S::Waking, free, near(Action::Wake)),
        (Running, S::Hibernated, free, near_with_slot(Action::Wake)),
    ];
    for (number, (desired, state, is_held, expected)) in cases.into_iter().enumerate() {
        let case = Case::new(&server, number).await;
        case.bring_to(state).await;
        if server.get(case.id).await.desired_state != desired {
            case.wants(desired).await;
        }
        if !is_held {
            let run = Some(case.holder.incarnation);
            let goodbye = server
                .client
                .deregister_agent(&case.holder.name, run, false);
            goodbye.await.expect("goodbye");
        }
        let what = format!("wanted {desired}, {state}, held {is_held}");
        let now = server.get(case.id).await;
        assert_eq!((now.desired_state, now.state), (desired, state), "{what}");
        assert_eq!(now.assigned_agent_id.is_some(), is_held, "{what}");
        assert_eq!(case.who_is_given_it(is_held).await, expected, "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_domain_and_no_holder_ends_at_once() {
    let server = TestServer::start().await;
    let case = Case::new(&server, 0).await;
    case.wants(DesiredState::Terminated).await;
    let ended = server.get(case.id).await;
    assert_eq!(ended.state, SessionState::Terminated);
    // An offer that has not been accepted is no hold.
    let case = Case::new(&server, 1).await;
    assert_eq!(case.holder.claim(1, 5.0).await.len(), 1);
    case.wants(DesiredState::Terminated).await;
    let ended = server.get(case.id).await;
    assert_eq!(ended.state, SessionState::Terminated);
    server.stop().await;
}

#[tokio::test]
async fn what_is_handed_over_its_holder_alone_is_told_to_release() {
    let server = TestServer::start().await;
    let case = Case::new(&server, 0).await;
    case.bring_to(S::Running).await;
    // Somebody must be there who could adopt it.
    let domain = format!("{}-d", case.pool);
    server.agent("adopter", &case.pool, &domain, 1).await;
    let drain = DrainRequest::default();
    let begun = server.client.drain_agent(&case.holder.name, &drain).await;
    begun.expect("it begins");
    let given = case.who_is_given_it(true).await;
    assert_eq!(given, Some(("its holder", Action::Release)));
    server.stop().await;
}
