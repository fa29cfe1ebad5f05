//! Reading a disk or a disk-image file. It is opened read-only, always.
//!
//! A block device is read with direct I/O only: its page cache may be older than what a mounted file
//! system has written. A file is read from the page cache where it is there, and directly where not.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

use super::identity::{self, Identity};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

/// What direct I/O wants of position, length and memory. More than most devices ask for.
pub const DIRECT_ALIGN: usize = 4096;

/// Something that a capture reads.
pub trait Source: ReadAt + Send {
    /// Who it is.
    fn identity(&self) -> &Identity;

    /// The bytes that may differ from zero: for a sparse file, without its holes.
    fn data_extents(&self) -> ExtentSet {
        ExtentSet::whole(self.size())
    }

    /// Size of a sector in bytes; none for a file, whose partition table tells.
    fn sector_size(&self) -> Option<u32>;

    /// Fills as much of `buf` as is in memory and needs no waiting for a disk; gives how much that was.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> usize {
        let _ = (offset, buf);
        0
    }

    /// Whether it is gone altogether, after a read has failed: the reason, in words.
    fn vanished(&self) -> Option<String> {
        None
    }
}

/// A block device or a disk-image file.
pub struct SourceDisk {
    path: PathBuf,
    identity: Identity,
    buffered: File,
    direct: Option<File>,
    is_device: bool,
    /// Major and minor number, to know the device again.
    device: u64,
    sector_size: Option<u32>,
}

impl SourceDisk {
    /// Opens `path` read-only.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Usage`] when it is neither a device nor a file.
    pub fn open(path: &Path) -> Result<Self> {
        let buffered = File::open(path).map_err(Error::io("open", path))?;
        let metadata = buffered.metadata().map_err(Error::io("look at", path))?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(Error::Usage(format!("{} is neither a block device nor a disk-image file", path.display())));
        }
        let direct = File::options().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path).ok();
        let identity = if is_device { identity::of_device(path) } else { identity::of_file(path) };
        let identity = identity.map_err(Error::io("look at", path))?;
        if identity.size == 0 {
            return Err(Error::Usage(format!("{} has no bytes", path.display())));
        }
        let sector_size = is_device.then_some(identity.logical_sector);
        Ok(Self { path: path.to_owned(), identity, buffered, direct, is_device, device: metadata.rdev(), sector_size })
    }

    /// Sets the sector size of a disk-image file, which has none of its own. A device keeps its own.
    pub fn set_sector_size(&mut self, bytes: Option<u32>) {
        if let (false, Some(bytes)) = (self.is_device, bytes) {
            self.sector_size = Some(bytes);
            self.identity.logical_sector = bytes;
        }
    }

    fn read_page_cache(&self, offset: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let mut slices = [io::IoSliceMut::new(rest)];
            match rustix::io::preadv2(&self.buffered, &mut slices, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(_) => break,
                Ok(n) => done += n,
            }
        }
        done
    }

    fn read_device(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else { return self.buffered.read_exact_at(buf, offset) };
        if is_aligned(offset, buf) {
            return direct.read_exact_at(buf, offset).or_else(|error| match error.raw_os_error() {
                Some(nix::libc::EINVAL) => self.buffered.read_exact_at(buf, offset),
                _ => Err(error),
            });
        }
        // A bounce buffer over the whole sectors around, and no more: next to a bad sector, every good one counts.
        let sector = u64::from(self.identity.logical_sector.max(512));
        let start = offset - offset % sector;
        let end = (offset + buf.len() as u64).next_multiple_of(sector);
        if end > self.size() {
            return self.buffered.read_exact_at(buf, offset);
        }
        let len = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut bounce = AlignedBuf::new(len);
        direct.read_exact_at(bounce.as_mut_slice(), start)?;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        buf.copy_from_slice(bounce.as_mut_slice().get(skip..skip + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

pub(super) fn is_aligned(offset: u64, buf: &[u8]) -> bool {
    offset.is_multiple_of(DIRECT_ALIGN as u64)
        && buf.len().is_multiple_of(DIRECT_ALIGN)
        && buf.as_ptr().addr().is_multiple_of(DIRECT_ALIGN)
}

impl ReadAt for SourceDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        if self.is_device {
            return self.read_device(offset, buf);
        }
        let done = self.read_page_cache(offset, buf);
        let (offset, rest) = (offset + done as u64, buf.get_mut(done..).unwrap_or_default());
        match &self.direct {
            Some(direct) if !rest.is_empty() && is_aligned(offset, rest) => {
                direct.read_exact_at(rest, offset).or_else(|_| self.buffered.read_exact_at(rest, offset))
            }
            _ => self.buffered.read_exact_at(rest, offset),
        }
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Source for SourceDisk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> usize {
        let is_within = check_range(offset, buf.len(), self.size()).is_ok();
        if is_within && !self.is_device { self.read_page_cache(offset, buf) } else { 0 }
    }

    fn data_extents(&self) -> ExtentSet {
        if self.is_device {
            return ExtentSet::whole(self.size());
        }
        let mut extents = ExtentSet::new();
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(&self.buffered, SeekFrom::Data(at)) {
                Ok(data) => data,
                // No data behind `at`.
                Err(rustix::io::Errno::NXIO) => return extents,
                // A file system that knows no holes.
                Err(_) => return ExtentSet::whole(self.size()),
            };
            match rustix::fs::seek(&self.buffered, SeekFrom::Hole(data)) {
                Ok(hole) if hole > data => {
                    extents.insert(Extent::between(data, hole.min(self.size())));
                    at = hole;
                }
                _ => return ExtentSet::whole(self.size()),
            }
            if at >= self.size() {
                return extents;
            }
        }
    }

    fn vanished(&self) -> Option<String> {
        let now = match std::fs::metadata(&self.path) {
            Ok(now) => now,
            Err(error) => return Some(error.to_string()),
        };
        if !self.is_device {
            return (now.len() < self.size())
                .then(|| format!("the file has {} bytes now, not {}", now.len(), self.size()));
        }
        if now.rdev() != self.device {
            return Some("another device has its name now".to_owned());
        }
        match identity::of_device(&self.path) {
            Ok(identity) if identity.size == self.size() => None,
            Ok(identity) => Some(format!("it has {} bytes now, not {}", identity.size, self.size())),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// Memory that direct I/O accepts.
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes at an address that is a multiple of [`DIRECT_ALIGN`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + DIRECT_ALIGN];
        let start = bytes.as_ptr().addr().next_multiple_of(DIRECT_ALIGN) - bytes.as_ptr().addr();
        Self { bytes, start, len }
    }

    /// The first `len` bytes, to be filled; the memory grows when it is too small.
    pub fn of_len(&mut self, len: usize) -> &mut [u8] {
        if len > self.len {
            *self = Self::new(len);
        }
        &mut self.bytes[self.start..self.start + len]
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
