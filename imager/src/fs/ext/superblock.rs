//! The superblock: what the volume is, which features it has, whether it is at rest.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/super.rst`; the names that blkid gives.
//! Must not know: group descriptors, bitmaps, the journal's format.

#![forbid(unsafe_code)]

use super::checksum::{CRC32C_START, crc16, crc32c};
use super::geometry::{Backups, Geometry};
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

/// Where the superblock lies, whatever the block size.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Its size in bytes.
pub(super) const SUPERBLOCK_SIZE: usize = 1024;
/// Place and value of `s_magic`.
pub(super) const MAGIC_OFFSET: u64 = SUPERBLOCK_OFFSET + 0x38;
/// See [`MAGIC_OFFSET`].
pub(super) const MAGIC: u16 = 0xef53;

const S_CHECKSUM: usize = 0x3fc;

mod compat {
    pub(super) const HAS_JOURNAL: u32 = 0x4;
    /// Groups without bitmaps and without a checksum that says so: a debugging aid of 2006.
    pub(super) const LAZY_BG: u32 = 0x40;
    pub(super) const SPARSE_SUPER2: u32 = 0x200;
    pub(super) const FAST_COMMIT: u32 = 0x400;
}

mod incompat {
    pub(super) const FILETYPE: u32 = 0x2;
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const JOURNAL_DEV: u32 = 0x8;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const EXTENTS: u32 = 0x40;
    pub(super) const BITS64: u32 = 0x80;
    pub(super) const MMP: u32 = 0x100;
    pub(super) const FLEX_BG: u32 = 0x200;
    pub(super) const EA_INODE: u32 = 0x400;
    pub(super) const CSUM_SEED: u32 = 0x2000;
    pub(super) const LARGEDIR: u32 = 0x4000;
    pub(super) const INLINE_DATA: u32 = 0x8000;
    pub(super) const ENCRYPT: u32 = 0x1_0000;
    pub(super) const CASEFOLD: u32 = 0x2_0000;
    /// None of these changes where allocation is recorded, or this reader knows how.
    pub(super) const KNOWN: u32 = FILETYPE
        | RECOVER
        | META_BG
        | EXTENTS
        | BITS64
        | MMP
        | FLEX_BG
        | EA_INODE
        | CSUM_SEED
        | LARGEDIR
        | INLINE_DATA
        | ENCRYPT
        | CASEFOLD;
    pub(super) const EXT3: u32 = FILETYPE | RECOVER | META_BG;
}

mod ro_compat {
    pub(super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const LARGE_FILE: u32 = 0x2;
    pub(super) const BTREE_DIR: u32 = 0x4;
    pub(super) const HUGE_FILE: u32 = 0x8;
    pub(super) const GDT_CSUM: u32 = 0x10;
    pub(super) const DIR_NLINK: u32 = 0x20;
    pub(super) const EXTRA_ISIZE: u32 = 0x40;
    pub(super) const QUOTA: u32 = 0x100;
    pub(super) const BIGALLOC: u32 = 0x200;
    pub(super) const METADATA_CSUM: u32 = 0x400;
    pub(super) const READONLY: u32 = 0x1000;
    pub(super) const PROJECT: u32 = 0x2000;
    pub(super) const SHARED_BLOCKS: u32 = 0x4000;
    pub(super) const VERITY: u32 = 0x8000;
    pub(super) const ORPHAN_PRESENT: u32 = 0x1_0000;
    pub(super) const KNOWN: u32 = EXT3
        | HUGE_FILE
        | GDT_CSUM
        | DIR_NLINK
        | EXTRA_ISIZE
        | QUOTA
        | BIGALLOC
        | METADATA_CSUM
        | READONLY
        | PROJECT
        | SHARED_BLOCKS
        | VERITY
        | ORPHAN_PRESENT;
    pub(super) const EXT3: u32 = SPARSE_SUPER | LARGE_FILE | BTREE_DIR;
}

/// A superblock that this reader can work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) kind: &'static str,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) geometry: Geometry,
    pub(super) journal: Journal,
    /// The journal has fast commits: changes that are not recorded as blocks.
    pub(super) fast_commits: bool,
    /// Several files may share blocks.
    pub(super) shared_blocks: bool,
    pub(super) state: State,
}

