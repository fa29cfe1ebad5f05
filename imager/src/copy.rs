//! Copy: one disk onto another, without a repository between them.
//!
//! ```text
//! disk ─► partition table ─► allocation maps ─► what to read ─► several threads, each reads and writes ─► table
//! ```
//!
//! Only what is in use is copied, the partition table is made right for the larger disk, and a copy that was cut
//! short never looks like a finished one: see `disk::guard`. Must not know: terminals, repositories.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::capture::is_zero;
use crate::capture::jobs::{Job, READ_BYTES_MAX, ReadJob, jobs_of_region};
use crate::capture::reading::read;
use crate::disk::guard::{End, Guard};
use crate::disk::source::{AlignedBuf, Source};
use crate::disk::target::Target;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::layout::{self, Layout, Wanted};
use crate::progress::{Phase, Progress, lock};
use crate::restore::ReadBack;
use crate::table::{self, Ids, Patch};

/// Threads that read and write: one waits for the source while another waits for the target.
const THREADS: usize = 8;
const BLOCK: usize = 4096;

/// How to copy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which bytes are wanted.
    pub wanted: Wanted,
    /// Whether the disk and its partitions keep their identifiers.
    pub ids: Ids,
    /// Whether everything is read again from both disks and compared.
    pub read_back: ReadBack,
}

/// A copy, planned. Nothing is written yet.
pub struct Plan {
    layout: Layout,
    data: ExtentSet,
    patches: Vec<Patch>,
    guard: Guard,
}

/// What a copy did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Copied {
    /// Bytes of the source that were read.
    pub read: u64,
    /// Bytes of the source that could not be read, and are zeros on the target; in bytes of the disk.
    pub unreadable: Vec<Extent>,
    /// Whether everything was read back and found equal.
    pub read_back: bool,
    /// What should be known.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Finds out what is on `source` and whether `target` can take it.
    ///
    /// # Errors
    /// [`Error::TargetRefused`] when it is too small or has other sectors, [`Error::Io`].
    pub fn new(source: &dyn Source, target: Arc<dyn Target>, options: &Options) -> Result<Self> {
        let path = &target.identity().path;
        let layout = layout::read(source, source.sector_size(), &options.wanted)
            .map_err(Error::io("read the partition table of", &source.identity().path))?;
        if target.size() < layout.size {
            let missing = crate::units::size(layout.size - target.size());
            return Err(Error::refused(path, format!("it is {missing} smaller than the source")));
        }
        let sector = layout.table.sector_size;
        match crate::disk::sector_size_of(target.identity()) {
            Some(other) if other != sector => {
                return Err(Error::refused(
                    path,
                    format!(
                        "its sectors have {other} bytes, those of the source {sector}: the partition table would not fit"
                    ),
                ));
            }
            _ => {}
        }
        let patches = table::adapt(source, &layout.table, target.size(), options.ids)
            .map_err(|error| Error::refused(path, error.to_string()))?;
        let whole = Extent::new(0, target.size());
        Ok(Self { layout, data: source.data_extents(), patches, guard: Guard::new(target, &[whole], End::OfDisk) })
    }

    /// Bytes that will be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layout.wanted_bytes()
    }
}

/// Carries out a plan that was made for `source`.
///
/// # Errors
/// [`Error::SourceVanished`], what the target says, [`Error::Interrupted`]: the target then does not look like a
/// disk. [`Error::DamageFound`] when reading back finds a difference.
pub fn copy(source: &dyn Source, plan: &Plan, options: &Options, progress: &Progress) -> Result<Copied> {
    let Plan { layout, guard, patches, .. } = plan;
    let mut copied = Copied { warnings: layout.warnings.clone(), ..Copied::default() };
    guard.begin()?;
    let target = guard.target();
    progress.map_disks([(target.identity().path.clone(), target.size())]);
    progress.begin(Phase::Copying, layout.wanted_bytes());
    let blank = guard.target().is_blank();
    let bad = plan.for_each_job(progress, &|job, buf| match job {
        Job::Read(job) => {
            let bad = read(source, job, buf)?;
            for wanted in &job.wanted {
                write_block_wise(guard, job, *wanted, buf, blank)?;
                Progress::add(&progress.new, wanted.len);
            }
            Ok(bad)
        }
        Job::Zero { region, extent } => {
            let on_disk = plan.on_disk(*region, *extent);
            if !blank {
                guard.held().complement(on_disk).iter().try_for_each(|rest| guard.zero(rest))?;
            }
            Progress::add(&progress.zero, extent.len);
            Ok(ExtentSet::new())
        }
    })?;
    for extent in bad.iter() {
        progress.say(format!(
            "{}: {} bytes at byte {} cannot be read; they are zeros on the target",
            source.identity().path.display(),
            extent.len,
            extent.start
        ));
    }
    for patch in patches {
        guard.write(patch.offset, &patch.bytes)?;
    }
    guard.flush()?;
    if options.read_back == ReadBack::Yes {
        progress.begin(Phase::Verifying, layout.wanted_bytes());
        plan.compare(source, &bad, progress)?;
        copied.read_back = true;
    }
    progress.begin(Phase::Finishing, 0);
    guard.finish()?;
    if options.read_back == ReadBack::Yes {
        guard.read_back()?;
    }
    copied.read = layout.wanted_bytes();
    copied.unreadable = bad.as_slice().to_vec();
    Ok(copied)
}

