//! A file whose tables are read in pages that are kept: no table is ever in memory as a whole.
//!
//! Must not know: formats.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::cache::{Cache, Share};
use super::contents::Contents;
use super::error::DiskError;
use crate::read_at::ReadAt;

const PAGE: u64 = 64 << 10;

/// A file with tables.
pub(super) struct Paged {
    file: Box<dyn Contents>,
    pages: Share,
}

/// Entries of a table, one after the other.
pub(super) struct Row {
    page: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Row {
    /// The entries' bytes: at least one entry.
    pub(super) fn bytes(&self) -> &[u8] {
        self.page.get(self.range.clone()).unwrap_or_default()
    }
}

impl Paged {
    pub(super) fn new(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Self {
        Self { file, pages: cache.share() }
    }

    /// The file.
    pub(super) fn file(&self) -> &dyn Contents {
        &*self.file
    }

    /// Entries of `entry` bytes each (at most 16) from `offset`: as many of the `count` that there are as one page
    /// holds, at least one.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when the file ends before; what reading says.
    pub(super) fn row(&self, offset: u64, entry: usize, count: u64) -> Result<Row, DiskError> {
        let size = self.file.size();
        let wanted = (entry as u64).saturating_mul(count);
        let page = offset - offset % PAGE;
        let fits = (page + PAGE).min(size).saturating_sub(offset).min(wanted);
        let fits = fits - fits % entry as u64;
        if fits == 0 {
            let end = offset.checked_add(entry as u64).filter(|&end| end <= size);
            end.ok_or_else(|| DiskError::damaged(offset, format!("a table reaches behind the file's end at {size}")))?;
            // An entry on two pages.
            let bytes = self.file.read_vec(offset, entry)?;
            return Ok(Row { page: Arc::new(bytes), range: 0..entry });
        }
        let bytes = self.pages.get(page, || {
            let len = usize::try_from(PAGE.min(size - page)).map_err(io::Error::other)?;
            self.file.read_vec(page, len)
        })?;
        let start = usize::try_from(offset - page).map_err(io::Error::other)?;
        let len = usize::try_from(fits).map_err(io::Error::other)?;
        Ok(Row { page: bytes, range: start..start + len })
    }
}

/// The `len` bytes at `offset` of a file's header.
///
/// # Errors
/// [`DiskError::Damaged`] when the file ends before.
pub(super) fn header(file: &dyn ReadAt, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
    let size = file.size();
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(file.read_vec(offset, len)?),
        _ => Err(DiskError::damaged(offset, format!("a header reaches behind the file's end at {size}"))),
    }
}
