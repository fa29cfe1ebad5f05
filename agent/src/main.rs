//! The agent: the only program that has to be on the boot medium.
//!
//! One static binary with several roles: `/init` of the initramfs, the keeper of the one job that runs at a time,
//! the user interface on each console, the kernel's `modprobe`, and `imager` itself.

mod init;
mod job;
mod places;
mod ui;

use std::path::Path;
use std::process::ExitCode;

/// What this process is here for.
fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let role = arguments.next().unwrap_or_default();
    match (std::process::id(), name.as_str(), role.as_str()) {
        (1, ..) => init::run(),
        (_, "imager", _) => imager::cli::main(),
        (_, _, "jobs") => job::keeper::run(),
        (_, _, "ui") => ui::run(),
        _ => ExitCode::from(2),
    }
}
