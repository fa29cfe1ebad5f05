//! Where things lie: groups, descriptor blocks, copies of the superblock.
//!
//! All of it follows from the superblock. Source: the kernel's
//! `Documentation/filesystems/ext4/blockgroup.rst`. Must not know: I/O, bitmaps, the journal.

#![forbid(unsafe_code)]

use super::superblock::{Checksums, SUPERBLOCK_OFFSET};
use crate::extent::Extent;
use crate::fs::FsError;

/// The fields of the superblock that say where everything is. Two superblocks of the same file system
/// differ here only when it was resized or converted in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) blocks_count: u64,
    pub(super) inodes_count: u32,
    pub(super) first_data_block: u32,
    pub(super) log_block_size: u32,
    pub(super) log_cluster_size: u32,
    pub(super) blocks_per_group: u32,
    pub(super) s_clusters_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) descriptor_size: u16,
    pub(super) reserved_gdt_blocks: u16,
    /// With `meta_bg`: the first descriptor block that lies in the groups it describes.
    pub(super) first_meta_bg: Option<u32>,
    pub(super) bigalloc: bool,
    pub(super) bits64: bool,
    pub(super) backups: Backups,
    pub(super) checksums: Checksums,
}

/// Which groups have a copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backups {
    EveryGroup,
    /// 0, 1 and the powers of 3, 5 and 7.
    Sparse,
    /// 0 and these; 0 stands for none.
    Two([u32; 2]),
}

impl Geometry {
    /// Bounds the memory for the descriptors; enough for 512 TiB at 4 KiB blocks.
    const DESCRIPTOR_BYTES_MAX: u64 = 256 << 20;

    /// Refuses what the kernel would refuse. Everything below relies on it.
    pub(super) fn check(&self) -> Result<(), FsError> {
        let bad = |field: u64, what: String| Err(FsError::corrupt(SUPERBLOCK_OFFSET + field, what));
        if self.log_block_size > 6 {
            return bad(0x18, format!("block size 2^(10 + {})", self.log_block_size));
        }
        let bits_per_block = self.block_size() * 8;
        let cluster_fits = match self.bigalloc {
            true => (self.log_block_size..=20).contains(&self.log_cluster_size),
            false => self.log_cluster_size == self.log_block_size,
        };
        if !cluster_fits {
            return bad(0x1c, format!("cluster size 2^(10 + {})", self.log_cluster_size));
        }
        let clusters = self.clusters_per_group();
        if clusters < 8
            || clusters > bits_per_block
            || u64::from(self.blocks_per_group) != u64::from(clusters) * u64::from(self.cluster_ratio())
        {
            return bad(0x20, format!("{} blocks in {clusters} clusters per group", self.blocks_per_group));
        }
        let first = u32::from(self.block_size() == 1024 && self.cluster_ratio() == 1);
        if self.first_data_block != first || self.blocks_count <= u64::from(first) {
            return bad(0x14, format!("{} blocks from block {}", self.blocks_count, self.first_data_block));
        }
        if !self.inode_size.is_power_of_two() || self.inode_size < 128 || self.inode_size() > self.block_size().into() {
            return bad(0x58, format!("inode size {}", self.inode_size));
        }
        if self.bits64 && (!self.descriptor_size.is_power_of_two() || !(64..=1024).contains(&self.descriptor_size)) {
            return bad(0xfe, format!("descriptor size {}", self.descriptor_size));
        }
        if self.inodes_per_group == 0 || self.inodes_per_group > bits_per_block {
            return bad(0x28, format!("{} inodes per group", self.inodes_per_group));
        }
        let groups = (self.blocks_count - u64::from(first)).div_ceil(self.blocks_per_group.into());
        if groups.saturating_mul(self.descriptor_size.into()) > Self::DESCRIPTOR_BYTES_MAX {
            return Err(FsError::unsupported(format!("{groups} block groups")));
        }
        if groups * u64::from(self.inodes_per_group) != u64::from(self.inodes_count) {
            return bad(0x0, format!("{} inodes in {groups} groups", self.inodes_count));
        }
        if self.blocks_count.checked_mul(self.block_size().into()).is_none() {
            return bad(0x4, format!("{} blocks", self.blocks_count));
        }
        if u32::from(self.reserved_gdt_blocks) > self.block_size() / 4 {
            return bad(0xce, format!("{} blocks kept for descriptors", self.reserved_gdt_blocks));
        }
        if self.first_meta_bg.is_some_and(|first| u64::from(first) > self.descriptor_blocks()) {
            return bad(0x104, "the first meta block group is past the last".to_owned());
        }
        Ok(())
    }

