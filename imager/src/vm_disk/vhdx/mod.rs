//! Hyper-V's disks since 2012.
//!
//! The format: Microsoft's MS-VHDX.

pub mod reader;
pub mod writer;
