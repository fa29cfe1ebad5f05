//! Reading many chunks at once: every frame that is needed is fetched once, in storage order, opened,
//! decompressed and checked in parallel, whoever wants its chunks.
//!
//! Restoring, verifying and repacking are this with different ends. Must not know: disks, targets.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use crossbeam_channel::{Receiver, bounded};

use crate::capture::short;
use crate::disk::source::AlignedBuf;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::key_table::KeyTable;
use crate::memory::Budget;
use crate::progress::{Progress, lock};
use crate::repo::Repository;
use crate::repo::block_map::Run;
use crate::repo::index::{IndexedPack, Inventory};
use crate::repo::manifest::{DISK_BYTES_MAX, Manifest};
use crate::repo::pack::{Check, Content, FrameEntry, PackId, SessionId, object_name};
use crate::repo::reader::ChunkReader;

/// A chunk that is wanted at one place. Places are bytes in whatever space the caller has laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// The first 128 bits of its id.
    pub chunk: u128,
    /// Where it is wanted.
    pub place: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// A frame to be read, and which of its chunks are wanted.
pub struct FrameTask {
    /// The pack.
    pub pack: PackId,
    /// Number of the frame in the pack.
    pub number: u32,
    /// Where it begins in the pack.
    pub offset: u64,
    /// Its directory entry, without the chunks.
    pub entry: FrameEntry,
    /// The wanted chunks, in the order of the frame.
    pub chunks: Vec<TaskChunk>,
}

/// A wanted chunk of a frame.
#[derive(Clone, Debug)]
pub struct TaskChunk {
    /// Where it begins in the frame.
    pub at: u32,
    /// Its length.
    pub len: u32,
    /// Everyone who wants it, as a range of the plan's wants.
    pub wants: Range<usize>,
}

/// A pack that a plan reads from.
#[derive(Clone, Copy, Debug)]
pub struct UsedPack {
    /// Its id.
    pub id: PackId,
    /// The object's size in bytes.
    pub size: u64,
    /// The session that wrote it.
    pub session: SessionId,
}

/// Which frames to read for a set of wants.
pub struct ReadPlan {
    /// Sorted by chunk and length.
    pub wants: Vec<Want>,
    /// In storage order.
    pub tasks: Vec<FrameTask>,
    /// Wants whose chunk no usable pack has in that length.
    pub missing: Vec<Want>,
    /// Packs that are read from.
    pub packs: Vec<UsedPack>,
    /// What the look at the repository found.
    pub inventory: Inventory,
}

impl ReadPlan {
    /// Finds a frame for every want. Packs in `excluded` count as not there.
    ///
    /// # Errors
    /// What the store says.
    pub fn new(repository: &Repository, mut wants: Vec<Want>, excluded: &HashSet<PackId>) -> Result<Self> {
        wants.sort_unstable_by_key(|want| (want.chunk, want.len, want.place));
        wants.dedup();
        let table = KeyTable::new(wants.iter().map(|want| beginning(want.chunk)));
        let mut found = vec![false; wants.len()];
        let (mut tasks, mut packs) = (Vec::new(), Vec::new());
        let inventory = repository.for_each_pack(&mut |pack| {
            if excluded.contains(&pack.id) {
                return Ok(());
            }
            let before = tasks.len();
            let frames = pack.directory.frames.iter().zip(pack.directory.frame_offsets());
            for (number, (entry, offset)) in (0..).zip(frames) {
                let mut chunks = wanted_of_frame(entry, &wants, &table, &mut found);
                if !chunks.is_empty() {
                    chunks.shrink_to_fit();
                    let entry = FrameEntry { chunks: Vec::new(), ..*entry };
                    tasks.push(FrameTask { pack: pack.id, number, offset, entry, chunks });
                }
            }
            if tasks.len() > before {
                packs.push(UsedPack { id: pack.id, size: pack.size, session: pack.directory.session });
            }
            Ok(())
        })?;
        let missing = wants.iter().zip(&found).filter(|(_, found)| !**found).map(|(want, _)| *want).collect();
        Ok(Self { wants, tasks, missing, packs, inventory })
    }

    /// The wants of a task's chunk.
    #[must_use]
    pub fn wants_of(&self, chunk: &TaskChunk) -> &[Want] {
        self.wants.get(chunk.wants.clone()).unwrap_or_default()
    }

    /// Bytes of all frames to be read.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.tasks.iter().map(|task| u64::from(task.entry.stored_len)).sum()
    }

    /// Bytes before compression of all frames to be read.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.tasks.iter().map(|task| u64::from(task.entry.raw_len)).sum()
    }
}

/// What a table of sorted chunks goes by.
fn beginning(chunk: u128) -> u64 {
    u64::try_from(chunk >> 64).unwrap_or(0)
}

