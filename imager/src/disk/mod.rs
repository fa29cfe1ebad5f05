//! Disks as the machine has them: who they are, how they are read, how they are written.
//!
//! Must not know: partition tables, file systems, repositories.

pub mod identity;
pub mod source;
pub mod target;
