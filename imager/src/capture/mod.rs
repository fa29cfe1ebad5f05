//! Capture: reads the disks of a machine into one image.
//!
//! ```text
//! jobs ─► read, cut, name, known? ─► block map, frames ─► compressors ─► packs ─► store
//!         (threads)                                       (pool)                  (threads)
//! ```
//!
//! The image becomes visible with its manifest, which is written last, after everything that it names was
//! seen in the store. Whatever interrupts a capture before that leaves packs that the next capture finds and
//! uses. Must not know: terminals, how a target is written.

mod chunking;
mod cutting;
pub(crate) mod jobs;
pub(crate) mod reading;
mod storing;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, bounded};
use jiff::Timestamp;

pub(crate) use self::chunking::is_zero;
pub use self::storing::Level;
pub(crate) use self::storing::{KnownChunks, short};

use self::cutting::read_disk;
use self::jobs::READ_BYTES_MAX;
use self::reading::BufferPool;
use self::storing::{Shared, Storer, pack_frames, put_packs};
use crate::disk::source::Source;
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::layout::{self, Layout, Wanted};
use crate::machine::{Machine, machine_id, this_machine};
use crate::memory::Budget;
use crate::progress::{Phase, Progress, lock};
use crate::repo::Repository;
use crate::repo::block_map::Root;
use crate::repo::config::FORMAT_VERSION;
use crate::repo::manifest::{DiskImage, ImageId, Manifest, Region, Stats, Volume};
use crate::repo::session::{Session, Work};
use crate::verify;

/// What to capture and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the user calls the image.
    pub name: Option<String>,
    /// What the user says about it.
    pub note: Option<String>,
    /// Which bytes are wanted.
    pub wanted: Wanted,
    /// How hard to compress.
    pub level: Level,
    /// Memory to stay within.
    pub memory: Budget,
    /// Size of packs in bytes: four of them are in memory at the busiest moment.
    pub pack_bytes: u64,
    /// Whether to look, before the image becomes visible, that the store has all of it.
    pub verify: Verify,
    /// What of the sources is in use while they are read; kept in the manifest as warnings.
    pub live: Vec<String>,
    /// Whose disks they are, when they are not this machine's.
    pub owner: Option<Owner>,
}

/// The machine that disks belong to, as far as it is known.
#[derive(Clone, Debug)]
pub struct Owner {
    /// What is known of it.
    pub machine: Machine,
    /// A name that its next image will have, too: what `forget` counts images by.
    pub id: String,
    /// When the disks were as they are, when that was some time ago; `forget` and `latest` go by it.
    pub taken: Option<Timestamp>,
    /// What should be known about the disks; kept in the manifest as warnings.
    pub remarks: Vec<String>,
}

/// How an image is verified at the end of its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Only that every pack it needs is listed by the store.
    Presence,
    /// Also that the seals of all directories hold.
    Seals,
    /// Also that every chunk reads back with its hash.
    Data,
}

/// What came of a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The new image.
    pub id: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
}

const PUTTERS: usize = 2;
/// Packs are indexed after so many: what a killed capture leaves is found without opening each.
const INDEX_EVERY: usize = 256;

