//! PID 1: mounts, starts the others, reaps and respawns them, and turns the machine off. Nothing else.
//!
//! Everything that can go wrong is done by children: loading modules, keeping the job, the log, the network, a
//! user interface on each console. Must not know: disks, images, screens.

mod consoles;
mod mounts;
mod off;
mod service;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use self::service::{Service, When};
use crate::job::Power;
use crate::log::say;

pub(crate) use self::consoles::{CONSOLE, attach, names as console_names};

/// The shell of the medium, if it has one.
const SHELL: &str = "/bin/busybox";

/// What PID 1 hears.
enum Event {
    /// A child has ended.
    Child,
    /// The machine is to end. Signals as with other inits: TERM and Ctrl-Alt-Del reboot, USR1 and USR2 turn off.
    Power(Power),
}

/// Runs until the machine is off.
pub(crate) fn run() -> ExitCode {
    crate::log::log_panics();
    mounts::mount_all();
    say("PID 1 works");
    // Without it Ctrl-Alt-Del would reset the machine at once.
    let _ = nix::sys::reboot::set_cad_enabled(false);
    quiet_kernel();
    let events = signals();
    let mut services = services();
    loop {
        // A programming error here must not panic the kernel.
        let power = catch_unwind(AssertUnwindSafe(|| supervise(&mut services, events.as_ref())));
        if let Ok(power) = power {
            let _ = catch_unwind(AssertUnwindSafe(|| off::turn_off(&mut services, power, events.as_ref())));
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// The screens belong to the user interface; all that the kernel says is in the log. And all of it shall be there.
fn quiet_kernel() {
    let _ = std::fs::write("/proc/sys/kernel/printk", "1 4 1 7");
    let _ = std::fs::write("/proc/sys/kernel/printk_devkmsg", "on");
}

/// None when no thread can be started: then children are looked for every so often.
fn signals() -> Option<Receiver<Event>> {
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2]).ok()?;
    let (sender, events) = mpsc::channel();
    let forward = move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGCHLD => Event::Child,
                SIGUSR1 | SIGUSR2 => Event::Power(Power::Off),
                _ => Event::Power(Power::Reboot),
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).ok()?;
    Some(events)
}

fn services() -> Vec<Service> {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let has = |prefix: &str| line.split_ascii_whitespace().any(|word| word.starts_with(prefix));
    let mut services = vec![
        Service::new("modules", &["modules"], When::Always),
        Service::new("jobs", &["jobs"], When::Always),
        Service::new("log", &["log"], When::Always),
        Service::new("network", &["network"], When::Always),
        Service::new("stick", &["stick"], When::Once),
    ];
    let is_unattended = has("lifeboat.job=") || has("lifeboat.config=");
    if is_unattended {
        services.push(Service::new("unattended", &["unattended"], When::Unattended));
    }
    // What is done unattended is shown as plain lines; the screens come when it has ended.
    let when = if is_unattended { When::AfterUnattended } else { When::Always };
    for name in consoles::names() {
        services.push(Service::new(&format!("console {name}"), &["console", &name, "ui"], when));
    }
    if std::path::Path::new(SHELL).exists() {
        services.push(Service::new("shell", &["console", "tty2", SHELL, "sh", "-l"], When::Always));
    }
    services
}

/// Keeps everything running until the machine is to end.
fn supervise(services: &mut [Service], events: Option<&Receiver<Event>>) -> Power {
    loop {
        reap(services);
        let now = Instant::now();
        let unattended = services.iter().any(Service::is_unattended_work);
        for service in services.iter_mut().filter(|service| service.is_due(now, unattended)) {
            service.start();
        }
        let next = services.iter().filter_map(|service| service.next_start(unattended)).min();
        let wait = next.map_or(Duration::from_secs(60), |next| next.saturating_duration_since(Instant::now()));
        if let Some(Event::Power(power)) = wait_for(events, wait) {
            return power;
        }
    }
}

/// The next event, or none within that time.
fn wait_for(events: Option<&Receiver<Event>>, limit: Duration) -> Option<Event> {
    let Some(events) = events else {
        thread::sleep(limit.min(Duration::from_millis(200)));
        return None;
    };
    match events.recv_timeout(limit) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(limit.min(Duration::from_millis(200)));
            None
        }
    }
}

/// Takes note of all children that have ended, our own and those that others left.
fn reap(services: &mut [Service]) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        let Some(pid) = status.pid() else { return };
        let how = match status {
            WaitStatus::Exited(_, code) => format!("ended with code {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("was killed by {signal}"),
            _ => continue,
        };
        if let Some(service) = services.iter_mut().find(|service| service.pid() == Some(pid)) {
            service.has_ended(&how);
        }
    }
}
