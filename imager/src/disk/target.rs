//! Writing a disk or a disk-image file. What may be overwritten is decided elsewhere, before.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};

use super::identity::{self, Identity};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::read_at::{ReadAt, check_range};

/// Something that a restore writes.
pub trait Target: ReadAt + Send {
    /// Who it is.
    fn identity(&self) -> &Identity;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the device says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the bytes read as zeros.
    ///
    /// # Errors
    /// What the device says.
    fn zero(&self, extent: Extent) -> io::Result<()>;

    /// Tells the device that nobody needs the bytes. What they read as afterwards is undefined.
    ///
    /// # Errors
    /// What the device says; one that cannot discard is no reason to stop.
    fn discard(&self, extent: Extent) -> io::Result<()>;

    /// Everything that was written is on the medium when this returns.
    ///
    /// # Errors
    /// What the device says.
    fn flush(&self) -> io::Result<()>;

    /// True when every byte that was not written reads as zero: a file that was made just now.
    fn is_blank(&self) -> bool {
        false
    }
}

/// A block device or a disk-image file.
pub struct TargetDisk {
    file: File,
    direct: Option<File>,
    identity: Identity,
    is_device: bool,
    is_blank: bool,
}

impl TargetDisk {
    /// Opens a block device for this process alone.
    ///
    /// # Errors
    /// [`Error::TargetRefused`] when something else uses it, [`Error::Io`] otherwise.
    pub fn open_device(path: &Path) -> Result<Self> {
        let identity = identity::of_device(path).map_err(Error::io("look at", path))?;
        // On a block device, O_EXCL without O_CREAT asks the kernel whether it is mounted or claimed.
        let flags = OFlags::EXCL.bits().cast_signed();
        let file = File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
            if error.raw_os_error() == Some(nix::libc::EBUSY) {
                Error::refused(
                    path,
                    "it is in use: mounted, or part of a RAID, an LVM group or an open encrypted volume",
                )
            } else {
                Error::io("open", path)(error)
            }
        })?;
        Ok(Self { file, direct: open_direct(path), identity, is_device: true, is_blank: false })
    }

    /// Makes a new sparse file of `size` bytes; with `replace` also in place of one that is there.
    ///
    /// # Errors
    /// [`Error::TargetRefused`] when there is one and it may not be replaced, [`Error::Io`].
    pub fn create_file(path: &Path, size: u64, replace: Replace) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true);
        match replace {
            Replace::No => options.create_new(true),
            Replace::Yes => options.create(true).truncate(true),
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::refused(path, "the file exists; --force overwrites it"),
            _ => Error::io("create", path)(error),
        })?;
        file.set_len(size).map_err(Error::io("set the size of", path))?;
        Self::from_file(file, path, true)
    }

    /// Opens a file that is there, to change what differs. It is made larger when it is smaller than `size`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_file(path: &Path, size: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("look at", path))?.len();
        if len < size {
            file.set_len(size).map_err(Error::io("set the size of", path))?;
        }
        Self::from_file(file, path, false)
    }

    /// Opens a file that is there, only to plan.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_file_read_only(path: &Path) -> Result<Self> {
        Self::from_file(File::open(path).map_err(Error::io("open", path))?, path, false)
    }

    /// Stands in for a file that is not there yet, only to plan; nothing appears at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no memory for an unnamed file.
    pub fn stand_in(path: &Path, size: u64) -> Result<Self> {
        let unnamed = rustix::fs::memfd_create("stand-in", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(unnamed.map_err(io::Error::from).map_err(Error::io("stand in for", path))?);
        file.set_len(size).map_err(Error::io("stand in for", path))?;
        let mut identity = identity::of_file(Path::new("/dev/null")).map_err(Error::io("stand in for", path))?;
        (identity.path, identity.size) = (path.to_owned(), size);
        Ok(Self { file, direct: None, identity, is_device: false, is_blank: true })
    }

    fn from_file(file: File, path: &Path, is_blank: bool) -> Result<Self> {
        let identity = identity::of_file(path).map_err(Error::io("look at", path))?;
        Ok(Self { file, direct: open_direct(path), identity, is_device: false, is_blank })
    }

    /// Asks the kernel to read the partition table anew; the reason when it does not.
    #[must_use]
    pub fn reread_table(&self) -> Option<io::Error> {
        if self.is_device { super::sys::reread_partition_table(&self.file).err() } else { None }
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.identity.path.clone()
    }
}

/// The same target for direct I/O; none where the file system has no such thing.
fn open_direct(path: &Path) -> Option<File> {
    File::options().read(true).write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path).ok()
}

/// Whether a file that is there may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It may.
    Yes,
    /// It may not.
    No,
}

impl ReadAt for TargetDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        // What the medium has, not what the page cache remembers of it.
        match &self.direct {
            Some(direct) if super::source::is_aligned(offset, buf) => {
                direct.read_exact_at(buf, offset).or_else(|_| self.file.read_exact_at(buf, offset))
            }
            _ => self.file.read_exact_at(buf, offset),
        }
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Target for TargetDisk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_range(offset, bytes.len(), self.size())?;
        // Without a detour through the page cache, which costs more than the decompression.
        match &self.direct {
            Some(direct) if super::source::is_aligned(offset, bytes) => {
                direct.write_all_at(bytes, offset).or_else(|error| match error.raw_os_error() {
                    Some(nix::libc::EINVAL) => self.file.write_all_at(bytes, offset),
                    _ => Err(error),
                })
            }
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let mode = if self.is_device {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        };
        if rustix::fs::fallocate(&self.file, mode, extent.start, extent.len).is_ok() {
            return Ok(());
        }
        // No such service here, or not at this alignment.
        let zeros = vec![0; 1 << 20];
        let mut at = extent.start;
        while at < extent.end() {
            let len = usize::try_from(extent.end() - at).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write_all_at(zeros.get(..len).unwrap_or_default(), at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> io::Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, mode, extent.start, extent.len)?)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn is_blank(&self) -> bool {
        self.is_blank
    }
}
