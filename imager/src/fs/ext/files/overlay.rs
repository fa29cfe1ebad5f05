//! A volume with what its journal still has to write laid over it.
//!
//! Must not know: how a journal is walked, what its blocks mean.

use std::collections::HashMap;
use std::io;

use crate::files::Volume;
use crate::fs::ext::journal::ESCAPED_BYTES;
use crate::fs::ext::replay::Escaped;
use crate::read_at::{ReadAt, check_range};

/// The volume, and where the newer version of some of its blocks lies.
pub(super) struct Overlay {
    inner: Volume,
    block_size: u64,
    places: HashMap<u64, (u64, Escaped)>,
}

impl Overlay {
    pub(super) fn new(inner: Volume, block_size: u64, places: HashMap<u64, (u64, Escaped)>) -> Self {
        Self { inner, block_size, places }
    }
}

impl ReadAt for Overlay {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.inner.size())?;
        self.inner.read_at(offset, buf)?;
        let end = offset.saturating_add(buf.len() as u64);
        for number in offset / self.block_size..end.div_ceil(self.block_size) {
            let Some(&(place, escaped)) = self.places.get(&number) else { continue };
            let start = number.saturating_mul(self.block_size);
            let mut block = self.inner.read_vec(place, usize::try_from(self.block_size).map_err(io::Error::other)?)?;
            if let (Escaped::Yes, Some(first)) = (escaped, block.get_mut(..4)) {
                first.copy_from_slice(&ESCAPED_BYTES);
            }
            let (from, to) = (start.max(offset), start.saturating_add(self.block_size).min(end));
            let of = range(from - start, to - start).and_then(|range| block.get(range));
            let into = range(from - offset, to - offset).and_then(|range| buf.get_mut(range));
            if let (Some(of), Some(into)) = (of, into) {
                into.copy_from_slice(of);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

fn range(start: u64, end: u64) -> Option<std::ops::Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn newer_blocks_cover_older_ones_wherever_a_read_begins() {
        let mut bytes: Vec<u8> = (0..64).collect();
        bytes[40..44].fill(0);
        let places = [(1, (40, Escaped::Yes)), (3, (48, Escaped::No))].into_iter().collect();
        let volume = Overlay::new(Arc::new(bytes.clone()), 8, places);
        let mut expected = bytes.clone();
        expected[8..16].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 44, 45, 46, 47]);
        expected[24..32].copy_from_slice(&[48, 49, 50, 51, 52, 53, 54, 55]);
        for start in 0..63 {
            for end in start + 1..64 {
                let read = volume.read_vec(start as u64, end - start).unwrap();
                assert_eq!(read, expected[start..end], "{start}..{end}");
            }
        }
    }
}
