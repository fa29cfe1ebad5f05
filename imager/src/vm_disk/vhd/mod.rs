//! Hyper-V's first disks, Virtual PC's before them: fixed and dynamic.
//!
//! The format: Microsoft's "Virtual Hard Disk Image Format Specification" of 2006.

mod read_footer;
pub mod reader;
pub mod writer;

pub(in crate::vm_disk) use read_footer::{COOKIE, Footer, Kind};
