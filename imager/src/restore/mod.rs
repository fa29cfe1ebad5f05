//! Restore: writes an image back to disks.
//!
//! ```text
//! manifest ─► plan ─► compare (only with changed-only) ─► frames in storage order ─► every place that needs them
//!                                                       ─► flush ─► first and last MiB, the first sector last
//! ```
//!
//! A restore that was cut short never looks like a finished one: see `disk::guard`. Must not know:
//! terminals, how captures are made.

mod captured;
mod check;
mod compare;
mod plan;
mod portions;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde::Serialize;

pub use self::check::{check_device, check_different, check_file, check_partition, find_kind};
pub use self::plan::{DiskPlan, DiskSummary, Plan, PlanSummary};

use self::portions::{Portion, Portions, Zeros, total};
use crate::bulk::{FrameSink, FrameTask, ReadPlan, Want, checked_chunk, read_frames};
use crate::disk::target::Target;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::memory::Budget;
use crate::progress::{Phase, Progress, lock};
use crate::repo::Repository;
use crate::repo::pack::Check;
use crate::table::Ids;
use crate::units::size;

/// A disk of an image and where it goes.
pub struct DiskTarget {
    /// Number of the disk in the image.
    pub disk: usize,
    /// Where it goes.
    pub target: Arc<dyn Target>,
    /// How much of it.
    pub what: WhatToWrite,
}

/// How much of a disk is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatToWrite {
    /// Everything.
    All,
    /// These partitions and all that lies in none, the partition table with it, onto a disk that has none.
    TableAndPartitions(Vec<u32>),
    /// These partitions, onto a disk that has them at the same places.
    PartitionsInPlace(Vec<u32>),
    /// One partition's content, to a target that is a partition itself.
    OnePartitionAlone(u32),
}

impl WhatToWrite {
    fn numbers(&self) -> Option<Vec<u32>> {
        match self {
            Self::All => None,
            Self::TableAndPartitions(numbers) | Self::PartitionsInPlace(numbers) => Some(numbers.clone()),
            Self::OnePartitionAlone(number) => Some(vec![*number]),
        }
    }

    /// Whether the target gets the image's partition table.
    #[must_use]
    pub fn writes_table(&self) -> bool {
        matches!(self, Self::All | Self::TableAndPartitions(_))
    }

    /// Whether a region of that partition is written; none is the space outside of partitions.
    fn includes(&self, partition: Option<u32>) -> bool {
        match (self, partition) {
            (Self::All, _) | (Self::TableAndPartitions(_), None) => true,
            (Self::TableAndPartitions(numbers) | Self::PartitionsInPlace(numbers), Some(number)) => {
                numbers.contains(&number)
            }
            (Self::OnePartitionAlone(one), Some(number)) => *one == number,
            (_, None) => false,
        }
    }
}

/// How to restore.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Write only what differs from what the target has.
    pub changed_only: ChangedOnly,
    /// What to do with space that the image says nothing about.
    pub unused: Unused,
    /// Whether the disk and its partitions keep their identifiers.
    pub ids: Ids,
    /// Whether to read everything back.
    pub read_back: ReadBack,
    /// What to do about damage in the repository.
    pub damage: OnDamage,
    /// Memory to stay within.
    pub memory: Budget,
}

/// Whether the target is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedOnly {
    /// It is; only what differs is written.
    Yes,
    /// It is not.
    No,
}

/// What happens to space that the image says nothing about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// It stays as it is.
    Leave,
    /// The device is told that nobody needs it.
    Discard,
}

