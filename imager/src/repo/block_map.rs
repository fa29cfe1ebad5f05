//! Block maps: for each region of a disk a tree that says which chunk lies where.
//!
//! A region is a run of the disk with one grid of 4 KiB blocks: a partition, or the space between two.
//! It is divided into spans of 16 MiB; a leaf of the tree describes one span, a node has up to 1,024
//! children. Leaves and nodes are chunks like any other, so that what did not change between two images
//! is stored once. Positions in a leaf are relative to its span, so that a partition may move.
//!
//! ```text
//! leaf: records of 40 bytes, ascending     node: records of 36 bytes, ascending
//!  0  4  start, relative to the span        0  4  number of the child, 0..1024
//!  4  4  length in bytes                    4 32  id of the child
//!  8 32  id of the chunk
//! ```
//!
//! An id of 32 zero bytes stands for zeros, one of 32 bytes 0xFF for bytes that could not be read. What no
//! record covers was not in use. A child that would have no records is left out. Integers are little
//! endian. Chunks are at most 16 MiB, since no record crosses the end of its span. Must not know: packs, frames,
//! disks.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::config::Hex;
use super::pack::{ChunkId, FRAME_MAX};
use crate::error::Result;
use crate::read_at::field;

/// Bytes that one leaf describes.
pub const SPAN: u64 = 16 << 20;
/// Children that a node has, at most.
pub const FANOUT: u64 = 1024;
pub(super) const LEAF_RECORD: usize = 40;
pub(super) const NODE_RECORD: usize = 36;
/// The id that stands for zeros.
pub const ZERO: ChunkId = Hex([0; 32]);
/// The id that stands for bytes that could not be read.
pub const UNREADABLE: ChunkId = Hex([0xFF; 32]);

/// What a run of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// A stored chunk.
    Chunk(ChunkId),
    /// Zeros.
    Zero,
    /// The source could not read it.
    Unreadable,
}

impl Run {
    fn id(self) -> ChunkId {
        match self {
            Self::Chunk(id) => id,
            Self::Zero => ZERO,
            Self::Unreadable => UNREADABLE,
        }
    }

    fn of(id: ChunkId) -> Self {
        match id {
            ZERO => Self::Zero,
            UNREADABLE => Self::Unreadable,
            id => Self::Chunk(id),
        }
    }
}

/// A run of a region and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// First byte, relative to the region.
    pub start: u64,
    /// Length in bytes.
    pub len: u32,
    /// What is there.
    pub run: Run,
}

/// The root of a region's block map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Id of the root node; of the only leaf when `height` is 0.
    pub id: ChunkId,
    /// Levels of nodes above the leaves.
    pub height: u32,
}

/// Levels of nodes that a region of `len` bytes needs above its leaves.
#[must_use]
pub fn height_for(len: u64) -> u32 {
    let mut leaves = len.div_ceil(SPAN);
    let mut height = 0;
    while leaves > 1 {
        leaves = leaves.div_ceil(FANOUT);
        height += 1;
    }
    height
}

/// Builds a region's block map from records in ascending order. `store` takes a finished leaf or node
/// and gives back its id.
pub struct Builder {
    height: u32,
    span: u64,
    leaf: Vec<u8>,
    /// Records of the unfinished node on each level, and that node's number on its level.
    levels: Vec<(u64, Vec<u8>)>,
    pending_zero: Option<(u64, u64)>,
}

