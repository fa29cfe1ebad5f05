//! The files inside of an image's partitions: to be listed, read, copied out and mounted.
//!
//! ```text
//! ImageDisk ─► volume (a partition, with its last pages kept) ─► FileSystem ─► ls, cp, find, mount
//! ```
//!
//! [`open`] gives a [`FileSystem`]: a few plain, read-only calls that are the same for ext2/3/4, XFS, NTFS and FAT.
//! Whatever lies on the volume is believed only as far as it makes sense: damage gives an error for the file or
//! directory that has it, never a panic, an endless loop, or bytes that are not the file's. Names are bytes as Linux
//! has them; NTFS and FAT names become UTF-8 (a lone surrogate as in WTF-8). [`screen`] makes them safe to print.
//! Must not know: terminals, FUSE, how each file system lies on the disk.

#![forbid(unsafe_code)]

pub mod address;
pub mod copy;
mod mapped;
mod pages;
mod partition;
pub mod pattern;
pub mod screen;
pub mod walk;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::FsError;
use crate::image_disk::{ReadAhead, Shelf};
use crate::read_at::ReadAt;
use crate::repo::manifest::Manifest;

pub(crate) use self::mapped::{BytesFile, MappedFile, Piece};
pub use self::partition::{Part, PartitionVolume, parts};

/// A volume that a file system can keep.
pub type Volume = Arc<dyn ReadAt + Send + Sync>;

/// Longest name of an entry of a directory, in bytes, as Linux has it. NTFS names of 255 units may have three times it.
pub const NAME_BYTES_MAX: usize = 765;
/// Longest target of a symbolic link that is read, in bytes.
pub const LINK_BYTES_MAX: u64 = 64 << 10;
/// Longest value of an extended attribute, in bytes: Linux' own limit.
pub const XATTR_BYTES_MAX: u64 = 64 << 10;

/// Names a file of a file system for as long as that is open: its inode number, or what stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; on NTFS a junction, too.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// From the type bits of a Unix mode.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o17_0000 {
            0o10_0000 => Self::File,
            0o04_0000 => Self::Directory,
            0o12_0000 => Self::Symlink,
            0o02_0000 => Self::CharacterDevice,
            0o06_0000 => Self::BlockDevice,
            0o01_0000 => Self::Fifo,
            0o14_0000 => Self::Socket,
            _ => return None,
        })
    }

    /// The letter of `ls -l`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Directory => 'd',
            Self::Symlink => 'l',
            Self::CharacterDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }

    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

/// A moment, counted from 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a file system says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which file.
    pub node: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Bytes in it; of a symbolic link, in its target.
    pub size: u64,
    /// Bytes that it takes on the volume, as far as the file system says.
    pub stored: u64,
    /// The twelve permission bits.
    pub permissions: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Names that it has.
    pub links: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Last read.
    pub accessed: Time,
    /// Last written.
    pub modified: Time,
    /// Last change of it or of what is said of it.
    pub changed: Time,
    /// When it was made, where that is kept.
    pub created: Option<Time>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it lies on the volume: it may hold anything, control characters and slashes among it.
    pub name: Vec<u8>,
    /// Which file it names.
    pub node: NodeId,
    /// What it is, when the directory says so.
    pub kind: Option<Kind>,
}

/// An extended attribute. NTFS streams appear as `user.NAME`, as `ntfs-3g` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// With its namespace: `user.`, `security.`, `system.posix_acl_access` …
    pub name: Vec<u8>,
    /// What it holds; `None` when that is more than [`XATTR_BYTES_MAX`], or cannot be read.
    pub value: Option<Vec<u8>>,
    /// Bytes in it.
    pub size: u64,
}

/// Whether upper and lower case are the same in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// They differ.
    Differs,
    /// They are the same.
    Same,
}

/// What a file system says of itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// As `blkid` names it.
    pub kind: String,
    /// Its label.
    pub label: Option<String>,
    /// Bytes in an allocation unit.
    pub block_size: u32,
    /// Bytes in it.
    pub size: u64,
    /// How names are compared.
    pub case: Case,
    /// Whether it has owners and modes; if not, [`Stat`] has made-up ones.
    pub ownership: Ownership,
    /// What should be known before its files are trusted.
    pub warnings: Vec<String>,
}

