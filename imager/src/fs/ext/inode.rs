//! Inodes, and where the blocks of a file lie: by extents or by the block lists of ext2.
//!
//! Source: the kernel's
//! `Documentation/filesystems/ext4/inodes.rst` and `ifork.rst`. Must not know: what is in the file.

#![forbid(unsafe_code)]

use super::checksum::crc32c;
use super::geometry::Geometry;
use super::groups::GroupTable;
use super::superblock::Checksums;
use crate::extent::Extent;
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
/// An extent longer than this is allocated but not written; its length is what exceeds it.
const EXTENT_LEN_WRITTEN_MAX: u16 = 32768;
/// Bounds a walk through a damaged tree, and the memory for its result. The longest journal and swap files
/// of tens of gigabytes, badly fragmented, stay far below.
const NODES_MAX: u32 = 1 << 16;
const RUNS_MAX: usize = 1 << 20;

/// `i_flags` that this reader looks at.
pub(super) const COMPRESSED: u32 = 0x4;
pub(super) const ENCRYPTED: u32 = 0x800;
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const INLINE_DATA: u32 = 0x1000_0000;

/// A file, as far as it is needed to find its content.
pub(super) struct Inode {
    pub(super) offset: u64,
    pub(super) mode: u16,
    pub(super) links: u16,
    /// Bytes.
    pub(super) size: u64,
    pub(super) flags: u32,
    pub(super) i_block: [u8; 60],
    /// What the checksums of its extent blocks start with.
    pub(super) seed: Option<u32>,
}

impl Inode {
    /// Reads inode `number`.
    pub(super) fn read(
        volume: &dyn ReadAt,
        groups: &GroupTable,
        geometry: &Geometry,
        number: u32,
    ) -> Result<Self, FsError> {
        let corrupt_number = || FsError::corrupt(0, format!("there is no inode {number}"));
        let index = number.checked_sub(1).filter(|_| number <= geometry.inodes_count).ok_or_else(corrupt_number)?;
        let group = groups.group(index / geometry.inodes_per_group)?;
        Self::read_raw(volume, geometry, group.inode_table, number).map(|(inode, _)| inode)
    }

    /// Reads inode `number` from its group's table, and gives its bytes as well.
    pub(super) fn read_raw(
        volume: &dyn ReadAt,
        geometry: &Geometry,
        table: u64,
        number: u32,
    ) -> Result<(Self, Vec<u8>), FsError> {
        let index = u64::from(number.saturating_sub(1) % geometry.inodes_per_group.max(1));
        let within = index * geometry.inode_size();
        let offset = geometry.bytes(table, geometry.inode_table_blocks()).start.saturating_add(within);
        let bytes = volume.read_vec(offset, geometry.inode_size.into())?;
        let inode = Self::from_bytes(&bytes, offset, number, geometry.checksums);
        let inode = inode.ok_or_else(|| FsError::corrupt(offset, format!("inode {number} is damaged")))?;
        Ok((inode, bytes))
    }

    /// `None` when it is too short or its checksum does not match.
    fn from_bytes(bytes: &[u8], offset: u64, number: u32, checksums: Checksums) -> Option<Self> {
        let i_generation = le32(bytes, 0x64)?;
        let seed = match checksums {
            Checksums::Crc32c(seed) => Some(crc32c(seed, &[&number.to_le_bytes(), &i_generation.to_le_bytes()])),
            _ => None,
        };
        if let Some(seed) = seed
            && !checksum_holds(bytes, seed)?
        {
            return None;
        }
        let i_size_high = le32(bytes, 0x6c)?;
        Some(Self {
            offset,
            mode: le16(bytes, 0x0)?,
            links: le16(bytes, 0x1a)?,
            size: u64::from(i_size_high) << 32 | u64::from(le32(bytes, 0x4)?),
            flags: le32(bytes, 0x20)?,
            i_block: bytes.get(0x28..0x64)?.try_into().ok()?,
            seed,
        })
    }

    /// True for a regular file whose blocks hold its content as it is.
    pub(super) fn is_plain_file(&self) -> bool {
        self.mode & 0xf000 == 0x8000 && self.flags & (COMPRESSED | ENCRYPTED | INLINE_DATA) == 0
    }

