//! Reads VMDK. Must not know: what for.

use std::sync::Arc;

use super::read_descriptor::{BYTES_MAX, Descriptor, ExtentLine};
use super::read_sparse::{MAGIC, SECTOR, Sparse};
use crate::read_at::ReadAt;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::{Contents, Disk, Joined, Neighbours, Part};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Mapped, surveyed};
use crate::vm_disk::pages::header;

/// Reads `file`: a descriptor, or a sparse extent that has its descriptor in it.
///
/// # Errors
/// [`DiskError`].
pub(in crate::vm_disk) fn open(
    file: Box<dyn Contents>,
    neighbours: &dyn Neighbours,
    cache: &Arc<Cache>,
) -> Result<Disk, DiskError> {
    if header(&*file, 0, 4)? == MAGIC { monolithic(file, cache) } else { described(&*file, neighbours, cache) }
}

fn monolithic(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Disk, DiskError> {
    let extent = Sparse::read(file, cache)?;
    let Some(text) = extent.descriptor_bytes()? else {
        return Err(DiskError::unsupported(
            "it is one extent of a disk; name the disk's descriptor, the small `.vmdk` file of text beside it",
        ));
    };
    let descriptor = Descriptor::parse(&text)?;
    refuse_parent(&descriptor)?;
    if descriptor.extents.len() != 1 {
        return Err(DiskError::unsupported(
            "a descriptor within one of several extents; `vmware-vdiskmanager -r` makes one file of them",
        ));
    }
    let mut notes = Vec::new();
    let contents = sparse(extent, cache, &mut notes)?;
    Ok(Disk { contents, sector_size: None, notes })
}

fn described(file: &dyn ReadAt, neighbours: &dyn Neighbours, cache: &Arc<Cache>) -> Result<Disk, DiskError> {
    if file.size() > BYTES_MAX {
        return Err(DiskError::damaged(0, format!("a descriptor of {} bytes", file.size())));
    }
    let descriptor = Descriptor::parse(&header(file, 0, usize::try_from(file.size()).unwrap_or_default())?)?;
    refuse_parent(&descriptor)?;
    let (mut disk, mut notes) = (Joined::new(), Vec::new());
    for line in &descriptor.extents {
        let len = line
            .sectors
            .checked_mul(SECTOR)
            .ok_or_else(|| DiskError::damaged(0, format!("an extent of {} sectors in its descriptor", line.sectors)))?;
        disk.push(len, part(line, &descriptor, neighbours, cache, &mut notes)?)?;
    }
    // Every one of many files may have the same to say.
    notes.dedup();
    Ok(Disk { contents: Box::new(disk), sector_size: None, notes })
}

fn part(
    line: &ExtentLine,
    descriptor: &Descriptor,
    neighbours: &dyn Neighbours,
    cache: &Arc<Cache>,
    notes: &mut Vec<String>,
) -> Result<Part, DiskError> {
    let name = String::from_utf8_lossy(&line.name).into_owned();
    if line.access == "NOACCESS" {
        return Err(DiskError::unsupported(format!(
            "its part `{name}` is not to be read: a disk of single partitions"
        )));
    }
    let wrong = |what: &str| DiskError::unsupported(format!("its part `{name}` is {what}"));
    let clone = "; clone it (`vmkfstools -i`, or export it as OVF) and take that";
    match &*line.kind {
        "ZERO" => Ok(Part::Zero),
        "FLAT" | "VMFS" | "VMFSTHIN" => {
            let offset = line.offset.checked_mul(SECTOR);
            let offset = offset.ok_or_else(|| DiskError::damaged(0, "an extent begins behind all files' ends"))?;
            Ok(Part::Of(neighbours.file(&line.name)?, offset))
        }
        "SPARSE" => {
            let file = neighbours.file(&line.name)?;
            if file.size() >= 4 && header(&*file, 0, 4)? == b"COWD" {
                return Err(wrong(&format!("a snapshot of an ESX server{clone}")));
            }
            let extent = Sparse::read(file, cache).map_err(|error| in_part(error, &name))?;
            let disk = sparse(extent, cache, notes).map_err(|error| in_part(error, &name))?;
            Ok(Part::Of(disk, 0))
        }
        "VMFSSPARSE" | "SESPARSE" => {
            Err(wrong(&format!("a snapshot of an ESX server ({}){clone}", descriptor.create_type)))
        }
        "VMFSRDM" | "VMFSRAW" => Err(wrong(&format!("a disk that is passed through (RDM){clone}"))),
        other => Err(wrong(&format!("of a kind that is not known here ({other})"))),
    }
}

/// Says in which of several files the damage is.
fn in_part(error: DiskError, name: &str) -> DiskError {
    match error {
        DiskError::Damaged { offset, what } => {
            DiskError::Damaged { offset, what: format!("in its part `{name}`: {what}") }
        }
        DiskError::Unsupported(what) => DiskError::Unsupported(format!("in its part `{name}`: {what}")),
        other => other,
    }
}

fn sparse(extent: Sparse, cache: &Arc<Cache>, notes: &mut Vec<String>) -> Result<Box<dyn Contents>, DiskError> {
    if extent.is_unclean {
        notes.push("it was not closed properly; the data are complete as far as they were written".to_owned());
    }
    surveyed(Mapped::new(extent, None, cache), notes)
}

fn refuse_parent(descriptor: &Descriptor) -> Result<(), DiskError> {
    match &descriptor.parent {
        None => Ok(()),
        Some(parent) => Err(DiskError::unsupported(format!(
            "it holds only what differs from `{parent}` (a snapshot or linked clone); consolidate the snapshots, or clone the disk, and take the result"
        ))),
    }
}