/// Writes the wanted bytes; to a file that was made just now without its blocks of zeros.
fn write_block_wise(guard: &Guard, job: &ReadJob, wanted: Extent, buf: &[u8], blank: bool) -> Result<()> {
    let start = usize::try_from(wanted.start - job.extent.start).unwrap_or(usize::MAX);
    let len = usize::try_from(wanted.len).unwrap_or(usize::MAX);
    let bytes = buf.get(start..start.saturating_add(len)).unwrap_or_default();
    let place = job.region_start + wanted.start;
    if !blank {
        return guard.write(place, bytes);
    }
    let mut at = 0;
    for run in bytes.chunks(BLOCK).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().map(|block| block.len()).sum();
        if !run.first().is_some_and(|block| is_zero(block)) {
            guard.write(place + at as u64, bytes.get(at..at + len).unwrap_or_default())?;
        }
        at += len;
    }
    Ok(())
}

impl Plan {
    fn on_disk(&self, region: usize, extent: Extent) -> Extent {
        let start = self.layout.regions.get(region).map_or(0, |region| region.place.start);
        Extent::new(start + extent.start, extent.len)
    }

    /// Gives every job to `work`, from several threads, with a buffer that is large enough. `work` gives what could
    /// not be read, relative to the region; joined in bytes of the disk.
    fn for_each_job(
        &self,
        progress: &Progress,
        work: &(dyn Fn(&Job, &mut [u8]) -> Result<ExtentSet> + Sync),
    ) -> Result<ExtentSet> {
        let regions = 0..self.layout.regions.len();
        let jobs = Mutex::new(regions.flat_map(|region| jobs_of_region(&self.layout, region, &self.data)));
        let outcome: Mutex<Result<ExtentSet>> = Mutex::new(Ok(ExtentSet::new()));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut buf = AlignedBuf::new(usize::try_from(READ_BYTES_MAX).unwrap_or(1 << 20));
                    while lock(&outcome).is_ok() {
                        let Some(job) = lock(&jobs).next() else { break };
                        let done = progress.check().and_then(|()| work(&job, buf.as_mut_slice()));
                        let (region, len) = match &job {
                            Job::Read(job) => (job.region, job.wanted.iter().map(|wanted| wanted.len).sum()),
                            Job::Zero { region, extent } => (*region, extent.len),
                        };
                        Progress::add(&progress.done, len);
                        let path = &self.guard.target().identity().path;
                        let cover = |extent: Extent| progress.cover(path, self.on_disk(region, extent));
                        match &job {
                            Job::Read(job) => job.wanted.iter().copied().for_each(cover),
                            Job::Zero { extent, .. } => cover(*extent),
                        }
                        match (&mut *lock(&outcome), done) {
                            (Ok(all), Ok(bad)) => bad.iter().for_each(|bad| all.insert(self.on_disk(region, bad))),
                            (outcome @ Ok(_), Err(error)) => *outcome = Err(error),
                            (Err(_), _) => {}
                        }
                    }
                });
            }
        });
        outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads both disks and compares, but for what is held back, was changed on purpose, or cannot be read.
    fn compare(&self, source: &dyn Source, bad: &ExtentSet, progress: &Progress) -> Result<()> {
        let patched = self.patches.iter().map(|patch| Extent::new(patch.offset, patch.bytes.len() as u64)).collect();
        let skipped = self.guard.held().union(&patched).union(bad);
        let differing = self.for_each_job(progress, &|job, buf| {
            let mut theirs = AlignedBuf::new(0);
            let mut differing = ExtentSet::new();
            match job {
                Job::Read(job) => {
                    read(source, job, buf)?;
                    for wanted in &job.wanted {
                        let on_disk = Extent::new(job.region_start + wanted.start, wanted.len);
                        for part in skipped.complement(on_disk).iter() {
                            let start =
                                usize::try_from(part.start - job.region_start - job.extent.start).unwrap_or(usize::MAX);
                            let len = usize::try_from(part.len).unwrap_or(usize::MAX);
                            let ours = buf.get(start..start.saturating_add(len)).unwrap_or_default();
                            if self.read_target(part, &mut theirs)? != ours {
                                differing.insert(Extent::new(part.start - job.region_start, part.len));
                            }
                        }
                    }
                }
                Job::Zero { region, extent } => {
                    for part in skipped.complement(self.on_disk(*region, *extent)).iter() {
                        for start in (part.start..part.end()).step_by(1 << 20) {
                            let piece = Extent::between(start, part.end().min(start + (1 << 20)));
                            if !is_zero(self.read_target(piece, &mut theirs)?) {
                                let region = self.on_disk(*region, Extent::new(0, 0)).start;
                                differing.insert(Extent::new(piece.start - region, piece.len));
                            }
                        }
                    }
                }
            }
            Ok(differing)
        })?;
        match differing.iter().next() {
            None => Ok(()),
            Some(first) => Err(Error::DamageFound(format!(
                "{} does not give back what was written to it: {} differ, the first near byte {}. The disk is not to be trusted",
                self.guard.target().identity().path.display(),
                crate::units::size(differing.total()),
                first.start
            ))),
        }
    }

    fn read_target<'b>(&self, part: Extent, buf: &'b mut AlignedBuf) -> Result<&'b [u8]> {
        let bytes = buf.of_len(usize::try_from(part.len).unwrap_or(usize::MAX));
        self.guard.target().read_at(part.start, bytes).map_err(self.guard.io("read", part))?;
        Ok(bytes)
    }
}
