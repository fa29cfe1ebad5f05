//! Places where a repository can be: partitions and sticks, mounted below `/run/lifeboat/places`.
//!
//! Must not know: repositories, jobs.

use std::io;
use std::path::{Path, PathBuf};

/// A partition, or a disk without a table, with a file system that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its node: `/dev/sdb1`.
    pub device: PathBuf,
    /// The file system's label.
    pub label: Option<String>,
    /// The file system's UUID or serial number, as `blkid` prints it.
    pub uuid: Option<String>,
    /// As `mount -t` names it: ext4, xfs, btrfs, vfat, exfat, ntfs3, iso9660.
    pub filesystem: String,
    /// Size in bytes.
    pub size: u64,
    /// The disk's maker and model.
    pub model: Option<String>,
    /// The disk's serial number.
    pub serial: Option<String>,
    /// Where it is mounted now.
    pub mounted: Option<PathBuf>,
}

/// All places of this machine, by name.
///
/// # Errors
/// Without sysfs.
pub(crate) fn list() -> io::Result<Vec<Place>> {
    Ok(Vec::new())
}

/// Mounts a place for writing and says where; where it is mounted already, that is where.
///
/// # Errors
/// What the kernel says, with what to do about it.
pub(crate) fn mount(place: &Place) -> io::Result<PathBuf> {
    Err(io::Error::other(format!("cannot mount {}", place.device.display())))
}

/// Flushes and unmounts what [`mount`] mounted.
///
/// # Errors
/// When it is in use.
pub(crate) fn unmount(place: &Place) -> io::Result<()> {
    Err(io::Error::other(format!("cannot unmount {}", place.device.display())))
}

/// Bytes that can still be written below a directory.
///
/// # Errors
/// What the kernel says.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
