//! The kernel's modules: which ones the hardware wants, and loading them.
//!
//! The index is what depmod makes of a kernel's modules, in its standard text files. Must not know: what the modules
//! are for.

mod index;
mod load;
mod pattern;
mod uevent;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::index::Index;
use self::load::Loader;
use crate::log::say;

/// The hardware is quiet when it has said nothing for so long.
const QUIET: Duration = Duration::from_millis(300);

/// Modules wait for their hardware more than they compute.
const THREADS: usize = 4;

/// Loads what the hardware wants, now and whenever something is plugged in.
pub(crate) fn run() -> ExitCode {
    match keep_loading() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("cannot load modules: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Exists once the hardware that was there at the start has been looked at.
fn ready_file() -> PathBuf {
    crate::job::run_directory().join("ready")
}

fn keep_loading() -> io::Result<()> {
    let began = Instant::now();
    // First, so that nothing that appears meanwhile is missed.
    let events = uevent::Listener::open()?;
    let loader = Arc::new(Loader::new(Index::of_this_kernel()?, &blacklist()));
    let (queue, wanted) = mpsc::channel::<String>();
    let wanted = Arc::new(Mutex::new(wanted));
    for number in 0..THREADS {
        let (loader, wanted) = (Arc::clone(&loader), Arc::clone(&wanted));
        thread::Builder::new().name(format!("modules {number}")).spawn(move || {
            loop {
                let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(alias) = next else { return };
                loader.load_for(&alias);
                loader.done_one();
            }
        })?;
    }
    let want = |alias: String| {
        loader.wants_one();
        queue.send(alias).is_ok()
    };
    always().into_iter().chain(devices()).all(&want);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut is_ready = false;
    loop {
        match events.next(QUIET) {
            // The same hardware twice needs the same modules.
            Ok(Some(alias)) => drop(seen.insert(alias.clone()) && want(alias)),
            Ok(None) if !is_ready && loader.is_idle() => {
                is_ready = true;
                say(&format!(
                    "{} modules loaded in {:.1} s",
                    loader.count(),
                    began.elapsed().saturating_sub(QUIET).as_secs_f64()
                ));
                let _ = fs::write(ready_file(), "");
            }
            Ok(None) => {}
            // Too much was said at once: look at everything again.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => drop(devices().into_iter().all(&want)),
            Err(error) => return Err(error),
        }
    }
}

/// What hardware calls itself, of all that is on any bus now.
fn devices() -> Vec<String> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = BTreeSet::new();
    for bus in entries(Path::new("/sys/bus")) {
        for device in entries(&bus.join("devices")) {
            if let Ok(alias) = fs::read_to_string(device.join("modalias")) {
                found.insert(alias.trim_end().to_owned());
            }
        }
    }
    found.into_iter().filter(|alias| !alias.is_empty()).collect()
}

/// Modules that no hardware asks for, a line each.
fn always() -> Vec<String> {
    let lines = fs::read_to_string("/etc/modules").unwrap_or_default();
    let names = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    names.map(str::to_owned).collect()
}

/// `modprobe.blacklist=a,b`, as everywhere.
fn blacklist() -> Vec<String> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let lists = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("modprobe.blacklist="));
    lists.flat_map(|list| list.split(',')).map(str::to_owned).collect()
}

/// The kernel's `modprobe -q -- NAME`, and enough of the command for people.
pub(crate) fn modprobe(arguments: impl Iterator<Item = String>) -> ExitCode {
    let index = match Index::of_this_kernel() {
        Ok(index) => index,
        Err(error) => {
            say(&format!("modprobe: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let loader = Loader::new(index, &blacklist());
    let names = arguments.filter(|word| !word.starts_with('-'));
    // What follows the first name are the module's parameters; nobody here has any.
    let loaded = names.take(1).all(|name| loader.load_for(&name));
    if loaded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
