//! Cutting a stream of blocks into chunks where their content says so.
//!
//! One XXH3 hash per 4 KiB block; a cut after a block when the chunk has its minimum and the hash is 0 modulo
//! the average in blocks, at the maximum, and wherever the stream has a gap, zeros, or a new span of the
//! block map. So the same file gives the same chunks wherever it lies on the grid. Must not know: ids, packs.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::jobs::READ_BYTES_MAX;
use super::reading::Segment;
use crate::extent::Extent;
use crate::repo::block_map::SPAN;
use crate::repo::config::ChunkSizes;

const BLOCK: u64 = 4096;
/// A small part of a read: with the usual chunks, whatever is open at its end.
const COPIED_BYTES_MAX: u64 = READ_BYTES_MAX / 4;

/// A part of a chunk: some bytes of one segment.
pub(crate) struct Piece {
    /// Which they are, relative to the region.
    pub extent: Extent,
    bytes: Bytes,
}

enum Bytes {
    Of(Arc<Segment>),
    Copied(Vec<u8>),
}

impl Piece {
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Of(segment) => segment.bytes(self.extent),
            Bytes::Copied(bytes) => bytes,
        }
    }

    /// Whether more of the segment can be added to it.
    fn is_of(&self, segment: &Arc<Segment>) -> bool {
        matches!(&self.bytes, Bytes::Of(own) if Arc::ptr_eq(own, segment))
    }
}

/// What becomes a record of the block map.
pub(crate) enum Cut {
    /// A chunk; its pieces are consecutive.
    Chunk(Vec<Piece>),
    /// Zeros, relative to the region.
    Zero(Extent),
    /// Unreadable bytes, relative to the region.
    Unreadable(Extent),
}

/// What a block says of itself, whatever lies before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Zero,
    Plain,
    /// A chunk ends with it, if that has its minimum.
    Last,
    /// Some of it cannot be read.
    Damaged,
}

/// A segment and a mark for each block of its wanted bytes: all of the cutting that looks at bytes, and that can be
/// done for many segments at once.
pub(crate) struct Marked {
    segment: Arc<Segment>,
    marks: Vec<Mark>,
}

impl Marked {
    pub(crate) fn new(segment: Segment, sizes: ChunkSizes) -> Self {
        let average_blocks = (u64::from(sizes.average) / BLOCK).max(1);
        let mark = |block: Extent| {
            if !segment.bad.is_empty() && segment.bad.intersect(block).next().is_some() {
                return Mark::Damaged;
            }
            let bytes = segment.bytes(block);
            if is_zero(bytes) {
                Mark::Zero
            } else if twox_hash::XxHash3_64::oneshot(bytes).is_multiple_of(average_blocks) {
                Mark::Last
            } else {
                Mark::Plain
            }
        };
        let marks = segment.job.wanted.iter().copied().flat_map(blocks_of).map(mark).collect();
        Self { segment: Arc::new(segment), marks }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }
}

/// The blocks, on the grid of the region, that an extent is made of.
fn blocks_of(extent: Extent) -> impl Iterator<Item = Extent> {
    let grid = (extent.start / BLOCK..extent.end().div_ceil(BLOCK)).map(|number| Extent::new(number * BLOCK, BLOCK));
    grid.map(move |block| block.intersection(extent))
}

/// Cuts the segments of one region; finished cuts are taken with [`Chunker::take`].
pub(crate) struct Chunker {
    sizes: ChunkSizes,
    open: Vec<Piece>,
    open_extent: Extent,
    finished: Vec<Cut>,
}

impl Chunker {
    pub(crate) fn new(sizes: ChunkSizes) -> Self {
        Self { sizes, open: Vec::new(), open_extent: Extent::new(0, 0), finished: Vec::new() }
    }

    /// Goes over a segment that lies behind the ones before.
    pub(crate) fn push(&mut self, marked: &Marked) {
        let segment = &marked.segment;
        for (block, mark) in segment.job.wanted.iter().copied().flat_map(blocks_of).zip(&marked.marks) {
            match mark {
                Mark::Zero => self.push_zero(block),
                Mark::Damaged => self.push_damaged_block(segment, block),
                Mark::Plain | Mark::Last => self.push_block(segment, block, *mark == Mark::Last),
            }
        }
        self.let_go_of(segment);
    }

    /// Copies what is open of the segment, if that is little: its buffer is to be filled again while the processor has
    /// it in its cache, not when the next segment has come.
    fn let_go_of(&mut self, segment: &Arc<Segment>) {
        let is_little = |piece: &&mut Piece| piece.is_of(segment) && piece.extent.len <= COPIED_BYTES_MAX;
        if let Some(last) = self.open.last_mut().filter(is_little) {
            last.bytes = Bytes::Copied(last.bytes().to_vec());
        }
    }