/// Whether everything is read back at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What damage in the repository means for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// The restore ends, and the target does not look bootable.
    Stop,
    /// Zeros take the place of what is lost, and the restore says where.
    Zeros,
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Restored {
    /// Bytes of data written.
    pub written: u64,
    /// Bytes that the target had already.
    pub unchanged: u64,
    /// Bytes read from the store.
    pub read: u64,
    /// Bytes of the targets that are zeros because the repository is damaged.
    pub lost: u64,
    /// Bytes of the targets that are zeros because the source could not be read.
    pub unreadable: u64,
    /// Whether everything was read back and found equal.
    pub read_back: bool,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// Carries out a plan.
///
/// # Errors
/// What the store or a target says, [`Error::Interrupted`], [`Error::Damaged`]; the target then has no first
/// MiB and does not look bootable. [`Error::DamageFound`] when reading back finds a difference.
pub fn restore(repository: &Arc<Repository>, plan: Plan, options: &Options, progress: &Progress) -> Result<Restored> {
    let Plan { disks, portions } = plan;
    if options.damage == OnDamage::Stop && portions.missing > 0 {
        return Err(Error::DamageFound(format!(
            "{} chunks of the image are missing from the repository; nothing was written. `imager verify` says what is hurt; --keep-going restores the rest",
            portions.missing
        )));
    }
    progress.map_disks(disks.iter().map(|disk| (disk.target().identity().path.clone(), disk.target().size())));
    let mut restored = Restored::default();
    let differs = match options.changed_only {
        ChangedOnly::Yes => Some(find_differing(repository, &disks, &portions, &mut restored, progress)?),
        ChangedOnly::No => None,
    };
    for disk in &disks {
        disk.guard.begin()?;
        disk.discard(progress)?;
    }
    let compared: u64 = disks.iter().filter(|_| differs.is_some()).map(DiskPlan::zero_bytes).sum();
    progress.begin(Phase::Copying, portions.data_bytes - restored.unchanged + compared);
    let mut lost = ExtentSet::new();
    for number in 0..portions.len() {
        let fresh;
        let (zeros, read) = match (&portions.only, &differs) {
            (Some((zeros, read)), None) => (zeros.clone(), read),
            _ => {
                let Portion { mut wants, zeros, .. } = portions.load(repository, &disks, number)?;
                let differs = |want: &Want| differs.as_ref().is_none_or(|set| set.contains(place_of(want)));
                wants.retain(differs);
                fresh = ReadPlan::new(repository, wants, &HashSet::new())?;
                if options.damage == OnDamage::Stop && !fresh.missing.is_empty() {
                    return Err(now_missing(fresh.missing.len()));
                }
                (zeros, &fresh)
            }
        };
        for (number, disk) in disks.iter().enumerate() {
            disk.write_zeros(&zeros, number, options.changed_only, progress)?;
        }
        for disk in &disks {
            disk.reserve(&read.wants)?;
        }
        let found = write_data(repository, &disks, read, options, progress)?;
        for disk in &disks {
            disk.write_lost_zeros(&found)?;
        }
        restored.lost += total(&found);
        lost = lost.union(&found.iter().map(place_of).collect());
    }
    restored.unreadable = disks.iter().map(|disk| disk.gets.unreadable).sum();
    for disk in &disks {
        for patch in &disk.patches {
            disk.guard.write(patch.offset, &patch.bytes)?;
        }
        disk.guard.flush()?;
    }
    if options.read_back == ReadBack::Yes {
        read_back(repository, &disks, &portions, &lost, progress)?;
        restored.read_back = true;
    }
    progress.begin(Phase::Finishing, 0);
    for disk in &disks {
        disk.guard.finish()?;
        if options.read_back == ReadBack::Yes {
            disk.guard.read_back()?;
        }
    }
    restored.written = progress.new.load(Ordering::Relaxed);
    restored.read = progress.stored.load(Ordering::Relaxed);
    Ok(restored)
}

fn now_missing(chunks: usize) -> Error {
    Error::DamageFound(format!("{chunks} chunks of the image are missing from the repository"))
}

/// In the space of places.
fn place_of(want: &Want) -> Extent {
    Extent::new(want.place, want.len.into())
}

/// Wants of one target, of those that are sorted by place.
fn wants_of<'w>(disk: &DiskPlan, by_place: &'w [Want]) -> &'w [Want] {
    let first = by_place.partition_point(|want| want.place < disk.base);
    let last = by_place.partition_point(|want| want.place < disk.base + disk.target().size());
    by_place.get(first..last).unwrap_or_default()
}

/// The places where a target does not have yet what it gets, and maybe a little more.
fn find_differing(
    repository: &Repository,
    disks: &[DiskPlan],
    portions: &Portions,
    restored: &mut Restored,
    progress: &Progress,
) -> Result<ExtentSet> {
    progress.begin(Phase::Planning, portions.data_bytes);
    let mut differs = ExtentSet::new();
    for number in 0..portions.len() {
        let Portion { wants: by_place, .. } = portions.load(repository, disks, number)?;
        let mut kept = Vec::new();
        for disk in disks {
            // What is emptied first has to be written whatever it holds now.
            let held = |extent: Extent| disk.guard.held().intersect(extent).next().is_some();
            let (always, compared): (Vec<Want>, Vec<Want>) = wants_of(disk, &by_place)
                .iter()
                .partition(|want| held(Extent::new(want.place - disk.base, want.len.into())));
            kept.extend(always);
            kept.extend(compare::differing(repository, &**disk.target(), disk.base, &compared, progress)?);
        }
        differs = differs.union(&kept.iter().map(place_of).collect());
        restored.unchanged += by_place
            .iter()
            .filter(|want| !differs.contains(place_of(want)))
            .map(|want| u64::from(want.len))
            .sum::<u64>();
    }
    Ok(differs)
}

