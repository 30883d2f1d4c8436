//! What a state there means here, and what is wanted of the session; pure.

use lessor_protocol::{DesiredState, SessionState};

/// What is known of a session's open commands there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// A `stop_session` that has not been done.
    pub stop: bool,
    /// A stop asked for its data to be deleted.
    pub delete_data: bool,
}

/// What a session is and is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// What was last observed.
    pub state: SessionState,
    /// What is wanted.
    pub desired: DesiredState,
    /// Whether it is somewhere: it needs a resource domain.
    pub is_somewhere: bool,
}

/// What becomes of a session with this state there. `has_resource`: its row names a pod or a container.
///
/// None if the word is unknown.
pub fn course(word: &str, has_resource: bool, commands: &Commands) -> Option<Course> {
    use DesiredState as D;
    use SessionState as S;
    let (state, desired) = match word.trim().to_lowercase().as_str() {
        "running" | "active" => (S::Running, D::Running),
        // Something may be there: whoever starts it looks first.
        "pending" | "creating" | "starting" | "provisioning" if has_resource => {
            (S::Starting, D::Running)
        }
        "pending" | "creating" | "starting" | "provisioning" => (S::Pending, D::Running),
        "hibernated" => (S::Hibernated, D::Hibernated),
        "hibernating" => (S::Hibernating, D::Hibernated),
        "waking" => (S::Waking, D::Running),
        "terminating" | "stopping" | "deleting" => (S::Terminating, D::Terminated),
        "terminated" | "stopped" | "deleted" => (S::Terminated, D::Terminated),
        "failed" | "error" => (S::Failed, D::Running),
        _ => return None,
    };
    let is_somewhere = !matches!(state, S::Pending | S::Terminated | S::Failed);
    let course = match (commands.stop, is_somewhere, state) {
        (true, true, _) => Course {
            state,
            desired: D::Terminated,
            is_somewhere,
        },
        // It never began: nothing is to be stopped.
        (true, false, S::Pending) => Course {
            state: S::Terminated,
            desired: D::Terminated,
            is_somewhere,
        },
        _ => Course {
            state,
            desired,
            is_somewhere,
        },
    };
    Some(course)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word() {
        let mut table = String::new();
        for word in [
            "running",
            "Running",
            " RUNNING ",
            "pending",
            "starting",
            "hibernated",
            "hibernating",
            "waking",
            "terminating",
            "terminated",
            "stopped",
            "failed",
            "zombie",
            "",
        ] {
            for (has_resource, stop) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let commands = Commands {
                    stop,
                    delete_data: false,
                };
                let found =
                    course(word, has_resource, &commands).map_or("unknown".to_owned(), |c| {
                        assert!(
                            c.state != SessionState::Terminated
                                || c.desired == DesiredState::Terminated
                        );
                        format!("{} wanted {}", c.state, c.desired)
                    });
                table.push_str(&format!(
                    "{word:?} resource={has_resource} stop={stop}: {found}\n"
                ));
            }
        }
        insta::assert_snapshot!(table);
    }
}
