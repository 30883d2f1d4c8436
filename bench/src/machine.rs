//! What machine this is, and how busy.

use std::fmt;
use std::fs;

use serde::Serialize;

/// The machine of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of its cores may be used.
    pub cores: usize,
    /// Memory, in GiB.
    pub memory_gib: f64,
    /// The kernel.
    pub kernel: String,
    /// The load averages over 1, 5 and 15 minutes.
    pub load: String,
}

/// Looks at it.
pub fn look() -> Machine {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory = field("/proc/meminfo", "MemTotal");
    let kib: f64 = memory
        .split(' ')
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        memory_gib: kib / 1_048_576.0,
        kernel: release.trim().to_owned(),
        load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, {:.1} GiB, Linux {}, load average {}",
            self.cores, self.processor, self.memory_gib, self.kernel, self.load
        )
    }
}
