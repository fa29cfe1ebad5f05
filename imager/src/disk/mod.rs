//! The disks of the machine that this runs on.

pub mod identity;
