//! Lifeboat's imager: takes images of physical disks into a repository, proves that what is stored is
//! good, and writes it back.
//!
//! Must not know: terminals, PID 1, kernel modules. The command line is a thin layer on top.

pub mod bulk;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod clone;
pub mod clonezilla;
pub mod copy;
pub mod diff;
pub mod disk;
pub mod error;
pub mod export;
pub mod extent;
pub mod files;
pub mod fs;
pub mod guest;
pub mod image_disk;
mod key_table;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod mount;
pub mod nbd;
mod parallel;
pub mod process;
pub mod progress;
pub mod prove;
pub mod prune;
pub mod read_at;
pub mod repo;
pub mod restore;
pub mod retention;
pub mod serve;
pub mod stick;
pub mod table;
pub mod units;
pub mod verify;
pub mod vm;
pub mod vm_disk;

pub use error::{Error, Result};
