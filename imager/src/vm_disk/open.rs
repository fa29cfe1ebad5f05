//! Opens a disk file, whatever its format, as something that a capture reads.
//!
//! Must not know: captures, images, terminals.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::contents::{Contents, Disk, Neighbours};
use super::error::DiskError;
use super::neighbours::{Family, OpenedFile, Surroundings, open_file};
use super::{Format, detect, qcow2, vdi, vhd, vhdx, vmdk};
use crate::disk::identity::{self, Identity};
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::read_at::ReadAt;
use crate::units::size;

/// How a file is to be read as a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Its format; by default what its content says, and raw for a block device.
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
        if self.format == Format::Raw {
            return Vec::new();
        }
        let path = self.source.identity().path.display();
        let others: Vec<String> = self.files.iter().skip(1).map(|file| file.display().to_string()).collect();
        let with = match &*others {
            [] => String::new(),
            [first, rest @ ..] if rest.len() > 4 => format!(", with {first} and {} more files", rest.len()),
            all => format!(", with {}", all.join(", ")),
        };
        let format = self.format;
        let found = format!("{path} is a disk of {} in the {format} format{with}", size(self.source.size()));
        let notes = self.notes.iter().map(|note| format!("{path}: {note}"));
        std::iter::once(found).chain(notes).collect()
    }
}

/// Opens the disk at `path`, read-only.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`] for what cannot be read as a disk, [`Error::Damaged`].
pub fn open(path: &Path, how: &How) -> Result<Opened> {
    let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
    let (mut file, opened) = open_file(path)?;
    // The content of a device is its user's.
    let is_device = metadata.file_type().is_block_device();
    let format = match how.format {
        Some(format) => format,
        None if is_device => Format::Raw,
        None => detect(&file).map_err(|error| error.of(path))?,
    };
    if format == Format::Raw {
        file.set_sector_size(how.sector_size);
        let files = vec![Source::identity(&file).path.clone()];
        return Ok(Opened { source: Box::new(file), format, files, notes: Vec::new() });
    }
    let identity = Source::identity(&file).clone();
    let family = Family::default();
    let mut around = Surroundings::of_first(&family, path, format, how.format, how.follow);
    around.enter(OpenedFile { path: identity.path.clone(), ..opened });
    let disk = read_with(Box::new(file), format, &around, &family.cache).map_err(|error| error.of(path))?;
    if disk.contents.size() == 0 {
        return Err(Error::Usage(format!("the disk in {} has no bytes", path.display())));
    }
    let data = disk.contents.data_extents().map_err(|error| error.of(path))?;
    let sector_size = disk.sector_size.or(how.sector_size);
    let sector = sector_size.unwrap_or(512);
    let identity = Identity {
        logical_sector: sector,
        physical_sector: sector,
        read_only: identity.read_only,
        ..identity::of_new_file(identity.path, disk.contents.size())
    };
    let parts = family.files.into_inner();
    let files = parts.iter().map(|part| part.path.clone()).collect();
    let notes = disk.notes.into_iter().chain(family.notes.into_inner()).collect();
    let source = VmDisk { identity, sector_size, contents: disk.contents, data, parts };
    Ok(Opened { source: Box::new(source), format, files, notes })
}

/// Reads `file` as a disk of `format`, with the files that it names.
///
/// # Errors
/// [`DiskError`].
pub fn read(file: Box<dyn Contents>, format: Format, neighbours: &dyn Neighbours) -> Result<Disk, DiskError> {
    read_with(file, format, neighbours, &Arc::default())
}

pub(super) fn read_with(
    file: Box<dyn Contents>,
    format: Format,
    neighbours: &dyn Neighbours,
    cache: &Arc<Cache>,
) -> Result<Disk, DiskError> {
    match format {
        Format::Raw => Ok(Disk { contents: file, sector_size: None, notes: Vec::new() }),
        Format::Qcow2 => qcow2::reader::open(file, neighbours, cache),
        Format::Vmdk => vmdk::reader::open(file, neighbours, cache),
        Format::Vhdx => vhdx::reader::open(file, cache),
        Format::Vhd => vhd::reader::open(file, cache),
        Format::Vdi => vdi::reader::open(file, cache),
    }
}

/// A virtual machine's disk as a source.
struct VmDisk {
    identity: Identity,
    sector_size: Option<u32>,
    contents: Box<dyn Contents>,
    data: ExtentSet,
    parts: Vec<OpenedFile>,
}

impl ReadAt for VmDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.contents.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Source for VmDisk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn data_extents(&self) -> ExtentSet {
        self.data.clone()
    }

    fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    fn vanished(&self) -> Option<String> {
        self.parts.iter().find_map(|part| {
            let path = part.path.display();
            match std::fs::metadata(&part.path) {
                Err(error) => Some(format!("{path}: {error}")),
                // A device has no length.
                Ok(now) if now.is_file() && now.len() < part.size => {
                    Some(format!("{path} has {} bytes now, not {}", now.len(), part.size))
                }
                Ok(_) => None,
            }
        })
    }
}
