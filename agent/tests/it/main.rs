//! The agent's roles as processes, as PID 1 runs them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in tests")]

mod console;
mod keeper;
mod ui;
