//! Writing a disk or a disk-image file. What may be overwritten is decided elsewhere, before.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::identity::{self, Identity};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

/// Something that a restore writes.
pub trait Target: ReadAt + Send {
    /// Who it is.
    fn identity(&self) -> &Identity;

    /// The plan is made and will be carried out: whatever is to be made or opened for writing, now is the time.
    ///
    /// # Errors
    /// [`Error::TargetRefused`], [`Error::Io`].
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the device says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Sets room aside for what will be written, where that can run out: better now than when half of it is there.
    /// Without it a file system also finds the room write by write, one after another.
    ///
    /// # Errors
    /// When there is not enough.
    fn reserve(&self, _extents: &ExtentSet) -> io::Result<()> {
        Ok(())
    }

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
    identity: Identity,
    kind: Kind,
    /// For reading while it is planned; none when there is nothing to read yet.
    planned: Option<Handle>,
    /// Once writing has begun.
    opened: OnceLock<Handle>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device,
    NewFile(Replace),
    FileInPlace,
}

struct Handle {
    file: File,
    direct: Option<File>,
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
        let opened = OnceLock::from(Handle { file, direct: open_direct(path, Writing::Yes) });
        Ok(Self { identity, kind: Kind::Device, planned: None, opened })
    }

    /// A new sparse file of `size` bytes, with [`Replace::Yes`] also in place of one that is there. Nothing happens
    /// at `path` before [`Target::begin`].
    ///
    /// # Errors
    /// [`Error::TargetRefused`] when there is one and it may not be replaced.
    pub fn new_file(path: &Path, size: u64, replace: Replace) -> Result<Self> {
        if replace == Replace::No && path.exists() {
            return Err(exists(path));
        }
        let path = std::path::absolute(path).map_err(Error::io("look at", path))?;
        let identity = identity::of_new_file(path, size);
        Ok(Self { identity, kind: Kind::NewFile(replace), planned: None, opened: OnceLock::new() })
    }

    /// A file that is there, to change what differs. One that is smaller than `size` grows at [`Target::begin`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file_in_place(path: &Path, size: u64) -> Result<Self> {
        let mut identity = identity::of_file(path).map_err(Error::io("look at", path))?;
        identity.size = identity.size.max(size);
        let file = File::open(path).map_err(Error::io("open", path))?;
        let planned = Some(Handle { file, direct: open_direct(path, Writing::No) });
        Ok(Self { identity, kind: Kind::FileInPlace, planned, opened: OnceLock::new() })
    }

    /// Opens the file for writing, and makes it if need be.
    fn open_file(&self, replace: Option<Replace>) -> Result<File> {
        let (path, size) = (&self.identity.path, self.identity.size);
        let mut options = File::options();
        options.read(true).write(true);
        match replace {
            Some(Replace::No) => options.create_new(true),
            Some(Replace::Yes) => options.create(true).truncate(true),
            None => &mut options,
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Error::io("open", path)(error),
        })?;
        if file.metadata().map_err(Error::io("look at", path))?.len() < size {
            file.set_len(size).map_err(Error::io("set the size of", path))?;
        }
        Ok(file)
    }

    fn file(&self) -> io::Result<&File> {
        self.opened.get().map(|handle| &handle.file).ok_or_else(|| io::Error::other("writing has not begun"))
    }

    /// Asks the kernel to read the partition table anew; the reason when it does not.
    #[must_use]
    pub fn reread_table(&self) -> Option<io::Error> {
        let file = self.file().ok().filter(|_| self.kind == Kind::Device)?;
        // Some devices never show partitions, such as loop devices that were not asked to.
        super::sys::reread_partition_table(file).err().filter(|error| error.raw_os_error() != Some(nix::libc::EINVAL))
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.identity.path.clone()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Yes,
    No,
}

/// The same target for direct I/O; none where the file system has no such thing.
fn open_direct(path: &Path, writing: Writing) -> Option<File> {
    let mut options = File::options();
    options.read(true).write(writing == Writing::Yes).custom_flags(OFlags::DIRECT.bits().cast_signed());
    options.open(path).ok()
}

fn exists(path: &Path) -> Error {
    Error::refused(path, "the file exists; --force overwrites it")
}

impl Handle {
    /// What lies behind a file's end reads as zeros: it will be when the file has grown.
    fn read_at(&self, offset: u64, buf: &mut [u8], kind: Kind) -> io::Result<()> {
        // What the medium has, not what the page cache remembers of it.
        if let Some(direct) = self.direct.as_ref().filter(|_| super::source::is_aligned(offset, buf))
            && direct.read_exact_at(buf, offset).is_ok()
        {
            return Ok(());
        }
        match self.file.read_exact_at(buf, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && kind != Kind::Device => {
                let len = self.file.metadata()?.len();
                let there = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
                let (there, behind) = buf.split_at_mut(there);
                behind.fill(0);
                self.file.read_exact_at(there, offset)
            }
            other => other,
        }
    }
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
        match self.opened.get().or(self.planned.as_ref()) {
            Some(handle) => handle.read_at(offset, buf, self.kind),
            None => {
                buf.fill(0);
                Ok(())
            }
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

    fn begin(&self) -> Result<()> {
        let file = match self.kind {
            Kind::Device => return Ok(()),
            Kind::NewFile(replace) => self.open_file(Some(replace))?,
            Kind::FileInPlace => self.open_file(None)?,
        };
        let direct = open_direct(&self.identity.path, Writing::Yes);
        self.opened.get_or_init(|| Handle { file, direct });
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check_range(offset, bytes.len(), self.size())?;
        let file = self.file()?;
        // Without a detour through the page cache, which costs more than the decompression.
        match self.opened.get().and_then(|handle| handle.direct.as_ref()) {
            Some(direct) if super::source::is_aligned(offset, bytes) => {
                direct.write_all_at(bytes, offset).or_else(|error| match error.raw_os_error() {
                    Some(nix::libc::EINVAL) => file.write_all_at(bytes, offset),
                    _ => Err(error),
                })
            }
            _ => file.write_all_at(bytes, offset),
        }
    }

    fn reserve(&self, extents: &ExtentSet) -> io::Result<()> {
        if self.kind == Kind::Device {
            return Ok(());
        }
        let file = self.file()?;
        for extent in extents.iter() {
            match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, extent.start, extent.len) {
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(error.into()),
                // No such service here: it will be seen when it is written.
                Err(_) => return Ok(()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let file = self.file()?;
        // On a device the first is granted only where the freed space is sure to read as zeros.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zeros = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let modes = if self.kind == Kind::Device { &[hole, zeros][..] } else { &[hole] };
        if modes.iter().any(|mode| rustix::fs::fallocate(file, *mode, extent.start, extent.len).is_ok()) {
            return Ok(());
        }
        // No such service here, or not at this alignment.
        let zeros = vec![0; 1 << 20];
        let mut at = extent.start;
        while at < extent.end() {
            let len = usize::try_from(extent.end() - at).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(zeros.get(..len).unwrap_or_default(), at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> io::Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let file = self.file()?;
        if self.kind == Kind::Device {
            // Punching a hole into a block device writes zeros, which is not what was asked for.
            return super::sys::discard(file, extent);
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(file, mode, extent.start, extent.len)?)
    }

    fn flush(&self) -> io::Result<()> {
        self.file()?.sync_all()
    }

    fn is_blank(&self) -> bool {
        matches!(self.kind, Kind::NewFile(_))
    }
}
