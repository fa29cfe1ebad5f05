//! The agent's roles as processes, as PID 1 runs them.

mod console;
mod keeper;
mod ui;
