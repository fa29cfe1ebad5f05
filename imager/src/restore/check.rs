//! Whether a target may be overwritten. Refusing is cheap; overwriting the wrong disk is not.

use std::io;
use std::path::{Path, PathBuf};

use super::WhatToWrite;
use crate::disk::identity::{self, Identity, Uses};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::read_at::ReadAt;
use crate::repo::manifest::DiskImage;
use crate::table::{self, Role};

/// Refuses a block device that is in use, read-only, or that holds `repository`, a directory.
///
/// # Errors
/// [`Error::TargetRefused`], [`Error::Io`].
pub fn check_device(path: &Path, repository: Option<&Path>) -> Result<Identity> {
    let identity = identity::of_device(path).map_err(Error::io("look at", path))?;
    if identity.read_only {
        return Err(Error::refused(path, "it is read-only"));
    }
    // Of a partition's disk, the other partitions are nobody's business here.
    if let (Some(directory), None) = (repository, &identity.partition_of) {
        let disks = identity::backing_disks(directory).map_err(Error::io("find the disk of", directory))?;
        if disks.iter().any(|disk| disk.canonicalize().ok() == identity.path.canonicalize().ok()) {
            return Err(Error::refused(path, format!("the repository {} lies on it", directory.display())));
        }
    }
    check_uses(path)?;
    Ok(identity)
}

/// Refuses what is no disk-image file and cannot become one, a file that is in use as a disk, and one in the
/// directory `repository`.
///
/// # Errors
/// [`Error::TargetRefused`], [`Error::Io`].
pub fn check_file(path: &Path, repository: Option<&Path>) -> Result<()> {
    let place = place_of(path)?;
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(Error::refused(path, "it is a directory; name a file in it")),
        Ok(found) if !found.is_file() => return Err(Error::refused(path, "it is neither a block device nor a file")),
        Ok(_) => check_uses(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A file there would be in memory, and whoever misspelt a disk's name would wait for the disk in vain.
            if place.starts_with("/dev") && !place.starts_with("/dev/shm") {
                return Err(Error::refused(path, "there is no such device; `lsblk` lists those that there are"));
            }
        }
        Err(error) => return Err(Error::io("look at", path)(error)),
    }
    if repository.is_some_and(|directory| place.starts_with(directory)) {
        return Err(Error::refused(path, "it lies within the repository"));
    }
    Ok(())
}

/// The path of a file without symbolic links; it need not be there yet, its directory must.
fn place_of(path: &Path) -> Result<PathBuf> {
    if let Ok(place) = path.canonicalize() {
        return Ok(place);
    }
    let path = std::path::absolute(path).map_err(Error::io("look at", path))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = parent.canonicalize().map_err(Error::io("find the directory", parent))?;
    Ok(path.file_name().map_or(parent.clone(), |name| parent.join(name)))
}

fn check_uses(path: &Path) -> Result<()> {
    let Uses { mounted_at, swap, holders } = identity::uses_of(path).map_err(Error::io("look who uses", path))?;
    if let Some((device, place)) = mounted_at.first() {
        let (device, place) = (device.display(), place.display());
        return Err(Error::refused(path, format!("{device} is mounted at {place}; unmount it first")));
    }
    if let Some(swap) = swap.first() {
        return Err(Error::refused(path, format!("{} is in use as swap space; `swapoff` it first", swap.display())));
    }
    if let Some(holder) = holders.first() {
        return Err(Error::refused(path, format!("{holder} sits on it; take that down first")));
    }
    Ok(())
}

/// Refuses one target for two disks or partitions, whatever its names.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_different<'p>(targets: impl IntoIterator<Item = &'p Path>) -> Result<()> {
    let mut seen = Vec::new();
    for path in targets {
        let place = path.canonicalize().or_else(|_| std::path::absolute(path)).map_err(Error::io("look at", path))?;
        if seen.contains(&place) {
            return Err(Error::Usage(format!("{} is named twice", path.display())));
        }
        seen.push(place);
    }
    Ok(())
}

/// Refuses a partition that the image cannot give by itself.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_partition(image: &DiskImage, number: u32) -> Result<()> {
    let Some(partition) = image.table.partitions.iter().find(|partition| partition.number == number) else {
        let numbers: Vec<String> =
            image.table.partitions.iter().map(|partition| partition.number.to_string()).collect();
        let those = if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") };
        return Err(Error::Usage(format!("the disk in the image has no partition {number}; it has {those}")));
    };
    let own = image.regions.iter().filter(|region| region.partition == Some(number));
    let there = partition.extent().intersection(Extent::new(0, image.size));
    if !there.is_empty() && own.map(|region| region.len).sum::<u64>() == there.len {
        return Ok(());
    }
    let why = if partition.role == Role::Extended {
        "only holds other partitions; name those"
    } else if there.is_empty() {
        "lies behind the end of the disk, so that the image has nothing of it"
    } else {
        "overlaps another, so that it cannot be restored by itself; restore the whole disk"
    };
    Err(Error::Usage(format!("partition {number} {why}")))
}

/// How chosen partitions go to a target: onto a disk that has them already, onto one that has no table, or one
/// into a partition.
///
/// # Errors
/// [`Error::TargetRefused`] when the target has another layout, [`Error::Usage`] when the image has no such
/// partition.
pub fn find_kind(image: &DiskImage, only: &[u32], target: &dyn ReadAt, identity: &Identity) -> Result<WhatToWrite> {
    only.iter().try_for_each(|&number| check_partition(image, number))?;
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
        "its partitions lie at other places than those in the image; name one of them (/dev/sdX2 or the like) to restore into it, or restore the whole disk",
    ))
}
