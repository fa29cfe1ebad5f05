//! A restore in portions, each of which fits into memory: one behind the other in the space of places.
//!
//! What an image has, and where its chunks are, takes about 64 bytes for each chunk; of a large image that is more than
//! a small machine has. So the block maps are gone through again for each portion, and the index with them. An image
//! that fits as a whole is one portion, and is planned once. Must not know: how data are written.

use std::collections::HashSet;
use std::ops::Range;

use super::plan::DiskPlan;
use crate::bulk::{ReadPlan, Want, for_each_run_within, map_reader};
use crate::capture::short;
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::block_map::Run;
use crate::repo::index::with_fresh_index;
use crate::repo::manifest::Manifest;
use crate::repo::reader::ChunkReader;

/// What has to become zeros, in bytes of each target.
#[derive(Clone, Default)]
pub(super) struct Zeros {
    /// Zeros on the source.
    pub(super) zeros: Vec<ExtentSet>,
    /// What the source could not read.
    pub(super) unreadable: Vec<ExtentSet>,
}

impl Zeros {
    fn of(disks: usize) -> Self {
        Self { zeros: vec![ExtentSet::new(); disks], unreadable: vec![ExtentSet::new(); disks] }
    }

    /// Both kinds, of one target.
    pub(super) fn all_of(&self, disk: usize) -> ExtentSet {
        let of = |sets: &[ExtentSet]| sets.get(disk).cloned().unwrap_or_default();
        of(&self.zeros).union(&of(&self.unreadable))
    }
}

/// The portions of a restore.
pub(super) struct Portions {
    manifest: Manifest,
    ranges: Vec<Range<u64>>,
    /// Of the only one.
    pub(super) only: Option<(Zeros, ReadPlan)>,
    /// Wants whose chunks no pack has.
    pub(super) missing: u64,
    /// Bytes to be read from the store.
    pub(super) stored_bytes: u64,
    /// Bytes of data to be written.
    pub(super) data_bytes: u64,
}

impl Portions {
    /// Goes through all block maps, tells `disks` what they get, and cuts it into portions of `chunks_max` runs.
    pub(super) fn plan(
        repository: &Repository,
        manifest: &Manifest,
        reader: &mut ChunkReader<'_>,
        disks: &mut [DiskPlan],
        chunks_max: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let mut portions = Self {
            manifest: manifest.clone(),
            ranges: Vec::new(),
            only: None,
            missing: 0,
            stored_bytes: 0,
            data_bytes: 0,
        };
        let (mut start, mut portion) = (0, Portion::of(disks.len()));
        for number in 0..disks.len() {
            let Some(disk) = disks.get(number) else { continue };
            progress.check()?;
            let mut gets = Gets::default();
            for_each_run_of(manifest, reader, disk, 0..u64::MAX, &mut |extent, run| {
                let place = disk.base + extent.start;
                if portion.runs >= chunks_max {
                    progress.check()?;
                    let full = std::mem::replace(&mut portion, Portion::of(disks.len()));
                    portions.count(&full.into_read_plan(repository)?);
                    portions.ranges.push(start..place);
                    start = place;
                }
                gets.add(extent, run);
                portion.add(number, disk.base, extent, run);
                Ok(())
            })?;
            if let Some(disk) = disks.get_mut(number) {
                disk.gets = gets;
            }
        }
        let zeros = portion.zeros.clone();
        let read = portion.into_read_plan(repository)?;
        portions.count(&read);
        portions.ranges.push(start..u64::MAX);
        if portions.ranges.len() == 1 {
            portions.only = Some((zeros, read));
        }
        Ok(portions)
    }

    fn count(&mut self, read: &ReadPlan) {
        self.missing += read.missing.len() as u64;
        self.stored_bytes += read.stored_bytes();
        self.data_bytes += total(&read.wants);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// One of them, its wants in the order of their places.
    pub(super) fn load(&self, repository: &Repository, disks: &[DiskPlan], number: usize) -> Result<Portion> {
        if let Some((zeros, read)) = &self.only {
            let mut wants = read.wants.clone();
            wants.sort_unstable_by_key(|want| want.place);
            return Ok(Portion { runs: wants.len(), wants, zeros: zeros.clone() });
        }
        let range = self.ranges.get(number).cloned().unwrap_or_default();
        with_fresh_index(|| {
            let (mut reader, _) = map_reader(repository, &HashSet::new(), &mut |_| Ok(()))?;
            let mut portion = Portion::of(disks.len());
            for (number, disk) in disks.iter().enumerate() {
                for_each_run_of(&self.manifest, &mut reader, disk, range.clone(), &mut |extent, run| {
                    portion.add(number, disk.base, extent, run);
                    Ok(())
                })?;
            }
            Ok(portion)
        })
    }
}

/// A portion, in memory.
pub(super) struct Portion {
    pub(super) wants: Vec<Want>,
    pub(super) zeros: Zeros,
    runs: usize,
}

impl Portion {
    fn of(disks: usize) -> Self {
        Self { wants: Vec::new(), zeros: Zeros::of(disks), runs: 0 }
    }

    fn add(&mut self, disk: usize, base: u64, extent: Extent, run: Run) {
        self.runs += 1;
        let into = |sets: &mut Vec<ExtentSet>| {
            if let Some(set) = sets.get_mut(disk) {
                set.insert(extent);
            }
        };
        match run {
            Run::Zero => into(&mut self.zeros.zeros),
            Run::Unreadable => into(&mut self.zeros.unreadable),
            Run::Chunk(id) => {
                let len = u32::try_from(extent.len).unwrap_or(u32::MAX);
                self.wants.push(Want { chunk: short(id), place: base + extent.start, len });
            }
        }
    }

    fn into_read_plan(self, repository: &Repository) -> Result<ReadPlan> {
        ReadPlan::new(repository, self.wants, &HashSet::new())
    }
}

/// What a target gets, in all.
#[derive(Default)]
pub(super) struct Gets {
    /// Everything that is written, and maybe a little more.
    pub(super) written: ExtentSet,
    /// Bytes of data.
    pub(super) data: u64,
    /// Bytes of zeros.
    pub(super) zeros: u64,
    /// Bytes that the source could not read.
    pub(super) unreadable: u64,
}

impl Gets {
    fn add(&mut self, extent: Extent, run: Run) {
        self.written.insert(extent);
        match run {
            Run::Chunk(_) => self.data += extent.len,
            Run::Zero => self.zeros += extent.len,
            Run::Unreadable => self.unreadable += extent.len,
        }
    }
}

pub(super) fn total(wants: &[Want]) -> u64 {
    wants.iter().map(|want| u64::from(want.len)).sum()
}

/// What a target gets at these places, in ascending order, in bytes of the target.
fn for_each_run_of(
    manifest: &Manifest,
    reader: &mut ChunkReader<'_>,
    disk: &DiskPlan,
    places: Range<u64>,
    visit: &mut dyn FnMut(Extent, Run) -> Result<()>,
) -> Result<()> {
    let size = disk.target().size();
    let on_target = |place: u64| place.saturating_sub(disk.base).min(size);
    let within = Extent::between(on_target(places.start) + disk.shift, on_target(places.end) + disk.shift);
    let Some(image) = manifest.disks.get(disk.disk).filter(|_| !within.is_empty()) else { return Ok(()) };
    let chosen = |region: usize| image.regions.get(region).is_some_and(|r| disk.what.includes(r.partition));
    for_each_run_within(within, manifest, reader, &|d, region| d == disk.disk && chosen(region), &mut |run| {
        visit(Extent::new(run.start.saturating_sub(disk.shift), run.len.into()), run.run)
    })
}
