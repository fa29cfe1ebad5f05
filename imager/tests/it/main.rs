//! Tests against real disks, file systems and tools. One binary; one module per subject.
#![expect(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking")]

mod engine;
mod faults;
mod fs_ext;
mod fs_ext_damage;
mod fs_ext_journal;
mod fs_ext_log;
mod fs_fat;
mod fs_ntfs;
mod fs_swap;
mod fs_xfs;
mod identity;
mod processes;
mod stalls;
mod support;
mod table;
mod table_adapt;
mod table_mutation;
mod volume;
