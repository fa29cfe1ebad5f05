//! From block bitmaps to bytes in use.
//!
//! The bitmaps are read in runs (with `flex_bg` sixteen of them lie side by side) and a few megabytes at a
//! time. Each is held against its checksum, its descriptor's free count and the metadata that must be in
//! it. Source: the kernel's `Documentation/filesystems/ext4/bitmaps.rst` and `bigalloc.rst`.
//! Must not know: the journal's format.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::checksum::crc32c;
use super::geometry::Geometry;
use super::groups::{BitmapChecksum, Group, GroupTable};
use super::replay::Replay;
use super::superblock::Checksums;
use crate::extent::ExtentSet;
use crate::fs::FsError;
use crate::read_at::ReadAt;

/// How much of the bitmaps is in memory at once, and how much is read at once.
const BATCH_BYTES_MAX: u32 = 4 << 20;
const READ_BYTES_MAX: u64 = 1 << 20;

/// Everything that says which blocks are in use.
pub(super) struct Sources<'a> {
    pub(super) volume: &'a dyn ReadAt,
    pub(super) geometry: &'a Geometry,
    /// The descriptors that count: those after the replay of the journal.
    pub(super) groups: &'a GroupTable<'a>,
    /// The descriptors as they lie on the volume.
    pub(super) groups_on_disk: &'a GroupTable<'a>,
    pub(super) replay: &'a Replay<'a>,
}

impl Sources<'_> {
    /// All bytes in use.
    pub(super) fn used(&self) -> Result<ExtentSet, FsError> {
        let metadata = self.metadata()?;
        let mut used = ExtentSet::new();
        // Boot block and superblock; with 1 KiB blocks the boot block lies before the first group.
        used.insert(self.geometry.bytes(0, self.geometry.superblock_block() + 1));
        let per_batch = (BATCH_BYTES_MAX / self.geometry.block_size()).max(1);
        let mut first = 0;
        while first < self.geometry.groups() {
            let end = first.saturating_add(per_batch).min(self.geometry.groups());
            let on_disk = self.read_bitmaps(first..end)?;
            for (number, on_disk) in (first..end).zip(on_disk) {
                self.used_in_group(number, on_disk, &metadata)?.iter().for_each(|extent| used.insert(extent));
            }
            first = end;
        }
        Ok(used)
    }

    /// The bitmaps and inode tables of all groups; with `flex_bg` they lie in other groups than their own.
    fn metadata(&self) -> Result<ExtentSet, FsError> {
        let mut extents = Vec::new();
        for number in 0..self.geometry.groups() {
            let group = self.groups.group(number)?;
            extents.push(self.geometry.bytes(group.block_bitmap, 1));
            extents.push(self.geometry.bytes(group.inode_bitmap, 1));
            extents.push(self.geometry.bytes(group.inode_table, self.geometry.inode_table_blocks()));
        }
        extents.sort_unstable();
        Ok(extents.into_iter().collect())
    }

    /// The bitmaps of some groups as they lie on the volume; `None` where it does not count.
    fn read_bitmaps(&self, numbers: Range<u32>) -> Result<Vec<Option<Vec<u8>>>, FsError> {
        let block_size = u64::from(self.geometry.block_size());
        let mut wanted = Vec::new();
        let mut bitmaps = Vec::new();
        for number in numbers {
            if self.counts_on_disk(number)? {
                wanted.push((self.groups.group(number)?.block_bitmap, bitmaps.len()));
            }
            bitmaps.push(None);
        }
        wanted.sort_unstable();
        for run in wanted.chunk_by(|(block, _), (next, _)| block + 1 == *next) {
            for part in run.chunks(usize::try_from(READ_BYTES_MAX / block_size).unwrap_or(1)) {
                let Some(&(first, _)) = part.first() else { continue };
                let len = usize::try_from(part.len() as u64 * block_size).map_err(std::io::Error::other)?;
                let bytes = self.volume.read_vec(first * block_size, len)?;
                for ((_, slot), bitmap) in part.iter().zip(bytes.chunks_exact(len / part.len())) {
                    if let Some(place) = bitmaps.get_mut(*slot) {
                        *place = Some(bitmap.to_vec());
                    }
                }
            }
        }
        Ok(bitmaps)
    }

    /// The bitmap on the volume counts when nothing newer is in the journal; beside a newer one it counts,
    /// too, when it was ever written: a block is in use when either says so.
    fn counts_on_disk(&self, number: u32) -> Result<bool, FsError> {
        let group = self.groups.group(number)?;
        if !group.bitmap_uninit && !self.replay.has(group.block_bitmap) {
            return Ok(true);
        }
        let before = self.groups_on_disk.group(number)?;
        Ok(!self.replay.is_empty()
            && self.groups_on_disk.checksum_holds(number)
            && before.block_bitmap == group.block_bitmap
            && !before.bitmap_uninit)
    }

    /// The bytes in use of one group.
    fn used_in_group(&self, number: u32, on_disk: Option<Vec<u8>>, metadata: &ExtentSet) -> Result<ExtentSet, FsError> {
        let group = self.groups.group(number)?;
        let logged = self.replay.block(group.block_bitmap)?;
        let start = self.geometry.group_start(number);
        let range = self.geometry.bytes(start, self.geometry.group_blocks(number));
        let mut used = ExtentSet::new();
        if group.bitmap_uninit {
            used.insert(self.geometry.bytes(start, self.geometry.head_blocks(number)));
            metadata.intersect(range).for_each(|extent| used.insert(extent));
            used = used.aligned_outward(self.cluster_bytes(), self.geometry.size());
            self.check_free_count(number, &group, used.iter().map(|e| e.len.div_ceil(self.cluster_bytes())).sum())?;
        } else if let Some(bitmap) = logged.as_ref().or(on_disk.as_ref()) {
            self.check_checksum(number, &group, bitmap)?;
            let ones = words(bitmap, self.geometry.group_clusters(number)).map(|word| u64::from(word.count_ones()));
            self.check_free_count(number, &group, ones.sum())?;
        }
        for bitmap in [logged, on_disk].into_iter().flatten() {
            used = used.union(&self.used_by_bitmap(number, &bitmap));
        }
        match metadata.intersect(range).find(|extent| !used.contains(*extent)) {
            Some(missing) => Err(FsError::corrupt(missing.start, "metadata that its block bitmap calls free")),
            None => Ok(used),
        }
    }

    fn used_by_bitmap(&self, number: u32, bitmap: &[u8]) -> ExtentSet {
        let start = self.geometry.group_start(number);
        let ratio = u64::from(self.geometry.cluster_ratio());
        let mut used = ExtentSet::new();
        for run in runs(words(bitmap, self.geometry.group_clusters(number))) {
            used.insert(self.geometry.bytes(start + run.start * ratio, (run.end - run.start) * ratio));
        }
        used
    }

    fn cluster_bytes(&self) -> u64 {
        u64::from(self.geometry.block_size()) * u64::from(self.geometry.cluster_ratio())
    }

    fn check_checksum(&self, number: u32, group: &Group, bitmap: &[u8]) -> Result<(), FsError> {
        let Checksums::Crc32c(seed) = self.geometry.checksums else { return Ok(()) };
        let covered = usize::try_from(self.geometry.clusters_per_group() / 8).unwrap_or(usize::MAX);
        let crc = crc32c(seed, &[bitmap.get(..covered).unwrap_or(bitmap)]);
        let holds = match group.bitmap_checksum {
            BitmapChecksum::None => true,
            BitmapChecksum::Low16(low) => crc & 0xffff == u32::from(low),
            BitmapChecksum::Full(full) => crc == full,
        };
        if holds { Ok(()) } else { Err(self.corrupt(number, group, "does not match its checksum")) }
    }

    fn check_free_count(&self, number: u32, group: &Group, used_clusters: u64) -> Result<(), FsError> {
        let counted = u64::from(self.geometry.group_clusters(number)).checked_sub(used_clusters);
        if counted == Some(group.free_clusters.into()) {
            return Ok(());
        }
        Err(self.corrupt(number, group, &format!("contradicts the group's count of {} free", group.free_clusters)))
    }

    fn corrupt(&self, number: u32, group: &Group, what: &str) -> FsError {
        let offset = self.geometry.bytes(group.block_bitmap, 1).start;
        FsError::corrupt(offset, format!("the block bitmap of group {number} {what}"))
    }
}

