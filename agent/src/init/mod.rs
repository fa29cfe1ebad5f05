//! PID 1: mounts, loads modules, reaps and respawns, and turns the machine off. Nothing else.
//!
//! Must not know: disks, images, screens.

use std::process::ExitCode;

/// Runs until the machine is off.
pub(crate) fn run() -> ExitCode {
    ExitCode::FAILURE
}
