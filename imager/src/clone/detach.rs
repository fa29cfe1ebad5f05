//! A linked clone becomes a disk that stands alone: what it reads from its image is copied into it.
//!
//! A new file is made beside it and takes its place when it is complete, so that there is a good disk at every moment.
//! Must not know: terminals.

#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use super::lock::Lock;
use super::{Found, Sidecar, flush_folder};
use crate::disk::source::SourceDisk;
use crate::disk::target::Replace;
use crate::error::{Error, Result};
use crate::export::write_mapped;
use crate::extent::{Extent, ExtentSet};
use crate::image_disk::stream::MappedDisk;
use crate::image_disk::{Allocation, ImageDisk, Shelf};
use crate::memory::Budget;
use crate::progress::{Phase, Progress};
use crate::read_at::{ReadAt, check_range};
use crate::repo::Repository;
use crate::repo::clones::CloneId;
use crate::vm_disk::layout::Label;
use crate::vm_disk::qcow2::reader::Qcow2;
use crate::vm_disk::{Contents, DiskError, Format};

/// Runs of the image are asked for so many bytes at a time.
const WINDOW: u64 = 1 << 30;
/// Decompressed frames that are kept.
const CACHE_BYTES: u64 = 256 << 20;

/// What detaching did.
#[derive(Clone, Debug)]
pub struct Detached {
    /// The files that stand alone now.
    pub files: Vec<std::path::PathBuf>,
    /// The clone that the repository no longer knows; none when it did not know it before.
    pub released: Option<CloneId>,
}

/// Makes all files of a clone stand alone, of which `found` is one, and releases the clone. Cut off midway, the files that
/// are done are done, and the same again goes on with the others.
///
/// # Errors
/// [`Error::Busy`] while a virtual machine has one open; what the store and the files say; [`Error::Interrupted`].
pub fn detach(repository: &Arc<Repository>, found: &Found, memory: Budget, progress: &Progress) -> Result<Detached> {
    let (manifest, registered) = found.manifest(repository)?;
    let shelf = Shelf::open(Arc::clone(repository), Budget::new(CACHE_BYTES))?;
    let mut disks = ImageDisk::all_of(&shelf, &manifest).into_iter().map(Some).collect::<Vec<_>>();
    let mut files = Vec::new();
    for file in of_same_clone(found)? {
        let number = file.backing.disk;
        let disk = disks.get_mut(number).and_then(Option::take).ok_or_else(|| {
            Error::Usage(format!("{} reads from disk {number}, which the image does not have", file.path.display()))
        })?;
        let sector_size = disk.sector_size();
        one(&file, disk, sector_size, memory, progress)?;
        files.push(file.path);
    }
    // The files stand alone and durably so, before anything says that they do.
    if let Some(id) = registered {
        repository.release_clone(id)?;
    }
    for path in &files {
        match std::fs::remove_file(Sidecar::path_for(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", Sidecar::path_for(path))(error));
            }
            _ => flush_folder(path)?,
        }
    }
    Ok(Detached { files, released: registered })
}

/// The files of a clone that still read from the image.
fn of_same_clone(found: &Found) -> Result<Vec<Found>> {
    let mut all = vec![found.clone()];
    for file in found.sidecar.iter().flat_map(|sidecar| &sidecar.files).filter(|file| file.disk != found.backing.disk) {
        let path = std::path::Path::new(&file.path);
        match Found::at(path) {
            Ok(Some(other)) if other.backing.image == found.backing.image => all.push(other),
            // One that stands alone already.
            Ok(_) => {}
            Err(error) => {
                return Err(error.midway(format!(
                    "it is disk {} of the same machine: put it back where it was made, or give up what is in it with `imager clone --release`",
                    file.disk
                )));
            }
        }
    }
    Ok(all)
}

fn one(found: &Found, disk: ImageDisk, sector_size: u32, memory: Budget, progress: &Progress) -> Result<()> {
    let path = &found.path;
    let file = File::options().read(true).write(true).open(path).map_err(Error::io("open", path))?;
    let _lock = Lock::take(&file, path)?;
    progress.begin(Phase::Planning, 0);
    let below = Below { data: data_of(&disk, progress)?, disk };
    let opened =
        Qcow2::open(Box::new(SourceDisk::open(path)?), Some(Box::new(below))).map_err(|error| error.of(path))?;
    if !opened.notes.is_empty() {
        opened.notes.iter().for_each(|note| progress.say(format!("{}: {note}", path.display())));
    }
    let data = opened.contents.data_extents().map_err(|error| error.of(path))?;
    let merged = Merged { contents: opened.contents, data };
    let label = Label {
        id: uuid::Uuid::new_v4(),
        created: 0,
        file_name: path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
    };
    write_mapped(&merged, sector_size, Format::Qcow2, &label, Replace::Yes, memory, path, progress)
}

/// What of an image's disk may differ from zeros.
fn data_of(disk: &ImageDisk, progress: &Progress) -> Result<ExtentSet> {
    let mut data = ExtentSet::new();
    let mut at = 0;
    while at < disk.size() {
        progress.check()?;
        let wanted = Extent::between(at, at.saturating_add(WINDOW).min(disk.size()));
        let runs = disk.allocation(wanted)?;
        runs.into_iter().filter(|(_, what)| *what == Allocation::Data).for_each(|(run, _)| data.insert(run));
        at = wanted.end();
    }
    Ok(data)
}

/// An image's disk below a clone.
struct Below {
    disk: ImageDisk,
    data: ExtentSet,
}

impl ReadAt for Below {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }
}

impl Contents for Below {
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        Ok(self.data.clone())
    }
}

/// The clone's disk: its changes on top of the image.
struct Merged {
    contents: Box<dyn Contents>,
    data: ExtentSet,
}

impl MappedDisk for Merged {
    fn size(&self) -> u64 {
        self.contents.size()
    }

    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
        let mut runs = Vec::new();
        let mut at = wanted.start;
        for run in self.data.intersect(wanted) {
            if run.start > at {
                runs.push((Extent::between(at, run.start), Allocation::Unused));
            }
            runs.push((run, Allocation::Data));
            at = run.end();
        }
        if at < wanted.end() {
            runs.push((Extent::between(at, wanted.end()), Allocation::Unused));
        }
        Ok(runs)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let read = check_range(offset, buf.len(), self.size()).and_then(|()| self.contents.read_at(offset, buf));
        read.map_err(Error::io(format!("read {} bytes at byte {offset} of", buf.len()), "the linked clone"))
    }
}
