//! QEMU's copy-on-write disks, version 2 and 3.
//!
//! The format: QEMU's `docs/interop/qcow2`.

pub mod reader;
pub mod writer;
