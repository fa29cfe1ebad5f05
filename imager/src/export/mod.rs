//! Images as disks of virtual machines: one disk at a time, or a whole machine.
//!
//! ```text
//! formats whose places are known beforehand:  block map ─► layout ─► restore, in storage order ─► FILE.part ─► FILE
//! streams, and compressed clusters:           disk, in order, worked on by all cores ─────────► FILE.part ─► FILE
//! ```
//!
//! What a disk of a machine reads as is what [`crate::restore`] would write to a file, byte for byte, a mended GPT
//! included. A file has its name only when it is complete and on the medium. Must not know: terminals.

mod machine;
mod ova;
mod part;
mod placed;
mod source;
mod streams;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Builder;

pub use self::machine::{Beside, Machine, MachineOptions, archive_warnings, names, write_machine};
pub use self::ova::{stream_ova, write_ova};
pub use self::part::Part;
pub use self::placed::write_mapped;
use crate::disk::target::Replace;
use crate::error::{Error, Result};
use crate::memory::Budget;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::manifest::{DiskImage, ImageId, Manifest};
use crate::restore::{OnDamage, ReadBack};
use crate::vm_disk::Format;
use crate::vm_disk::layout::Label;

/// An image, and where it is.
#[derive(Clone)]
pub struct Image {
    /// The repository.
    pub repository: Arc<Repository>,
    /// The image's id.
    pub id: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
}

/// How a disk is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which kind of the format.
    pub how: How,
    /// Whether a file that is there may be replaced.
    pub replace: Replace,
    /// Whether everything is read back; not for streams and compressed files.
    pub read_back: ReadBack,
    /// What to do about damage in the repository.
    pub damage: OnDamage,
    /// Memory to stay within.
    pub memory: Budget,
}

/// Which kind of a format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// The one that is run: sparse, growing.
    #[default]
    Plain,
    /// qcow2 with clusters compressed by zstd.
    Compressed,
    /// VMDK as a compressed stream (streamOptimized), to be carried or imported.
    Stream,
    /// VHD of fixed size, as Azure wants it.
    Fixed,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// Number of the disk in the image.
    pub disk: usize,
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// What it takes of its file system, in bytes.
    pub allocated: u64,
    /// Bytes that are zeros because the repository is damaged.
    pub lost: u64,
    /// Bytes that are zeros because the source could not be read.
    pub unreadable: u64,
    /// Whether everything was read back and found equal.
    pub read_back: bool,
}

impl Image {
    /// A disk of it.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has no such disk.
    pub fn disk(&self, number: usize) -> Result<&DiskImage> {
        let has = self.manifest.disks.len();
        self.manifest.disks.get(number).ok_or_else(|| {
            Error::Usage(format!("the image has no disk {number}; it has {has}, and the first is disk 0"))
        })
    }

    /// What a disk's file says of itself: the same for the same image, so that two exports are equal.
    fn label(&self, number: usize, path: &Path) -> Label {
        let name = blake3::derive_key("lifeboat vm disk id", format!("{} disk {number}", self.id).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(name.first_chunk::<16>().unwrap_or(&[0; 16]));
        let file_name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Label {
            id: Builder::from_custom_bytes(bytes).into_uuid(),
            created: u64::try_from(self.manifest.created.as_second()).unwrap_or(0),
            file_name,
        }
    }
}

impl How {
    /// Refuses a kind that the format has not.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(self, format: Format) -> Result<()> {
        let fits = match self {
            Self::Plain => true,
            Self::Compressed => format == Format::Qcow2,
            Self::Stream => format == Format::Vmdk,
            Self::Fixed => format == Format::Vhd,
        };
        let what = match self {
            Self::Plain => "",
            Self::Compressed => "compressed clusters are qcow2's alone: --compress goes with --format qcow2",
            Self::Stream => "a compressed stream is VMDK's alone: --stream goes with --format vmdk",
            Self::Fixed => "a fixed size is VHD's alone: --fixed goes with --format vhd",
        };
        if fits { Ok(()) } else { Err(Error::Usage(what.to_owned())) }
    }
}

/// Writes a disk of an image to `path` as a disk of a virtual machine, complete or not at all: until it is, it is
/// `path` with `.part` behind it, and that is gone when this fails.
///
/// # Errors
/// [`Error::Usage`] when the format cannot hold the disk, or has no such kind; [`Error::TargetRefused`] when there is
/// a file and it may not be replaced; what the store and the file say; [`Error::DamageFound`], [`Error::Damaged`],
/// [`Error::Missing`] when the repository is damaged; [`Error::Interrupted`].
pub fn write_disk(
    image: &Image,
    disk: usize,
    format: Format,
    options: &Options,
    path: &Path,
    progress: &Progress,
) -> Result<Written> {
    image.disk(disk)?;
    options.how.check(format)?;
    let part = Part::new(path, options.replace)?;
    let label = image.label(disk, path);
    let (lost, read_back) = match options.how {
        How::Compressed => (streams::write_packed(image, disk, options, &part, progress)?, false),
        How::Stream => {
            let mut file = part.create()?;
            let lost = streams::vmdk(image, disk, options, &label, &mut file, part.working_path(), progress)?;
            file.flush().map_err(Error::io("write", part.working_path()))?;
            (lost, false)
        }
        How::Plain | How::Fixed => placed::write(image, disk, format, options, &label, &part, progress)?,
    };
    let (len, allocated) = part.finish()?;
    let unreadable = image.disk(disk)?.unreadable.iter().map(|extent| extent.len).sum();
    Ok(Written { disk, path: path.to_owned(), len, allocated, lost, unreadable, read_back })
}

/// Writes a disk of an image into a pipe: raw, or VMDK as a compressed stream. Gives the bytes that are zeros because
/// the repository is damaged.
///
/// # Errors
/// [`Error::Usage`] for a format that cannot be a stream; otherwise as [`write_disk`].
pub fn stream_disk(
    image: &Image,
    disk: usize,
    format: Format,
    options: &Options,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64> {
    image.disk(disk)?;
    let name = Path::new("standard output");
    match format {
        Format::Raw => streams::raw(image, disk, options, out, name, progress),
        Format::Vmdk if options.how == How::Stream => {
            let label = image.label(disk, Path::new("disk.vmdk"));
            streams::vmdk(image, disk, options, &label, out, name, progress)
        }
        _ => Err(Error::Usage(
            "only raw, vmdk with --stream, and ova can be written to a pipe: the others' tables come first and are known last".into(),
        )),
    }
}
