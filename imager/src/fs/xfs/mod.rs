//! XFS, versions 4 and 5.
//!
//! In use is everything but what the groups' trees of free extents list. Blocks on the groups' free lists
//! (AGFL) are reserved for these trees and count as in use. A log that was not cleanly unmounted is followed
//! first, see [`replay`]; where that cannot be done beyond doubt the volume is read whole. Must not know:
//! inodes, directories, files. Source: `xfs_format.h` of the Linux kernel, and "XFS Algorithms & Data
//! Structures".

mod checksum;
pub(super) mod files;
mod free_space;
mod log;
mod replay;
mod superblock;

use std::io;

use uuid::Uuid;

use self::free_space::{Metadata, Prove};
use self::log::{Log, State};
use self::replay::Replayed;
use self::superblock::Superblock;
use crate::extent::{Extent, ExtentSet};
use crate::fs::{FileSystem, FsError, Note, Reader};
use crate::read_at::ReadAt;
use crate::read_at::field::be32;

/// The reader for XFS.
pub(super) struct Xfs;

impl Reader for Xfs {
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool> {
        Ok(volume.size() >= 512 && be32(&volume.read_vec(0, 4)?, 0) == Some(superblock::MAGIC))
    }

    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
        let len = usize::try_from(volume.size()).unwrap_or(usize::MAX).min(superblock::SECTOR_SIZE_MAX);
        let bytes = volume.read_vec(0, len)?;
        let superblock = Superblock::from_bytes(&bytes)?;
        if superblock.size() > volume.size() {
            let what = format!("the file system claims {} bytes, the volume has {}", superblock.size(), volume.size());
            return Err(FsError::corrupt(8, what));
        }
        let mut notes = Vec::new();
        let replayed = replayed_log(volume, &superblock, &bytes, &mut notes)?;
        let prove = if replayed.is_some() { Prove::Yes } else { Prove::No };
        let metadata = Metadata { volume, superblock: &superblock, replayed: replayed.unwrap_or_default() };
        let used = used(&metadata, prove).map_err(|error| match (prove, error) {
            (Prove::Yes, FsError::Corrupt { offset, what }) => {
                FsError::unsupported(format!("dirty log that does not fit the rest: {what} (byte {offset})"))
            }
            (_, error) => error,
        })?;
        if superblock.has_realtime {
            let detail = "its realtime section is another device, which has to be captured as well".to_owned();
            notes.push(Note::Remark { detail });
        }
        Ok(FileSystem {
            kind: "xfs".to_owned(),
            label: superblock.label.clone(),
            uuid: Some(Uuid::from_bytes(superblock.uuid).to_string()),
            block_size: superblock.block_size,
            size: superblock.size(),
            grid_origin: 0,
            used,
            notes,
            spare_files: Vec::new(),
        })
    }

    fn name(&self) -> &'static str {
        "xfs"
    }
}

/// What the log changes about the metadata; `None` when it is clean.
fn replayed_log(
    volume: &dyn ReadAt,
    superblock: &Superblock,
    superblock_bytes: &[u8],
    notes: &mut Vec<Note>,
) -> Result<Option<Replayed>, FsError> {
    let Some(place) = superblock.log else {
        return Err(FsError::unsupported("its log is on another device, so nobody can tell here whether it is clean"));
    };
    let log = Log::new(volume, superblock, place);
    let State::Dirty { tail, head } = log.state()? else {
        return Ok(None);
    };
    if !superblock.checksums {
        return Err(FsError::unsupported("dirty log of an XFS of version 4"));
    }
    let replayed = Replayed::from_log(&log, tail, head)?;
    let mut sector = superblock_bytes.to_vec();
    sector.truncate(usize::try_from(superblock.sector_size).unwrap_or(usize::MAX));
    if replayed.apply(superblock, 0, &mut sector)? && Superblock::from_replayed(&sector)? != *superblock {
        return Err(FsError::unsupported("dirty log with a change of size or features in it"));
    }
    let detail = "not unmounted: the next mount replays the log, and the map is that of afterwards".to_owned();
    notes.push(Note::Dirty { detail });
    Ok(Some(replayed))
}

/// Everything but the free extents.
fn used(metadata: &Metadata<'_>, prove: Prove) -> Result<ExtentSet, FsError> {
    let superblock = metadata.superblock;
    let mut used = ExtentSet::new();
    let mut used_from = 0;
    for ag in 0..superblock.ag_count {
        metadata.free_extents(ag, prove, &mut |extent| {
            let start = superblock.position(ag, extent.start);
            used.insert(Extent::between(used_from, start));
            used_from = start + u64::from(extent.len) * u64::from(superblock.block_size);
        })?;
    }
    used.insert(Extent::between(used_from, superblock.size()));
    match superblock.log {
        Some(log) if !used.contains(Extent::new(log.start, log.len)) => {
            Err(FsError::corrupt(log.start, "the log lies in free space"))
        }
        _ => Ok(used),
    }
}
