//! Which process this is, and whether another one is known to be gone.
//!
//! From procfs alone. Must not know: sessions, repositories.
//!
//! Source: proc(5): `/proc/sys/kernel/random/boot_id`, `/proc/pid/ns`, and the fields 1, 3 and 22 of
//! `/proc/pid/stat`.

#![forbid(unsafe_code)]

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process that no other has the same of, on any machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's random number for the time since it was started.
    boot: String,
    /// The PID namespace: containers count for themselves.
    namespace: String,
    /// The process' number there.
    pid: u32,
    /// When it was started, in clock ticks since the kernel was.
    started: u64,
}

impl ProcessId {
    /// This process; none where there is no procfs.
    #[must_use]
    pub fn of_this() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
        let pid = std::process::id();
        let started = state_and_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.1;
        Some(Self { boot, namespace, pid, started })
    }

    /// True only when it is certain: it ran here, and runs no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(this) = Self::of_this() else { return false };
        if (&self.boot, &self.namespace) != (&this.boot, &this.namespace) {
            return false;
        }
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => state_and_start(&stat).is_some_and(|(state, started)| {
                // Z and X: it has ended, and nobody has asked for its exit code yet.
                started != self.started || matches!(state, 'Z' | 'X')
            }),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The second field is the program's name in parentheses, and may hold anything.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let this = ProcessId::of_this().unwrap();
        assert!(!this.is_gone());
        assert!(ProcessId { started: this.started + 1, ..this }.is_gone());
    }

    #[test]
    fn a_child_is_there_until_it_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let started = state_and_start(&stat).unwrap().1;
        let child_id = ProcessId { pid: child.id(), started, ..ProcessId::of_this().unwrap() };
        assert!(!child_id.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(child_id.is_gone());
        let elsewhere = ProcessId { boot: "another".to_owned(), ..child_id };
        assert!(!elsewhere.is_gone(), "nobody knows");
    }

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "42 (a) S 1 (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";
        assert_eq!(state_and_start(stat), Some(('R', 19)));
    }
}
