//! The rules of a session, pure: what there is to do, and which reports can follow.
//!
//! [`next`] is the protocol's table "What there is to do", row by row; `tests/actions.rs` has that table
//! written out by hand and holds the two against each other. For sessions that nobody is
//! assigned to, the generated columns `domain_work` and `pool_work` of the schema say the same in
//! SQL; a test holds the two against each other over every combination.

use lessor_protocol::{Action, DesiredState, SessionState};

/// What [`next`] needs to know of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// What is wanted.
    pub desired: DesiredState,
    /// What was last observed.
    pub state: SessionState,
    /// Whether a resource domain is known.
    pub has_domain: bool,
    /// Whether an agent is assigned.
    pub assigned: bool,
    /// Whether its domain was given up, so that others may start it.
    pub domain_lost: bool,
    /// Whether its holder is asked to let go of it.
    pub handing_over: bool,
}

/// Who may take the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any agent of the pool.
    Pool,
    /// The agents of its resource domain.
    Domain,
    /// The agent that it is assigned to.
    Assignee,
}

/// What there is to do with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// It is over: `terminated`, in the same transaction.
    End,
    /// An agent is to act.
    Work {
        /// How.
        action: Action,
        /// Which agent.
        reach: Reach,
        /// Whether it needs a free slot for it.
        needs_slot: bool,
    },
}

impl Next {
    /// The action, if there is one.
    #[must_use]
    pub fn action(self) -> Option<Action> {
        match self {
            Self::Work { action, .. } => Some(action),
            Self::Nothing | Self::End => None,
        }
    }
}

/// What there is to do; the first row that matches wins.
#[must_use]
pub fn next(s: Situation) -> Next {
    use DesiredState as D;
    use SessionState as S;
    let reach = if s.assigned {
        Reach::Assignee
    } else {
        Reach::Domain
    };
    let by_domain = |action| {
        if s.has_domain || s.assigned {
            Next::Work {
                action,
                reach,
                needs_slot: false,
            }
        } else {
            Next::Nothing
        }
    };
    match (s.desired, s.state) {
        (_, S::Terminated) => Next::Nothing,
        (D::Running | D::Hibernated, S::Failed) => Next::Nothing,
        (D::Terminated, _) if !s.has_domain && !s.assigned => Next::End,
        (D::Terminated, _) | (_, S::Terminating) => by_domain(Action::Terminate),
        (D::Hibernated, S::Pending | S::Hibernated) => Next::Nothing,
        (D::Hibernated, S::Starting | S::Waking | S::Running | S::Hibernating) => {
            by_domain(Action::Hibernate)
        }
        (D::Running, S::Pending) => Next::Work {
            action: Action::Start,
            reach: if s.assigned {
                Reach::Assignee
            } else {
                Reach::Pool
            },
            needs_slot: true,
        },
        (D::Running, S::Starting) => by_domain(Action::Start),
        (D::Running, S::Running) if s.assigned && s.handing_over => by_domain(Action::Release),
        (D::Running, S::Running) if s.assigned => Next::Nothing,
        (D::Running, S::Running) => by_domain(Action::Adopt),
        (D::Running, S::Hibernated) => Next::Work {
            action: Action::Wake,
            reach,
            needs_slot: true,
        },
        (D::Running, S::Hibernating | S::Waking) => by_domain(Action::Wake),
    }
}

/// Whether its domain was lost and agents of others may start it. Its own may still do what [`next`]
/// says.
#[must_use]
pub fn startable_elsewhere(s: Situation) -> bool {
    s.domain_lost
        && s.desired == DesiredState::Running
        && !matches!(
            s.state,
            SessionState::Terminating | SessionState::Terminated | SessionState::Failed
        )
}

/// Whether a report of `to` may follow `from` under `action`.
#[must_use]
pub fn allowed(action: Action, from: SessionState, to: SessionState) -> bool {
    use SessionState as S;
    if matches!(from, S::Terminated) {
        return to == from;
    }
    if to == from {
        return true;
    }
    if matches!(to, S::Failed | S::Terminated) && from != S::Failed {
        return true;
    }
    match action {
        Action::Start => matches!(
            (from, to),
            (S::Pending, S::Starting | S::Running) | (S::Starting, S::Running)
        ),
        Action::Adopt | Action::Release => false,
        Action::Wake => matches!(
            (from, to),
            (S::Hibernating | S::Hibernated, S::Waking | S::Running) | (S::Waking, S::Running)
        ),
        Action::Hibernate => matches!(
            (from, to),
            (
                S::Starting | S::Waking | S::Running,
                S::Hibernating | S::Hibernated
            ) | (S::Hibernating, S::Hibernated)
        ),
        Action::Terminate => matches!(to, S::Terminating | S::Terminated),
    }
}

/// The kinds of unassigned work of a resource domain, in the order in which they are given out:
/// the word in the schema's `domain_work`, the action, whether it needs a free slot.
pub const DOMAIN_WORK: [(&str, Action, bool); 6] = [
    ("terminate", Action::Terminate, false),
    ("adopt", Action::Adopt, false),
    ("hibernate", Action::Hibernate, false),
    ("wake", Action::Wake, false),
    ("wake_hibernated", Action::Wake, true),
    ("start", Action::Start, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_to_do_as_the_code_has_it() {
        let mut table = String::new();
        for &desired in DesiredState::ALL {
            for &state in SessionState::ALL {
                for (has_domain, assigned, handing_over, who) in [
                    (false, false, false, "no domain, nobody"),
                    (true, false, false, "domain, nobody"),
                    (false, true, false, "no domain, assigned"),
                    (true, true, false, "domain, assigned"),
                    (true, true, true, "being handed over"),
                ] {
                    let next = next(Situation {
                        desired,
                        state,
                        has_domain,
                        assigned,
                        domain_lost: false,
                        handing_over,
                    });
                    let text = match next {
                        Next::Nothing => "-".to_owned(),
                        Next::End => "terminated at once".to_owned(),
                        Next::Work {
                            action,
                            reach,
                            needs_slot,
                        } => format!(
                            "{action} by {}{}",
                            match reach {
                                Reach::Pool => "pool",
                                Reach::Domain => "domain",
                                Reach::Assignee => "assignee",
                            },
                            if needs_slot { ", slot" } else { "" }
                        ),
                    };
                    table.push_str(&format!("{desired:<10} {state:<11} {who:<19} {text}\n"));
                }
            }
        }
        insta::assert_snapshot!("what_there_is_to_do", table);
    }

    #[test]
    fn which_reports_can_follow_as_the_code_has_it() {
        let mut table = String::new();
        for &action in Action::ALL {
            for &from in SessionState::ALL {
                let to: Vec<&str> = SessionState::ALL
                    .iter()
                    .filter(|to| allowed(action, from, **to))
                    .map(|to| to.as_str())
                    .collect();
                table.push_str(&format!("{action:<9} {from:<11} -> {}\n", to.join(" ")));
            }
        }
        insta::assert_snapshot!("which_reports_can_follow", table);
    }
}
