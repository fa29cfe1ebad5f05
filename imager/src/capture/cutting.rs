//! From a disk to named cuts: threads that each read a part, have it cut in its turn, and name its chunks while the
//! processor still has them in its cache.
//!
//! ```text
//! jobs, numbered ─► threads: read, mark ─► in order: cut ─► hash, known? ─► in order: storing
//! ```
//!
//! Only the cutting, which looks at no byte, needs what lies before, and nobody waits for it: who brings the part that was
//! missing cuts those behind it, too. Must not know: frames, packs.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded};

use super::PlannedDisk;
use super::chunking::{Chunker, Cut, Marked, Piece};
use super::jobs::{Job, ReadJob, jobs_of_region};
use super::reading::{BufferPool, PooledBuf, Segment, read, read_cached};
use super::storing::{Batch, KnownChunks, Named, Pending, Shared, short};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::progress::lock;
use crate::repo::pack::Content;

/// Several requests in flight keep an NVMe disk or an array busy; more cost memory, no speed.
const READERS: usize = 8;
/// Steps that are taken at once when there is nothing to read among them.
const STEPS_MAX: usize = 64;

/// Reads one disk and sends its cuts on; gives what was unreadable, in bytes of the disk, or nothing when it has
/// failed and said so.
pub(super) fn read_disk(
    shared: &Shared,
    disk: &PlannedDisk<'_>,
    known: &KnownChunks,
    buffers: &Arc<BufferPool>,
    batches: &Sender<Pending<Vec<Batch>>>,
) -> Option<ExtentSet> {
    let chunker = Chunker::new(shared.repository.config().chunks);
    let turn = Turn {
        number: 0,
        waiting: BTreeMap::new(),
        chunker,
        region_start: 0,
        unreadable: ExtentSet::new(),
        failed: false,
    };
    let cutting = Cutting {
        shared,
        disk,
        known,
        buffers,
        batches,
        steps: Mutex::new((0, Box::new(steps_of(disk)))),
        turn: Mutex::new(turn),
        gate: Gate::new(shared.pool.current_num_threads()),
    };
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                cutting.gate.enter();
                if catch_unwind(AssertUnwindSafe(|| cutting.work())).is_err() {
                    cutting.fail(Error::Internal("a reading thread panicked".into()));
                }
                cutting.gate.leave();
            });
        }
    });
    let turn = cutting.turn.into_inner().unwrap_or_else(PoisonError::into_inner);
    (!turn.failed).then_some(turn.unreadable)
}

/// Steps in the order of the disk.
enum Step {
    Read(ReadJob),
    Other(Other),
}

/// Steps that need no reading.
enum Other {
    Region(Extent),
    Zero(Extent),
    End,
}

fn steps_of<'a>(disk: &'a PlannedDisk<'_>) -> impl Iterator<Item = Step> + Send + 'a {
    disk.layout.regions.iter().enumerate().flat_map(|(number, region)| {
        let jobs = jobs_of_region(&disk.layout, number, &disk.data).map(|job| match job {
            Job::Read(job) => Step::Read(job),
            Job::Zero { extent, .. } => Step::Other(Other::Zero(extent)),
        });
        std::iter::once(Step::Other(Other::Region(region.place))).chain(jobs).chain([Step::Other(Other::End)])
    })
}

struct Cutting<'a> {
    shared: &'a Shared,
    disk: &'a PlannedDisk<'a>,
    known: &'a KnownChunks,
    buffers: &'a Arc<BufferPool>,
    batches: &'a Sender<Pending<Vec<Batch>>>,
    /// The number of the stride that is taken next, and what is left.
    steps: Mutex<(u64, Box<dyn Iterator<Item = Step> + Send + 'a>)>,
    turn: Mutex<Turn>,
    gate: Gate,
}

/// What is done in the order of the disk.
struct Turn {
    /// Of the stride whose turn it is.
    number: u64,
    /// Strides that came before it was their turn.
    waiting: BTreeMap<u64, (Stride, Option<Marked>)>,
    chunker: Chunker,
    region_start: u64,
    unreadable: ExtentSet,
    /// The turns that are missing never come.
    failed: bool,
}

/// What a thread does before it comes back for more: steps, and perhaps a read behind them.
struct Stride {
    number: u64,
    steps: Vec<Other>,
    /// Where its cuts go.
    reply: Sender<Vec<Batch>>,
}

/// The parts of a stride, to be named.
enum Part {
    Region(u64),
    Cuts(Vec<Cut>),
    End,
}