    fn push_block(&mut self, segment: &Arc<Segment>, block: Extent, may_be_last: bool) {
        if block.start != self.open_extent.end() || block.start.is_multiple_of(SPAN) {
            self.flush();
        }
        self.append(segment, block);
        let len = self.open_extent.len;
        if len >= u64::from(self.sizes.max) || may_be_last && len >= u64::from(self.sizes.min) {
            self.flush();
        }
    }

    /// What is readable of the block becomes chunks of its own.
    fn push_damaged_block(&mut self, segment: &Arc<Segment>, block: Extent) {
        self.flush();
        let mut at = block.start;
        let bad: Vec<Extent> = segment.bad.intersect(block).collect();
        for bad in bad {
            self.push_readable(segment, Extent::between(at, bad.start));
            self.finished.push(Cut::Unreadable(bad));
            at = bad.end();
        }
        self.push_readable(segment, Extent::between(at, block.end()));
    }

    fn push_readable(&mut self, segment: &Arc<Segment>, extent: Extent) {
        if extent.is_empty() {
        } else if is_zero(segment.bytes(extent)) {
            self.push_zero(extent);
        } else {
            self.append(segment, extent);
            self.flush();
        }
    }

    /// Zeros that lie behind everything before.
    pub(crate) fn push_zero(&mut self, extent: Extent) {
        self.flush();
        match self.finished.last_mut() {
            Some(Cut::Zero(last)) if last.end() == extent.start => {
                *last = Extent::new(last.start, last.len + extent.len)
            }
            _ => self.finished.push(Cut::Zero(extent)),
        }
    }

    fn append(&mut self, segment: &Arc<Segment>, block: Extent) {
        match self.open.last_mut() {
            Some(last) if last.is_of(segment) => last.extent = Extent::between(last.extent.start, block.end()),
            _ => self.open.push(Piece { extent: block, bytes: Bytes::Of(Arc::clone(segment)) }),
        }
        if self.open_extent.is_empty() {
            self.open_extent = block;
        } else {
            self.open_extent = Extent::between(self.open_extent.start, block.end());
        }
    }

    /// Ends the chunk in hand, as at the end of a region.
    pub(crate) fn flush(&mut self) {
        if !self.open.is_empty() {
            self.finished.push(Cut::Chunk(std::mem::take(&mut self.open)));
        }
        self.open_extent = Extent::new(0, 0);
    }

    /// The cuts that are finished so far.
    pub(crate) fn take(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.finished)
    }
}

/// Whether all bytes are zero; written so that the compiler makes wide loads of it.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::jobs::ReadJob;
    use super::super::reading::BufferPool;
    use super::*;
    use crate::extent::ExtentSet;

    #[test]
    fn what_stays_open_keeps_no_buffer() {
        let sizes = ChunkSizes::around(64 << 10).unwrap();
        let marked = |start, len| {
            let mut buf = BufferPool::new(1, len).get();
            buf.as_mut_slice().fill(1);
            let extent = Extent::new(start, len as u64);
            let job = ReadJob { region: 0, region_start: 0, extent, wanted: vec![extent] };
            Marked::new(Segment::new(job, buf, ExtentSet::new()), sizes)
        };
        let (first, second) = (marked(0, 300 << 10), marked(300 << 10, 100 << 10));
        let mut chunker = Chunker::new(sizes);
        chunker.push(&first);
        let mut cuts = chunker.take();
        assert!(!chunker.open.is_empty());
        assert_eq!(Arc::strong_count(&first.segment), 1 + pieces_of(&cuts).count());
        chunker.push(&second);
        chunker.flush();
        cuts.extend(chunker.take());
        let mut end = 0;
        for piece in pieces_of(&cuts) {
            assert_eq!(piece.extent.start, end);
            assert_eq!(piece.bytes(), vec![1; usize::try_from(piece.extent.len).unwrap()]);
            end = piece.extent.end();
        }
        assert_eq!(end, 400 << 10);
    }

    fn pieces_of(cuts: &[Cut]) -> impl Iterator<Item = &Piece> {
        cuts.iter().flat_map(|cut| match cut {
            Cut::Chunk(pieces) => &**pieces,
            Cut::Zero(_) | Cut::Unreadable(_) => &[],
        })
    }

    #[test]
    fn zero_means_every_byte() {
        for len in [0, 1, 63, 64, 65, 512, 4096] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{len} {at}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