/// Whether a file system has owners and modes as Unix knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It has.
    Unix,
    /// It has none, or those of Windows.
    None,
}

/// A file system that is only read. Many threads may do so at once.
///
/// Every call fails with [`FsError`]: `Corrupt` where the volume contradicts itself, `Unsupported` for what this
/// program cannot read (and says why), `Io` when the image does not deliver.
pub trait FileSystem: Send + Sync {
    /// What it is.
    fn description(&self) -> &Description;

    /// Its root directory.
    fn root(&self) -> NodeId;

    /// What is known of a file.
    ///
    /// # Errors
    /// [`FsError`].
    fn stat(&self, node: NodeId) -> Result<Stat, FsError>;

    /// Visits the entries of a directory, without `.` and `..`, in the order of the volume, until the visitor breaks.
    ///
    /// # Errors
    /// [`FsError`]; what comes before the damage has been visited then.
    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// [`FsError`]; `Unsupported` with the reason for a file that is encrypted, or compressed in an unknown way.
    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError`].
    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError>;

    /// The extended attributes of a file.
    ///
    /// # Errors
    /// [`FsError`].
    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>, FsError>;

    /// The file that a directory has under this name; where case does not matter, an exact match comes first.
    ///
    /// # Errors
    /// [`FsError`].
    fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<Entry>, FsError> {
        let mut found: Option<Entry> = None;
        let is_same_case = self.description().case == Case::Same;
        let folded = is_same_case.then(|| fold_case(name));
        let listed = self.list(directory, &mut |entry| {
            if entry.name == name {
                found = Some(entry);
                return ControlFlow::Break(());
            }
            if found.is_none() && folded.as_ref().is_some_and(|folded| *folded == fold_case(&entry.name)) {
                found = Some(entry);
            }
            ControlFlow::Continue(())
        });
        // What lies before the damage is there.
        if found.is_some() { Ok(found) } else { listed.map(|()| None) }
    }
}

/// A name as it is compared where case does not matter.
#[must_use]
pub fn fold_case(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) => text.to_uppercase().into_bytes(),
        Err(_) => name.to_ascii_uppercase(),
    }
}

/// An open regular file. Many threads may read from it at once.
pub trait File: Send + Sync {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `offset`; gives how many bytes there were, which is less only at the end of the file.
    ///
    /// # Errors
    /// [`FsError`]; `buf` then has no meaning.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError>;

    /// The first run of bytes at or behind `from` that are more than a hole; `None` when only holes are left.
    fn next_data(&self, from: u64) -> Option<Extent>;
}

/// Opens the file system on a partition of an image: disk and partition as the manifest numbers them, `None` for a
/// file system on the bare disk.
///
/// # Errors
/// [`Error::Usage`] when there is no such partition; [`Error::FileSystem`] when it holds no files that can be read.
pub fn open(
    shelf: &Arc<Shelf>,
    manifest: &Manifest,
    disk: usize,
    partition: Option<u32>,
) -> Result<Arc<dyn FileSystem>> {
    let volume = PartitionVolume::new(shelf, manifest, disk, partition)?.with_read_ahead(ReadAhead::start());
    Ok(open_volume(Arc::new(volume))?)
}

/// Opens the file system on a volume. What was read lately is kept, so `volume` need not do it for small reads.
///
/// # Errors
/// [`FsError`].
pub fn open_volume(volume: Volume) -> Result<Arc<dyn FileSystem>, FsError> {
    crate::fs::open_files(Arc::new(pages::Pages::new(volume)))
}

/// The same error, as this program's own: one of the repository stays what it is.
#[must_use]
pub fn unwrapped(error: FsError) -> Error {
    match error {
        FsError::Io(error) => match error.downcast::<Error>() {
            Ok(inner) => inner,
            Err(error) => Error::FileSystem(FsError::Io(error)),
        },
        other => Error::FileSystem(other),
    }
}