    /// Bytes in a block.
    pub(super) fn block_size(&self) -> u32 {
        1024 << self.log_block_size
    }

    /// Bytes in an inode.
    pub(super) fn inode_size(&self) -> u64 {
        self.inode_size.into()
    }

    /// Blocks in a cluster: what one bit of a block bitmap stands for. 1 but for `bigalloc`.
    pub(super) fn cluster_ratio(&self) -> u32 {
        1 << (self.log_cluster_size - self.log_block_size)
    }

    /// Clusters in a group, and so the bits of a block bitmap that its checksum covers.
    pub(super) fn clusters_per_group(&self) -> u32 {
        if self.bigalloc { self.s_clusters_per_group } else { self.blocks_per_group }
    }

    /// Bytes in the file system.
    pub(super) fn size(&self) -> u64 {
        self.blocks_count * u64::from(self.block_size())
    }

    /// The bytes of a run of blocks, cut at the end of the file system.
    pub(super) fn bytes(&self, first_block: u64, blocks: u64) -> Extent {
        let block_size = u64::from(self.block_size());
        let end = first_block.saturating_add(blocks).min(self.blocks_count);
        Extent::between(first_block.saturating_mul(block_size), end * block_size)
    }

    /// Number of block groups.
    pub(super) fn groups(&self) -> u32 {
        let groups =
            (self.blocks_count - u64::from(self.first_data_block)).div_ceil(u64::from(self.blocks_per_group).max(1));
        u32::try_from(groups).unwrap_or(u32::MAX)
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.blocks_per_group) + u64::from(self.first_data_block)
    }

    /// Blocks of a group: fewer in the last one.
    pub(super) fn group_blocks(&self, group: u32) -> u64 {
        self.blocks_count.saturating_sub(self.group_start(group)).min(self.blocks_per_group.into())
    }

    /// Clusters of a group, and so the bits of its bitmap that mean something.
    pub(super) fn group_clusters(&self, group: u32) -> u32 {
        let clusters = self.group_blocks(group).div_ceil(self.cluster_ratio().into());
        u32::try_from(clusters).unwrap_or(u32::MAX)
    }

    /// Blocks of a group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * self.inode_size()).div_ceil(self.block_size().into())
    }

    /// Descriptors in a block of them.
    pub(super) fn descriptors_per_block(&self) -> u32 {
        self.block_size() / u32::from(self.descriptor_size).max(32)
    }

    /// Number of blocks with descriptors.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        u64::from(self.groups().div_ceil(self.descriptors_per_block()))
    }

    /// The block in which the primary copy of descriptor block `index` lies.
    pub(super) fn descriptor_block(&self, index: u32) -> u64 {
        if self.first_meta_bg.is_none_or(|first| index < first) {
            return self.superblock_block() + 1 + u64::from(index);
        }
        let group = index.saturating_mul(self.descriptors_per_block());
        self.head_start(group) + u64::from(self.has_superblock(group))
    }

    /// The block that holds the primary superblock.
    pub(super) fn superblock_block(&self) -> u64 {
        SUPERBLOCK_OFFSET / u64::from(self.block_size())
    }

    /// True when the group starts with a copy of the superblock.
    fn has_superblock(&self, group: u32) -> bool {
        let power_of = |base: u32| {
            let mut power = 1u32;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self.backups {
            _ if group == 0 => true,
            Backups::EveryGroup => true,
            Backups::Two(groups) => groups.contains(&group),
            Backups::Sparse => [3, 5, 7].into_iter().any(power_of),
        }
    }

    /// Where superblock and descriptors of a group start. With 1 KiB blocks in larger clusters the first
    /// group starts at block 0, but block 0 is the boot block.
    fn head_start(&self, group: u32) -> u64 {
        self.group_start(group).max(if group == 0 { self.superblock_block() } else { 0 })
    }

    /// The blocks at the start of a group that are taken by superblock and descriptors (boot block and
    /// blocks kept for more descriptors included), as a count from the group's first block.
    pub(super) fn head_blocks(&self, group: u32) -> u64 {
        let per_block = self.descriptors_per_block();
        let has_superblock = self.has_superblock(group);
        let descriptors = match self.first_meta_bg {
            Some(first) if group / per_block >= first => {
                u64::from([0, 1, per_block - 1].contains(&(group % per_block)))
            }
            _ if !has_superblock => 0,
            Some(first) => u64::from(first) + u64::from(self.reserved_gdt_blocks),
            None => self.descriptor_blocks() + u64::from(self.reserved_gdt_blocks),
        };
        let blocks = u64::from(has_superblock) + descriptors;
        if blocks == 0 { 0 } else { self.head_start(group) - self.group_start(group) + blocks }
    }
}