/// Captures `sources` into one image.
///
/// # Errors
/// [`Error::Interrupted`] after [`Progress::stop`], [`Error::SourceVanished`], or what the store says. In each
/// case what was stored so far is kept, and the next capture finds it. Read errors are no errors: they are in
/// the manifest.
pub fn capture(
    repository: &Arc<Repository>,
    sources: &[Box<dyn Source>],
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Captured> {
    let created = options.owner.as_ref().and_then(|owner| owner.taken).unwrap_or_else(Timestamp::now);
    let machine = this_machine();
    progress.begin(Phase::Planning, 0);
    let session = Session::start(repository, Work::Capture, machine.hostname.as_deref().unwrap_or("unknown"))?;
    let captured = capture_as(repository, &session, machine, created, sources, options, progress);
    // Who asks from here on, finds packs, or half of a manifest, and wants to know what that is.
    let left_something = progress.stored.load(Ordering::Relaxed) > 0 || progress.phase() == Some(Phase::Finishing);
    let ended = if captured.is_err() && left_something { session.interrupt() } else { session.end() };
    if let (Ok(_), Err(error)) = (&captured, ended) {
        progress.say(format!("warning: the image is complete, but a prune may wait half an hour for it: {error}"));
    }
    captured
}

fn capture_as(
    repository: &Arc<Repository>,
    session: &Session,
    machine: Machine,
    created: Timestamp,
    sources: &[Box<dyn Source>],
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Captured> {
    let (disks, known) = std::thread::scope(|scope| {
        let known = scope.spawn(|| load_known(repository, session, options.memory, progress));
        let disks = plan(sources, &options.wanted, progress);
        let known = known.join().unwrap_or_else(|_| Err(Error::Internal("the listing of packs panicked".into())));
        Ok::<_, Error>((disks?, known?))
    })?;
    let pool = rayon::ThreadPoolBuilder::new()
        .thread_name(|n| format!("worker-{n}"))
        .build()
        .map_err(|error| Error::Internal(format!("cannot start threads: {error}")))?;
    let shared =
        Arc::new(Shared::new(Arc::clone(repository), session.id, Arc::clone(progress), pool, options.pack_bytes));
    progress.map_disks(disks.iter().map(|disk| (disk.source.identity().path.clone(), disk.layout.size)));
    progress.begin(Phase::Copying, disks.iter().map(|disk| disk.layout.wanted_bytes()).sum());
    let outcome = run(&shared, &disks, &known, options, progress);
    // What was stored stays useful, however this ended.
    let stored = std::mem::take(&mut *lock(&shared.stored));
    let indexed = repository.write_index(&stored);
    let outcome = outcome?;
    indexed?;
    progress.check()?;
    let manifest = Manifest {
        version: FORMAT_VERSION,
        name: options.name.clone(),
        note: options.note.clone(),
        tool: format!("imager {}", env!("CARGO_PKG_VERSION")),
        created,
        finished: Timestamp::now(),
        machine_id: options.owner.as_ref().map_or_else(machine_id, |owner| owner.id.clone()),
        machine: options.owner.as_ref().map_or(machine, |owner| owner.machine.clone()),
        stats: outcome.stats(progress),
        disks: disks.iter().zip(outcome.disks).map(|(disk, read)| disk.to_image(read, options)).collect(),
    };
    verify_before_commit(repository, session, &manifest, options, progress)?;
    progress.begin(Phase::Finishing, 0);
    let id = session.image().ok_or_else(|| Error::Internal("a capture without an image".into()))?;
    repository.write_manifest(id, &manifest)?;
    let manifest = repository.manifest(id)?;
    Ok(Captured { id, manifest })
}

/// A disk about to be read.
struct PlannedDisk<'a> {
    source: &'a dyn Source,
    layout: Layout,
    data: ExtentSet,
}

/// What reading a disk gave.
#[derive(Default)]
struct ReadDisk {
    roots: Vec<Option<Root>>,
    unreadable: ExtentSet,
}

fn plan<'a>(sources: &'a [Box<dyn Source>], wanted: &Wanted, progress: &Progress) -> Result<Vec<PlannedDisk<'a>>> {
    let mut disks = Vec::new();
    for source in sources {
        let identity = source.identity();
        let source: &dyn Source = &**source;
        let layout = layout::read(source, source.sector_size(), wanted)
            .map_err(Error::io("read the partition table of", &identity.path))?;
        for warning in &layout.warnings {
            progress.say(format!("{}: {warning}", identity.path.display()));
        }
        disks.push(PlannedDisk { source, layout, data: source.data_extents() });
    }
    Ok(disks)
}

/// Chunks that are in the store and stay there. As many as memory allows, the newest first: a chunk that is
/// not remembered is stored once more, nothing worse.
fn load_known(
    repository: &Arc<Repository>,
    session: &Session,
    memory: Budget,
    progress: &Progress,
) -> Result<KnownChunks> {
    let doomed = repository.doomed_packs_for(session.id)?;
    let chunks_max = memory.known_chunks_max();
    let mut known = KnownChunks::default();
    let inventory = repository.for_each_pack(&mut |pack| {
        progress.check()?;
        if !doomed.contains(&pack.id) {
            let chunks = pack.directory.frames.iter().flat_map(|frame| &frame.chunks);
            known.extend(chunks.map(|chunk| short(chunk.id)).take(chunks_max.saturating_sub(known.len())));
        }
        Ok(())
    })?;
    for (_, error) in inventory.damaged_index.iter() {
        progress.say(format!("warning: {error}; its packs were read one by one"));
    }
    for (_, error) in &inventory.damaged {
        progress.say(format!("warning: {error}; left by an interrupted capture, or damaged: `imager verify` tells"));
    }
    Ok(known)
}

struct Outcome {
    disks: Vec<ReadDisk>,
    chunks: u64,
    new_chunks: u64,
}

impl Outcome {
    fn stats(&self, progress: &Progress) -> Stats {
        Stats {
            read: progress.done.load(Ordering::Relaxed),
            zero: progress.zero.load(Ordering::Relaxed),
            known: progress.known.load(Ordering::Relaxed),
            new: progress.new.load(Ordering::Relaxed),
            stored: progress.stored.load(Ordering::Relaxed),
            chunks: self.chunks,
            new_chunks: self.new_chunks,
        }
    }
}

