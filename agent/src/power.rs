//! Asking PID 1 to turn the machine off.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::job::Power;

/// Asks PID 1, which flushes first.
///
/// # Errors
/// When PID 1 is not Lifeboat's: whoever tries this out beside a running system does not mean that one.
pub(crate) fn ask(power: Power) -> io::Result<()> {
    let identity = |path: &str| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    if identity("/proc/1/exe").is_none() || identity("/proc/1/exe") != identity("/proc/self/exe") {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this machine was not started from Lifeboat's medium; turn it off as usual",
        ));
    }
    let signal = match power {
        Power::Off => Signal::SIGUSR2,
        Power::Reboot => Signal::SIGTERM,
    };
    Ok(kill(Pid::from_raw(1), signal)?)
}
