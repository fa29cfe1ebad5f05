//! Disks of virtual machines as files: a folder per format, each with what its bytes mean, how it is read and how it is
//! written.
//!
//! Must not know: repositories, images, terminals.

mod appliance;
pub mod blocks;
mod cache;
mod checksums;
mod contents;
mod detect;
mod error;
mod in_use;
pub mod layout;
mod mapped;
mod neighbours;
mod open;
mod ovf;
mod pages;
pub mod qcow2;
mod unpack;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub use appliance::{Appliance, Archive, ArchivedDisk, is_appliance, open_appliance, read_ova};
pub use contents::{Contents, Disk, Neighbours};
pub use detect::detect;
pub use error::DiskError;
pub use in_use::is_written_by_qemu;
pub use open::{Follow, How, Opened, open, read};

use std::fmt;
use std::str::FromStr;

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Bytes as they are on the disk, sparse where the file system can.
    Raw,
    /// QEMU, libvirt, Proxmox.
    Qcow2,
    /// VMware.
    Vmdk,
    /// Hyper-V since 2012.
    Vhdx,
    /// Hyper-V before, Azure, Xen.
    Vhd,
    /// VirtualBox.
    Vdi,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhdx, Self::Vhd, Self::Vdi];

    /// Its name, which is also how its files' names end.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            format!("`{text}` is no format of disks; these are: {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}
