//! The file allocation tables: which clusters are in use, which are bad, and chains of clusters.
//!
//! Must not know: directories. Source: as for the boot sector.

use std::io;

use super::boot_sector::{BootSector, Width};
use crate::extent::{Extent, ExtentSet};
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

/// The tables are read side by side, in pieces of this many bytes in all.
const PIECES_SIZE: usize = 1 << 20;
/// One piece holds a whole table of 12-bit entries, which lie across bytes.
const PIECE_SIZE_MIN: usize = 8 << 10;

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Clusters in use, in bytes of the volume.
    pub(super) used: ExtentSet,
    /// Clusters marked bad.
    pub(super) bad: u32,
    /// Entries in which the tables differ.
    pub(super) differences: u32,
    /// The flags in the second entry say that the volume was not unmounted.
    pub(super) is_dirty: bool,
    /// The flags in the second entry say that a read or write has failed.
    pub(super) had_errors: bool,
}

impl Usage {
    /// Reads every table that counts. A cluster is in use when one of them says so.
    pub(super) fn read(volume: &dyn ReadAt, boot: &BootSector) -> Result<Self, FsError> {
        let tables = match boot.only_table {
            Some(only) => only..only + 1,
            None => 0..boot.tables,
        };
        let starts: Vec<u64> = tables.map(|table| boot.table_start + u64::from(table) * boot.table_size).collect();
        let piece_size = (PIECES_SIZE / starts.len().max(1)).next_multiple_of(PIECE_SIZE_MIN);
        let mut usage = Self::default();
        let mut number = 0;
        let len = boot.width.table_len(boot.clusters);
        let mut at = 0;
        while at < len {
            let size = usize::try_from(len - at).unwrap_or(usize::MAX).min(piece_size);
            let pieces = starts.iter().map(|start| volume.read_vec(start + at, size));
            let pieces = pieces.collect::<io::Result<Vec<_>>>()?;
            usage.add_piece(boot, &pieces, &mut number)?;
            at += u64::try_from(size).unwrap_or(u64::MAX);
        }
        if number != boot.clusters + 2 {
            return Err(FsError::corrupt(boot.table_start, "the table ends too early"));
        }
        Ok(usage)
    }

    /// Takes in the entries from `number` on, which each of `pieces` has.
    fn add_piece(&mut self, boot: &BootSector, pieces: &[Vec<u8>], number: &mut u32) -> Result<(), FsError> {
        let Some((first, others)) = pieces.split_first() else { return Ok(()) };
        let same = others.iter().all(|other| other == first);
        let mut index = 0;
        while let Some(entry) = boot.width.entry(first, index).filter(|_| *number < boot.clusters + 2) {
            let other = |piece: &Vec<u8>| boot.width.entry(piece, index);
            let mut value = entry;
            if !same && others.iter().any(|piece| other(piece) != Some(entry)) {
                self.differences += 1;
                value = others.iter().filter_map(other).fold(entry, |a, b| boot.width.more_in_use(a, b));
            }
            match *number {
                0 => boot.width.check_first(entry, boot)?,
                1 => self.add_flags(boot.width, value),
                cluster => self.add_cluster(boot, cluster, value),
            }
            *number += 1;
            index += 1;
        }
        Ok(())
    }

    fn add_cluster(&mut self, boot: &BootSector, cluster: u32, entry: u32) {
        if entry == boot.width.bad() {
            self.bad += 1;
        } else if entry != 0
            && let Some(start) = boot.cluster_start(cluster)
        {
            self.used.insert(Extent::new(start, boot.cluster_size.into()));
        }
    }

    fn add_flags(&mut self, width: Width, entry: u32) {
        let (clean, no_errors) = match width {
            Width::Bits12 => return,
            Width::Bits16 => (0x8000, 0x4000),
            Width::Bits32 => (0x0800_0000, 0x0400_0000),
        };
        self.is_dirty = entry & clean == 0;
        self.had_errors = entry & no_errors == 0;
    }
}

impl Width {
    /// Entry `index` of a table, or of a piece of one that begins with an entry.
    fn entry(self, table: &[u8], index: usize) -> Option<u32> {
        match self {
            Self::Bits12 => {
                let pair = le16(table, index.checked_mul(3)? / 2)?;
                Some(u32::from(if index.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }))
            }
            Self::Bits16 => le16(table, index.checked_mul(2)?).map(u32::from),
            // The upper four bits are nobody's.
            Self::Bits32 => le32(table, index.checked_mul(4)?).map(|entry| entry & 0x0fff_ffff),
        }
    }

    /// The mark of a cluster that cannot be read.
    fn bad(self) -> u32 {
        match self {
            Self::Bits12 => 0xff7,
            Self::Bits16 => 0xfff7,
            Self::Bits32 => 0x0fff_fff7,
        }
    }

    /// Of two entries the one that keeps more: a cluster in use before a bad one before a free one.
    fn more_in_use(self, a: u32, b: u32) -> u32 {
        let rank = |entry| if entry == 0 { 0 } else { 1 + u8::from(entry != self.bad()) };
        if rank(b) > rank(a) { b } else { a }
    }

    /// The first entry repeats the media byte, with ones above: a table that does not is none.
    fn check_first(self, entry: u32, boot: &BootSector) -> Result<(), FsError> {
        let ones = match self {
            Self::Bits12 => 0xf00,
            Self::Bits16 => 0xff00,
            Self::Bits32 => 0x0fff_ff00,
        };
        if entry != ones | u32::from(boot.media) {
            return Err(FsError::unsupported(format!("the first entry of the table is {entry:#x}")));
        }
        Ok(())
    }
}

