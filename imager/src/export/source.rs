//! A disk of an image as a restore would write it: with its partition table mended, and zeros for what is lost if
//! that was asked for.
//!
//! Must not know: formats.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Image, Options};
use crate::bulk::{for_each_run, map_reader};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image_disk::stream::MappedDisk;
use crate::image_disk::{Allocation, ImageDisk, Shelf};
use crate::memory::Budget;
use crate::progress::Progress;
use crate::repo::block_map::Run;
use crate::repo::index::with_fresh_index;
use crate::restore::OnDamage;
use crate::table::{self, Ids, Patch};

/// What is lost is looked for in runs of this size.
const BLOCK: usize = 4096;

/// Decompressed frames that are kept, at most: a disk is read from its beginning to its end, and what it has twice is
/// mostly near.
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// A disk of an image.
pub(super) struct Source<'a> {
    disk: ImageDisk,
    patches: Vec<Patch>,
    damage: OnDamage,
    lost: AtomicU64,
    progress: &'a Progress,
}

impl<'a> Source<'a> {
    /// Reads the index and the partition table.
    pub(super) fn open(image: &Image, number: usize, options: &Options, progress: &'a Progress) -> Result<Self> {
        let shelf =
            Shelf::open(image.repository.clone(), Budget::new((options.memory.bytes() / 2).min(CACHE_BYTES_MAX)))?;
        let disk = ImageDisk::all_of(&shelf, &image.manifest).into_iter().nth(number);
        let disk = disk.ok_or_else(|| Error::Internal("a disk that is not there".into()))?;
        let table = &image.disk(number)?.table;
        let patches = match table::adapt(&disk, table, disk.size(), Ids::Keep) {
            Ok(patches) => patches,
            Err(error) if options.damage == OnDamage::Zeros => {
                progress.say(format!("warning: the partition table is lost: {error}"));
                Vec::new()
            }
            Err(error) => return Err(Error::DamageFound(format!("the partition table of disk {number}: {error}"))),
        };
        Ok(Self { disk, patches, damage: options.damage, lost: AtomicU64::new(0), progress })
    }

    /// Bytes that are zeros because the repository is damaged.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Reads in halves what cannot be read as a whole.
    fn read_what_there_is(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Err(error) = self.disk.read(offset, buf) else { return Ok(()) };
        match error {
            Error::Damaged { .. } | Error::Missing { .. } if self.damage == OnDamage::Zeros => {}
            error => return Err(error),
        }
        if buf.len() <= BLOCK {
            buf.fill(0);
            if self.lost.fetch_add(buf.len() as u64, Ordering::Relaxed) == 0 {
                self.progress.say(format!("warning: {error}"));
            }
            return Ok(());
        }
        let half = (buf.len() / 2).next_multiple_of(BLOCK).min(buf.len() - 1);
        let (first, second) = buf.split_at_mut(half);
        self.read_what_there_is(offset, first)?;
        self.read_what_there_is(offset + half as u64, second)
    }

    fn patched(&self) -> impl Iterator<Item = (Extent, &Patch)> {
        self.patches.iter().map(|patch| (Extent::new(patch.offset, patch.bytes.len() as u64), patch))
    }
}

impl MappedDisk for Source<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
        let runs = self.disk.allocation(wanted)?;
        let changed: ExtentSet = self.patched().map(|(place, _)| place.intersection(wanted)).collect();
        if changed.is_empty() {
            return Ok(runs);
        }
        let mut all: Vec<_> = changed.iter().map(|run| (run, Allocation::Data)).collect();
        for (run, what) in runs {
            all.extend(changed.complement(run).iter().map(|rest| (rest, what)));
        }
        all.sort_unstable_by_key(|(run, _)| run.start);
        Ok(all)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_what_there_is(offset, buf)?;
        let wanted = Extent::new(offset, buf.len() as u64);
        for (place, patch) in self.patched() {
            let shared = place.intersection(wanted);
            let range = |from: u64| {
                let start = usize::try_from(shared.start.saturating_sub(from)).unwrap_or(usize::MAX);
                start..start.saturating_add(usize::try_from(shared.len).unwrap_or(usize::MAX))
            };
            if let (false, Some(to), Some(of)) =
                (shared.is_empty(), buf.get_mut(range(offset)), patch.bytes.get(range(place.start)))
            {
                to.copy_from_slice(of);
            }
        }
        Ok(())
    }
}

/// Calls `visit` for every run of data of a disk, ascending.
pub(super) fn for_each_data_run(image: &Image, number: usize, visit: &mut dyn FnMut(Extent)) -> Result<()> {
    with_fresh_index(|| {
        let (mut reader, _) = map_reader(&image.repository, &std::collections::HashSet::new(), &mut |_| Ok(()))?;
        for_each_run(&image.manifest, &mut reader, &|disk, _| disk == number, &mut |run| {
            if let Run::Chunk(_) = run.run {
                visit(Extent::new(run.start, run.len.into()));
            }
            Ok(())
        })
    })
}