/// Where the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    None,
    /// In this inode.
    Inode(u32),
    /// On another device.
    External,
}

/// What the superblock says about the last use of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The journal has work left (or the volume is mounted).
    pub(super) needs_recovery: bool,
    /// Cleanly unmounted; a volume with a journal is "clean" all the time.
    pub(super) clean: bool,
    /// The kernel met damage.
    pub(super) errors: bool,
}

/// How the metadata is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksums {
    None,
    /// `uninit_bg`: the descriptors only, with the UUID mixed in.
    Crc16([u8; 16]),
    /// `metadata_csum`, with this seed.
    Crc32c(u32),
}

impl Checksums {
    /// The checksum of the descriptor of `group`, whose `bg_checksum` is at byte 0x1e.
    pub(super) fn of_descriptor(self, group: u32, descriptor: &[u8]) -> Option<u16> {
        let before = descriptor.get(..0x1e)?;
        let after = descriptor.get(0x20..)?;
        let group = group.to_le_bytes();
        match self {
            Self::None => None,
            Self::Crc16(uuid) => Some(crc16(&[&uuid, &group, before, after])),
            Self::Crc32c(seed) => {
                let crc = crc32c(seed, &[&group, before, &[0, 0], after]);
                u16::try_from(crc & 0xffff).ok()
            }
        }
    }
}

impl Superblock {
    /// Reads and checks the primary superblock.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, FsError> {
        Self::from_bytes(&volume.read_vec(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)?)
    }

    /// Understands the 1024 bytes of a superblock.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FsError> {
        let at = |field: usize| SUPERBLOCK_OFFSET + field as u64;
        let u16_at = |field| le16(bytes, field).ok_or_else(|| FsError::corrupt(at(field), "superblock cut short"));
        let u32_at = |field| le32(bytes, field).ok_or_else(|| FsError::corrupt(at(field), "superblock cut short"));
        if u16_at(0x38)? != MAGIC {
            return Err(FsError::corrupt(MAGIC_OFFSET, "no superblock magic"));
        }
        let s_rev_level = u32_at(0x4c)?;
        if s_rev_level > 1 {
            return Err(FsError::unsupported(format!("revision {s_rev_level} of the ext format")));
        }
        // Like the kernel, believe them in revision 0, too, where they should be zero.
        let (compat, incompat, ro_compat) = (u32_at(0x5c)?, u32_at(0x60)?, u32_at(0x64)?);
        check_features(compat, incompat, ro_compat)?;
        let uuid: [u8; 16] = bytes.get(0x68..0x78).and_then(|b| b.try_into().ok()).unwrap_or_default();
        if ro_compat & ro_compat::METADATA_CSUM != 0 {
            check_own_checksum(bytes)?;
        }
        let checksums = if ro_compat & ro_compat::METADATA_CSUM != 0 {
            let seeded = incompat & incompat::CSUM_SEED != 0;
            Checksums::Crc32c(if seeded { u32_at(0x270)? } else { crc32c(CRC32C_START, &[&uuid]) })
        } else if ro_compat & ro_compat::GDT_CSUM != 0 {
            Checksums::Crc16(uuid)
        } else {
            Checksums::None
        };
        let high = |low: u32, high_field| -> Result<u64, FsError> {
            let high = if incompat & incompat::BITS64 != 0 { u32_at(high_field)? } else { 0 };
            Ok(u64::from(high) << 32 | u64::from(low))
        };
        let geometry = Geometry {
            blocks_count: high(u32_at(0x4)?, 0x150)?,
            inodes_count: u32_at(0x0)?,
            first_data_block: u32_at(0x14)?,
            log_block_size: u32_at(0x18)?,
            log_cluster_size: u32_at(0x1c)?,
            blocks_per_group: u32_at(0x20)?,
            s_clusters_per_group: u32_at(0x24)?,
            inodes_per_group: u32_at(0x28)?,
            inode_size: if s_rev_level == 0 { 128 } else { u16_at(0x58)? },
            descriptor_size: if incompat & incompat::BITS64 != 0 { u16_at(0xfe)? } else { 32 },
            reserved_gdt_blocks: u16_at(0xce)?,
            first_meta_bg: (incompat & incompat::META_BG != 0).then_some(u32_at(0x104)?),
            bigalloc: ro_compat & ro_compat::BIGALLOC != 0,
            bits64: incompat & incompat::BITS64 != 0,
            backups: if compat & compat::SPARSE_SUPER2 != 0 {
                Backups::Two([u32_at(0x24c)?, u32_at(0x250)?])
            } else if ro_compat & ro_compat::SPARSE_SUPER != 0 {
                Backups::Sparse
            } else {
                Backups::EveryGroup
            },
            checksums,
        };
        geometry.check()?;
        let journal = match (compat & compat::HAS_JOURNAL, u32_at(0xe0)?, u32_at(0xe4)?) {
            (0, ..) => Journal::None,
            (_, 0, _) => Journal::External,
            (_, inode, _) => Journal::Inode(inode),
        };
        let s_state = u16_at(0x3a)?;
        Ok(Self {
            kind: kind(compat, incompat, ro_compat),
            label: bytes.get(0x78..0x88).and_then(label),
            uuid: (uuid != [0; 16]).then(|| uuid::Uuid::from_bytes(uuid).to_string()),
            geometry,
            journal,
            fast_commits: compat & compat::FAST_COMMIT != 0,
            shared_blocks: ro_compat & ro_compat::SHARED_BLOCKS != 0,
            state: State {
                needs_recovery: incompat & incompat::RECOVER != 0,
                clean: s_state & 1 != 0,
                errors: s_state & 2 != 0,
            },
        })
    }
}