/// The first `count` bits, lowest first, as 64-bit words; bits past `count` are 0.
fn words(bitmap: &[u8], count: u32) -> impl Iterator<Item = u64> + '_ {
    let whole = bitmap.chunks(8).map(|bytes| {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    });
    let masks = (0..count).step_by(64).map(move |first| match count - first {
        left @ ..64 => (1 << left) - 1,
        _ => u64::MAX,
    });
    whole.zip(masks).map(|(word, mask)| word & mask)
}

/// The runs of ones.
fn runs(words: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (base, mut word) in (0..).step_by(64).zip(words) {
        while word != 0 {
            let first = word.trailing_zeros();
            let ones = (word >> first).trailing_ones();
            let run = base + u64::from(first)..base + u64::from(first + ones);
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
            word &= if first + ones == 64 { 0 } else { u64::MAX << (first + ones) };
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_runs_are_the_ones_of_the_bitmap(bitmap in proptest::collection::vec(any::<u8>(), 0..40), count in 0u32..330) {
            let count = count.min(u32::try_from(bitmap.len()).unwrap() * 8);
            let expected: Vec<u64> = (0..u64::from(count))
                .filter(|bit| bitmap[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1)
                .collect();
            let runs = runs(words(&bitmap, count));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_full_bitmap_is_one_run() {
        for count in [64, 32700, 32768] {
            assert_eq!(runs(words(&[0xff; 4096], count)), vec![0..u64::from(count)]);
        }
    }
}