/// The pipeline. Every stage ends when the one before it does. A failing stage says so, which ends the reading,
/// and takes what still comes: what lies in a queue holds buffers that the reading may wait for.
fn run(
    shared: &Arc<Shared>,
    disks: &[PlannedDisk<'_>],
    known: &KnownChunks,
    options: &Options,
    progress: &Progress,
) -> Result<Outcome> {
    let threads = shared.pool.current_num_threads();
    let read_bytes = usize::try_from(READ_BYTES_MAX).unwrap_or(1 << 20);
    // A chunk in the making may hold as many buffers as its maximum has; the readers need some beside.
    let chunk_buffers = usize::try_from(shared.repository.config().chunks.max).unwrap_or(0) / read_bytes + 1;
    let buffers = options.memory.read_buffers(read_bytes).max(chunk_buffers + 4);
    let pool = BufferPool::new(buffers, read_bytes);
    // More than there are buffers: what is known has given them back.
    let (batch_tx, batch_rx) = bounded(8 * buffers);
    let (frame_tx, frame_rx) = bounded(2 * threads + 2);
    let (pack_tx, pack_rx) = bounded(0);
    std::thread::scope(|scope| {
        let stage = |result: Result<()>| {
            if let Err(error) = result {
                shared.fail(error);
            }
        };
        for _ in 0..PUTTERS {
            let packs = pack_rx.clone();
            scope.spawn(move || stage(put_and_index(shared, &packs)));
        }
        drop(pack_rx);
        scope.spawn(move || stage(pack_frames(shared, &frame_rx, &pack_tx)));
        let storer = scope.spawn(move || {
            let mut storer = Storer::new(shared, known, options.level, frame_tx);
            let roots = storer.run(&batch_rx).map_err(|error| shared.fail(error));
            batch_rx.iter().for_each(drop);
            (roots.unwrap_or_default(), storer.chunks, storer.new_chunks)
        });
        let mut read = Vec::new();
        for disk in disks {
            match read_disk(shared, disk, known, &pool, &batch_tx) {
                Some(unreadable) => read.push(ReadDisk { roots: Vec::new(), unreadable }),
                None => break,
            }
        }
        drop(batch_tx);
        let (roots, chunks, new_chunks) = storer.join().unwrap_or_else(|_| {
            shared.fail(Error::Internal("the storing thread panicked".into()));
            (Vec::new(), 0, 0)
        });
        let mut roots = roots.into_iter();
        for (disk, read) in disks.iter().zip(&mut read) {
            read.roots = roots.by_ref().take(disk.layout.regions.len()).collect();
        }
        (read, chunks, new_chunks)
    })
    .into_outcome(shared, progress)
}

trait IntoOutcome {
    fn into_outcome(self, shared: &Shared, progress: &Progress) -> Result<Outcome>;
}

impl IntoOutcome for (Vec<ReadDisk>, u64, u64) {
    fn into_outcome(self, shared: &Shared, progress: &Progress) -> Result<Outcome> {
        if let Some(error) = lock(&shared.failure).take() {
            return Err(error);
        }
        progress.check()?;
        let (disks, chunks, new_chunks) = self;
        Ok(Outcome { disks, chunks, new_chunks })
    }
}

fn put_and_index(shared: &Shared, packs: &Receiver<crate::repo::pack::Pack>) -> Result<()> {
    put_packs(shared, packs, &|| {
        let full = {
            let mut stored = lock(&shared.stored);
            if stored.len() < INDEX_EVERY {
                return Ok(());
            }
            std::mem::take(&mut *stored)
        };
        shared.repository.write_index(&full).map(drop)
    })
}

impl PlannedDisk<'_> {
    fn to_image(&self, read: ReadDisk, options: &Options) -> DiskImage {
        let layout = &self.layout;
        let remarks = options.owner.iter().flat_map(|owner| &owner.remarks);
        let regions = layout.regions.iter().zip(read.roots);
        DiskImage {
            identity: self.source.identity().clone(),
            size: layout.size,
            sector_size: layout.table.sector_size,
            all_sectors: options.wanted.all_sectors,
            table: layout.table.clone(),
            volumes: layout
                .volumes
                .iter()
                .map(|volume| Volume {
                    partition: volume.partition,
                    start: volume.place.start,
                    len: volume.place.len,
                    kind: volume.file_system.kind.clone(),
                    label: volume.file_system.label.clone(),
                    uuid: volume.file_system.uuid.clone(),
                    block_size: volume.file_system.block_size,
                    used: volume.file_system.used.total(),
                    notes: volume.file_system.notes.clone(),
                    left_out: volume.left_out.clone(),
                })
                .collect(),
            regions: regions
                .map(|(region, root)| Region {
                    start: region.place.start,
                    len: region.place.len,
                    partition: region.partition,
                    root,
                })
                .collect(),
            unreadable: read.unreadable.as_slice().to_vec(),
            warnings: layout.warnings.iter().chain(&options.live).chain(remarks).cloned().collect(),
        }
    }
}

/// Looks whether the store has everything that the manifest names, and keeps it.
///
/// A prune that began while this capture ran first dooms packs and then looks for sessions; in between its
/// list does not say yet that it waits for us. So a miss is looked at again before it counts.
fn verify_before_commit(
    repository: &Arc<Repository>,
    session: &Session,
    manifest: &Manifest,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<()> {
    session.renew()?;
    for attempt in 0.. {
        let report =
            verify::verify_manifest(repository, manifest, options.verify, Some(session.id), options.memory, progress)?;
        if report.is_sound() {
            break;
        }
        if attempt == 3 || report.has_damage() {
            return Err(Error::DamageFound(format!(
                "the store does not have everything that was put into it, so no image was made: {}. Run the same command again to go on from what is there",
                report.summary()
            )));
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    Ok(())
}