impl Builder {
    /// For a region of `len` bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let height = height_for(len);
        Self {
            height,
            span: 0,
            leaf: Vec::new(),
            levels: (0..height).map(|_| (0, Vec::new())).collect(),
            pending_zero: None,
        }
    }

    /// Adds a run that lies behind everything added so far. A chunk must not cross a span's end; zeros
    /// and unreadable runs may.
    ///
    /// # Errors
    /// What `store` says.
    pub fn push(
        &mut self,
        start: u64,
        len: u64,
        run: Run,
        store: &mut impl FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<()> {
        if run == Run::Zero {
            // Neighbouring zeros become one record, wherever they were found.
            match &mut self.pending_zero {
                Some((at, pending)) if *at + *pending == start => {
                    *pending += len;
                    return Ok(());
                }
                _ => {}
            }
            self.flush_zero(store)?;
            self.pending_zero = Some((start, len));
            return Ok(());
        }
        self.flush_zero(store)?;
        self.put(start, len, run, store)
    }

    fn flush_zero(&mut self, store: &mut impl FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        match self.pending_zero.take() {
            Some((start, len)) => self.put(start, len, Run::Zero, store),
            None => Ok(()),
        }
    }

    fn put(
        &mut self,
        mut start: u64,
        mut len: u64,
        run: Run,
        store: &mut impl FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<()> {
        while len > 0 {
            let span = start / SPAN;
            if span != self.span {
                self.finish_leaf(store)?;
                self.span = span;
            }
            let in_span = len.min((span + 1) * SPAN - start);
            // Both are below 16 MiB + 1.
            self.leaf.extend_from_slice(&u32::try_from(start - span * SPAN).unwrap_or(u32::MAX).to_le_bytes());
            self.leaf.extend_from_slice(&u32::try_from(in_span).unwrap_or(u32::MAX).to_le_bytes());
            self.leaf.extend_from_slice(&run.id().0);
            start += in_span;
            len -= in_span;
        }
        Ok(())
    }

    fn finish_leaf(&mut self, store: &mut impl FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        if self.leaf.is_empty() {
            return Ok(());
        }
        let id = store(&self.leaf)?;
        self.leaf.clear();
        self.add_child(0, self.span, id, store)
    }

    /// Adds child number `child` (counted over the whole level below) to level `level`.
    fn add_child(
        &mut self,
        level: usize,
        child: u64,
        id: ChunkId,
        store: &mut impl FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<()> {
        let Some((number, _)) = self.levels.get(level) else {
            // The level above the root: the root's own id is kept there.
            self.levels.push((0, id.0.to_vec()));
            return Ok(());
        };
        if *number != child / FANOUT {
            self.finish_node(level, store)?;
        }
        if let Some((number, records)) = self.levels.get_mut(level) {
            *number = child / FANOUT;
            records.extend_from_slice(&u32::try_from(child % FANOUT).unwrap_or(u32::MAX).to_le_bytes());
            records.extend_from_slice(&id.0);
        }
        Ok(())
    }

    fn finish_node(&mut self, level: usize, store: &mut impl FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        let Some((number, records)) = self.levels.get_mut(level).filter(|(_, records)| !records.is_empty()) else {
            return Ok(());
        };
        let (number, records) = (*number, std::mem::take(records));
        let id = store(&records)?;
        self.add_child(level + 1, number, id, store)
    }

    /// Stores what is unfinished; `None` for a region without a record.
    ///
    /// # Errors
    /// What `store` says.
    pub fn finish(mut self, store: &mut impl FnMut(&[u8]) -> Result<ChunkId>) -> Result<Option<Root>> {
        self.flush_zero(store)?;
        self.finish_leaf(store)?;
        let height = usize::try_from(self.height).unwrap_or(usize::MAX);
        for level in 0..height {
            self.finish_node(level, store)?;
        }
        let root = self.levels.get(height).and_then(|(_, id)| <[u8; 32]>::try_from(id.as_slice()).ok());
        Ok(root.map(|id| Root { id: Hex(id), height: self.height }))
    }
}

/// Why a leaf or node is not one; the message is for [`crate::error::Error::Damaged`].
pub type Malformed = &'static str;

/// Parses a leaf of the span that begins at `span_start` of a region of `region_len` bytes.
///
/// # Errors
/// [`Malformed`], when records overlap, are not ascending, or reach past the span or the region.
pub fn leaf_records(bytes: &[u8], span_start: u64, region_len: u64) -> Result<Vec<Record>, Malformed> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(LEAF_RECORD) {
        return Err("a leaf of a block map has an impossible length");
    }
    let end = SPAN.min(region_len.saturating_sub(span_start));
    let mut records = Vec::with_capacity(bytes.len() / LEAF_RECORD);
    let mut at = 0;
    for record in bytes.chunks_exact(LEAF_RECORD) {
        let (Some(start), Some(len), Some(id)) =
            (field::le32(record, 0), field::le32(record, 4), record.get(8..).and_then(|id| id.try_into().ok()))
        else {
            return Err("a leaf of a block map is cut short");
        };
        let run = Run::of(Hex(id));
        let start = u64::from(start);
        let too_long = matches!(run, Run::Chunk(_)) && len > FRAME_MAX;
        if start < at || len == 0 || start + u64::from(len) > end || too_long {
            return Err("a record of a block map lies outside of its place");
        }
        at = start + u64::from(len);
        records.push(Record { start: span_start + start, len, run });
    }
    Ok(records)
}

/// Parses a node: numbers and ids of its children.
///
/// # Errors
/// [`Malformed`], when the children are not ascending or too many.
pub fn node_children(bytes: &[u8]) -> Result<Vec<(u64, ChunkId)>, Malformed> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(NODE_RECORD) {
        return Err("a node of a block map has an impossible length");
    }
    let mut children = Vec::with_capacity(bytes.len() / NODE_RECORD);
    let mut next = 0;
    for record in bytes.chunks_exact(NODE_RECORD) {
        let (Some(number), Some(id)) = (field::le32(record, 0), record.get(4..).and_then(|id| id.try_into().ok()))
        else {
            return Err("a node of a block map is cut short");
        };
        let number = u64::from(number);
        if number < next || number >= FANOUT {
            return Err("a node of a block map has children out of order");
        }
        next = number + 1;
        children.push((number, Hex(id)));
    }
    Ok(children)
}

