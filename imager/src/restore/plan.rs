//! What a restore will do, as data: it can be printed, tested and drawn before anything is touched.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::portions::{Gets, Portions};
use super::{DiskTarget, OnDamage, Options, Unused, WhatToWrite};
use crate::bulk::map_reader;
use crate::disk::guard::{End, Guard};
use crate::disk::target::Target;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::manifest::{DiskImage, Manifest};
use crate::table::{self, Ids, Patch, TableKind};

/// A restore, planned.
pub struct Plan {
    /// One for each target.
    pub disks: Vec<DiskPlan>,
    /// What goes where. Places are those of [`DiskPlan::base`].
    pub(super) portions: Portions,
}

/// What happens to one target.
pub struct DiskPlan {
    /// Number of the disk in the image.
    pub disk: usize,
    /// The target.
    pub(super) guard: Guard,
    /// Where this target begins in the space of places.
    pub(super) base: u64,
    /// Where the target's first byte lies on the disk in the image.
    pub(super) shift: u64,
    /// What it gets.
    pub(super) gets: Gets,
    /// What is discarded first.
    pub(super) discard: ExtentSet,
    /// What must be changed for the partition table to fit the target.
    pub(super) patches: Vec<Patch>,
    /// How much of the disk is written.
    pub(super) what: WhatToWrite,
}

/// A plan, for people and programs.
#[derive(Debug, Serialize)]
pub struct PlanSummary {
    /// The targets.
    pub disks: Vec<DiskSummary>,
    /// Bytes that will be read from the repository.
    pub read: u64,
}

/// What will happen to one target.
#[derive(Debug, Serialize)]
pub struct DiskSummary {
    /// Number of the disk in the image.
    pub disk: usize,
    /// The target.
    pub target: PathBuf,
    /// Its size in bytes.
    pub target_size: u64,
    /// Partitions that are written; none for all of them.
    pub partitions: Option<Vec<u32>>,
    /// Whether the partition table and what lies outside of partitions is written.
    pub writes_table: bool,
    /// Bytes of data to write.
    pub data: u64,
    /// Bytes of zeros to write.
    pub zeros: u64,
    /// Bytes that the source could not read, written as zeros.
    pub unreadable: u64,
    /// Bytes that are discarded first.
    pub discard: u64,
    /// Changes of the partition table: where, and how many bytes.
    pub patches: Vec<Extent>,
}

impl Plan {
    /// Plans a restore. Nothing is written.
    ///
    /// # Errors
    /// [`Error::TargetRefused`], [`Error::Usage`], damage in the block maps, what the store says.
    pub fn new(
        repository: &Arc<Repository>,
        manifest: &Manifest,
        targets: Vec<DiskTarget>,
        options: &Options,
        progress: &Progress,
    ) -> Result<Self> {
        let (mut reader, _) = map_reader(repository, &std::collections::HashSet::new(), &mut |_| Ok(()))?;
        let mut disks = Vec::new();
        let mut base = 0u64;
        for DiskTarget { disk, target, what } in targets {
            let image =
                manifest.disks.get(disk).ok_or_else(|| Error::Usage(format!("the image has no disk {disk}")))?;
            let plan = DiskPlan::new(disk, image, target, what, base)?;
            if options.ids == Ids::New && (!plan.what.writes_table() || image.table.kind == TableKind::None) {
                return Err(Error::Usage(
                    "only a partition table has ids to renew, and this restore writes none".into(),
                ));
            }
            base = base.saturating_add(plan.target().size());
            disks.push(plan);
        }
        let chunks_max = options.memory.planned_chunks_max();
        let portions = Portions::plan(repository, manifest, &mut reader, &mut disks, chunks_max, progress)?;
        for plan in &mut disks {
            if let Some(image) = manifest.disks.get(plan.disk) {
                plan.plan_discard(image, options.unused);
            }
        }
        for plan in &mut disks {
            let Some(image) = manifest.disks.get(plan.disk) else { continue };
            if !plan.what.writes_table() {
                continue;
            }
            let captured = super::captured::CapturedBytes::read(repository, manifest, plan.disk, &mut reader);
            let captured = match captured {
                Err(error @ (Error::Missing { .. } | Error::Damaged { .. })) if options.damage == OnDamage::Zeros => {
                    progress.say(format!("warning: the partition table is lost: {error}"));
                    continue;
                }
                Err(error @ (Error::Missing { .. } | Error::Damaged { .. })) => {
                    return Err(Error::DamageFound(format!(
                        "the partition table is lost: {error}; nothing was written. `imager verify` says what is hurt; --keep-going restores the rest"
                    )));
                }
                other => other?,
            };
            let patches = table::adapt(&captured, &image.table, plan.target().size(), options.ids);
            plan.patches =
                patches.map_err(|error| Error::refused(&plan.target().identity().path, error.to_string()))?;
        }
        Ok(Self { disks, portions })
    }

