//! Messages for the log: the kernel's, so that what the machine says and what Lifeboat says stand in one order.
//!
//! PID 1 tells its children by the variable [`VARIABLE`] where the log is; without it, messages go to standard error.
//! Must not know: what is said.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Names the file to which messages go.
pub(crate) const VARIABLE: &str = "LIFEBOAT_LOG";

/// The kernel's log.
pub(crate) const KERNEL: &str = "/dev/kmsg";

/// The kernel cuts what is longer than its records.
const LINE_MAX: usize = 900;

static LOG: OnceLock<Option<File>> = OnceLock::new();

/// Says a line. Never fails: there would be nobody to tell.
pub(crate) fn say(line: &str) {
    let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_MAX).collect();
    // One write is one record.
    match LOG.get_or_init(open) {
        Some(log) => drop((&mut &*log).write_all(format!("<5>lifeboat: {shown}\n").as_bytes())),
        None => drop(std::io::stderr().write_all(format!("lifeboat: {shown}\n").as_bytes())),
    }
}

fn open() -> Option<File> {
    let path = match std::env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None if std::process::id() == 1 => KERNEL.into(),
        None => return None,
    };
    File::options().append(true).open(path).ok()
}

/// From now on a panic is one line in the log, not many on the screen.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| say(&format!("a programming error: {panic}"))));
}
