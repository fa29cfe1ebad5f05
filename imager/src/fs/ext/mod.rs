//! ext2, ext3 and ext4: which blocks are in use.
//!
//! The superblock says where everything is ([`geometry`]), the group descriptors where each group's bitmap
//! is ([`groups`]), and the bitmaps which clusters are taken ([`bitmaps`]). What the journal still has to
//! write is taken into account ([`replay`]). Everything that has a checksum or a count is held against it.
//!
//! Source of the format: the kernel's `Documentation/filesystems/ext4`. Must not know: disks, other file
//! systems.

#![forbid(unsafe_code)]

mod bitmaps;
mod checksum;
pub(super) mod files;
mod geometry;
mod groups;
mod inode;
mod journal;
mod replay;
mod superblock;
mod swapfile;

use std::io;

use self::bitmaps::Sources;
use self::groups::GroupTable;
use self::replay::Replay;
use self::superblock::{Journal, MAGIC, MAGIC_OFFSET, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use crate::extent::ExtentSet;
use crate::fs::{FileSystem, FsError, Note, Reader};
use crate::read_at::ReadAt;

/// Formats without a reader whose makers may leave an older superblock at byte 1024 alone.
const LATER_FORMATS: [(u64, &[u8], &str); 6] = [
    (0, b"LUKS\xba\xbe", "LUKS"),
    (3, b"EXFAT   ", "exFAT"),
    (3, b"-FVE-FS-", "BitLocker"),
    (512, b"LABELONE", "an LVM physical volume"),
    (4096, b"\xfc\x4e\x2b\xa9", "a RAID member"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
];

/// The reader for ext2, ext3 and ext4.
pub(super) struct Ext;

impl Reader for Ext {
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool> {
        if volume.size() < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE as u64 {
            return Ok(false);
        }
        let mut magic = [0; 2];
        volume.read_at(MAGIC_OFFSET, &mut magic)?;
        Ok(u16::from_le_bytes(magic) == MAGIC)
    }

    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
        check_not_taken_over(volume)?;
        let superblock = Superblock::read(volume)?;
        let size = superblock.geometry.size();
        if size > volume.size() {
            let what = format!("the file system claims {size} bytes, the volume has {}", volume.size());
            return Err(FsError::corrupt(SUPERBLOCK_OFFSET + 0x4, what));
        }
        let mut found = FileSystem {
            kind: superblock.kind.to_owned(),
            label: superblock.label.clone(),
            uuid: superblock.uuid.clone(),
            block_size: superblock.geometry.block_size(),
            size,
            grid_origin: 0,
            used: ExtentSet::whole(size),
            notes: dirty(&superblock).map(|detail| Note::Dirty { detail: detail.to_owned() }).into_iter().collect(),
            spare_files: Vec::new(),
        };
        match survey(volume, &superblock, &mut found) {
            Ok(()) => Ok(found),
            Err(error) if found.notes.is_empty() => Err(error),
            // What is wrong here may come of the crash, and belongs beside the note about it.
            Err(error) => {
                found.notes.push(Note::ReadWhole { reason: error.to_string() });
                Ok(found)
            }
        }
    }

    fn name(&self) -> &'static str {
        "ext"
    }
}

/// Why the file system is not at rest.
fn dirty(superblock: &Superblock) -> Option<&'static str> {
    if superblock.state.errors {
        Some("the kernel found errors in it; it needs a check")
    } else if superblock.state.needs_recovery {
        Some("mounted, or not cleanly unmounted: its journal is to be replayed")
    } else if !superblock.state.clean {
        Some("mounted, or not cleanly unmounted")
    } else {
        None
    }
}

/// Fills in the bytes in use, and the swap files of a file system at rest.
fn survey(volume: &dyn ReadAt, superblock: &Superblock, found: &mut FileSystem) -> Result<(), FsError> {
    check_state(superblock)?;
    let geometry = &superblock.geometry;
    let groups_on_disk = GroupTable::read(volume, geometry)?;
    let replay = Replay::read(volume, superblock, &groups_on_disk)?;
    let replayed = if replay.is_empty() { None } else { Some(groups_on_disk.replayed(&replay)?) };
    if let Some(block) = replay.block(geometry.superblock_block())? {
        check_replayed_superblock(superblock, &block)?;
    }
    let groups = replayed.as_ref().unwrap_or(&groups_on_disk);
    groups.check()?;
    found.used = Sources { volume, geometry, groups, groups_on_disk: &groups_on_disk, replay: &replay }.used()?;
    if found.notes.is_empty() && replay.is_empty() {
        swapfile::add_swap_files(volume, superblock, groups, found);
    }
    Ok(())
}

/// Refuses a superblock that was left over when the volume became something else. mke2fs clears these
/// places, so what is there came later.
fn check_not_taken_over(volume: &dyn ReadAt) -> Result<(), FsError> {
    for (at, magic, name) in LATER_FORMATS {
        let len = magic.len();
        if volume.size() >= at.saturating_add(len as u64) && volume.read_vec(at, len)? == magic {
            return Err(FsError::unsupported(format!("an ext superblock on what looks like {name}")));
        }
    }
    Ok(())
}

/// Refuses where bitmaps may be wrong and no journal will mend them.
fn check_state(superblock: &Superblock) -> Result<(), FsError> {
    if superblock.state.errors {
        return Err(FsError::unsupported("bitmaps of a file system with errors"));
    }
    // A volume with a journal stays "clean" while mounted; one that isn't clean needs a check.
    if !superblock.state.clean {
        return Err(FsError::unsupported("bitmaps that may be older than the files, and no journal to mend them"));
    }
    if superblock.state.needs_recovery && superblock.journal == Journal::None {
        return Err(FsError::unsupported("a journal to be replayed that is not there"));
    }
    Ok(())
}

/// The replay must not change where things are: that is a resize, cut short.
fn check_replayed_superblock(superblock: &Superblock, block: &[u8]) -> Result<(), FsError> {
    let within = usize::try_from(SUPERBLOCK_OFFSET % u64::from(superblock.geometry.block_size())).unwrap_or(0);
    let bytes = block.get(within..within + SUPERBLOCK_SIZE).unwrap_or_default();
    let replayed = Superblock::from_bytes(bytes)?;
    if replayed.geometry != superblock.geometry {
        return Err(FsError::unsupported("a journal to be replayed that resizes the file system"));
    }
    if replayed.state.errors {
        return Err(FsError::unsupported("bitmaps of a file system with errors"));
    }
    Ok(())
}
