//! A stick that was made from Lifeboat's image grows to its real size: the image is small, the stick is not.
//!
//! The partition for backups is made as large as the stick allows, then the ext4 in it, by the kernel, while it is mounted.
//! Whenever the power goes, the stick is readable, and doing it again ends in the same state. Must not know: which stick it
//! is that the machine was started from.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::disk::sys;
use crate::disk::target::Target;
use crate::error::{Error, Result};
use crate::table::{self, Growth, PartitionTable};

/// The GUID that every such stick's partition table has, as `blkid` prints it. `xtask` makes the image with it.
pub const DISK_ID: &str = "1f5b0a7d-c0de-4000-8000-000000000000";

/// The GUID of its partition for backups.
pub const BACKUP_ID: &str = "1f5b0a7d-c0de-4000-8000-000000000003";

/// The GUID of the partition that it starts from.
pub const BOOT_ID: &str = "1f5b0a7d-c0de-4000-8000-000000000002";

/// The label of the file system for backups, and the name of its partition.
pub const BACKUP_LABEL: &str = "LIFEBOAT";

/// True for the table of a disk that Lifeboat's image was written to: the disk's GUID, and those of the partitions that
/// count, the one for backups being the last.
#[must_use]
pub fn is_stick(table: &PartitionTable) -> bool {
    let has = |number: u32, id: &str| {
        table.partitions.iter().any(|partition| partition.number == number && partition.id.as_deref() == Some(id))
    };
    let last = table.partitions.iter().max_by_key(|partition| partition.extent().end());
    let is_last = last.is_some_and(|last| {
        last.id.as_deref() == Some(BACKUP_ID) && last.name.as_deref() == Some(BACKUP_LABEL) && last.number == 3
    });
    table.kind == table::TableKind::Gpt && table.disk_id.as_deref() == Some(DISK_ID) && has(2, BOOT_ID) && is_last
}

/// Makes the last partition as large as the disk allows; see [`table::grow_last`] for the order. `sector_size` is the
/// device's. What was done is in [`Growth::steps`]: nothing, when the disk is as it should be.
///
/// # Errors
/// [`Error::TargetRefused`] when it is not such a stick, or has no table that can be trusted; [`Error::Io`].
pub fn grow_partition(disk: &dyn Target, sector_size: Option<u32>) -> Result<Growth> {
    let path = &disk.identity().path;
    let table = table::read(disk, sector_size).map_err(Error::io("read the partition table of", path))?;
    if !is_stick(&table) {
        return Err(Error::refused(path, "it is no stick that was made from Lifeboat's image"));
    }
    let growth = table::grow_last(disk, &table).map_err(|error| Error::refused(path, error.to_string()))?;
    for step in &growth.steps {
        for patch in step {
            disk.write_at(patch.offset, &patch.bytes).map_err(Error::io("write the partition table of", path))?;
        }
        disk.flush().map_err(Error::io("write the partition table of", path))?;
    }
    Ok(growth)
}

/// Tells the kernel how large a partition is now, also while it is mounted.
///
/// # Errors
/// What the kernel says.
pub fn tell_kernel(disk: &Path, growth: &Growth) -> Result<()> {
    let file = File::open(disk).map_err(Error::io("open", disk))?;
    sys::resize_partition(&file, growth.number, growth.partition).map_err(Error::io("resize a partition of", disk))
}

/// Makes the ext4 that is mounted at `mounted` as large as its partition, which has `bytes`; true when it was smaller.
/// The kernel does it step by step, through the journal.
///
/// # Errors
/// What the kernel says; `InvalidInput` for another file system than an ext4 with a whole number of blocks.
pub fn grow_file_system(mounted: &Path, bytes: u64) -> Result<Grown> {
    let failed = |error: io::Error| Error::io("enlarge the file system at", mounted)(error);
    let found = rustix::fs::statfs(mounted).map_err(|error| failed(error.into()))?;
    if found.f_type != EXT4_MAGIC {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no ext4")));
    }
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    let blocks = bytes.checked_div(block).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let directory = File::open(mounted).map_err(failed)?;
    sys::resize_ext4(&directory, blocks).map_err(failed)?;
    let after = rustix::fs::statfs(mounted).map_err(|error| failed(error.into()))?;
    Ok(if after.f_blocks > found.f_blocks { Grown::Yes } else { Grown::No })
}

/// As `statfs` has it.
const EXT4_MAGIC: rustix::fs::FsWord = 0xEF53;

/// Whether something was made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grown {
    /// It was.
    Yes,
    /// It had that size already.
    No,
}
