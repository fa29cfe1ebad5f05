//! Import of Clonezilla's image directories: their disks, put together so that a capture can read them.
//!
//! ```text
//! directory ─► tables ─► disk ◄─ scratch file ◄─ partclone, ntfsclone ◄─ decompression ◄─ pieces of files
//! ```
//!
//! Clonezilla keeps a directory per image: a file per volume, most of them written by partclone, beside dumps and first
//! sectors of the partition tables. A volume's stream can be read forward only, so it is unpacked first. Must not know:
//! repositories, terminals.
//!
//! Source: `ocs-functions` of Clonezilla 5, for what it writes into a directory and how it restores from it.

#![forbid(unsafe_code)]

mod compression;
mod directory;
mod disk;
mod facts;
mod lvm;
pub mod ntfsclone;
pub mod partclone;
mod pieces;
mod scratch;
mod sfdisk;
mod swap;
mod table;
#[doc(hidden)]
pub mod texts;
mod unpack;
mod volume;

pub use directory::{Directory, is_directory, open};
pub use unpack::Unpacked;
pub use volume::VolumeReport;
