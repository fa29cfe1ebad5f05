//! Hyper-V's first disks, Virtual PC's before them: fixed and dynamic.
//!
//! The format: Microsoft's "Virtual Hard Disk Image Format Specification" of 2006.

pub mod reader;
pub mod writer;