/// The clusters of a file or a directory.
pub(super) struct Chain {
    pub(super) clusters: u32,
    /// Where they lie, in order; neighbours are one run.
    pub(super) runs: Vec<Extent>,
}

impl Chain {
    fn add(&mut self, cluster: Extent) {
        self.clusters += 1;
        match self.runs.last_mut() {
            Some(last) if last.end() == cluster.start => last.len += cluster.len,
            _ => self.runs.push(cluster),
        }
    }
}

/// Follows chains of clusters in one table.
pub(super) struct Chains<'a> {
    volume: &'a dyn ReadAt,
    boot: &'a BootSector,
    page: Vec<u8>,
    page_start: u64,
}

impl<'a> Chains<'a> {
    const PAGE_SIZE: u64 = 64 << 10;

    /// Chains of the volume that `boot` describes.
    pub(super) fn new(volume: &'a dyn ReadAt, boot: &'a BootSector) -> Self {
        Self { volume, boot, page: Vec::new(), page_start: 0 }
    }

    /// The clusters of a chain in order, at most `max` of them.
    ///
    /// A chain that ends in anything but an end mark, or is longer, is `None`.
    pub(super) fn follow(&mut self, first: u32, max: u32) -> io::Result<Option<Chain>> {
        let mut chain = Chain { clusters: 0, runs: Vec::new() };
        let mut next = first;
        while chain.clusters < max.min(self.boot.clusters) {
            let Some(start) = self.boot.cluster_start(next) else { return Ok(None) };
            chain.add(Extent::new(start, self.boot.cluster_size.into()));
            next = self.entry(next)?;
            if next > self.boot.width.bad() {
                return Ok(Some(chain));
            }
        }
        Ok(None)
    }

    /// The first `count` clusters of a chain, which must have as many; `None` when it does not.
    pub(super) fn follow_to(&mut self, first: u32, count: u32) -> io::Result<Option<Chain>> {
        let mut chain = Chain { clusters: 0, runs: Vec::new() };
        let mut next = first;
        // Longer chains than there are clusters are circles.
        if count > self.boot.clusters {
            return Ok(None);
        }
        while chain.clusters < count {
            let Some(start) = self.boot.cluster_start(next) else { return Ok(None) };
            chain.add(Extent::new(start, self.boot.cluster_size.into()));
            if chain.clusters < count {
                next = self.entry(next)?;
            }
        }
        Ok(Some(chain))
    }

    fn entry(&mut self, cluster: u32) -> io::Result<u32> {
        let (cluster, width) = (u64::from(cluster), self.boot.width);
        // Of 12-bit entries, pairs of three bytes are read, so that pages begin with an entry.
        let (group_size, group_len) = if width == Width::Bits12 { (3, 2) } else { (width.table_len(0) / 2, 1) };
        let at = cluster / group_len * group_size;
        if at < self.page_start || at + group_size > self.page_start + self.page.len() as u64 {
            self.page_start = at;
            let table = self.boot.table_start + u64::from(self.boot.only_table.unwrap_or(0)) * self.boot.table_size;
            let len = (self.boot.table_size - at).min(Self::PAGE_SIZE);
            self.page = self.volume.read_vec(table + at, usize::try_from(len).map_err(io::Error::other)?)?;
        }
        let index = (at - self.page_start) / group_size * group_len + cluster % group_len;
        let index = usize::try_from(index).map_err(io::Error::other)?;
        width.entry(&self.page, index).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn twelve_bit_entries_lie_across_bytes() {
        let table = [0xf8, 0xff, 0xff, 0x03, 0x40, 0x00, 0xf7, 0x0f];
        let entries: Vec<u32> = (0..6).map_while(|index| Width::Bits12.entry(&table, index)).collect();
        assert_eq!(entries, [0xff8, 0xfff, 0x003, 0x004, 0xff7]);
    }

    #[test]
    fn the_upper_bits_of_thirty_two_bit_entries_are_nobodys() {
        assert_eq!(Width::Bits32.entry(&[0, 0, 0, 0xf0], 0), Some(0));
    }

    proptest! {
        #[test]
        fn a_table_is_as_long_as_its_last_entry_needs(clusters in 1u32..70_000) {
            for width in [Width::Bits12, Width::Bits16, Width::Bits32] {
                let table = vec![0; usize::try_from(width.table_len(clusters)).unwrap()];
                let last = usize::try_from(clusters + 1).unwrap();
                prop_assert!(width.entry(&table, last).is_some());
                prop_assert!(width.entry(&table[..table.len() - 1], last).is_none());
            }
        }
    }
}
