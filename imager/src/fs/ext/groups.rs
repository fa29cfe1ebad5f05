//! The table of group descriptors: where each group's bitmaps and inodes are.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/group_descr.rst`. Must not know: what the
//! bitmaps say, the journal's format.

#![forbid(unsafe_code)]

use super::geometry::Geometry;
use super::replay::Replay;
use super::superblock::Checksums;
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

/// How much of the table is read at once.
const READ_BYTES_MAX: u64 = 1 << 20;

/// One block group, as its descriptor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_clusters: u32,
    /// The block bitmap was never written: only metadata is in use.
    pub(super) bitmap_uninit: bool,
    /// With as many bits as the descriptor has room for.
    pub(super) bitmap_checksum: BitmapChecksum,
}

/// What the descriptor says about the block bitmap's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitmapChecksum {
    None,
    Low16(u16),
    Full(u32),
}

impl Group {
    /// Understands one descriptor of 32 bytes, or of 64 and more.
    fn from_bytes(bytes: &[u8], checksums: Checksums) -> Option<Self> {
        let large = bytes.len() >= 64;
        let wide = |low: u32, high_at: usize| -> Option<u64> {
            let high = if large { le32(bytes, high_at)? } else { 0 };
            Some(u64::from(high) << 32 | u64::from(low))
        };
        let wide16 = |low_at: usize, high_at: usize| -> Option<u32> {
            let high = if large { le16(bytes, high_at)? } else { 0 };
            Some(u32::from(high) << 16 | u32::from(le16(bytes, low_at)?))
        };
        let bg_flags = le16(bytes, 0x12)?;
        Some(Self {
            block_bitmap: wide(le32(bytes, 0x0)?, 0x20)?,
            inode_bitmap: wide(le32(bytes, 0x4)?, 0x24)?,
            inode_table: wide(le32(bytes, 0x8)?, 0x28)?,
            free_clusters: wide16(0xc, 0x2c)?,
            // Without a checksum over the descriptor the kernel does not believe this flag.
            bitmap_uninit: bg_flags & 0x2 != 0 && checksums != Checksums::None,
            bitmap_checksum: match checksums {
                Checksums::Crc32c(_) if large => BitmapChecksum::Full(wide16(0x18, 0x38)?),
                Checksums::Crc32c(_) => BitmapChecksum::Low16(le16(bytes, 0x18)?),
                _ => BitmapChecksum::None,
            },
        })
    }
}

/// The whole table, as bytes: eight megabytes for 16 TiB.
pub(super) struct GroupTable<'a> {
    geometry: &'a Geometry,
    bytes: Vec<u8>,
}

impl<'a> GroupTable<'a> {
    /// Reads the table as it lies on the volume, unchecked.
    pub(super) fn read(volume: &dyn ReadAt, geometry: &'a Geometry) -> Result<Self, FsError> {
        let block_size = u64::from(geometry.block_size());
        let blocks = u32::try_from(geometry.descriptor_blocks()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let mut index = 0;
        while index < blocks {
            let first = geometry.descriptor_block(index);
            let mut count = 1;
            while index + count < blocks
                && u64::from(count) * block_size < READ_BYTES_MAX
                && geometry.descriptor_block(index + count) == first + u64::from(count)
            {
                count += 1;
            }
            let len = usize::try_from(u64::from(count) * block_size).map_err(std::io::Error::other)?;
            bytes.extend(volume.read_vec(first.saturating_mul(block_size), len)?);
            index += count;
        }
        Ok(Self { geometry, bytes })
    }

    /// The table as it will be when the journal has been replayed.
    pub(super) fn replayed(&self, replay: &Replay) -> Result<Self, FsError> {
        let mut bytes = self.bytes.clone();
        let block_size = usize::try_from(self.geometry.block_size()).map_err(std::io::Error::other)?;
        for (index, block) in (0..).zip(bytes.chunks_exact_mut(block_size)) {
            if let Some(logged) = replay.block(self.geometry.descriptor_block(index))? {
                block.copy_from_slice(&logged);
            }
        }
        Ok(Self { geometry: self.geometry, bytes })
    }

    fn descriptor(&self, group: u32) -> Option<&[u8]> {
        let size = usize::from(self.geometry.descriptor_size);
        let start = usize::try_from(group).ok()?.checked_mul(size)?;
        self.bytes.get(start..start.checked_add(size)?)
    }

    /// One group.
    pub(super) fn group(&self, group: u32) -> Result<Group, FsError> {
        self.descriptor(group)
            .and_then(|bytes| Group::from_bytes(bytes, self.geometry.checksums))
            .ok_or_else(|| self.corrupt(group, "no descriptor"))
    }

    /// True when the descriptor's checksum holds, or there is none.
    pub(super) fn checksum_holds(&self, group: u32) -> bool {
        self.descriptor(group).is_some_and(|bytes| {
            let computed = self.geometry.checksums.of_descriptor(group, bytes);
            computed.is_none() || computed == le16(bytes, 0x1e)
        })
    }

    /// Checks every descriptor: its checksum, and that what it points to lies within the file system.
    pub(super) fn check(&self) -> Result<(), FsError> {
        let first = u64::from(self.geometry.first_data_block).max(1);
        let end = self.geometry.blocks_count;
        for number in 0..self.geometry.groups() {
            if !self.checksum_holds(number) {
                return Err(self.corrupt(number, "its checksum does not match"));
            }
            let group = self.group(number)?;
            let table_end = group.inode_table.checked_add(self.geometry.inode_table_blocks());
            let inside = [group.block_bitmap, group.inode_bitmap, group.inode_table]
                .iter()
                .all(|block| (first..end).contains(block))
                && table_end.is_some_and(|table_end| table_end <= end);
            if !inside {
                return Err(self.corrupt(number, "it points outside of the file system"));
            }
        }
        Ok(())
    }

    fn corrupt(&self, group: u32, what: &str) -> FsError {
        let per_block = self.geometry.descriptors_per_block();
        let block = self.geometry.bytes(self.geometry.descriptor_block(group / per_block), 1);
        let within = u64::from(group % per_block) * u64::from(self.geometry.descriptor_size);
        FsError::corrupt(block.start + within, format!("the descriptor of block group {group}: {what}"))
    }
}
