//! The virtual machine that fits an image, and what the hypervisors want to be told of it.
//!
//! Must not know: repositories, how disks are read or written.

pub mod hardware;