fn wanted_of_frame(entry: &FrameEntry, wants: &[Want], table: &KeyTable, found: &mut [bool]) -> Vec<TaskChunk> {
    let mut chunks = Vec::new();
    let mut at = 0;
    for chunk in &entry.chunks {
        // A block map that has another length for a chunk than its frame would have it written over its neighbours.
        let wanted = (short(chunk.id), chunk.len);
        let key = |want: &Want| (want.chunk, want.len);
        let alike = table.alike(beginning(wanted.0));
        let before = wants.get(alike.clone()).map_or(0, |alike| alike.partition_point(|want| key(want) < wanted));
        let first = alike.start + before;
        // A chunk that is in several packs is taken from the first.
        if wants.get(first).is_some_and(|want| key(want) == wanted) && found.get(first) == Some(&false) {
            let count = wants.get(first..).unwrap_or_default().iter().take_while(|want| key(want) == wanted).count();
            found.iter_mut().skip(first).take(count).for_each(|found| *found = true);
            chunks.push(TaskChunk { at, len: chunk.len, wants: first..first + count });
        }
        at += chunk.len;
    }
    chunks
}

/// Neighbouring frames are fetched together up to this size, over gaps up to a quarter of it.
const FETCH_BYTES: u64 = 4 << 20;
const FETCHERS: usize = 4;
/// Each has a frame in memory, about 1 MiB.
const WORKERS_MIN: usize = 8;

/// Takes what became of a frame.
pub trait FrameSink: Sync {
    /// How it is made sure that frames are what was written.
    fn check(&self) -> Check {
        Check::Seal
    }

    /// A frame that was read, and its bytes before compression, in memory that direct I/O accepts. The ids of
    /// its chunks are not checked yet.
    ///
    /// # Errors
    /// Whatever must end the reading.
    fn frame(&self, task: &FrameTask, data: &[u8]) -> Result<()>;

    /// A frame that could not be read.
    ///
    /// # Errors
    /// Whatever must end the reading.
    fn failed(&self, task: &FrameTask, error: Error) -> Result<()>;
}

