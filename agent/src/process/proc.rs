//! What `/proc` says about processes.
//!
//! A pid alone names nothing: it is reused. A pid with the ticks at which its process started does,
//! until the machine reboots; so records also carry the boot's id.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, in a way that survives the reuse of its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it started: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.pid, self.start_ticks)
    }
}

impl std::str::FromStr for ProcessId {
    type Err = ();

    fn from_str(given: &str) -> Result<Self, ()> {
        let (pid, ticks) = given.split_once('@').ok_or(())?;
        let id = Self {
            pid: pid.parse().map_err(drop)?,
            start_ticks: ticks.parse().map_err(drop)?,
        };
        if id.pid > 1 { Ok(id) } else { Err(()) }
    }
}

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The process.
    pub id: ProcessId,
    /// Its state: `R`, `S`, `T` stopped, `Z` zombie, …
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its OS session.
    pub session: i32,
}

impl Stat {
    /// Of a process that is there, zombies included.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The name in parentheses may hold anything, so fields are counted from its last `)`.
fn parse(stat: &str) -> Option<Stat> {
    let pid = stat.split_once(' ')?.0.parse().ok()?;
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        id: ProcessId {
            pid,
            start_ticks: rest.get(19)?.parse().ok()?,
        },
        state: rest.first()?.chars().next()?,
        parent: rest.get(1)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
    })
}

impl ProcessId {
    /// The process that has this pid now.
    #[must_use]
    pub fn now(pid: i32) -> Option<Self> {
        Stat::of(pid).map(|stat| stat.id)
    }

    /// Whether it is this very process that runs, and not a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.id == self && stat.runs())
    }

    /// Sends it a signal, and never to another process that got its pid: the descriptor is taken
    /// first, then the start is compared.
    pub fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // Errors mean that it is gone, or not ours; the caller looks again anyway.
        if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) {
            if self.is_alive() {
                let _ = pidfd_send_signal(descriptor, signal);
            }
        } else if self.is_alive() {
            // Kernels before 5.3, or no descriptors left.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Every process that is there.
#[must_use]
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Stat::of).collect()
}

/// All that descend from `root`, without itself and without zombies.
#[must_use]
pub fn descendants(all: &[Stat], root: i32) -> Vec<ProcessId> {
    let mut family = HashSet::from([root]);
    // Parents may stand after their children, so go round until nothing is added.
    loop {
        let before = family.len();
        family.extend(
            all.iter()
                .filter(|s| family.contains(&s.parent))
                .map(|s| s.id.pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    let others = all
        .iter()
        .filter(|s| s.id.pid != root && family.contains(&s.id.pid) && s.runs());
    others.map(|s| s.id).collect()
}

/// All of an OS session, without zombies.
#[must_use]
pub fn of_session(all: &[Stat], session: i32) -> Vec<ProcessId> {
    all.iter()
        .filter(|s| s.session == session && s.runs())
        .map(|s| s.id)
        .collect()
}

/// Whether the process was started with `NAME=value` in its environment.
#[must_use]
pub fn has_env(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}").into_bytes();
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|&byte| byte == 0).any(|entry| entry == wanted))
}

/// The id of this boot of the machine.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let stat = "42 (a) b (c) T 7 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        let stat = parse(stat).expect("stat");
        assert_eq!(
            (stat.id.pid, stat.id.start_ticks, stat.state),
            (42, 98765, 'T')
        );
        assert_eq!((stat.parent, stat.session), (7, 40));
    }

    #[test]
    fn a_reused_pid_is_not_mistaken() {
        let me = ProcessId::now(i32::try_from(std::process::id()).expect("pid")).expect("me");
        assert!(me.is_alive());
        assert_eq!(me.to_string().parse(), Ok(me));
        let other = ProcessId {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
        other.signal(Signal::KILL); // and we are still here
        for bad in ["", "1@5", "-5@5", "0@5", "12", "x@y"] {
            assert!(bad.parse::<ProcessId>().is_err(), "{bad}");
        }
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_resource_ids() {
        lessor_fuzz::run(
            &[b"4711@123456", b"2@0"],
            &["1@1", "-1@5", "4294967298@1"],
            |input| {
                let text = String::from_utf8_lossy(input);
                if let Ok(id) = text.parse::<ProcessId>() {
                    // 0 and negative ones are groups, 1 is the machine: none of them may be signalled.
                    assert!(id.pid > 1, "{id}");
                    assert_eq!(id.to_string().parse::<ProcessId>().ok(), Some(id));
                }
            },
        );
    }

    #[test]
    fn fuzz_stat_lines() {
        let line = b"4711 (a ) b) S 1 4711 4711 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 2";
        lessor_fuzz::run(&[line], &["(", ")", ") R "], |input| {
            if let Some(stat) = parse(&String::from_utf8_lossy(input)) {
                assert!(!stat.state.is_whitespace());
            }
        });
    }
}
