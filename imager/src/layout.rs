//! What is on a disk, and which of its bytes an image needs.
//!
//! Puts together the partition table and the file systems, and divides the disk into regions: runs with
//! one grid of 4 KiB blocks each, that together are the whole disk. Must not know: repositories.

#![forbid(unsafe_code)]

use std::io;

use crate::extent::{Extent, ExtentSet};
use crate::fs::{self, FileSystem, Note, SpareKind};
use crate::read_at::{ReadAt, Window};
use crate::table::{self, Partition, PartitionTable, Role};

/// Boot loaders may fill the space in front of the first partition up to here.
const BOOT_GAP_MAX: u64 = 64 << 20;
/// At both ends of every other gap, and at the disk's end: boot records of logical partitions, metadata
/// of RAID and dynamic disks.
const GAP_MARGIN: u64 = 1 << 20;

/// Which bytes of a disk are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Everything, in use or not.
    pub all_sectors: bool,
    /// Files whose content may be left out.
    pub leave_out: Vec<SpareKind>,
}

/// A disk, understood.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Size in bytes.
    pub size: u64,
    /// The partition table.
    pub table: PartitionTable,
    /// What is on the partitions, or on the bare disk; ascending.
    pub volumes: Vec<VolumeLayout>,
    /// The whole disk in runs, ascending.
    pub regions: Vec<RegionLayout>,
    /// What should be known about the disk.
    pub warnings: Vec<String>,
}

/// A partition, or the bare disk, and what is on it.
#[derive(Clone, Debug)]
pub struct VolumeLayout {
    /// Number of the partition; none for the bare disk.
    pub partition: Option<u32>,
    /// Where it lies on the disk.
    pub place: Extent,
    /// What is on it.
    pub file_system: FileSystem,
    /// Paths of files whose content is left out.
    pub left_out: Vec<String>,
}

/// A run of the disk with one grid.
#[derive(Clone, Debug)]
pub struct RegionLayout {
    /// Where it lies on the disk; the grid begins at its start.
    pub place: Extent,
    /// The partition that it belongs to.
    pub partition: Option<u32>,
    /// The bytes to read, relative to the region's start.
    pub wanted: ExtentSet,
    /// Bytes that stand for zeros without being read, relative to the region's start.
    pub zeros: ExtentSet,
}

/// Finds out what is on `disk`. `sector_size` is the device's, when it is known.
///
/// # Errors
/// When the partition table cannot be read at all. Whatever cannot be understood is wanted as a whole.
pub fn read(disk: &dyn ReadAt, sector_size: Option<u32>, wanted: &Wanted) -> io::Result<Layout> {
    let table = table::read(disk, sector_size)?;
    let mut layout =
        Layout { size: disk.size(), warnings: table.warnings.clone(), table, volumes: Vec::new(), regions: Vec::new() };
    let partitions: Vec<Partition> =
        layout.table.partitions.iter().filter(|p| p.role != Role::Extended).cloned().collect();
    if layout.table.partitions.is_empty() && layout.table.structures.is_empty() {
        layout.add_volume(disk, None, Extent::new(0, disk.size()), wanted);
    }
    for partition in &partitions {
        layout.add_partition(disk, partition, wanted);
    }
    layout.add_gap(layout.size);
    if wanted.all_sectors {
        for region in &mut layout.regions {
            region.wanted = ExtentSet::whole(region.place.len);
            region.zeros = ExtentSet::new();
        }
    }
    Ok(layout)
}

impl Layout {
    /// Where the regions so far end.
    fn end(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.place.end())
    }

    /// Bytes that will be read.
    #[must_use]
    pub fn wanted_bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.wanted.total()).sum()
    }

    fn add_partition(&mut self, disk: &dyn ReadAt, partition: &Partition, wanted: &Wanted) {
        let place = partition.extent().intersection(Extent::new(0, self.size));
        if place.is_empty() {
            return;
        }
        if place.start < self.end() {
            self.merge_overlapping(partition.number, place);
            return;
        }
        self.add_gap(place.start);
        self.add_volume(disk, Some(partition.number), place, wanted);
    }

    /// Partitions that share blocks: neither's allocation map speaks for the other's.
    fn merge_overlapping(&mut self, number: u32, place: Extent) {
        let mut merged = place;
        while let Some(region) = self.regions.pop_if(|region| region.place.end() > place.start) {
            merged = Extent::between(merged.start.min(region.place.start), merged.end().max(region.place.end()));
        }
        self.regions.push(RegionLayout {
            place: merged,
            partition: None,
            wanted: ExtentSet::whole(merged.len),
            zeros: ExtentSet::new(),
        });
        let whole = |kind: &str, place: Extent| fs::whole(kind, place.len, "it overlaps another partition");
        for volume in self.volumes.iter_mut().filter(|volume| !volume.place.intersection(merged).is_empty()) {
            volume.file_system = whole(&volume.file_system.kind, volume.place);
            volume.left_out.clear();
        }
        let file_system = whole("unknown", place);
        self.volumes.push(VolumeLayout { partition: Some(number), place, file_system, left_out: Vec::new() });
    }

    fn add_volume(&mut self, disk: &dyn ReadAt, partition: Option<u32>, place: Extent, wanted: &Wanted) {
        let mut file_system = fs::inspect(&Window::new(disk, place.start, place.len));
        let mut used = file_system.used.clone();
        let mut zeros = ExtentSet::new();
        let mut left_out = Vec::new();
        for file in file_system.spare_files.iter().filter(|file| wanted.leave_out.contains(&file.kind)) {
            used = used.minus(&file.extents);
            // As zeros, not as free space: stale bytes on the target could be taken for a hibernated system.
            zeros = zeros.union(&file.extents);
            left_out.push(file.path.clone());
        }
        if wanted.all_sectors {
            file_system.notes.retain(|note| !matches!(note, Note::ReadWhole { .. }));
        }
        // A grid that begins behind the volume's first byte makes two regions.
        let origin = if file_system.grid_origin < place.len { file_system.grid_origin } else { 0 };
        for part in [Extent::new(0, origin), Extent::between(origin, place.len)] {
            if part.is_empty() {
                continue;
            }
            let relative = |set: &ExtentSet| -> ExtentSet {
                set.intersect(part).map(|e| Extent::new(e.start - part.start, e.len)).collect()
            };
            let place = Extent::new(place.start + part.start, part.len);
            let (wanted, zeros) = (relative(&used).aligned_outward(4096, part.len), relative(&zeros));
            let zeros = zeros.minus(&wanted);
            self.regions.push(RegionLayout { place, partition, wanted, zeros });
        }
        self.volumes.push(VolumeLayout { partition, place, file_system, left_out });
    }

    /// The space up to `end` that is in no partition.
    fn add_gap(&mut self, end: u64) {
        let place = Extent::between(self.end(), end);
        if place.is_empty() {
            return;
        }
        let head = if place.start == 0 { BOOT_GAP_MAX } else { GAP_MARGIN };
        let mut wanted: ExtentSet = self.table.structures.intersect(place).collect();
        wanted = wanted.union(&ExtentSet::from_iter([Extent::new(place.start, head.min(place.len))]));
        let tail = GAP_MARGIN.min(place.len);
        wanted = wanted.union(&ExtentSet::from_iter([Extent::new(place.end() - tail, tail)]));
        let wanted: ExtentSet = wanted.iter().map(|e| Extent::new(e.start - place.start, e.len)).collect();
        let wanted = wanted.aligned_outward(4096, place.len);
        self.regions.push(RegionLayout { place, partition: None, wanted, zeros: ExtentSet::new() });
    }
}
