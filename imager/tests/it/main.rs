//! Tests against real disks, file systems and tools. One binary; one module per subject.
#![expect(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod fs_ntfs;
mod fuzz_replay;
mod support;
