//! Hyper-V's disks since 2012.
//!
//! The format: Microsoft's MS-VHDX.

mod read_header;
mod read_log;
pub mod reader;
pub mod writer;

pub(in crate::vm_disk) use read_header::SIGNATURE;