    /// The plan in numbers.
    #[must_use]
    pub fn summary(&self) -> PlanSummary {
        let disks = self.disks.iter().map(|plan| DiskSummary {
            disk: plan.disk,
            target: plan.target().identity().path.clone(),
            target_size: plan.target().size(),
            partitions: plan.what.numbers(),
            writes_table: plan.what.writes_table(),
            data: plan.gets.data,
            zeros: if plan.target().is_blank() { 0 } else { plan.gets.zeros },
            unreadable: plan.gets.unreadable,
            discard: plan.discard.total(),
            patches: plan.patches.iter().map(|patch| Extent::new(patch.offset, patch.bytes.len() as u64)).collect(),
        });
        PlanSummary { disks: disks.collect(), read: self.portions.stored_bytes }
    }

    /// Bytes of data that go to the targets.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.portions.data_bytes
    }
}

impl DiskPlan {
    fn new(disk: usize, image: &DiskImage, target: Arc<dyn Target>, what: WhatToWrite, base: u64) -> Result<Self> {
        let (size, path) = (target.size(), target.identity().path.clone());
        let sector = target.identity().logical_sector;
        let is_file = crate::disk::sector_size_of(target.identity()).is_none();
        if !is_file && sector != image.sector_size && !matches!(what, WhatToWrite::OnePartitionAlone(_)) {
            return Err(Error::refused(
                path,
                format!(
                    "its sectors have {sector} bytes, those of the image {}: the partition table would not fit",
                    image.sector_size
                ),
            ));
        }
        let whole = Extent::new(0, size);
        // What becomes bootable.
        let (mut places, mut shift) = (Vec::new(), 0);
        match &what {
            WhatToWrite::All | WhatToWrite::TableAndPartitions(_) => {
                if size < image.size {
                    let missing = crate::units::size(image.size - size);
                    return Err(Error::refused(path, format!("it is {missing} smaller than the disk in the image")));
                }
                places.push(whole);
            }
            WhatToWrite::PartitionsInPlace(numbers) => {
                for &number in numbers {
                    let place = partition_place(image, number)?;
                    if place.end() > size {
                        return Err(Error::refused(path, format!("partition {number} does not fit on it")));
                    }
                    places.push(place);
                }
            }
            WhatToWrite::OnePartitionAlone(number) => {
                let place = partition_place(image, *number)?;
                if place.len > size {
                    let missing = crate::units::size(place.len - size);
                    return Err(Error::refused(
                        path,
                        format!("it is {missing} smaller than partition {number} in the image"),
                    ));
                }
                places.push(Extent::new(0, place.len));
                shift = place.start;
            }
        }
        let end = if what.writes_table() { End::OfDisk } else { End::Plain };
        Ok(Self {
            disk,
            guard: Guard::new(target, &places, end),
            base,
            shift,
            gets: Gets::default(),
            discard: ExtentSet::new(),
            patches: Vec::new(),
            what,
        })
    }

    /// Everything that is written or that the image says nothing about, within what belongs to the restore.
    fn plan_discard(&mut self, image: &DiskImage, unused: Unused) {
        if unused == Unused::Leave || self.target().is_blank() {
            return;
        }
        let size = self.target().size();
        let places: ExtentSet = match &self.what {
            WhatToWrite::All | WhatToWrite::TableAndPartitions(_) => ExtentSet::whole(size),
            WhatToWrite::PartitionsInPlace(numbers) => {
                numbers.iter().filter_map(|&number| partition_place(image, number).ok()).collect()
            }
            WhatToWrite::OnePartitionAlone(number) => {
                partition_place(image, *number).map(|place| Extent::new(0, place.len)).into_iter().collect()
            }
        };
        let written = self.gets.written.union(self.guard.held());
        // Whole MiB only: devices round, and may round the wrong way.
        let free = places.minus(&written);
        let grid = 1 << 20;
        self.discard =
            free.iter().map(|e| Extent::between(e.start.next_multiple_of(grid), e.end() - e.end() % grid)).collect();
    }
}

fn partition_place(image: &DiskImage, number: u32) -> Result<Extent> {
    super::check::check_partition(image, number)?;
    let partition = image.table.partitions.iter().find(|partition| partition.number == number);
    let partition =
        partition.ok_or_else(|| Error::Usage(format!("the disk in the image has no partition {number}")))?;
    Ok(Extent::new(partition.start, partition.len))
}