/// A leaf or node, and the run of the region that it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// Its id.
    pub id: ChunkId,
    /// Levels below it: 0 for a leaf.
    pub height: u32,
    /// First byte, relative to the region.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What a subtree says of the run that it describes, wherever that is: two with the same content are the same.
pub type SubtreeContent = (ChunkId, u32, u64);

impl Subtree {
    fn new(id: ChunkId, height: u32, start: u64, region_len: u64) -> Self {
        let span = SPAN.saturating_mul(FANOUT.saturating_pow(height));
        Self { id, height, start, len: span.min(region_len.saturating_sub(start)) }
    }

    /// Whoever has gone into it once knows whatever it has. A map may name one node many times, and on many levels
    /// that is more often than anybody can count.
    #[must_use]
    pub fn content(&self) -> SubtreeContent {
        (self.id, self.height, self.len)
    }
}

/// What a walk over a block map asks of its caller.
pub trait Visitor {
    /// The content of a leaf or node.
    ///
    /// # Errors
    /// Whatever keeps the walk from going on.
    fn fetch(&mut self, id: ChunkId) -> Result<Vec<u8>>;

    /// Whether to go into it.
    fn enter(&mut self, _subtree: Subtree) -> bool {
        true
    }

    /// All of it was visited.
    fn leave(&mut self, _subtree: Subtree) {}

    /// A record of a leaf, in ascending order.
    ///
    /// # Errors
    /// Whatever keeps the walk from going on.
    fn record(&mut self, record: Record) -> Result<()>;

    /// A leaf or node that is not one.
    fn malformed(&self, id: ChunkId, what: Malformed) -> crate::error::Error {
        crate::error::Error::damaged(format!("block map node {id}"), 0, what)
    }
}

/// Walks a region's block map in ascending order.
///
/// # Errors
/// What the visitor says, and damage.
pub fn walk(root: Root, region_len: u64, visitor: &mut impl Visitor) -> Result<()> {
    if root.height != height_for(region_len) {
        return Err(visitor.malformed(root.id, "a block map of another height than its region needs"));
    }
    walk_below(Subtree::new(root.id, root.height, 0, region_len), region_len, visitor)
}

