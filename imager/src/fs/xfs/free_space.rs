//! The free space of an allocation group: its header and its two trees of free extents.
//!
//! The tree by block number gives the map. The tree by size holds the same extents in another order and is
//! read only to prove that a replayed log was understood. Must not know: the log, other groups. Source:
//! `xfs_format.h` of the Linux kernel, `struct xfs_agf`, `struct xfs_btree_block`; integers are big-endian.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use super::checksum;
use super::replay::Replayed;
use super::superblock::Superblock;
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{be16, be32, be64};

const AGF_MAGIC: u32 = u32::from_be_bytes(*b"XAGF");
const AGF_CRC_AT: usize = 216;
const BLOCK_CRC_AT: usize = 52;
/// `XFS_BTREE_MAXLEVELS`
const LEVELS_MAX: u32 = 9;
/// Blocks of a tree are read in address order, this many bytes at a time.
const BATCH_SIZE: u32 = 1 << 20;

/// Metadata of the volume, as they are after the log has been replayed.
pub(super) struct Metadata<'a> {
    pub(super) volume: &'a dyn ReadAt,
    pub(super) superblock: &'a Superblock,
    pub(super) replayed: Replayed,
}

/// A run of free blocks of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FreeExtent {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// The header of a group's free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agf {
    by_position: Tree,
    by_size: Tree,
    free_blocks: u32,
}

/// One of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tree {
    order: Order,
    root: u32,
    levels: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Position,
    Size,
}

/// A tree block that is still to be read, and what its parent says of its keys: from `first` up to `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Child {
    block: u32,
    first: u64,
    limit: u64,
}

/// What is left of a list of extents when their order must not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    blocks: u64,
    hash: u64,
}

