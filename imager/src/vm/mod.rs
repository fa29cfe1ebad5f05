//! The virtual machine that fits an image, and what the hypervisors want to be told of it.
//!
//! Must not know: repositories, how disks are read or written.

pub mod hardware;
pub mod hyperv;
pub mod libvirt;
pub mod ovf;
pub mod proxmox;
mod text;
pub mod uefi_variables;

pub use text::Macs;
