//! The one seam through which everything that parses a disk reads it.
//!
//! A parser takes `&dyn ReadAt` and nothing else, so that a `Vec<u8>` is a disk in a test or a
//! fuzz target. Must not know: devices, direct I/O, partitions, file systems.

#![forbid(unsafe_code)]

use std::io;

/// Random-access reading of a fixed number of bytes.
pub trait ReadAt: Sync {
    /// Fills `buf` from `offset` (bytes).
    ///
    /// # Errors
    /// `UnexpectedEof` when the range ends after [`ReadAt::size`]; otherwise what the device says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Reads `len` bytes at `offset` into a new buffer.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`]. The range is checked against the size before anything is allocated.
    fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        check_range(offset, len, self.size())?;
        let mut buf = vec![0; len];
        self.read_at(offset, &mut buf)?;
        Ok(buf)
    }
}

/// Says whether `len` bytes at `offset` lie within `size`.
///
/// # Errors
/// `UnexpectedEof`, naming the range.
pub fn check_range(offset: u64, len: usize, size: u64) -> io::Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
    match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{len} bytes at offset {offset} reach past the end at {size}"),
        )),
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.as_slice().size()
    }
}

/// A part of a disk, seen as a disk: what a file system reader gets for a partition.
pub struct Window<'a> {
    inner: &'a dyn ReadAt,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    /// The `len` bytes from `start` of `inner`; reading past the end of `inner` fails when tried.
    #[must_use]
    pub fn new(inner: &'a dyn ReadAt, start: u64, len: u64) -> Self {
        Self { inner, start, len }
    }
}

impl ReadAt for Window<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        let offset = self.start.checked_add(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.inner.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.len
    }
}

/// Little- and big-endian integers at fixed places of a buffer; `None` past its end.
pub mod field {
    macro_rules! integer {
        ($name:ident, $int:ty, $from:ident, $doc:literal) => {
            #[doc = $doc]
            #[must_use]
            pub fn $name(bytes: &[u8], at: usize) -> Option<$int> {
                let end = at.checked_add(size_of::<$int>())?;
                Some(<$int>::$from(bytes.get(at..end)?.try_into().ok()?))
            }
        };
    }
    integer!(le16, u16, from_le_bytes, "Little-endian 16 bits at byte `at`.");
    integer!(le32, u32, from_le_bytes, "Little-endian 32 bits at byte `at`.");
    integer!(le64, u64, from_le_bytes, "Little-endian 64 bits at byte `at`.");
    integer!(be16, u16, from_be_bytes, "Big-endian 16 bits at byte `at`.");
    integer!(be32, u32, from_be_bytes, "Big-endian 32 bits at byte `at`.");
    integer!(be64, u64, from_be_bytes, "Big-endian 64 bits at byte `at`.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reads_its_part_and_nothing_past_it() {
        let disk: Vec<u8> = (0..100).collect();
        let window = Window::new(&disk, 10, 20);
        assert_eq!(window.read_vec(5, 3).unwrap(), [15, 16, 17]);
        assert_eq!(window.read_vec(18, 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(window.read_vec(u64::MAX, 3).is_err());
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        assert!(vec![0u8; 8].read_vec(0, usize::MAX).is_err());
    }
}
