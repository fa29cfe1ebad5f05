//! Where on a disk the work has been: a fixed number of cells from its first byte to its last.
//!
//! Must not know: what the work is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::extent::Extent;

/// Cells of a map: more than a screen has room for, and little to send.
pub const CELLS: u64 = 1024;

/// A disk's map, counted by many threads.
pub(super) struct DiskMap {
    path: PathBuf,
    size: u64,
    /// Bytes handled in each cell.
    cells: Vec<AtomicU64>,
}

/// A disk's map at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// The disk's path.
    pub disk: String,
    /// Its size in bytes.
    pub size: u64,
    /// A digit for each cell: 0 where nothing was handled yet, 9 where everything was; anything shows.
    pub cells: String,
}

impl DiskMap {
    pub(super) fn new(path: PathBuf, size: u64) -> Self {
        let count = size.div_ceil(Self::cell_bytes(size));
        Self { path, size, cells: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    fn cell_bytes(size: u64) -> u64 {
        size.div_ceil(CELLS).max(1)
    }

    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }

    pub(super) fn clear(&self) {
        self.cells.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
    }

    pub(super) fn cover(&self, extent: Extent) {
        let bytes = Self::cell_bytes(self.size);
        let end = extent.end().min(self.size);
        let mut at = extent.start;
        while at < end {
            let number = at / bytes;
            let next = number.saturating_add(1).saturating_mul(bytes).min(end);
            let Some(cell) = usize::try_from(number).ok().and_then(|number| self.cells.get(number)) else { return };
            cell.fetch_add(next - at, Ordering::Relaxed);
            at = next;
        }
    }

    /// Nothing was handled.
    pub(super) fn empty(&self) -> Covered {
        Covered { disk: self.path.display().to_string(), size: self.size, cells: "0".repeat(self.cells.len()) }
    }

    /// None before anything was handled.
    pub(super) fn covered(&self) -> Option<Covered> {
        let bytes = Self::cell_bytes(self.size);
        let digit = |(number, cell): (u64, &AtomicU64)| {
            let whole = bytes.min(self.size - number * bytes).max(1);
            let ninths = (u128::from(cell.load(Ordering::Relaxed)) * 9).div_ceil(u128::from(whole));
            // What was handled twice fills no more than all of it.
            u32::try_from(ninths.min(9)).ok().and_then(|ninths| char::from_digit(ninths, 10)).unwrap_or('9')
        };
        let cells: String = (0..).zip(&self.cells).map(digit).collect();
        let is_empty = cells.bytes().all(|cell| cell == b'0');
        (!is_empty).then(|| Covered { disk: self.path.display().to_string(), size: self.size, cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_fill_where_the_work_was() {
        let map = DiskMap::new("/dev/sda".into(), 10_240);
        assert_eq!(map.covered(), None);
        map.cover(Extent::new(0, 10));
        map.cover(Extent::new(15, 10));
        map.cover(Extent::new(10_239, 100));
        let cells = map.covered().unwrap().cells;
        assert_eq!((cells.len(), &cells[..4], &cells[1022..]), (1024, "9550", "01"));
        map.cover(Extent::new(0, u64::MAX));
        assert_eq!(map.covered().unwrap().cells, "9".repeat(1024));
        map.clear();
        assert_eq!(map.covered(), None);
    }

    #[test]
    fn small_disks_have_fewer_cells() {
        for (size, count) in [(0, 0), (1, 1), (1023, 1023), (1025, 513)] {
            let map = DiskMap::new("x".into(), size);
            assert_eq!(map.cells.len(), count);
            map.cover(Extent::new(0, size));
            assert_eq!(map.covered().map(|covered| covered.cells), (size > 0).then(|| "9".repeat(count)));
        }
        DiskMap::new("x".into(), u64::MAX).cover(Extent::between(u64::MAX - 5, u64::MAX));
    }
}
