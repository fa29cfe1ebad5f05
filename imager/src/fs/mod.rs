//! Which bytes of a volume hold live data.
//!
//! One folder per file system, one line in `READERS`. A reader gets a volume as [`ReadAt`] and says
//! what it is and which bytes are in use; it never writes, does no I/O of its own and never panics, on
//! any input. Must not know: disks, partition tables, repositories.
//!
//! In doubt a block is in use: a reader that meets a feature it does not know says
//! [`FsError::Unsupported`], and the whole volume is read.

#![forbid(unsafe_code)]

mod ext;
mod fat;
mod ntfs;
mod posix_acl;
mod swap;
mod wide;
mod xfs;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::extent::{Extent, ExtentSet};
use crate::files::{self, Volume};
use crate::read_at::ReadAt;

/// Every file system that has an allocation map here, one line each, in the order of probing.
static READERS: &[&dyn Reader] = &[
    &ntfs::Ntfs,
    &xfs::Xfs,
    &fat::Fat,
    &ext::Ext,
    // Last: a swap signature may be a leftover.
    &swap::Swap,
];

/// Knows one family of file systems.
pub trait Reader: Sync {
    /// Looks at the magic numbers only: is this volume one of mine?
    ///
    /// # Errors
    /// What the device says. A volume that is too small for the magic is `Ok(false)`.
    fn probe(&self, volume: &dyn ReadAt) -> io::Result<bool>;

    /// Reads the whole allocation map.
    ///
    /// # Errors
    /// See [`FsError`]; whatever it is, the volume is then read whole with the error as the reason.
    fn read(&self, volume: &dyn ReadAt) -> Result<FileSystem, FsError>;

    /// The family's name, for a volume whose details could not be read ("ext", "ntfs").
    fn name(&self) -> &'static str;
}

/// Why a reader could not give an allocation map.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A feature this reader does not know. Not corruption: a newer file system than the reader.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A structure contradicts its format.
    #[error("damaged at byte {offset} of the volume: {what}")]
    Corrupt {
        /// Byte position in the volume.
        offset: u64,
        /// What is wrong, as a fragment.
        what: String,
    },
    /// The device did not deliver.
    #[error("cannot read the volume: {0}")]
    Io(#[from] io::Error),
}

impl FsError {
    /// A [`FsError::Corrupt`].
    pub fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { offset, what: what.into() }
    }

    /// A [`FsError::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}

/// What a reader found on a volume.
#[derive(Clone, Debug)]
pub struct FileSystem {
    /// The name that the field uses: `ext4`, `xfs`, `ntfs`, `vfat`, `swap` …
    pub kind: String,
    /// Volume label, when it has one.
    pub label: Option<String>,
    /// UUID or serial number, as `blkid` prints it.
    pub uuid: Option<String>,
    /// Allocation unit (block or cluster), in bytes.
    pub block_size: u32,
    /// How many bytes of the volume the file system claims; what follows is nobody's.
    pub size: u64,
    /// First byte of the grid on which files lie. 0 but for FAT, where it is the data area's start.
    pub grid_origin: u64,
    /// The bytes in use, metadata included, within `0..size`.
    pub used: ExtentSet,
    /// What the user should know: a dirty journal, a hibernated system …
    pub notes: Vec<Note>,
    /// Files whose content the user may leave out of an image: page files, hibernation files.
    pub spare_files: Vec<SpareFile>,
}

/// A remark about a volume, kept in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Note {
    /// The file system was not cleanly unmounted, or its journal has work left.
    Dirty {
        /// What says so.
        detail: String,
    },
    /// An operating system is hibernated on it.
    Hibernated {
        /// What says so.
        detail: String,
    },
    /// Read whole, because there is no allocation map for it.
    ReadWhole {
        /// Why.
        reason: String,
    },
    /// Anything else worth a line.
    Remark {
        /// The line.
        detail: String,
    },
    /// What a newer program remarked: the kinds are open.
    #[serde(untagged)]
    Unknown {
        /// Its kind.
        kind: String,
        /// What else it says.
        #[serde(flatten)]
        rest: serde_json::Map<String, serde_json::Value>,
    },
}

/// A file that a system makes anew when it is missing or stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareFile {
    /// What it is for.
    pub kind: SpareKind,
    /// Its path in the volume.
    pub path: String,
    /// Where its content lies, in bytes of the volume.
    pub extents: ExtentSet,
}

/// What a [`SpareFile`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpareKind {
    /// Paging or swap space.
    Paging,
    /// A hibernation image.
    Hibernation,
}

/// Finds out what is on a volume and which of its bytes are in use.
///
/// Never fails: what cannot be understood is in use as a whole, with the reason in the notes. What lies
/// behind the file system's own end is in use, too.
#[must_use]
pub fn inspect(volume: &dyn ReadAt) -> FileSystem {
    let mut unreadable = None;
    for reader in READERS {
        match reader.probe(volume) {
            Ok(false) => {}
            Err(error) => unreadable = Some(FsError::Io(error)),
            Ok(true) => {
                return match reader.read(volume) {
                    Ok(found) => checked(found, volume.size()),
                    Err(error) => whole(reader.name(), volume.size(), &error.to_string()),
                };
            }
        }
    }
    match unreadable {
        Some(error) => whole("unknown", volume.size(), &error.to_string()),
        None => whole("unknown", volume.size(), "no file system that has an allocation map here"),
    }
}

/// Opens the files of a volume.
///
/// # Errors
/// [`FsError::Unsupported`] for a volume whose files cannot be read here, with what it is.
pub(crate) fn open_files(volume: Volume) -> Result<Arc<dyn files::FileSystem>, FsError> {
    let reader = READERS.iter().find_map(|reader| match reader.probe(&*volume) {
        Ok(true) => Some(Ok(reader.name())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    });
    match reader.transpose()? {
        Some("ext") => ext::files::open(volume),
        Some("ntfs") => ntfs::files::open(volume),
        Some("vfat") => fat::files::open(volume),
        Some("xfs") => xfs::files::open(volume),
        Some("swap") => Err(FsError::unsupported("swap space, which has no files")),
        Some(other) => Err(FsError::unsupported(format!("files of {other}"))),
        None => Err(FsError::unsupported(
            "no file system that is known here; files can be read from ext2, ext3, ext4, XFS, NTFS and FAT",
        )),
    }
}

/// A volume that is in use from the first byte to the last.
#[must_use]
pub fn whole(kind: &str, size: u64, reason: &str) -> FileSystem {
    FileSystem {
        kind: kind.to_owned(),
        label: None,
        uuid: None,
        block_size: 4096,
        size,
        grid_origin: 0,
        used: ExtentSet::whole(size),
        notes: vec![Note::ReadWhole { reason: reason.to_owned() }],
        spare_files: Vec::new(),
    }
}

fn checked(mut found: FileSystem, volume_size: u64) -> FileSystem {
    if found.size > volume_size {
        let reason = format!("the file system claims {} bytes, the volume has {volume_size}", found.size);
        let cut = whole(&found.kind, volume_size, &reason);
        return FileSystem { label: found.label, uuid: found.uuid, ..cut };
    }
    found.used = found.used.intersect(Extent::new(0, volume_size)).collect();
    found.used.insert(Extent::between(found.size, volume_size));
    found
}