fn walk_below(subtree: Subtree, region_len: u64, visitor: &mut impl Visitor) -> Result<()> {
    if !visitor.enter(subtree) {
        return Ok(());
    }
    let Subtree { id, height, start, .. } = subtree;
    let bytes = visitor.fetch(id)?;
    if height == 0 {
        let records = leaf_records(&bytes, start, region_len).map_err(|what| visitor.malformed(id, what))?;
        records.into_iter().try_for_each(|record| visitor.record(record))?;
        visitor.leave(subtree);
        return Ok(());
    }
    let child_span = SPAN.saturating_mul(FANOUT.saturating_pow(height - 1));
    for (number, child) in node_children(&bytes).map_err(|what| visitor.malformed(id, what))? {
        let child_start = number.checked_mul(child_span).and_then(|offset| start.checked_add(offset));
        match child_start.filter(|&child_start| child_start < region_len) {
            Some(child_start) => {
                walk_below(Subtree::new(child, height - 1, child_start, region_len), region_len, visitor)?;
            }
            None => return Err(visitor.malformed(id, "a node of a block map reaches past its region")),
        }
    }
    visitor.leave(subtree);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Memory {
        nodes: HashMap<[u8; 32], Vec<u8>>,
        records: Vec<Record>,
    }

    impl Visitor for Memory {
        fn fetch(&mut self, id: ChunkId) -> Result<Vec<u8>> {
            self.nodes.get(&id.0).cloned().ok_or_else(|| Error::Internal("no such node".into()))
        }

        fn record(&mut self, record: Record) -> Result<()> {
            self.records.push(record);
            Ok(())
        }
    }

    fn build(len: u64, runs: &[(u64, u64, Run)]) -> (Option<Root>, Memory) {
        let mut memory = Memory::default();
        let mut builder = Builder::new(len);
        let mut store = |bytes: &[u8]| {
            let id = *blake3::hash(bytes).as_bytes();
            memory.nodes.insert(id, bytes.to_vec());
            Ok(Hex(id))
        };
        for &(start, len, run) in runs {
            builder.push(start, len, run, &mut store).unwrap();
        }
        let root = builder.finish(&mut store).unwrap();
        (root, memory)
    }

    #[test]
    fn a_map_over_many_levels_gives_back_its_records() {
        let tib = 1u64 << 40;
        let chunk = |n: u8| Run::Chunk(Hex([n; 32]));
        let runs = [
            (0, 4096, chunk(1)),
            (SPAN - 4096, 4096, chunk(2)),
            (tib / 2, 65536, chunk(3)),
            (20 * tib - 512, 512, chunk(4)),
        ];
        let (root, mut memory) = build(20 * tib, &runs);
        assert_eq!(root.unwrap().height, 3);
        walk(root.unwrap(), 20 * tib, &mut memory).unwrap();
        let got: Vec<_> = memory.records.iter().map(|r| (r.start, u64::from(r.len), r.run)).collect();
        assert_eq!(got, runs);
    }

    #[test]
    fn zeros_are_joined_and_split_at_spans() {
        let (root, mut memory) = build(3 * SPAN, &[(4096, 4096, Run::Zero), (8192, 2 * SPAN, Run::Zero)]);
        walk(root.unwrap(), 3 * SPAN, &mut memory).unwrap();
        let got: Vec<_> = memory.records.iter().map(|r| (r.start, u64::from(r.len))).collect();
        assert_eq!(got, [(4096, SPAN - 4096), (SPAN, SPAN), (2 * SPAN, 8192)]);
    }

    #[test]
    fn an_empty_region_has_no_root() {
        assert_eq!(build(100 * SPAN, &[]).0, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_records_or_an_error(bytes: Vec<u8>, len: u64) {
            let _ = leaf_records(&bytes, 0, len);
            let _ = node_children(&bytes);
        }

        #[test]
        fn a_changed_map_gives_records_in_their_places_or_an_error(
            node in 0usize..5, at in 0usize..200, value: u8, cut in 0usize..300, region_len in 0u64..4 * SPAN,
        ) {
            let chunk = |n: u8| Run::Chunk(Hex([n; 32]));
            let runs = [(0, 4096, chunk(1)), (8192, SPAN, Run::Zero), (2 * SPAN, 512, Run::Unreadable),
                (3 * SPAN - 512, 512, chunk(2)), (3 * SPAN, 4096, chunk(3))];
            let (root, mut memory) = build(4 * SPAN, &runs);
            let mut ids: Vec<[u8; 32]> = memory.nodes.keys().copied().collect();
            ids.sort_unstable();
            let bytes = memory.nodes.get_mut(&ids[node]).unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            let root = Root { id: root.unwrap().id, height: height_for(region_len) };
            let _ = walk(root, region_len, &mut memory);
            let mut end = 0;
            for record in &memory.records {
                prop_assert!(record.start >= end && record.len > 0, "{record:?} after {end}");
                end = record.start + u64::from(record.len);
            }
            prop_assert!(end <= region_len);
        }

        #[test]
        fn records_come_back_in_order(gaps in proptest::collection::vec((0u64..30_000_000, 1u64..100), 0..60)) {
            let mut at = 0;
            let mut runs = Vec::new();
            for (i, (gap, blocks)) in gaps.into_iter().enumerate() {
                let start = (at + gap).next_multiple_of(4096);
                let len = (blocks * 4096).min(SPAN - start % SPAN);
                let id = blake3::hash(&i.to_le_bytes());
                runs.push((start, len, Run::Chunk(Hex(*id.as_bytes()))));
                at = start + len;
            }
            let (root, mut memory) = build(at + 1, &runs);
            if let Some(root) = root {
                walk(root, at + 1, &mut memory).unwrap();
            }
            let got: Vec<_> = memory.records.iter().map(|r| (r.start, u64::from(r.len), r.run)).collect();
            prop_assert_eq!(got, runs);
        }
    }
}
