//! The end: the job is ended, everything written and unmounted, and the machine turned off or started again.
//!
//! Must not know: what the job does.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};

use super::service::Service;
use super::{Event, reap, wait_for};
use crate::job::Power;
use crate::log::say;

/// A job that is asked to end has this long to write what it has; who asks again does not want to wait.
const JOB_ENDS: Duration = Duration::from_secs(120);

/// The others.
const OTHERS_END: Duration = Duration::from_secs(3);

/// File systems without anything to be written.
const IN_MEMORY: [&str; 12] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "rootfs",
    "ramfs",
    "efivarfs",
    "debugfs",
    "tracefs",
    "cgroup2",
    "securityfs",
];

/// Turns the machine off, or starts it again. Returns only when the kernel would not.
pub(super) fn turn_off(services: &mut [Service], power: Power, events: Option<&Receiver<Event>>) {
    let what = match power {
        Power::Off => "power off",
        Power::Reboot => "reboot",
    };
    say(&format!("{what}: the job is asked to end"));
    if let Some(keeper) = services.iter().find(|service| service.name() == "jobs").and_then(Service::pid) {
        let _ = kill(keeper, Signal::SIGTERM);
        wait_until(services, events, JOB_ENDS, |services| services.iter().all(|service| service.pid() != Some(keeper)));
    }
    let everybody = Pid::from_raw(-1);
    let _ = kill(everybody, Signal::SIGTERM);
    // One that was stopped hears nothing before it goes on.
    let _ = kill(everybody, Signal::SIGCONT);
    wait_until(services, events, OTHERS_END, |services| services.iter().all(|service| service.pid().is_none()));
    let _ = kill(everybody, Signal::SIGKILL);
    wait_until(services, events, OTHERS_END, |services| services.iter().all(|service| service.pid().is_none()));
    tell_all("Writing what is not written yet ...");
    sync();
    let kept = unmount_all();
    sync();
    for (place, error) in &kept {
        tell_all(&format!("{place} could not be unmounted: {error}. Everything is written all the same."));
    }
    tell_all(match power {
        Power::Off => "Everything is written. The stick can be pulled. The machine turns off.",
        Power::Reboot => "Everything is written. The stick can be pulled. The machine starts again.",
    });
    say(&format!("{what} now"));
    let mode = match power {
        Power::Off => RebootMode::RB_POWER_OFF,
        Power::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(error) = reboot(mode);
    tell_all(&format!("The kernel does not {what}: {}. Everything is written: switch it off.", error.desc()));
}

/// Waits for something to become true as children end, or until somebody asks a second time.
fn wait_until(
    services: &mut [Service],
    events: Option<&Receiver<Event>>,
    limit: Duration,
    is_true: impl Fn(&[Service]) -> bool,
) {
    let deadline = Instant::now() + limit;
    loop {
        reap(services);
        let left = deadline.saturating_duration_since(Instant::now());
        if is_true(services) || left.is_zero() {
            return;
        }
        if let Some(Event::Power(_)) = wait_for(events, left.min(Duration::from_millis(250))) {
            return;
        }
    }
}

/// Unmounts all that lies on disks or elsewhere; returns what would not go, and why.
fn unmount_all() -> Vec<(String, &'static str)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut kept = Vec::new();
    // What was mounted last lies on top.
    for line in mounts.lines().rev() {
        let mut words = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (words.next(), words.next()) else { continue };
        if IN_MEMORY.contains(&kind) {
            continue;
        }
        let at = at.replace("\\040", " ");
        if let Err(error) = umount2(at.as_str(), MntFlags::empty()) {
            let none: Option<&str> = None;
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            if mount(none, at.as_str(), none, flags, none).is_err() {
                kept.push((at, error.desc()));
            }
        }
    }
    kept
}

/// A line on every console, whatever is shown there: nobody else is left to show anything.
fn tell_all(line: &str) {
    say(line);
    for name in super::consoles::names() {
        // Whoever typed `poweroff` in the shell looks at another screen than the first: the one in front is `tty0`.
        let name = if name == "tty1" { "tty0".to_owned() } else { name };
        let path = Path::new("/dev").join(name);
        let flags = nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_NONBLOCK;
        if let Ok(mut console) = File::options().write(true).custom_flags(flags.bits()).open(path) {
            // Back from the alternate screen, with plain letters and a cursor.
            let _ = console.write_all(format!("\x1b[?1049l\x1b[0m\x1b[?25h\r\n{line}\r\n").as_bytes());
        }
    }
}
