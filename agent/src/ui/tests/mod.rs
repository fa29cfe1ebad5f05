//! The user interface, without a terminal and without a machine.

mod driver;
mod fixtures;
mod properties;
mod snapshots;
mod walks;
