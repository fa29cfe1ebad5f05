//! What was read of a volume lately, in pages, so that small reads side by side cost one.
//!
//! Metadata is read in pieces of a few bytes to a few kilobytes; each of them would be a walk down the block map.
//! Reads of a page and more go through. Must not know: file systems, images.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Volume;
use crate::progress::lock;
use crate::read_at::{ReadAt, check_range};

const PAGE_BYTES: u64 = 32 << 10;
/// 16 MiB in all.
const PAGES_MAX: usize = 512;

struct Page {
    bytes: Vec<u8>,
    used: AtomicU64,
}

/// A volume whose last pages are kept.
pub(super) struct Pages {
    inner: Volume,
    pages: Mutex<HashMap<u64, Arc<Page>>>,
    clock: AtomicU64,
}

impl Pages {
    pub(super) fn new(inner: Volume) -> Self {
        Self { inner, pages: Mutex::default(), clock: AtomicU64::new(0) }
    }

    fn page(&self, number: u64) -> io::Result<Arc<Page>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(page) = lock(&self.pages).get(&number) {
            page.used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(page));
        }
        let start = number.saturating_mul(PAGE_BYTES);
        let len = self.inner.size().saturating_sub(start).min(PAGE_BYTES);
        let bytes = self.inner.read_vec(start, usize::try_from(len).map_err(io::Error::other)?)?;
        let page = Arc::new(Page { bytes, used: AtomicU64::new(now) });
        let mut pages = lock(&self.pages);
        if pages.len() >= PAGES_MAX {
            // The older half goes at once, so that looking for it is rare.
            let mut ages: Vec<u64> = pages.values().map(|page| page.used.load(Ordering::Relaxed)).collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied().unwrap_or(0);
            pages.retain(|_, page| page.used.load(Ordering::Relaxed) > middle);
        }
        pages.insert(number, Arc::clone(&page));
        Ok(page)
    }
}

impl ReadAt for Pages {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.inner.size())?;
        if buf.len() as u64 >= PAGE_BYTES {
            return self.inner.read_at(offset, buf);
        }
        let (mut offset, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let page = self.page(offset / PAGE_BYTES)?;
            let within = usize::try_from(offset % PAGE_BYTES).unwrap_or(0);
            let bytes = page.bytes.get(within..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = bytes.len().min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(bytes.get(..len).unwrap_or_default());
            offset = offset.saturating_add(len as u64);
            rest = after;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_the_same_across_pages_and_after_many() {
        let bytes: Vec<u8> = (0..(40 * PAGE_BYTES + 77)).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let pages = Pages::new(Arc::new(bytes.clone()));
        for round in 0..2000u64 {
            let offset = round * 7919 % (bytes.len() as u64 - 9000);
            let len = 1 + usize::try_from(round * 31 % 9000).unwrap();
            let start = usize::try_from(offset).unwrap();
            assert_eq!(pages.read_vec(offset, len).unwrap(), bytes[start..start + len]);
        }
        let size = bytes.len() as u64;
        assert_eq!(pages.read_vec(size - 3, 3).unwrap(), bytes[bytes.len() - 3..]);
        assert!(pages.read_vec(size - 3, 4).is_err());
    }
}