    /// True for a directory that has blocks of its own.
    pub(super) fn is_plain_directory(&self) -> bool {
        self.mode & 0xf000 == 0x4000 && self.flags & INLINE_DATA == 0
    }

    /// Where the content lies. Holes are left out.
    pub(super) fn blocks(&self, volume: &dyn ReadAt, geometry: &Geometry) -> Result<FileBlocks, FsError> {
        let mut walk = Walk { volume, geometry, seed: self.seed, nodes: 0, found: FileBlocks { runs: Vec::new() } };
        if self.flags & INLINE_DATA != 0 {
            return Err(FsError::unsupported("a file without blocks"));
        }
        if self.flags & EXTENTS != 0 {
            walk.extent_node(&self.i_block, self.offset, None)?;
        } else {
            walk.block_lists(&self.i_block, self.offset, self.size.div_ceil(geometry.block_size().into()))?;
        }
        Ok(walk.found)
    }
}

/// The inode's checksum: lower half at 0x7c, upper half at 0x82 when the inode is large enough.
fn checksum_holds(bytes: &[u8], seed: u32) -> Option<bool> {
    let l_i_checksum_lo = le16(bytes, 0x7c)?;
    let i_extra_isize = le16(bytes, 0x80).unwrap_or(0);
    let mut blank = bytes.to_vec();
    blank.get_mut(0x7c..0x7e)?.fill(0);
    if bytes.len() > 128 && i_extra_isize >= 4 {
        let i_checksum_hi = le16(bytes, 0x82)?;
        blank.get_mut(0x82..0x84)?.fill(0);
        return Some(crc32c(seed, &[&blank]) == u32::from(i_checksum_hi) << 16 | u32::from(l_i_checksum_lo));
    }
    Some(crc32c(seed, &[&blank]) & 0xffff == u32::from(l_i_checksum_lo))
}

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Block number in the file.
    pub(super) logical: u64,
    /// Block number in the volume.
    pub(super) physical: u64,
    /// Blocks.
    pub(super) len: u64,
    pub(super) state: RunState,
}

/// Whether the blocks of a run hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    Written,
    /// Kept for the file, and zeros as far as its reader is concerned.
    Unwritten,
}

/// Where the blocks of a file are, in the order of the file.
#[derive(Debug)]
pub(super) struct FileBlocks {
    pub(super) runs: Vec<Run>,
}

impl FileBlocks {
    /// The block of the volume that holds block `logical` of the file.
    pub(super) fn physical(&self, logical: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.logical <= logical);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = logical - run.logical;
        (within < run.len).then(|| run.physical + within)
    }

    /// Where the bytes `range` of the file lie on the volume, in the order of the file. Holes are left out.
    pub(super) fn extents(&self, range: Extent, block_size: u32) -> Vec<Extent> {
        let block_size = u64::from(block_size);
        let mut extents = Vec::new();
        for run in &self.runs {
            let in_file = Extent::new(run.logical.saturating_mul(block_size), run.len.saturating_mul(block_size));
            let part = in_file.intersection(range);
            if !part.is_empty() {
                let start = run.physical.saturating_mul(block_size).saturating_add(part.start - in_file.start);
                extents.push(Extent::new(start, part.len));
            }
        }
        extents
    }
}

struct Walk<'a> {
    volume: &'a dyn ReadAt,
    geometry: &'a Geometry,
    seed: Option<u32>,
    nodes: u32,
    found: FileBlocks,
}

