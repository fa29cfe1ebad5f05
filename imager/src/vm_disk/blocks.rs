//! Which blocks of a disk a file has, and how many of them come before each: a bit for each block.
//!
//! Must not know: formats.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::extent::Extent;

/// Blocks that are counted together.
const GROUP_WORDS: usize = 8;

/// Blocks being marked.
pub struct Marks {
    block_size: u64,
    blocks: u64,
    words: Vec<u64>,
}

impl Marks {
    /// Blocks that a disk may have: 64 MiB of bits.
    pub const BLOCKS_MAX: u64 = 1 << 29;

    /// None of a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are more than [`Marks::BLOCKS_MAX`].
    pub fn new(size: u64, block_size: u64) -> Result<Self> {
        let blocks = size.div_ceil(block_size.max(1));
        let words = usize::try_from(blocks.div_ceil(64)).ok().filter(|_| blocks <= Self::BLOCKS_MAX);
        let words = words.ok_or_else(|| {
            Error::Usage(format!("a disk of {} is larger than this format can be written", crate::units::size(size)))
        })?;
        Ok(Self { block_size: block_size.max(1), blocks, words: vec![0; words] })
    }

    /// Marks every block that shares a byte with `extent`; what lies behind the disk's end counts for nothing.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let last = ((extent.end() - 1) / self.block_size).min(self.blocks.saturating_sub(1));
        let mut block = extent.start / self.block_size;
        while block <= last && self.blocks > 0 {
            let count = (64 - block % 64).min(last - block + 1);
            let ones = if count == 64 { u64::MAX } else { (1 << count) - 1 };
            if let Some(word) = usize::try_from(block / 64).ok().and_then(|index| self.words.get_mut(index)) {
                *word |= ones << (block % 64);
            }
            block += count;
        }
    }

    /// No more will be marked.
    #[must_use]
    pub fn counted(self) -> Blocks {
        let mut before = Vec::with_capacity(self.words.len() / GROUP_WORDS + 1);
        let mut marked = 0;
        for group in self.words.chunks(GROUP_WORDS) {
            before.push(marked);
            marked += group.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
        Blocks { block_size: self.block_size, blocks: self.blocks, words: self.words, before, marked }
    }
}

/// The blocks that a file has.
pub struct Blocks {
    block_size: u64,
    blocks: u64,
    words: Vec<u64>,
    /// Marked blocks before each group of words.
    before: Vec<u64>,
    marked: u64,
}

impl Blocks {
    /// Size of a block in bytes.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Number of blocks that the disk has; the last may be a part of one.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.blocks
    }

    /// True for a disk of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Number of blocks that are marked.
    #[must_use]
    pub fn marked(&self) -> u64 {
        self.marked
    }

    /// How many marked blocks come before `block`; none if it is not marked itself.
    #[must_use]
    pub fn number(&self, block: u64) -> Option<u64> {
        let index = usize::try_from(block / 64).ok()?;
        let word = *self.words.get(index)?;
        let bit = block % 64;
        if word >> bit & 1 == 0 {
            return None;
        }
        let group = index / GROUP_WORDS;
        let mut number = *self.before.get(group)?;
        for word in self.words.get(group * GROUP_WORDS..index)? {
            number += u64::from(word.count_ones());
        }
        Some(number + u64::from((word & ((1 << bit) - 1)).count_ones()))
    }

    /// Whether one of `count` blocks from `first` is marked.
    #[must_use]
    pub fn any(&self, first: u64, count: u64) -> bool {
        let end = first.saturating_add(count).min(self.blocks);
        let mut block = first;
        while block < end {
            let word = usize::try_from(block / 64).ok().and_then(|index| self.words.get(index)).copied().unwrap_or(0);
            let count = (64 - block % 64).min(end - block);
            let ones = if count == 64 { u64::MAX } else { (1 << count) - 1 };
            if word >> (block % 64) & ones != 0 {
                return true;
            }
            block += count;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_count_what_is_marked(
            size in 0u64..400_000,
            extents in proptest::collection::vec((0u64..420_000, 0u64..9000), 0..30),
        ) {
            let mut marks = Marks::new(size, 100).unwrap();
            let mut expected = vec![false; usize::try_from(size.div_ceil(100)).unwrap()];
            for (start, len) in extents {
                marks.insert(Extent::new(start, len));
                for (block, marked) in expected.iter_mut().enumerate() {
                    let place = Extent::new(block as u64 * 100, 100);
                    *marked |= !place.intersection(Extent::new(start, len)).is_empty();
                }
            }
            let blocks = marks.counted();
            let mut number = 0;
            for (block, marked) in expected.iter().enumerate() {
                let block = block as u64;
                prop_assert_eq!(blocks.number(block), marked.then_some(number));
                prop_assert_eq!(blocks.any(block, 1), *marked);
                number += u64::from(*marked);
            }
            prop_assert_eq!(blocks.marked(), number);
            prop_assert_eq!(blocks.any(0, u64::MAX), number > 0);
            prop_assert_eq!(blocks.number(expected.len() as u64), None);
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Marks::new(u64::MAX, 1 << 16).is_err());
        assert!(Marks::new(0, 1 << 16).unwrap().counted().is_empty());
    }
}
