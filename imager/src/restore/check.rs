//! Whether a target may be overwritten. Refusing is cheap; overwriting the wrong disk is not.

use std::path::Path;

use super::WhatToWrite;
use crate::disk::identity::{self, Identity};
use crate::error::{Error, Result};
use crate::read_at::ReadAt;
use crate::repo::manifest::DiskImage;
use crate::repo::store::Store;
use crate::table;

/// Refuses a block device that is in use, read-only, or that holds the repository.
///
/// # Errors
/// [`Error::TargetRefused`], [`Error::Io`].
pub fn check_device(path: &Path, store: &dyn Store) -> Result<Identity> {
    let identity = identity::of_device(path).map_err(Error::io("look at", path))?;
    if identity.read_only {
        return Err(Error::refused(path, "it is read-only"));
    }
    let uses = identity::uses_of(path).map_err(Error::io("look who uses", path))?;
    if let Some((device, place)) = uses.mounted_at.first() {
        let (device, place) = (device.display(), place.display());
        return Err(Error::refused(path, format!("{device} is mounted at {place}; unmount it first")));
    }
    if let Some(swap) = uses.swap.first() {
        return Err(Error::refused(path, format!("{} is in use as swap space; `swapoff` it first", swap.display())));
    }
    if let Some(holder) = uses.holders.first() {
        return Err(Error::refused(path, format!("{holder} sits on it; take that down first")));
    }
    if let Some(directory) = store.local_directory() {
        let disks = identity::backing_disks(&directory).map_err(Error::io("find the disk of", &directory))?;
        let whole = identity.partition_of.as_ref().unwrap_or(&identity.path);
        let same = |disk: &Path| disk.canonicalize().ok() == whole.canonicalize().ok();
        if disks.iter().any(|disk| same(disk)) {
            return Err(Error::refused(path, format!("the repository {} lies on it", directory.display())));
        }
    }
    Ok(identity)
}

/// How chosen partitions go to a target: onto a disk that has them already, onto one that has no table, or one
/// into a partition.
///
/// # Errors
/// [`Error::TargetRefused`] when the target has another layout.
pub fn find_kind(image: &DiskImage, only: &[u32], target: &dyn ReadAt, identity: &Identity) -> Result<WhatToWrite> {
    for number in only {
        if !image.table.partitions.iter().any(|partition| partition.number == *number) {
            return Err(Error::Usage(format!("the disk in the image has no partition {number}")));
        }
    }
    if identity.partition_of.is_some() {
        return match only {
            [number] => Ok(WhatToWrite::OnePartitionAlone(*number)),
            _ => Err(Error::refused(&identity.path, "it is a partition and takes exactly one (--only N)")),
        };
    }
    let sector = crate::disk::sector_size_of(identity);
    let there = table::read(target, sector).map_err(Error::io("read the partition table of", &identity.path))?;
    let same = |number: &u32| {
        let place = |table: &table::PartitionTable| {
            table.partitions.iter().find(|p| p.number == *number).map(|p| (p.start, p.len))
        };
        place(&image.table) == place(&there)
    };
    if only.iter().all(same) {
        return Ok(WhatToWrite::PartitionsInPlace(only.to_vec()));
    }
    if there.partitions.is_empty() && there.structures.is_empty() {
        return Ok(WhatToWrite::TableAndPartitions(only.to_vec()));
    }
    Err(Error::refused(
        &identity.path,
        "its partitions lie at other places than those in the image; name one of them (/dev/…N) to restore into it, or restore the whole disk",
    ))
}