impl Walk<'_> {
    /// Adds a run; runs must come in the order of the file and lie within the file system.
    fn add(&mut self, run: Run, offset: u64) -> Result<(), FsError> {
        let end = run.physical.checked_add(run.len).filter(|end| *end <= self.geometry.blocks_count);
        let next = self.found.runs.last().map_or(0, |last| last.logical + last.len);
        if end.is_none() || run.physical == 0 || run.logical < next || self.found.runs.len() >= RUNS_MAX {
            return Err(FsError::corrupt(offset, "a file's blocks lie outside of the file system or out of order"));
        }
        match self.found.runs.last_mut() {
            Some(last)
                if last.physical + last.len == run.physical && next == run.logical && last.state == run.state =>
            {
                last.len += run.len;
            }
            _ => self.found.runs.push(run),
        }
        Ok(())
    }

    fn read_node(&mut self, block: u64) -> Result<(Vec<u8>, u64), FsError> {
        self.nodes += 1;
        let place = self.geometry.bytes(block, 1);
        if self.nodes > NODES_MAX || place.is_empty() {
            return Err(FsError::corrupt(place.start, "a file's block tree has too many nodes or leaves the volume"));
        }
        let len = usize::try_from(place.len).map_err(std::io::Error::other)?;
        Ok((self.volume.read_vec(place.start, len)?, place.start))
    }

    /// A node of an extent tree: 12 bytes of header, then entries of 12 bytes. `depth` is what it must be.
    fn extent_node(&mut self, node: &[u8], offset: u64, depth: Option<u16>) -> Result<(), FsError> {
        let bad = |what: &str| FsError::corrupt(offset, format!("extent tree: {what}"));
        let short = || bad("node cut short");
        let eh_entries = le16(node, 2).ok_or_else(short)?;
        let eh_max = le16(node, 4).ok_or_else(short)?;
        let eh_depth = le16(node, 6).ok_or_else(short)?;
        if le16(node, 0) != Some(EXTENT_MAGIC) || eh_depth > EXTENT_DEPTH_MAX || depth.is_some_and(|d| d != eh_depth) {
            return Err(bad("no node of the right depth"));
        }
        if let (Some(seed), Some(_)) = (self.seed, depth) {
            let end = 12 + 12 * usize::from(eh_max);
            let covered = node.get(..end).ok_or_else(short)?;
            if le32(node, end) != Some(crc32c(seed, &[covered])) {
                return Err(bad("the node's checksum does not match"));
            }
        }
        for index in 0..usize::from(eh_entries) {
            let at = 12 + 12 * index;
            let logical = u64::from(le32(node, at).ok_or_else(short)?);
            if eh_depth > 0 {
                let ei_leaf_lo = le32(node, at + 4).ok_or_else(short)?;
                let ei_leaf_hi = le16(node, at + 8).ok_or_else(short)?;
                let (child, child_offset) = self.read_node(u64::from(ei_leaf_hi) << 32 | u64::from(ei_leaf_lo))?;
                self.extent_node(&child, child_offset, Some(eh_depth - 1))?;
                continue;
            }
            let ee_len = le16(node, at + 4).ok_or_else(short)?;
            let ee_start_hi = le16(node, at + 6).ok_or_else(short)?;
            let ee_start_lo = le32(node, at + 8).ok_or_else(short)?;
            let (len, state) = match ee_len.checked_sub(EXTENT_LEN_WRITTEN_MAX) {
                Some(len @ 1..) => (len, RunState::Unwritten),
                _ => (ee_len, RunState::Written),
            };
            let physical = u64::from(ee_start_hi) << 32 | u64::from(ee_start_lo);
            self.add(Run { logical, physical, len: len.into(), state }, offset)?;
        }
        Ok(())
    }

    /// Twelve direct blocks, then one, two and three levels of lists.
    fn block_lists(&mut self, i_block: &[u8; 60], offset: u64, file_blocks: u64) -> Result<(), FsError> {
        let mut logical = 0;
        for (index, entry) in i_block.chunks_exact(4).enumerate() {
            let block = u64::from(le32(entry, 0).unwrap_or(0));
            let level = u32::try_from(index.saturating_sub(11)).unwrap_or(0);
            self.block_list(block, level, &mut logical, file_blocks, offset)?;
        }
        Ok(())
    }

    /// One entry of a list, which stands for a block of the file or for a list of lower level.
    fn block_list(&mut self, block: u64, level: u32, logical: &mut u64, end: u64, offset: u64) -> Result<(), FsError> {
        if *logical >= end {
            return Ok(());
        }
        let entries = u64::from(self.geometry.block_size() / 4);
        if block == 0 {
            *logical = logical.saturating_add(entries.saturating_pow(level));
        } else if level == 0 {
            self.add(Run { logical: *logical, physical: block, len: 1, state: RunState::Written }, offset)?;
            *logical += 1;
        } else {
            let (list, list_offset) = self.read_node(block)?;
            for entry in list.chunks_exact(4) {
                let block = u64::from(le32(entry, 0).unwrap_or(0));
                self.block_list(block, level - 1, logical, end, list_offset)?;
            }
        }
        Ok(())
    }
}
