//! Lifeboat's imager: takes images of physical disks into a repository, proves that what is stored is
//! good, and writes it back.
//!
//! Must not know: terminals, PID 1, kernel modules. The command line in [`cli`] is a thin layer on top.

pub mod disk;
pub mod extent;
pub mod fs;
pub mod machine;
pub mod read_at;
pub mod table;
