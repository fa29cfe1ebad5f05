//! The user interface on one console.
//!
//! `update(state, event) → effects` and `draw(state)` are pure. Must not know: PID 1, other consoles.

use std::process::ExitCode;

/// Runs until the console is gone.
pub(crate) fn run() -> ExitCode {
    ExitCode::FAILURE
}
