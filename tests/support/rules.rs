//! The rules of a session as the protocol's tables have them, written out by hand: what there is to do, and
//! which reports are allowed. Nothing here asks the service's own rules, so that tests can hold the two
//! against each other.

use lessor_protocol::{Action, DesiredState, SessionState};

use DesiredState::{Hibernated as ToHibernate, Running as ToRun, Terminated as ToEnd};
use SessionState as S;

/// What is known of a session, as far as the tables ask.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub desired: DesiredState,
    pub state: SessionState,
    pub has_domain: bool,
    pub has_holder: bool,
    pub handing_over: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToDo {
    /// Nothing.
    Nothing,
    /// `terminated` in the same transaction.
    EndsAtOnce,
    /// An action, by whom, and whether that needs a free slot.
    Act(Action, By, bool),
}

/// Who can claim an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Any agent of the pool.
    Pool,
    /// The agents of its resource domain.
    Domain,
    /// Its holder alone.
    Holder,
}

/// A row of the table "What there is to do".
pub struct Row {
    /// What the protocol calls it: what is wanted, what was observed, and what else must hold.
    pub name: &'static str,
    desired: &'static [DesiredState],
    state: &'static [SessionState],
    only_if: fn(&Known) -> bool,
    to_do: ToDo,
}

const ANY: &[DesiredState] = &[ToRun, ToHibernate, ToEnd];
const ANY_STATE: &[SessionState] = &[
    S::Pending,
    S::Starting,
    S::Running,
    S::Hibernating,
    S::Hibernated,
    S::Waking,
    S::Terminating,
    S::Terminated,
    S::Failed,
];
const SLOT: bool = true;
const NO_SLOT: bool = false;

fn always(_: &Known) -> bool {
    true
}

/// The table, in its order: the first row that matches wins.
pub const TABLE: &[Row] = &[
    Row {
        name: "any, terminated",
        desired: ANY,
        state: &[S::Terminated],
        only_if: always,
        to_do: ToDo::Nothing,
    },
    Row {
        name: "any, failed and not wanted terminated",
        desired: &[ToRun, ToHibernate],
        state: &[S::Failed],
        only_if: always,
        to_do: ToDo::Nothing,
    },
    Row {
        name: "terminated, anything, no domain, no holder",
        desired: &[ToEnd],
        state: ANY_STATE,
        only_if: |known| !known.has_domain && !known.has_holder,
        to_do: ToDo::EndsAtOnce,
    },
    Row {
        name: "terminated, any other",
        desired: &[ToEnd],
        state: ANY_STATE,
        only_if: always,
        to_do: ToDo::Act(Action::Terminate, By::Domain, NO_SLOT),
    },
    Row {
        name: "any, terminating",
        desired: ANY,
        state: &[S::Terminating],
        only_if: always,
        to_do: ToDo::Act(Action::Terminate, By::Domain, NO_SLOT),
    },
    Row {
        name: "hibernated, pending",
        desired: &[ToHibernate],
        state: &[S::Pending],
        only_if: always,
        to_do: ToDo::Nothing,
    },
    Row {
        name: "hibernated, starting, waking, running or hibernating",
        desired: &[ToHibernate],
        state: &[S::Starting, S::Waking, S::Running, S::Hibernating],
        only_if: always,
        to_do: ToDo::Act(Action::Hibernate, By::Domain, NO_SLOT),
    },
    Row {
        name: "hibernated, hibernated",
        desired: &[ToHibernate],
        state: &[S::Hibernated],
        only_if: always,
        to_do: ToDo::Nothing,
    },
    Row {
        name: "running, pending",
        desired: &[ToRun],
        state: &[S::Pending],
        only_if: always,
        to_do: ToDo::Act(Action::Start, By::Pool, SLOT),
    },
    Row {
        name: "running, starting",
        desired: &[ToRun],
        state: &[S::Starting],
        only_if: always,
        to_do: ToDo::Act(Action::Start, By::Domain, NO_SLOT),
    },
    Row {
        name: "running, running, being handed over, held",
        desired: &[ToRun],
        state: &[S::Running],
        only_if: |known| known.handing_over && known.has_holder,
        to_do: ToDo::Act(Action::Release, By::Holder, NO_SLOT),
    },
    Row {
        name: "running, running, no holder",
        desired: &[ToRun],
        state: &[S::Running],
        only_if: |known| !known.has_holder,
        to_do: ToDo::Act(Action::Adopt, By::Domain, NO_SLOT),
    },
    Row {
        name: "running, hibernating or waking",
        desired: &[ToRun],
        state: &[S::Hibernating, S::Waking],
        only_if: always,
        to_do: ToDo::Act(Action::Wake, By::Domain, NO_SLOT),
    },
    Row {
        name: "running, hibernated",
        desired: &[ToRun],
        state: &[S::Hibernated],
        only_if: always,
        to_do: ToDo::Act(Action::Wake, By::Domain, SLOT),
    },
];

/// What there is to do, and by which row. Work on an assigned session goes to its assignee alone, and a
/// domain that is not known has no agents. Where no row matches there is nothing to do: it is held and runs.
pub fn to_do(known: Known) -> (Option<&'static str>, ToDo) {
    let matches = |row: &&Row| {
        row.desired.contains(&known.desired)
            && row.state.contains(&known.state)
            && (row.only_if)(&known)
    };
    let Some(row) = TABLE.iter().find(matches) else {
        return (None, ToDo::Nothing);
    };
    let to_do = match row.to_do {
        ToDo::Act(action, _, slot) if known.has_holder => ToDo::Act(action, By::Holder, slot),
        ToDo::Act(_, By::Domain, _) if !known.has_domain => ToDo::Nothing,
        other => other,
    };
    (Some(row.name), to_do)
}

/// Which reports lead on the way of an action, or to its end; intermediate states may be skipped.
const ON_THE_WAY: &[(Action, &[SessionState], &[SessionState])] = &[
    (Action::Start, &[S::Pending], &[S::Starting, S::Running]),
    (Action::Start, &[S::Starting], &[S::Running]),
    (Action::Adopt, &[S::Running], &[S::Running]),
    (
        Action::Wake,
        &[S::Hibernating, S::Hibernated],
        &[S::Waking, S::Running],
    ),
    (Action::Wake, &[S::Waking], &[S::Running]),
    (
        Action::Hibernate,
        &[S::Starting, S::Running, S::Waking],
        &[S::Hibernating, S::Hibernated],
    ),
    (Action::Hibernate, &[S::Hibernating], &[S::Hibernated]),
    (
        Action::Terminate,
        &[
            S::Pending,
            S::Starting,
            S::Running,
            S::Hibernating,
            S::Hibernated,
            S::Waking,
            S::Failed,
        ],
        &[S::Terminating, S::Terminated],
    ),
    (Action::Terminate, &[S::Terminating], &[S::Terminated]),
];

/// Whether a report may follow a state under an action.
pub fn report_allowed(action: Action, from: SessionState, to: SessionState) -> bool {
    // The present state again, always.
    if to == from {
        return true;
    }
    // `failed` and `terminated` from any live state.
    let is_live = !matches!(from, S::Terminated | S::Failed);
    if is_live && matches!(to, S::Failed | S::Terminated) {
        return true;
    }
    ON_THE_WAY
        .iter()
        .any(|(of, before, after)| *of == action && before.contains(&from) && after.contains(&to))
}
