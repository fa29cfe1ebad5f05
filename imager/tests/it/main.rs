//! Tests against real disks, file systems and tools. One binary; one module per subject.
#![expect(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod fs_ext;
mod fs_ext_damage;
mod fs_ext_journal;
mod fs_ext_log;
mod fs_swap;
mod support;
mod volume;
