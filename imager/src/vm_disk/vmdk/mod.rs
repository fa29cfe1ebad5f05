//! VMware's disks: a descriptor in text, and extents that are flat, sparse or stream-optimized.
//!
//! The format: VMware's "Virtual Disk Format 5.0".

mod read_descriptor;
mod read_sparse;
pub mod reader;
pub mod writer;

pub(in crate::vm_disk) use read_descriptor::{BYTES_MAX as DESCRIPTOR_BYTES_MAX, is_descriptor};
pub(in crate::vm_disk) use read_sparse::MAGIC;