impl Cutting<'_> {
    fn work(&self) {
        while !self.shared.progress.is_stopped() && !self.shared.has_failed() {
            // A buffer is taken before its read gets its place in the order, so that the oldest read always has one.
            let buf = self.buffers.get();
            let Some((stride, job)) = self.next_stride() else { return };
            let marked = match job.map(|job| self.read(job, buf)).transpose() {
                Ok(marked) => marked,
                // Before the stride goes, and somebody misses it.
                Err(error) => return self.fail(error),
            };
            for (parts, reply) in self.cut_what_is_due(stride, marked) {
                // The receiver is gone when the capture has failed elsewhere.
                let _ = reply.send(parts.into_iter().map(|part| self.name(part)).collect());
            }
            self.gate.stay();
        }
    }

    /// The next stride, and what it reads.
    fn next_stride(&self) -> Option<(Stride, Option<ReadJob>)> {
        let mut left = lock(&self.steps);
        let (number, iterator) = &mut *left;
        let (mut steps, mut job) = (Vec::new(), None);
        while job.is_none() && steps.len() < STEPS_MAX {
            match iterator.next() {
                Some(Step::Read(read)) => job = Some(read),
                Some(Step::Other(step)) => steps.push(step),
                None => break,
            }
        }
        if steps.is_empty() && job.is_none() {
            return None;
        }
        let (reply, pending) = bounded(1);
        // Waits while storing is far behind. It takes what still comes when it has failed.
        self.batches.send(pending).ok()?;
        *number += 1;
        Some((Stride { number: *number - 1, steps, reply }, job))
    }

    fn read(&self, job: ReadJob, mut buf: PooledBuf) -> Result<Marked> {
        let source = self.disk.source;
        let bad = if read_cached(source, &job, buf.as_mut_slice()) {
            ExtentSet::new()
        } else {
            self.gate.leave();
            let bad = read(source, &job, buf.as_mut_slice());
            self.gate.enter_at_once();
            bad?
        };
        Ok(Marked::new(Segment::new(job, buf, bad), self.shared.repository.config().chunks))
    }

    /// Cuts the stride if its turn has come, and those that waited for it.
    fn cut_what_is_due(&self, stride: Stride, marked: Option<Marked>) -> Vec<(Vec<Part>, Sender<Vec<Batch>>)> {
        let mut turn = lock(&self.turn);
        if turn.failed {
            return Vec::new();
        }
        turn.waiting.insert(stride.number, (stride, marked));
        let mut to_name = Vec::new();
        let turn = &mut *turn;
        while let Some((stride, marked)) = turn.waiting.remove(&turn.number) {
            turn.number += 1;
            to_name.push((self.cut(turn, stride.steps, marked.as_ref()), stride.reply));
        }
        to_name
    }

    fn cut(&self, turn: &mut Turn, steps: Vec<Other>, marked: Option<&Marked>) -> Vec<Part> {
        let mut parts = Vec::new();
        let (path, progress) = (&self.disk.source.identity().path, &self.shared.progress);
        for step in steps {
            match step {
                Other::Region(place) => {
                    turn.region_start = place.start;
                    parts.push(Part::Region(place.len));
                }
                Other::Zero(extent) => {
                    progress.cover(path, Extent::new(turn.region_start + extent.start, extent.len));
                    turn.chunker.push_zero(extent);
                }
                Other::End => {
                    turn.chunker.flush();
                    parts.push(Part::Cuts(turn.chunker.take()));
                    parts.push(Part::End);
                }
            }
        }
        if let Some(marked) = marked {
            let Segment { job, bad, .. } = marked.segment();
            for bad in bad.iter() {
                let place = Extent::new(job.region_start + bad.start, bad.len);
                progress.say(format!("{}: {} bytes at byte {} cannot be read", path.display(), place.len, place.start));
                turn.unreadable.insert(place);
            }
            for wanted in &job.wanted {
                progress.cover(path, Extent::new(job.region_start + wanted.start, wanted.len));
            }
            turn.chunker.push(marked);
        }
        let cuts = turn.chunker.take();
        if !cuts.is_empty() {
            parts.push(Part::Cuts(cuts));
        }
        parts
    }

    fn name(&self, part: Part) -> Batch {
        match part {
            Part::Region(len) => Batch::Region(len),
            Part::Cuts(cuts) => Batch::Cuts(cuts.into_iter().map(|cut| self.name_cut(cut)).collect()),
            Part::End => Batch::End,
        }
    }

    fn name_cut(&self, cut: Cut) -> Named {
        match cut {
            Cut::Zero(extent) => Named::Zero(extent),
            Cut::Unreadable(extent) => Named::Unreadable(extent),
            Cut::Chunk(pieces) => {
                let id = self.shared.repository.chunk_id(Content::Data, pieces.iter().map(Piece::bytes));
                let start = pieces.first().map_or(0, |piece| piece.extent.start);
                let end = pieces.last().map_or(0, |piece| piece.extent.end());
                let extent = Extent::between(start, end);
                if self.known.contains(&short(id)) {
                    Named::Known { extent, id }
                } else {
                    Named::Chunk { extent, id, pieces }
                }
            }
        }
    }

    /// What waits for a turn that will not come gives its buffers back.
    fn fail(&self, error: Error) {
        self.shared.fail(error);
        let mut turn = lock(&self.turn);
        turn.failed = true;
        turn.waiting.clear();
    }
}

/// Lets as many threads compute as there are processors, and any number wait for the disk: more of either would only
/// take the cache from each other.
struct Gate {
    computing: Mutex<usize>,
    max: usize,
    left: Condvar,
}

impl Gate {
    fn new(max: usize) -> Self {
        Self { computing: Mutex::new(0), max, left: Condvar::new() }
    }

    fn enter(&self) {
        let mut computing = lock(&self.computing);
        while *computing >= self.max {
            computing = self.left.wait(computing).unwrap_or_else(PoisonError::into_inner);
        }
        *computing += 1;
    }

    /// However many are there: who holds a part that others need next does not wait.
    fn enter_at_once(&self) {
        *lock(&self.computing) += 1;
    }

    /// Lets others go first if more compute than should.
    fn stay(&self) {
        let is_one_too_many = *lock(&self.computing) > self.max;
        if is_one_too_many {
            self.leave();
            self.enter();
        }
    }

    fn leave(&self) {
        let mut computing = lock(&self.computing);
        // A thread that panics while it waits for the disk has left already.
        *computing = computing.saturating_sub(1);
        drop(computing);
        self.left.notify_one();
    }
}