/// Reads the frames of `tasks`, which are in storage order, and gives them to `sink` from several threads.
/// Damage goes to the sink; a store that fails ends the reading.
///
/// # Errors
/// What the store says, what the sink says, [`Error::Interrupted`].
pub fn read_frames(
    repository: &Arc<Repository>,
    tasks: &[FrameTask],
    memory: Budget,
    progress: &Progress,
    sink: &dyn FrameSink,
) -> Result<()> {
    let groups = group(tasks);
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let ahead = usize::try_from(memory.fetch_ahead_bytes() / FETCH_BYTES).unwrap_or(2).max(2);
    let (fetched_tx, fetched_rx) = bounded::<(Range<usize>, Result<BytesMut>)>(ahead.saturating_sub(FETCHERS).max(1));
    // More than there are cores: a worker that waits for its disk leaves its core to another.
    let workers = (2 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get)).max(WORKERS_MIN);
    std::thread::scope(|scope| {
        let (groups, next, failure) = (&groups, &next, &failure);
        for _ in 0..FETCHERS.min(groups.len().max(1)) {
            let fetched = fetched_tx.clone();
            scope.spawn(move || {
                while !progress.is_stopped() && lock(failure).is_none() {
                    let Some(range) = groups.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let bytes = fetch(repository, tasks.get(range.clone()).unwrap_or_default());
                    if fetched.send((range.clone(), bytes)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(fetched_tx);
        for _ in 0..workers {
            let fetched = fetched_rx.clone();
            scope.spawn(move || {
                let work = AssertUnwindSafe(|| open_groups(repository, tasks, &fetched, progress, sink));
                let panicked = |_| Err(Error::Internal("a thread that reads the repository panicked".to_owned()));
                if let Err(error) = catch_unwind(work).unwrap_or_else(panicked) {
                    lock(failure).get_or_insert(error);
                    // The fetchers must not wait for somebody to take what they have.
                    fetched.iter().for_each(drop);
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => progress.check(),
    }
}

/// Ranges of tasks that are fetched in one request each.
fn group(tasks: &[FrameTask]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut start, mut end) = (0, 0);
    for (index, task) in tasks.iter().enumerate() {
        let task_end = task.offset + u64::from(task.entry.stored_len);
        let joins = groups.last().and_then(|group| tasks.get(group.start)).is_some_and(|first| {
            first.pack == task.pack
                && task.offset >= end
                && task.offset - end <= FETCH_BYTES / 4
                && task_end - start <= FETCH_BYTES
        });
        match groups.last_mut() {
            Some(group) if joins => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                start = task.offset;
            }
        }
        end = task_end;
    }
    groups
}

fn fetch(repository: &Repository, tasks: &[FrameTask]) -> Result<BytesMut> {
    let (Some(first), Some(last)) = (tasks.first(), tasks.last()) else { return Ok(BytesMut::new()) };
    let range = first.offset..last.offset + u64::from(last.entry.stored_len);
    let bytes = repository.store().get_range(&object_name(first.pack), range)?;
    Ok(bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])))
}

fn open_groups(
    repository: &Repository,
    tasks: &[FrameTask],
    fetched: &Receiver<(Range<usize>, Result<BytesMut>)>,
    progress: &Progress,
    sink: &dyn FrameSink,
) -> Result<()> {
    let mut buffer = AlignedBuf::new(0);
    for (range, bytes) in fetched {
        progress.check()?;
        let tasks = tasks.get(range).unwrap_or_default();
        let Some(first) = tasks.first() else { continue };
        let mut bytes = match bytes {
            Ok(bytes) => bytes,
            Err(Error::Missing { object }) => {
                for task in tasks {
                    sink.failed(task, Error::Missing { object: object.clone() })?;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        Progress::add(&progress.stored, bytes.len() as u64);
        let reader = repository.pack_reader(first.pack);
        for task in tasks {
            let start = usize::try_from(task.offset - first.offset).unwrap_or(usize::MAX);
            let len = usize::try_from(task.entry.stored_len).unwrap_or(usize::MAX);
            let data = buffer.of_len(task.entry.raw_len_in_memory());
            let opened = match bytes.get_mut(start..start.saturating_add(len)) {
                Some(sealed) => reader.frame(sink.check(), task.number, task.offset, &task.entry, sealed, data),
                None => Err(Error::damaged(object_name(task.pack), task.offset, "the pack is cut short")),
            };
            match opened {
                Ok(()) => sink.frame(task, data)?,
                Err(error) => sink.failed(task, error)?,
            }
        }
    }
    Ok(())
}

/// A chunk's bytes in its frame, if they are what the chunk's name says.
///
/// # Errors
/// [`Error::Damaged`].
pub fn checked_chunk<'d>(
    repository: &Repository,
    task: &FrameTask,
    data: &'d [u8],
    chunk: &TaskChunk,
    name: u128,
) -> Result<&'d [u8]> {
    let range = usize::try_from(chunk.at).ok().zip(usize::try_from(chunk.at.saturating_add(chunk.len)).ok());
    let bytes = range.and_then(|(start, end)| data.get(start..end));
    match bytes.filter(|bytes| short(repository.chunk_id(task.entry.content, [*bytes])) == name) {
        Some(bytes) => Ok(bytes),
        None => Err(Error::damaged(object_name(task.pack), task.offset, "a chunk is not what its id says")),
    }
}

/// The block maps of a repository, ready to be walked.
///
/// # Errors
/// What the store says.
pub fn map_reader<'r>(
    repository: &'r Repository,
    excluded: &HashSet<PackId>,
    visit: &mut dyn FnMut(&IndexedPack) -> Result<()>,
) -> Result<(ChunkReader<'r>, Inventory)> {
    let mut reader = ChunkReader::new(repository);
    let inventory = repository.for_each_pack(&mut |pack| {
        if !excluded.contains(&pack.id) {
            reader.add_pack(pack, |content, _| content == Content::Map);
            visit(pack)?;
        }
        Ok(())
    })?;
    Ok((reader, inventory))
}

/// What an image has at one place of one of its disks.
#[derive(Clone, Copy, Debug)]
pub struct PlacedRun {
    /// Number of the disk.
    pub disk: usize,
    /// Number of the region.
    pub region: usize,
    /// First byte, on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u32,
    /// What is there.
    pub run: Run,
}

/// Visits every run of an image, disk by disk, in ascending order. `wanted` chooses regions.
///
/// # Errors
/// As [`ChunkReader::walk`]; what `visit` says.
pub fn for_each_run(
    manifest: &Manifest,
    reader: &mut ChunkReader<'_>,
    wanted: &dyn Fn(usize, usize) -> bool,
    visit: &mut dyn FnMut(PlacedRun) -> Result<()>,
) -> Result<()> {
    for_each_run_within(Extent::new(0, DISK_BYTES_MAX), manifest, reader, wanted, visit)
}

/// As [`for_each_run`], of those runs that begin within these bytes of a disk. What leads to no other is not read.
///
/// # Errors
/// As [`for_each_run`].
pub fn for_each_run_within(
    within: Extent,
    manifest: &Manifest,
    reader: &mut ChunkReader<'_>,
    wanted: &dyn Fn(usize, usize) -> bool,
    visit: &mut dyn FnMut(PlacedRun) -> Result<()>,
) -> Result<()> {
    for (disk, image) in manifest.disks.iter().enumerate() {
        for (region, place) in image.regions.iter().enumerate().filter(|(region, _)| wanted(disk, *region)) {
            let Some(root) = place.root else { continue };
            reader.walk_into(
                root,
                place.len,
                |tree| !Extent::new(place.start + tree.start, tree.len).intersection(within).is_empty(),
                |record| {
                    let start = place.start + record.start;
                    if !(within.start..within.end()).contains(&start) {
                        return Ok(());
                    }
                    visit(PlacedRun { disk, region, start, len: record.len, run: record.run })
                },
            )?;
        }
    }
    Ok(())
}
