//! QEMU's copy-on-write disks, version 2 and 3.
//!
//! The format: QEMU's `docs/interop/qcow2`.

mod read_header;
pub mod reader;
pub mod writer;

pub(in crate::vm_disk) use read_header::MAGIC;
