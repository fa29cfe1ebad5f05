//! VirtualBox's disks.
//!
//! The format: `VDICore.h` of VirtualBox, and what QEMU's `block/vdi` says of it.

pub mod reader;
pub mod writer;

pub(in crate::vm_disk) use reader::SIGNATURE;