/// Writes every want; gives those that the repository could not deliver.
fn write_data(
    repository: &Arc<Repository>,
    disks: &[DiskPlan],
    first: &ReadPlan,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Want>> {
    let mut lost = first.missing.clone();
    let mut moved: Option<ReadPlan> = None;
    for attempt in 0.. {
        let plan = moved.as_ref().unwrap_or(first);
        let writer =
            Writer { repository, disks, plan, options, progress, gone: Mutex::default(), lost: Mutex::default() };
        read_frames(repository, &plan.tasks, options.memory, progress, &writer)?;
        lost.append(&mut lock(&writer.lost));
        let gone = std::mem::take(&mut *lock(&writer.gone));
        if gone.is_empty() {
            break;
        }
        // A prune moved them meanwhile: the index knows where to.
        let plan = moved.insert(ReadPlan::new(repository, gone, &HashSet::new())?);
        if attempt == 3 || !plan.missing.is_empty() {
            let missing = if plan.missing.is_empty() { &plan.wants } else { &plan.missing };
            if options.damage == OnDamage::Stop {
                return Err(now_missing(missing.len()));
            }
            lost.extend_from_slice(missing);
            if attempt == 3 {
                break;
            }
        }
    }
    Ok(lost)
}

struct Writer<'a> {
    repository: &'a Repository,
    disks: &'a [DiskPlan],
    plan: &'a ReadPlan,
    options: &'a Options,
    progress: &'a Progress,
    gone: Mutex<Vec<Want>>,
    lost: Mutex<Vec<Want>>,
}

impl Writer<'_> {
    fn write(&self, place: u64, bytes: &[u8]) -> Result<()> {
        let index = self.disks.partition_point(|disk| disk.base <= place).saturating_sub(1);
        let Some(disk) = self.disks.get(index) else {
            return Err(Error::Internal("a place on no target".into()));
        };
        disk.guard.write(place - disk.base, bytes)?;
        self.progress.cover(&disk.target().identity().path, Extent::new(place - disk.base, bytes.len() as u64));
        Progress::add(&self.progress.done, bytes.len() as u64);
        Progress::add(&self.progress.new, bytes.len() as u64);
        Ok(())
    }

    fn lose(&self, wants: &[Want], error: Error) -> Result<()> {
        match self.options.damage {
            OnDamage::Stop => Err(error),
            OnDamage::Zeros => {
                self.progress.say(format!("warning: {error}"));
                lock(&self.lost).extend_from_slice(wants);
                Ok(())
            }
        }
    }
}

impl FrameSink for Writer<'_> {
    /// No chunk is written before it was checked.
    fn check(&self) -> Check {
        Check::Ids
    }

    /// Neighbours in the frame are mostly neighbours on the target, and are written in one go.
    fn frame(&self, task: &FrameTask, data: &[u8]) -> Result<()> {
        let mut run: Option<(u64, std::ops::Range<usize>)> = None;
        for chunk in &task.chunks {
            let wants = self.plan.wants_of(chunk);
            let Some(first) = wants.first() else { continue };
            let bytes = match checked_chunk(self.repository, task, data, chunk, first.chunk) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.lose(wants, error)?;
                    continue;
                }
            };
            for want in wants.get(1..).unwrap_or_default() {
                self.write(want.place, bytes)?;
            }
            let start = usize::try_from(chunk.at).unwrap_or(usize::MAX);
            let range = start..start + bytes.len();
            run = match run {
                Some((place, run)) if run.end == range.start && place + run.len() as u64 == first.place => {
                    Some((place, run.start..range.end))
                }
                other => {
                    if let Some((place, run)) = other {
                        self.write(place, data.get(run).unwrap_or_default())?;
                    }
                    Some((first.place, range))
                }
            };
        }
        match run {
            Some((place, run)) => self.write(place, data.get(run).unwrap_or_default()),
            None => Ok(()),
        }
    }

    fn failed(&self, task: &FrameTask, error: Error) -> Result<()> {
        let wants: Vec<Want> = task.chunks.iter().flat_map(|chunk| self.plan.wants_of(chunk)).copied().collect();
        if matches!(error, Error::Missing { .. }) {
            lock(&self.gone).extend(wants);
            return Ok(());
        }
        self.lose(&wants, error)
    }
}

