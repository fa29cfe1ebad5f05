//! A disk's file, laid out before anything is written: which block goes where, and the tables that say so.
//!
//! What is known beforehand can be written in any order, from many threads, as fast as it is read. Must not know:
//! single formats, where the bytes come from.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::blocks::Blocks;
use crate::disk::identity::{Identity, of_new_file};
use crate::disk::target::{Replace, Target, TargetDisk};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

/// Takes bytes of tables and where in the file they go.
pub type Put<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

/// What a file says of itself. The same words give the same file.
#[derive(Clone, Debug)]
pub struct Label {
    /// Names the disk among all others.
    pub id: Uuid,
    /// Seconds since 1970.
    pub created: u64,
    /// What the file is called once it is finished, for formats that say it within.
    pub file_name: String,
}

/// A file, laid out.
pub trait Layout: Send + Sync {
    /// Where the disk's byte at `offset` lies in the file, and for how many bytes that goes on, which is never 0. No
    /// place for what reads as zeros.
    fn place(&self, offset: u64) -> (Option<u64>, u64);

    /// The file's size in bytes.
    fn file_size(&self) -> u64;

    /// Gives everything that is not data to `put`, in ascending order.
    ///
    /// # Errors
    /// What `put` says.
    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()>;
}

/// The bytes of a disk as they are, and nothing else.
pub struct Flat {
    size: u64,
}

impl Flat {
    /// Of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size }
    }
}

impl Layout for Flat {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        (Some(offset), u64::MAX)
    }

    fn file_size(&self) -> u64 {
        self.size
    }

    fn write_tables(&self, _put: &mut Put<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Marked blocks, one after another.
pub struct Sequence {
    /// The blocks.
    pub blocks: Blocks,
    /// Where the first of them begins in the file.
    pub first: u64,
    /// From one's beginning to the next one's.
    pub stride: u64,
}

impl Sequence {
    /// As [`Layout::place`].
    #[must_use]
    pub fn place(&self, offset: u64) -> (Option<u64>, u64) {
        let size = self.blocks.block_size();
        let within = offset % size;
        let place = self.block(offset / size).map(|place| place.saturating_add(within));
        (place, size - within)
    }

    /// Where a block begins in the file, if it is there.
    #[must_use]
    pub fn block(&self, block: u64) -> Option<u64> {
        Some(self.first.saturating_add(self.blocks.number(block)?.saturating_mul(self.stride)))
    }

    /// Where the last of them ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.blocks.marked().saturating_mul(self.stride))
    }
}

/// The file, to be written as if it were the disk. Nothing happens before [`Target::begin`].
pub struct DiskFile {
    file: TargetDisk,
    identity: Identity,
    layout: Box<dyn Layout>,
}

impl DiskFile {
    /// A new file at `path`, in place of one that is there, for a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(path: &Path, size: u64, layout: Box<dyn Layout>) -> Result<Self> {
        let file = TargetDisk::new_file(path, layout.file_size(), Replace::Yes)?;
        Ok(Self { identity: of_new_file(file.path(), size), file, layout })
    }

    /// Calls `visit` for each stretch of `extent` that lies together in the file, with its place there.
    fn for_each_stretch(
        &self,
        extent: Extent,
        visit: &mut dyn FnMut(Extent, Option<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = extent.start;
        while at < extent.end() {
            let (place, len) = self.layout.place(at);
            let mut end = at.saturating_add(len.max(1)).min(extent.end());
            while end < extent.end() {
                let (next, len) = self.layout.place(end);
                if next != place.map(|place| place + (end - at)) {
                    break;
                }
                end = end.saturating_add(len.max(1)).min(extent.end());
            }
            visit(Extent::between(at, end), place)?;
            at = end;
        }
        Ok(())
    }
}

fn part(extent: Extent, of: Extent) -> std::ops::Range<usize> {
    let start = usize::try_from(extent.start - of.start).unwrap_or(usize::MAX);
    start..start.saturating_add(usize::try_from(extent.len).unwrap_or(usize::MAX))
}

impl ReadAt for DiskFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.identity.size)?;
        let whole = Extent::new(offset, buf.len() as u64);
        self.for_each_stretch(whole, &mut |stretch, place| {
            let bytes = buf.get_mut(part(stretch, whole)).unwrap_or_default();
            match place {
                Some(place) => self.file.read_at(place, bytes),
                None => {
                    bytes.fill(0);
                    Ok(())
                }
            }
        })
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Target for DiskFile {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn begin(&self) -> Result<()> {
        self.file.begin()?;
        let put = &mut |offset: u64, bytes: &[u8]| self.file.write_at(offset, bytes);
        self.layout.write_tables(put).map_err(Error::io("write the tables of", &self.identity.path))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_range(offset, bytes.len(), self.identity.size)?;
        let whole = Extent::new(offset, bytes.len() as u64);
        self.for_each_stretch(whole, &mut |stretch, place| {
            let bytes = bytes.get(part(stretch, whole)).unwrap_or_default();
            match place {
                Some(place) => self.file.write_at(place, bytes),
                None if bytes.iter().all(|byte| *byte == 0) => Ok(()),
                None => Err(io::Error::other("there is no place for data where none was expected")),
            }
        })
    }

    fn reserve(&self, extents: &ExtentSet) -> io::Result<()> {
        let mut places = ExtentSet::new();
        for extent in extents.iter() {
            self.for_each_stretch(extent, &mut |stretch, place| {
                place.into_iter().for_each(|place| places.insert(Extent::new(place, stretch.len)));
                Ok(())
            })?;
        }
        self.file.reserve(&places)
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        self.for_each_stretch(extent, &mut |stretch, place| match place {
            Some(place) => self.file.zero(Extent::new(place, stretch.len)),
            None => Ok(()),
        })
    }

    fn discard(&self, _extent: Extent) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn is_blank(&self) -> bool {
        true
    }
}

/// Overwrites a field; a buffer that is too short for it stays as it is.
pub(super) fn put_field(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        field.copy_from_slice(value);
    }
}

/// Gives a table of integers to `put`, a piece at a time, leaving out pieces that are `empty` all over.
pub(super) fn put_table<const N: usize>(
    put: &mut Put<'_>,
    offset: u64,
    entries: u64,
    empty: [u8; N],
    entry: &dyn Fn(u64) -> [u8; N],
) -> io::Result<()> {
    const PIECE: usize = 16_384;
    let mut piece = Vec::new();
    for first in (0..entries).step_by(PIECE) {
        piece.clear();
        for index in first..entries.min(first + PIECE as u64) {
            piece.extend_from_slice(&entry(index));
        }
        if empty != [0; N] || piece.iter().any(|byte| *byte != 0) {
            put(offset + first * N as u64, &piece)?;
        }
    }
    Ok(())
}
