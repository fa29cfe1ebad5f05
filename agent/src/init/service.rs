//! A child that is kept running.
//!
//! Must not know: what it does.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::log::{self, say};

/// Who lived so long may be started again at once.
const HEALTHY: Duration = Duration::from_secs(10);

/// Between two starts of one that always fails.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// When a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Always.
    Always,
    /// Once.
    Once,
    /// Once. Until it has ended, what is `AfterUnattended` waits.
    Unattended,
    /// Always, once nothing `Unattended` runs any more.
    AfterUnattended,
}

/// A child that is kept running.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    arguments: Vec<String>,
    when: When,
    pid: Option<Pid>,
    started: Option<Instant>,
    /// How often in a row it ended at once.
    failures: u32,
    /// When it may be started; none once it is done for good.
    next: Option<Instant>,
}

impl Service {
    pub(super) fn new(name: &str, arguments: &[&str], when: When) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            when,
            pid: None,
            started: None,
            failures: 0,
            next: Some(Instant::now()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// It works unattended, and is not done yet.
    pub(super) fn is_unattended_work(&self) -> bool {
        self.when == When::Unattended && (self.pid.is_some() || self.next.is_some())
    }

    /// When it has to be started; none while it runs, waits for others, or is done.
    pub(super) fn next_start(&self, unattended: bool) -> Option<Instant> {
        let waits = self.when == When::AfterUnattended && unattended;
        if self.pid.is_some() || waits { None } else { self.next }
    }

    pub(super) fn is_due(&self, now: Instant, unattended: bool) -> bool {
        self.next_start(unattended).is_some_and(|next| next <= now)
    }

    /// Starts it; should that fail, it is tried again later.
    pub(super) fn start(&mut self) {
        let now = Instant::now();
        self.started = Some(now);
        match self.spawn() {
            Ok(pid) => self.pid = Some(pid),
            Err(error) => {
                say(&format!("{}: cannot start: {error}", self.name));
                self.failures = self.failures.saturating_add(1);
                self.next = Some(now + pause(self.failures));
            }
        }
    }

    fn spawn(&self) -> std::io::Result<Pid> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("agent").args(&self.arguments);
        command.env(log::VARIABLE, log::KERNEL).env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("HOME", "/");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        match File::options().append(true).open(log::KERNEL) {
            Ok(log) => command.stderr(log),
            Err(_) => command.stderr(Stdio::null()),
        };
        let child = command.current_dir("/").spawn()?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    /// It has ended, in the way that `how` says.
    pub(super) fn has_ended(&mut self, how: &str) {
        self.has_ended_at(Instant::now(), how);
    }

    fn has_ended_at(&mut self, now: Instant, how: &str) {
        self.pid = None;
        if matches!(self.when, When::Once | When::Unattended) {
            self.next = None;
            say(&format!("{} {how}", self.name));
            return;
        }
        let was_healthy = self.started.is_some_and(|started| now.saturating_duration_since(started) >= HEALTHY);
        self.failures = if was_healthy { 0 } else { self.failures.saturating_add(1) };
        self.next = Some(now + pause(self.failures));
        // A console without hardware ends for ever.
        if self.failures < 4 || self.failures.is_power_of_two() {
            say(&format!("{} {how}; it is started again", self.name));
        }
    }
}

/// Nothing for the first time, then longer and longer.
fn pause(failures: u32) -> Duration {
    let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    if failures == 0 { Duration::ZERO } else { Duration::from_millis(100).saturating_mul(factor).min(PAUSE_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_at_once_waits_longer_and_longer() {
        let mut service = Service::new("x", &[], When::Always);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let now = Instant::now();
            service.started = Some(now);
            service.has_ended_at(now, "ended");
            pauses.push(service.next_start(false).unwrap() - now);
        }
        assert!(pauses.is_sorted() && pauses[0] == Duration::from_millis(100) && pauses[9] == PAUSE_MAX);

        service.started = Instant::now().checked_sub(HEALTHY);
        service.has_ended("ended");
        assert!(service.is_due(Instant::now(), false));
    }

    #[test]
    fn screens_wait_for_what_is_unattended() {
        let mut work = Service::new("unattended", &[], When::Unattended);
        // A stick that does not answer keeps nobody from the screens.
        let stick = Service::new("stick", &[], When::Once);
        assert!(stick.is_due(Instant::now(), true) && !stick.is_unattended_work());
        let screen = Service::new("console", &[], When::AfterUnattended);
        assert!(work.is_unattended_work());
        assert!(!screen.is_due(Instant::now(), true));
        work.has_ended("ended");
        assert!(!work.is_unattended_work() && work.next_start(false).is_none());
        assert!(screen.is_due(Instant::now(), false));
    }
}