/// Reads the targets and compares; the first MiB is compared when it is written.
fn read_back(
    repository: &Repository,
    disks: &[DiskPlan],
    portions: &Portions,
    lost: &ExtentSet,
    progress: &Progress,
) -> Result<()> {
    let zeros: u64 = disks.iter().map(DiskPlan::zero_bytes).sum();
    progress.begin(Phase::Verifying, portions.data_bytes + zeros);
    for number in 0..portions.len() {
        let Portion { wants: by_place, zeros, .. } = portions.load(repository, disks, number)?;
        for (number, disk) in disks.iter().enumerate() {
            let patched: ExtentSet =
                disk.patches.iter().map(|patch| Extent::new(patch.offset, patch.bytes.len() as u64)).collect();
            let skipped = patched.union(disk.guard.held());
            let compared: Vec<Want> = wants_of(disk, &by_place)
                .iter()
                .filter(|want| !lost.contains(place_of(want)))
                .filter(|want| skipped.intersect(Extent::new(want.place - disk.base, want.len.into())).next().is_none())
                .copied()
                .collect();
            let wrong = compare::differing(repository, &**disk.target(), disk.base, &compared, progress)?;
            let not_zero = compare::not_zero(&**disk.target(), &zeros.all_of(number).minus(&skipped), progress)?;
            let first =
                wrong.first().map(|want| want.place - disk.base).or(not_zero.iter().next().map(|extent| extent.start));
            if let Some(byte) = first {
                return Err(Error::DamageFound(format!(
                    "{} does not give back what was written to it: {} chunks and {} bytes of zeros differ, the first at byte {byte}. The disk is not to be trusted",
                    disk.target().identity().path.display(),
                    wrong.len(),
                    not_zero.total(),
                )));
            }
        }
    }
    Ok(())
}

impl DiskPlan {
    /// Where it goes.
    pub(super) fn target(&self) -> &Arc<dyn Target> {
        self.guard.target()
    }

    fn zero_bytes(&self) -> u64 {
        self.gets.zeros + self.gets.unreadable
    }

    /// Has the target set room aside for a portion.
    fn reserve(&self, wants: &[Want]) -> Result<()> {
        let target = self.target();
        let space = Extent::new(self.base, target.size());
        let places = wants.iter().map(|want| place_of(want).intersection(space)).filter(|place| !place.is_empty());
        let places: ExtentSet = places.map(|place| Extent::new(place.start - self.base, place.len)).collect();
        target
            .reserve(&places)
            .map_err(Error::io(format!("set {} aside in", size(places.total())), &target.identity().path))
    }

    /// Discards what nobody needs.
    fn discard(&self, progress: &Progress) -> Result<()> {
        if self.target().is_blank() {
            return Ok(());
        }
        for extent in self.discard.iter() {
            progress.check()?;
            if let Err(error) = self.target().discard(extent) {
                progress.say(format!(
                    "{}: unused space is left as it is: {error}",
                    self.target().identity().path.display()
                ));
                break;
            }
        }
        Ok(())
    }

    /// Writes the zeros of a portion.
    fn write_zeros(&self, zeros: &Zeros, number: usize, changed: ChangedOnly, progress: &Progress) -> Result<()> {
        if self.target().is_blank() {
            return Ok(());
        }
        let mut places = zeros.all_of(number).minus(self.guard.held());
        if changed == ChangedOnly::Yes {
            places = compare::not_zero(&**self.target(), &places, progress)?;
        }
        for extent in places.iter() {
            progress.check()?;
            self.guard.zero(extent)?;
            progress.cover(&self.target().identity().path, extent);
        }
        Ok(())
    }

    /// Puts zeros where the repository could not deliver.
    fn write_lost_zeros(&self, lost: &[Want]) -> Result<()> {
        let end = self.base + self.target().size();
        for want in lost.iter().filter(|want| (self.base..end).contains(&want.place)) {
            self.guard.write(want.place - self.base, &vec![0; usize::try_from(want.len).unwrap_or(0)])?;
        }
        Ok(())
    }
}
