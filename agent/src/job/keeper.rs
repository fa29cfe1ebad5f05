//! Runs one job at a time, each step as a process of its own, and tells every console how it goes.

use std::process::ExitCode;

/// Runs until it is told to end.
pub(crate) fn run() -> ExitCode {
    ExitCode::FAILURE
}
