//! Tests against real disks, file systems and tools. One binary; one module per subject.
#![expect(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking")]

mod bad_sectors;
mod cli;
mod copy;
mod cut_off;
mod engine;
mod faults;
mod flips;
mod fs_ext;
mod fs_ext_damage;
mod fs_ext_journal;
mod fs_ext_log;
mod fs_fat;
mod fs_ntfs;
mod fs_swap;
mod fs_xfs;
mod fuzz_replay;
mod fuzz_seeds;
mod golden;
mod hostile_repository;
mod identity;
mod portions;
mod power_loss;
mod processes;
mod python_reader;
mod restore;
mod serve;
mod stalls;
mod store;
mod support;
mod table;
mod table_adapt;
mod table_mutation;
mod together;
mod volume;
mod wrong_use;