fn check_features(compat: u32, incompat: u32, ro_compat: u32) -> Result<(), FsError> {
    if incompat & incompat::JOURNAL_DEV != 0 {
        return Err(FsError::unsupported("the external journal of another file system"));
    }
    let unknown = [
        ("COMPAT", compat & compat::LAZY_BG),
        ("INCOMPAT", incompat & !incompat::KNOWN),
        ("RO_COMPAT", ro_compat & !ro_compat::KNOWN),
    ];
    for (set, bits) in unknown {
        if bits != 0 {
            return Err(FsError::unsupported(format!("{set} feature bits {bits:#x}")));
        }
    }
    Ok(())
}

fn check_own_checksum(bytes: &[u8]) -> Result<(), FsError> {
    let offset = SUPERBLOCK_OFFSET + S_CHECKSUM as u64;
    // s_checksum_type: 1 is CRC-32C, and there is no other.
    if bytes.get(0x175) != Some(&1) {
        return Err(FsError::unsupported("metadata checksums that are not crc32c"));
    }
    let covered = bytes.get(..S_CHECKSUM).unwrap_or_default();
    if le32(bytes, S_CHECKSUM) != Some(crc32c(CRC32C_START, &[covered])) {
        return Err(FsError::corrupt(offset, "the superblock's checksum does not match"));
    }
    Ok(())
}

/// The name as blkid gives it.
fn kind(compat: u32, incompat: u32, ro_compat: u32) -> &'static str {
    if incompat & !incompat::EXT3 != 0 || ro_compat & !ro_compat::EXT3 != 0 {
        "ext4"
    } else if compat & compat::HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    }
}

fn label(field: &[u8]) -> Option<String> {
    let name = field.split(|&b| b == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).trim_end().to_owned();
    (!name.is_empty()).then_some(name)
}
