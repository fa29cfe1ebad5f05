//! FAT with 12, 16 and 32 bits per entry.
//!
//! In use is everything in front of the clusters, and every cluster with an entry in the table. Clusters
//! marked bad are left out: they hold nothing and cannot be read. Must not know: files, but for a few in the
//! root directory. Not for exFAT.

mod boot_sector;
mod directory;
pub(super) mod files;
mod table;

use std::io;

use self::boot_sector::BootSector;
use self::directory::{RootDirectory, label};
use self::table::Usage;
use crate::extent::Extent;
use crate::fs::{FileSystem, FsError, Note, Reader};
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

/// The reader for FAT.
pub(super) struct Fat;

/// Signatures of what may have been put over a FAT volume without touching its boot sector.
const OTHERS: &[(u64, &[u8], &str)] = &[
    (512, b"LABELONE", "an LVM physical volume"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache or bcachefs"),
    (4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"),
    (32_768, b"JFS1", "JFS"),
    (65_588, b"ReIsEr", "ReiserFS"),
    (65_600, b"_BHRfS_M", "Btrfs"),
];

impl Reader for Fat {
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool> {
        let size = boot_sector::SIZE;
        Ok(volume.size() >= 512 && boot_sector::is_fat(&volume.read_vec(0, size)?))
    }

    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError> {
        let boot = BootSector::from_bytes(&volume.read_vec(0, boot_sector::SIZE)?)?;
        if boot.is_bitlocker {
            return Err(FsError::unsupported("encrypted by BitLocker To Go"));
        }
        if boot.size > volume.size() {
            let what = format!("the file system claims {} bytes, the volume has {}", boot.size, volume.size());
            return Err(FsError::corrupt(0x20, what));
        }
        refuse_others(volume, &boot)?;
        let usage = Usage::read(volume, &boot)?;
        let root = RootDirectory::read(volume, &boot)?;
        let is_dirty = boot.is_dirty || usage.is_dirty;
        let notes = notes(&boot, &usage, &root);

        let mut used = usage.used;
        used.insert(Extent::new(0, boot.data_start));
        for sector in boot.extra_sectors {
            let sector = Extent::new(u64::from(sector) * u64::from(boot.sector_size), boot.sector_size.into());
            used.insert(sector.intersection(Extent::new(0, boot.size)));
        }
        // Less than a cluster at the end cannot hold a file; who knows what it holds.
        let data_end = boot.data_start + u64::from(boot.clusters) * u64::from(boot.cluster_size);
        used.insert(Extent::between(data_end, boot.size));
        Ok(FileSystem {
            kind: "vfat".to_owned(),
            label: root.label.or_else(|| label(&boot.label?)),
            uuid: boot.serial.map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
            block_size: boot.cluster_size,
            size: boot.size,
            grid_origin: boot.data_start,
            used,
            notes,
            // In a table that may be wrong, the clusters of one file may be another's as well.
            spare_files: if is_dirty { Vec::new() } else { root.spare_files },
        })
    }

    fn name(&self) -> &'static str {
        "vfat"
    }
}

/// Looks for the signatures of others where FAT has its own structures.
fn refuse_others(volume: &dyn ReadAt, boot: &BootSector) -> Result<(), FsError> {
    // Two bytes of magic may be two table entries; block size and revision would have to fit by chance as well.
    let ext = volume.read_vec(1024, 1024)?;
    let is_ext = le16(&ext, 0x38) == Some(0xef53) && le32(&ext, 0x18) <= Some(6) && le32(&ext, 0x4c) <= Some(1);
    if is_ext && boot.data_start >= 2048 {
        return Err(FsError::unsupported("a FAT boot sector in front of ext2, ext3 or ext4"));
    }
    for &(at, signature, name) in OTHERS {
        let end = at + signature.len() as u64;
        if end <= boot.data_start && volume.read_vec(at, signature.len())? == signature {
            return Err(FsError::unsupported(format!("a FAT boot sector in front of {name}")));
        }
    }
    Ok(())
}

fn notes(boot: &BootSector, usage: &Usage, root: &RootDirectory) -> Vec<Note> {
    let mut notes = Vec::new();
    if boot.is_dirty || usage.is_dirty {
        notes.push(Note::Dirty { detail: "marked as not unmounted".to_owned() });
    }
    if root.is_hibernated {
        notes.push(Note::Hibernated { detail: "hiberfil.sys holds a system to be resumed".to_owned() });
    }
    if usage.had_errors {
        notes.push(Note::Remark { detail: "marked as having had read or write errors".to_owned() });
    }
    if usage.differences > 0 {
        let detail = format!(
            "the copies of the allocation table differ in {} entries; what one of them has in use, is",
            usage.differences
        );
        notes.push(Note::Remark { detail });
    }
    if usage.bad > 0 {
        notes.push(Note::Remark { detail: format!("{} clusters are marked bad and left out", usage.bad) });
    }
    notes
}
