//! What the end-to-end tests are made of: disks with real systems on them, and guests that boot them.
//!
//! A library, because the demo and the benchmarks make disks, too. Must not know: how `imager` works inside;
//! it is a program that is run, like every other tool here.

#![forbid(unsafe_code)]

pub mod boot_disk;
pub mod debian;
pub mod disk;
pub mod fingerprint;
pub mod guest;
pub mod imager;
pub mod machine;
pub mod media;
mod monitor;
pub mod mounted;
pub mod package;
pub mod run;
pub mod screen;
pub mod tool;
pub mod walkthrough;