impl Metadata<'_> {
    /// Calls `found` for every free extent of group `ag`, in ascending order.
    ///
    /// With `prove`, the other tree must hold the same extents.
    pub(super) fn free_extents(&self, ag: u32, prove: Prove, found: &mut dyn FnMut(FreeExtent)) -> Result<(), FsError> {
        let agf = self.agf(ag)?;
        let (mut sum, mut end) = (Sum::default(), self.header_blocks());
        self.walk(ag, agf.by_position, &mut |extent, position| {
            if extent.start < end {
                return Err(FsError::corrupt(position, format!("free space at block {} overlaps", extent.start)));
            }
            end = extent.start.saturating_add(extent.len);
            sum.add(extent);
            found(extent);
            Ok(())
        })?;
        let position = self.agf_position(ag);
        if sum.blocks != u64::from(agf.free_blocks) {
            let what = format!("{} free blocks in the tree, {} in the header", sum.blocks, agf.free_blocks);
            return Err(FsError::corrupt(position, what));
        }
        if prove == Prove::Yes {
            let mut other = Sum::default();
            self.walk(ag, agf.by_size, &mut |extent, _| {
                other.add(extent);
                Ok(())
            })?;
            if other != sum {
                return Err(FsError::corrupt(position, "the two free space trees differ"));
            }
        }
        Ok(())
    }

    fn agf_position(&self, ag: u32) -> u64 {
        self.superblock.position(ag, 0).saturating_add(u64::from(self.superblock.sector_size))
    }

    /// Blocks that a group's four header sectors lie in.
    fn header_blocks(&self) -> u32 {
        self.superblock.sector_size.saturating_mul(4).div_ceil(self.superblock.block_size)
    }

    fn agf(&self, ag: u32) -> Result<Agf, FsError> {
        let position = self.agf_position(ag);
        let mut bytes = self.volume.read_vec(position, to_usize(self.superblock.sector_size))?;
        let replayed = self.replayed.apply(self.superblock, position, &mut bytes)?;
        if self.superblock.checksums && !replayed && !checksum::matches(&bytes, AGF_CRC_AT) {
            return Err(FsError::corrupt(position, "the checksum of a group's free space header is wrong"));
        }
        Agf::from_bytes(&bytes, self.superblock, ag)
            .ok_or_else(|| FsError::corrupt(position, "no free space header of this group"))
    }

    /// Calls `found` for every record of a tree, with the byte position of its block, in the tree's order.
    fn walk(&self, ag: u32, tree: Tree, found: Found<'_>) -> Result<(), FsError> {
        self.walk_level(ag, tree, tree.levels - 1, &[Child { block: tree.root, first: 0, limit: u64::MAX }], found)
    }

    fn walk_level(&self, ag: u32, tree: Tree, level: u32, children: &[Child], found: Found<'_>) -> Result<(), FsError> {
        let batch = to_usize((BATCH_SIZE / self.superblock.block_size).max(1));
        for children in children.chunks(batch) {
            for (child, bytes) in children.iter().zip(self.read_blocks(ag, tree, children)?) {
                let position = self.superblock.position(ag, child.block);
                let node = Node::from_bytes(&bytes, self.superblock)
                    .filter(|node| u32::from(node.level) == level && (node.records > 0 || tree.levels == 1))
                    .ok_or_else(|| FsError::corrupt(position, format!("no free space tree block of level {level}")))?;
                let disorder = || FsError::corrupt(position, "a free space tree is out of order");
                if level > 0 {
                    let below = node.children(*child, tree.order).ok_or_else(disorder)?;
                    self.walk_level(ag, tree, level - 1, &below, found)?;
                    continue;
                }
                let mut lowest = child.first;
                for extent in node.extents() {
                    let key = tree.order.key(extent);
                    let end = extent.start.checked_add(extent.len);
                    let fits = end.is_some_and(|end| end <= self.superblock.ag_length(ag));
                    if !fits || extent.len == 0 || extent.start < self.header_blocks() {
                        let what = format!("{} free blocks at block {} of the group", extent.len, extent.start);
                        return Err(FsError::corrupt(position, what));
                    }
                    if key < lowest || key >= child.limit {
                        return Err(disorder());
                    }
                    lowest = key + 1;
                    found(extent, position)?;
                }
            }
        }
        Ok(())
    }

    /// Reads tree blocks in the order of their addresses, neighbours at once, and returns them in the order
    /// asked for; their headers' magic, place, owner and checksum verified.
    fn read_blocks(&self, ag: u32, tree: Tree, children: &[Child]) -> Result<Vec<Vec<u8>>, FsError> {
        let block_size = to_usize(self.superblock.block_size);
        let mut order: Vec<usize> = (0..children.len()).collect();
        order.sort_unstable_by_key(|&index| children[index].block);
        let mut blocks = vec![Vec::new(); children.len()];
        for run in order.chunk_by(|&a, &b| children[a].block.checked_add(1) == Some(children[b].block)) {
            let Some(first) = run.first().and_then(|&index| children.get(index)) else { continue };
            let position = self.superblock.position(ag, first.block);
            if to_usize(first.block).saturating_add(run.len()) > to_usize(self.superblock.ag_length(ag)) {
                return Err(FsError::corrupt(position, "a free space tree leaves its group"));
            }
            let bytes = self.volume.read_vec(position, run.len() * block_size)?;
            for (&index, block) in run.iter().zip(bytes.chunks_exact(block_size)) {
                blocks[index] = self.checked_block(ag, tree, children[index].block, block.to_vec())?;
            }
        }
        Ok(blocks)
    }

    fn checked_block(&self, ag: u32, tree: Tree, block: u32, mut bytes: Vec<u8>) -> Result<Vec<u8>, FsError> {
        let position = self.superblock.position(ag, block);
        let replayed = self.replayed.apply(self.superblock, position, &mut bytes)?;
        if be32(&bytes, 0) != Some(tree.order.magic(self.superblock.checksums)) {
            return Err(FsError::corrupt(position, "no free space tree block"));
        }
        if self.superblock.checksums {
            let is_ours = be64(&bytes, 16) == Some(position / 512)
                && bytes.get(32..48) == Some(self.superblock.meta_uuid.as_slice())
                && be32(&bytes, 48) == Some(ag);
            if !is_ours {
                return Err(FsError::corrupt(position, "a free space tree block of another place"));
            }
            if !replayed && !checksum::matches(&bytes, BLOCK_CRC_AT) {
                return Err(FsError::corrupt(position, "the checksum of a free space tree block is wrong"));
            }
        }
        Ok(bytes)
    }
}

/// Whether the tree by size has to hold the same extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prove {
    Yes,
    No,
}

type Found<'f> = &'f mut dyn FnMut(FreeExtent, u64) -> Result<(), FsError>;

