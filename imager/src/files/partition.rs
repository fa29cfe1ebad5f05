//! The parts of an image that may hold files, and each as a volume.
//!
//! Must not know: file systems.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image_disk::{ImageDisk, ReadAhead, Shelf};
use crate::read_at::{ReadAt, check_range};
use crate::repo::manifest::{Manifest, Volume as Captured};
use crate::table::Role;

/// A partition of an image, or a whole disk without any.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which disk, from 0.
    pub disk: usize,
    /// Which partition, as Linux numbers it; none for the bare disk.
    pub partition: Option<u32>,
    /// Where it lies on the disk.
    pub place: Extent,
    /// What the capture found on it.
    pub captured: Option<Captured>,
}

impl Part {
    /// `p2`, or `disk1p2` when the image has several disks; `disk0` for a bare disk.
    #[must_use]
    pub fn name(&self, manifest: &Manifest) -> String {
        match self.partition {
            Some(number) if manifest.disks.len() == 1 => format!("p{number}"),
            Some(number) => format!("disk{}p{number}", self.disk),
            None => format!("disk{}", self.disk),
        }
    }

    /// Whether files of it can be read, as far as the capture could tell.
    #[must_use]
    pub fn has_files(&self) -> bool {
        let kind = self.captured.as_ref().map(|captured| captured.kind.as_str());
        kind.is_some_and(|kind| matches!(kind, "ext2" | "ext3" | "ext4" | "ext" | "xfs" | "ntfs" | "vfat"))
    }
}

/// Every part of an image, in its order. A disk without partitions is one part.
#[must_use]
pub fn parts(manifest: &Manifest) -> Vec<Part> {
    let mut parts = Vec::new();
    for (number, disk) in manifest.disks.iter().enumerate() {
        let captured = |partition| disk.volumes.iter().find(|volume| volume.partition == partition).cloned();
        let partitions = disk.table.partitions.iter().filter(|partition| partition.role != Role::Extended);
        let mut found = false;
        for partition in partitions {
            found = true;
            let place = partition.extent().intersection(Extent::new(0, disk.size));
            let captured = captured(Some(partition.number));
            parts.push(Part { disk: number, partition: Some(partition.number), place, captured });
        }
        if !found {
            parts.push(Part {
                disk: number,
                partition: None,
                place: Extent::new(0, disk.size),
                captured: captured(None),
            });
        }
    }
    parts
}

/// Reads that are smaller are metadata.
const AHEAD_OF_BYTES_MIN: u64 = 32 << 10;

/// A partition of an image's disk, seen as a disk.
pub struct PartitionVolume {
    disk: Arc<ImageDisk>,
    place: Extent,
    ahead: Option<Arc<ReadAhead>>,
}

impl PartitionVolume {
    /// The partition of that number, or the whole disk.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none such.
    pub fn new(shelf: &Arc<Shelf>, manifest: &Manifest, disk: usize, partition: Option<u32>) -> Result<Self> {
        let part = parts(manifest).into_iter().find(|part| (part.disk, part.partition) == (disk, partition));
        let found = ImageDisk::all_of(shelf, manifest).into_iter().nth(disk);
        match (found, part, partition) {
            (Some(found), Some(part), _) => Ok(Self::of(Arc::new(found), part.place)),
            (Some(found), None, None) => {
                let place = Extent::new(0, found.size());
                Ok(Self::of(Arc::new(found), place))
            }
            _ => Err(Error::Usage(format!("the image has no such partition: disk {disk}, partition {partition:?}"))),
        }
    }

    /// A part of a disk that is open already.
    #[must_use]
    pub fn of(disk: Arc<ImageDisk>, place: Extent) -> Self {
        Self { disk, place, ahead: None }
    }

    /// The same, with what follows each read fetched ahead.
    #[must_use]
    pub fn with_read_ahead(self, ahead: Option<Arc<ReadAhead>>) -> Self {
        Self { ahead, ..self }
    }
}

impl ReadAt for PartitionVolume {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.place.len)?;
        let start = self.place.start.saturating_add(offset);
        let wanted = Extent::new(start, buf.len() as u64);
        if let Some(ahead) = self.ahead.as_ref().filter(|_| wanted.len >= AHEAD_OF_BYTES_MIN) {
            ahead.note(&self.disk, wanted);
        }
        self.disk.read(start, buf).map_err(io::Error::other)
    }

    fn size(&self) -> u64 {
        self.place.len
    }
}
