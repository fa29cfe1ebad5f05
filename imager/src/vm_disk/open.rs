//! Opens a disk file, whatever its format, as something that a capture reads.
//!
//! Must not know: captures, images, terminals.

use std::path::{Path, PathBuf};

use super::Format;
use crate::disk::source::{Source, SourceDisk};
use crate::error::{Error, Result};

/// How a file is to be read as a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Its format; by default what its content says.
    pub format: Option<Format>,
    /// Which files it may name as parts of the disk.
    pub follow: Follow,
    /// Size of a sector in bytes, where the file does not tell.
    pub sector_size: Option<u32>,
}

impl How {
    /// As it is, byte by byte.
    #[must_use]
    pub fn raw() -> Self {
        Self { format: Some(Format::Raw), ..Self::default() }
    }
}

/// Which other files a disk file may name as parts of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// Those in its own directory.
    #[default]
    SameDirectory,
    /// All.
    Anywhere,
}

/// A disk, opened.
pub struct Opened {
    /// The disk.
    pub source: Box<dyn Source>,
    /// What the file was found to be.
    pub format: Format,
    /// The files that were opened, the one that was asked for first.
    pub files: Vec<PathBuf>,
    /// What should be known about it.
    pub notes: Vec<String>,
}

impl Opened {
    /// What was found, for people; empty for raw bytes.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Opens the disk at `path`, read-only.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`] for what cannot be read as a disk, [`Error::Damaged`].
pub fn open(path: &Path, how: &How) -> Result<Opened> {
    let mut disk = SourceDisk::open(path)?;
    match how.format.unwrap_or(Format::Raw) {
        Format::Raw => {}
        other => return Err(Error::Usage(format!("{} cannot be read as {other}", path.display()))),
    }
    disk.set_sector_size(how.sector_size);
    let files = vec![disk.identity().path.clone()];
    Ok(Opened { source: Box::new(disk), format: Format::Raw, files, notes: Vec::new() })
}