impl Agf {
    fn from_bytes(bytes: &[u8], superblock: &Superblock, ag: u32) -> Option<Self> {
        let length = superblock.ag_length(ag);
        let is_ours = be32(bytes, 0)? == AGF_MAGIC
            && be32(bytes, 4)? == 1
            && be32(bytes, 8)? == ag
            && be32(bytes, 12)? == length
            && (!superblock.checksums || bytes.get(64..80)? == superblock.meta_uuid.as_slice());
        let tree = |order, root_at, levels_at| {
            let tree = Tree { order, root: be32(bytes, root_at)?, levels: be32(bytes, levels_at)? };
            (tree.root < length && (1..=LEVELS_MAX).contains(&tree.levels)).then_some(tree)
        };
        let by_position = tree(Order::Position, 16, 28)?;
        let by_size = tree(Order::Size, 20, 32)?;
        is_ours.then_some(Self { by_position, by_size, free_blocks: be32(bytes, 52)? })
    }
}

/// A tree block, its header taken apart.
struct Node<'a> {
    level: u16,
    records: usize,
    /// What follows the header.
    body: &'a [u8],
}

impl<'a> Node<'a> {
    const KEY_SIZE: usize = 8;
    const POINTER_SIZE: usize = 4;

    fn from_bytes(bytes: &'a [u8], superblock: &Superblock) -> Option<Self> {
        let header_size = if superblock.checksums { 56 } else { 16 };
        let node = Self { level: be16(bytes, 4)?, records: be16(bytes, 6)?.into(), body: bytes.get(header_size..)? };
        let record_size = if node.level == 0 { Self::KEY_SIZE } else { Self::KEY_SIZE + Self::POINTER_SIZE };
        (node.records <= node.body.len() / record_size).then_some(node)
    }

    /// The extents of a leaf, or the keys of a node.
    fn extents(&self) -> impl Iterator<Item = FreeExtent> {
        let records = self.body.chunks_exact(Self::KEY_SIZE).take(self.records);
        records.filter_map(|record| Some(FreeExtent { start: be32(record, 0)?, len: be32(record, 4)? }))
    }

    /// The children of a node; `None` when their keys do not ascend within those of `parent`.
    fn children(&self, parent: Child, order: Order) -> Option<Vec<Child>> {
        let pointers_at = self.body.len() / (Self::KEY_SIZE + Self::POINTER_SIZE) * Self::KEY_SIZE;
        let pointers = self.body.get(pointers_at..)?.chunks_exact(Self::POINTER_SIZE);
        let mut children: Vec<Child> = Vec::with_capacity(self.records);
        let mut limit = parent.first;
        for (key, pointer) in self.extents().zip(pointers) {
            let first = order.parent_key(key);
            if first < limit || first >= parent.limit {
                return None;
            }
            if let Some(before) = children.last_mut() {
                before.limit = first;
            }
            children.push(Child { block: be32(pointer, 0)?, first, limit: parent.limit });
            limit = first + 1;
        }
        Some(children)
    }
}

impl Order {
    fn magic(self, checksums: bool) -> u32 {
        u32::from_be_bytes(match (self, checksums) {
            (Self::Position, true) => *b"AB3B",
            (Self::Position, false) => *b"ABTB",
            (Self::Size, true) => *b"AB3C",
            (Self::Size, false) => *b"ABTC",
        })
    }

    /// A number by which the records of a tree ascend.
    fn key(self, extent: FreeExtent) -> u64 {
        let (start, len) = (u64::from(extent.start), u64::from(extent.len));
        match self {
            Self::Position => start << 32 | len,
            Self::Size => len << 32 | start,
        }
    }

    /// The same for the keys of a node, in which the lengths of the tree by position are not kept up to date.
    fn parent_key(self, extent: FreeExtent) -> u64 {
        match self {
            Self::Position => u64::from(extent.start) << 32,
            Self::Size => self.key(extent),
        }
    }
}

impl Sum {
    fn add(&mut self, extent: FreeExtent) {
        let mut hasher = XxHash3_64::new();
        hasher.write(&Order::Position.key(extent).to_le_bytes());
        self.blocks += u64::from(extent.len);
        self.hash = self.hash.wrapping_add(hasher.finish());
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
