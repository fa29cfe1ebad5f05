//! The bytes of a disk, wherever they come from, and the files that a disk file is made of.
//!
//! Must not know: formats.

use super::error::DiskError;
use crate::disk::source::{Source, SourceDisk};
use crate::extent::{Extent, ExtentSet};
use crate::image_disk::ImageDisk;
use crate::read_at::{ReadAt, check_range};

/// A disk, or a file that one is made of.
pub trait Contents: ReadAt + Send {
    /// The bytes that may differ from zero.
    ///
    /// # Errors
    /// [`DiskError`] when the tables that tell are damaged.
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        Ok(ExtentSet::whole(self.size()))
    }
}

impl Contents for Vec<u8> {}

impl Contents for ImageDisk {}

impl Contents for SourceDisk {
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        Ok(Source::data_extents(self))
    }
}

/// Opens the files that a disk file names.
pub trait Neighbours {
    /// A file whose bytes are wanted as they are.
    ///
    /// # Errors
    /// [`DiskError::Other`], [`DiskError::Unsupported`] when it must not be opened.
    fn file(&self, name: &[u8]) -> Result<Box<dyn Contents>, DiskError>;

    /// The disk that is in a file: of the format of that name, or of what its content says.
    ///
    /// # Errors
    /// As [`Neighbours::file`].
    fn disk(&self, name: &[u8], format: Option<&[u8]>) -> Result<Box<dyn Contents>, DiskError>;
}

/// What a disk file was found to hold.
pub struct Disk {
    /// The disk.
    pub contents: Box<dyn Contents>,
    /// Size of a sector in bytes, when the file tells.
    pub sector_size: Option<u32>,
    /// What should be known about it.
    pub notes: Vec<String>,
}

/// Fills `buf` from `offset`; what lies behind the file's end is zeros.
pub(super) fn read_padded(file: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
    let there = usize::try_from(file.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    let (read, rest) = buf.split_at_mut(there);
    rest.fill(0);
    if read.is_empty() { Ok(()) } else { file.read_at(offset, read) }
}

/// Parts of files, or zeros, one after the other.
pub(super) struct Joined {
    /// Where each part lies on the disk, ascending without gaps; what it is, and where in that it begins.
    parts: Vec<(Extent, Part)>,
    size: u64,
}

/// What a part of a disk is.
pub(super) enum Part {
    Zero,
    Of(Box<dyn Contents>, u64),
}

impl Joined {
    pub(super) fn new() -> Self {
        Self { parts: Vec::new(), size: 0 }
    }

    /// Adds `len` bytes. They must lie within what they are of.
    pub(super) fn push(&mut self, len: u64, part: Part) -> Result<(), DiskError> {
        if let Part::Of(contents, from) = &part
            && from.checked_add(len).is_none_or(|end| end > contents.size())
        {
            let (has, wanted) = (contents.size(), from.saturating_add(len));
            return Err(DiskError::damaged(
                0,
                format!("a part of the disk has {has} bytes of {wanted}: it is cut off"),
            ));
        }
        let end = self.size.checked_add(len).filter(|&end| end < 1 << 62);
        let end = end.ok_or_else(|| DiskError::damaged(0, "the parts of the disk are larger than any disk"))?;
        self.parts.push((Extent::new(self.size, len), part));
        self.size = end;
        Ok(())
    }
}

impl ReadAt for Joined {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        let (mut at, mut rest) = (offset, buf);
        let first = self.parts.partition_point(|(place, _)| place.end() <= offset);
        for (place, part) in self.parts.iter().skip(first) {
            let len = usize::try_from(place.end() - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            match part {
                Part::Zero => now.fill(0),
                Part::Of(contents, from) => contents.read_at(from + (at - place.start), now)?,
            }
            (at, rest) = (at + len as u64, later);
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Contents for Joined {
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        let mut data = ExtentSet::new();
        for (place, part) in &self.parts {
            if let Part::Of(contents, from) = part {
                for extent in contents.data_extents()?.intersect(Extent::new(*from, place.len)) {
                    data.insert(Extent::new(place.start + (extent.start - from), extent.len));
                }
            }
        }
        Ok(data)
    }
}
