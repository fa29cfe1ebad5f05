//! VMware's disks: a descriptor in text, and extents that are flat, sparse or stream-optimized.
//!
//! The format: VMware's "Virtual Disk Format 5.0".

pub mod reader;
pub mod writer;
