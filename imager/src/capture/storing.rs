//! From named cuts to packs: leave out what was stored meanwhile, build frames, compress, seal, put.
//!
//! Naming and compressing run in parallel; their results are taken in the order in which they were asked for, so that
//! neighbours on the disk are neighbours in a pack. Every queue is bounded.
//! Must not know: disks, file systems.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::chunking::Piece;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::progress::{Progress, lock};
use crate::repo::Repository;
use crate::repo::block_map::{Builder, Root, Run};
use crate::repo::frame;
use crate::repo::index::IndexedPack;
use crate::repo::pack::{
    ChunkEntry, ChunkId, CodedFrame, Content, Pack, PackBuilder, RawFrame, SessionId, object_name,
};

/// A frame of block-map nodes: small, because they are read one by one.
const MAP_FRAME_BYTES: usize = 128 << 10;
/// The directory counts chunks of a frame in 16 bits.
const FRAME_CHUNKS_MAX: usize = 60_000;

/// Chunks that need not be stored: their ids' first 128 bits. Ids are keyed hashes, so the bits are random.
pub(crate) type KnownChunks = HashSet<u128, BuildHasherDefault<IdHasher>>;

/// Takes the bits of an id as they are.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }
}

/// What a chunk is called in [`KnownChunks`].
pub(crate) fn short(id: ChunkId) -> u128 {
    id.0.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As hard as the disk and the store leave time for.
    Auto,
    /// Always at this zstd level.
    Fixed(i32),
}

/// Where `auto` begins, and its bounds: level 1 is hardly faster than 2 and
/// packs worse, above 12 a level costs more than it saves.
const AUTO_FIRST: i32 = 3;
const AUTO_RANGE: std::ops::RangeInclusive<i32> = 2..=12;
/// Frames after which `auto` may change its mind.
const AUTO_FRAMES: i32 = 16;

/// Raises the level while compressors wait for work, lowers it while work waits for them.
struct LevelControl {
    level: AtomicI32,
    fixed: bool,
    votes: i32,
    frames: i32,
}

impl LevelControl {
    fn new(level: Level) -> Self {
        let (level, fixed) = match level {
            Level::Auto => (AUTO_FIRST, false),
            Level::Fixed(level) => (level, true),
        };
        Self { level: AtomicI32::new(level), fixed, votes: 0, frames: 0 }
    }

    /// Looks at how many frames are being compressed as another one comes.
    fn observe(&mut self, compressing: usize, threads: usize) -> i32 {
        let level = self.level.load(Ordering::Relaxed);
        if self.fixed {
            return level;
        }
        self.votes += if compressing > threads { -1 } else { 1 };
        self.frames += 1;
        if self.frames == AUTO_FRAMES {
            let step = match self.votes {
                votes if votes > AUTO_FRAMES / 2 => 1,
                votes if votes < -AUTO_FRAMES / 2 => -1,
                _ => 0,
            };
            let level = (level + step).clamp(*AUTO_RANGE.start(), *AUTO_RANGE.end());
            self.level.store(level, Ordering::Relaxed);
            (self.votes, self.frames) = (0, 0);
        }
        level
    }
}

/// What the stages share.
pub(crate) struct Shared {
    pub repository: Arc<Repository>,
    pub session: SessionId,
    pub progress: Arc<Progress>,
    pub pool: rayon::ThreadPool,
    /// Packs in the store, to be indexed.
    pub stored: Mutex<Vec<IndexedPack>>,
    /// The first thing that went wrong.
    pub failure: Mutex<Option<Error>>,
    pub pack_bytes: u64,
    compressing: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(
        repository: Arc<Repository>,
        session: SessionId,
        progress: Arc<Progress>,
        pool: rayon::ThreadPool,
        pack_bytes: u64,
    ) -> Self {
        let (stored, failure) = (Mutex::default(), Mutex::default());
        Self { repository, session, progress, pool, stored, failure, pack_bytes, compressing: AtomicUsize::new(0) }
    }

    /// Records a failure; the first one is reported.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
    }

    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }
}

/// A result that another thread will give.
pub(crate) type Pending<T> = Receiver<T>;

/// A cut with its name.
pub(crate) enum Named {
    /// Was in the store before.
    Known {
        extent: Extent,
        id: ChunkId,
    },
    /// Was not.
    Chunk {
        extent: Extent,
        id: ChunkId,
        pieces: Vec<Piece>,
    },
    Zero(Extent),
    Unreadable(Extent),
}

/// What goes to the storing stage.
pub(crate) enum Batch {
    /// A new region of this length begins.
    Region(u64),
    Cuts(Vec<Named>),
    /// The region ends.
    End,
}

/// A frame in the making.
struct OpenFrame {
    target: usize,
    data: Vec<u8>,
    chunks: Vec<ChunkEntry>,
}

impl OpenFrame {
    fn new(target: usize) -> Self {
        Self { target, data: Vec::new(), chunks: Vec::new() }
    }
}

/// The stage that knows what is known: dedups, frames, builds block maps. One thread.
pub(crate) struct Storer<'a> {
    shared: &'a Arc<Shared>,
    /// In the store before.
    known: &'a KnownChunks,
    /// Stored since.
    stored: KnownChunks,
    frames: Sender<Pending<std::io::Result<CodedFrame>>>,
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    data: OpenFrame,
    map: OpenFrame,
    level: LevelControl,
    threads: usize,
    /// Counted for the manifest.
    pub chunks: u64,
    pub new_chunks: u64,
}

impl<'a> Storer<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        known: &'a KnownChunks,
        level: Level,
        frames: Sender<Pending<std::io::Result<CodedFrame>>>,
    ) -> Self {
        let threads = shared.pool.current_num_threads();
        Self {
            shared,
            known,
            stored: KnownChunks::default(),
            frames,
            spare: bounded(2 * threads + 4),
            data: OpenFrame::new(shared.repository.config().frames.bytes()),
            map: OpenFrame::new(MAP_FRAME_BYTES),
            level: LevelControl::new(level),
            threads,
            chunks: 0,
            new_chunks: 0,
        }
    }

    /// Takes batches until there are no more; gives the root of each region, in order.
    pub(crate) fn run(&mut self, batches: &Receiver<Pending<Vec<Batch>>>) -> Result<Vec<Option<Root>>> {
        let mut roots = Vec::new();
        let mut builder = None;
        for pending in batches {
            let batches = pending.recv().map_err(|_| Error::Internal("a reading thread ended early".into()))?;
            for batch in batches {
                match batch {
                    Batch::Region(len) => builder = Some(Builder::new(len)),
                    Batch::Cuts(cuts) => {
                        let builder =
                            builder.as_mut().ok_or_else(|| Error::Internal("cuts without a region".into()))?;
                        cuts.into_iter().try_for_each(|cut| self.add(cut, builder))?;
                    }
                    Batch::End => {
                        let builder =
                            builder.take().ok_or_else(|| Error::Internal("an end without a region".into()))?;
                        roots.push(builder.finish(&mut |bytes| self.add_node(bytes))?);
                    }
                }
            }
        }
        self.close(Content::Data)?;
        self.close(Content::Map)?;
        Ok(roots)
    }

    fn add(&mut self, cut: Named, builder: &mut Builder) -> Result<()> {
        let progress = Arc::clone(&self.shared.progress);
        let (extent, run) = match cut {
            Named::Zero(extent) => {
                Progress::add(&progress.zero, extent.len);
                (extent, Run::Zero)
            }
            Named::Unreadable(extent) => (extent, Run::Unreadable),
            Named::Known { extent, id } => {
                self.chunks += 1;
                Progress::add(&progress.known, extent.len);
                (extent, Run::Chunk(id))
            }
            Named::Chunk { extent, id, pieces } => {
                self.chunks += 1;
                if self.stored.insert(short(id)) {
                    self.new_chunks += 1;
                    Progress::add(&progress.new, extent.len);
                    self.append(Content::Data, id, pieces.iter().map(Piece::bytes))?;
                } else {
                    Progress::add(&progress.known, extent.len);
                }
                (extent, Run::Chunk(id))
            }
        };
        Progress::add(&progress.done, extent.len);
        builder.push(extent.start, extent.len, run, &mut |bytes| self.add_node(bytes))
    }

    fn add_node(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        let id = self.shared.repository.chunk_id(Content::Map, [bytes]);
        if !self.known.contains(&short(id)) && self.stored.insert(short(id)) {
            self.append(Content::Map, id, [bytes].into_iter())?;
        }
        Ok(id)
    }

    fn append<'b>(
        &mut self,
        content: Content,
        id: ChunkId,
        parts: impl Iterator<Item = &'b [u8]> + Clone,
    ) -> Result<()> {
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        let frame = self.open_frame(content);
        if !frame.data.is_empty() && frame.data.len() + len > frame.target || frame.chunks.len() >= FRAME_CHUNKS_MAX {
            self.close(content)?;
        }
        let spare = self.spare.1.try_recv().ok();
        let frame = self.open_frame(content);
        if frame.data.capacity() == 0 {
            frame.data = spare.unwrap_or_else(|| Vec::with_capacity(frame.target));
        }
        parts.for_each(|part| frame.data.extend_from_slice(part));
        // A chunk has at most 16 MiB.
        frame.chunks.push(ChunkEntry { id, len: u32::try_from(len).unwrap_or(u32::MAX) });
        Ok(())
    }

    fn open_frame(&mut self, content: Content) -> &mut OpenFrame {
        match content {
            Content::Data => &mut self.data,
            Content::Map => &mut self.map,
        }
    }

    /// Hands the open frame to the compressors.
    fn close(&mut self, content: Content) -> Result<()> {
        let level = self.level.observe(self.shared.compressing.load(Ordering::Relaxed), self.threads);
        self.shared.progress.level.store(u64::try_from(level).unwrap_or(0), Ordering::Relaxed);
        let frame = self.open_frame(content);
        if frame.data.is_empty() {
            return Ok(());
        }
        let raw =
            RawFrame { content, data: std::mem::take(&mut frame.data), chunks: std::mem::take(&mut frame.chunks) };
        let (reply, pending) = bounded(1);
        let (shared, spare) = (Arc::clone(self.shared), self.spare.0.clone());
        self.shared.compressing.fetch_add(1, Ordering::Relaxed);
        self.shared.pool.spawn(move || {
            let result = frame::compress(raw, level, &mut |buffer| match spare.try_send(buffer) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            });
            shared.compressing.fetch_sub(1, Ordering::Relaxed);
            let _ = reply.send(result);
        });
        self.frames.send(pending).map_err(|_| Error::Internal("the packing thread ended early".into()))
    }
}

/// Seals frames into packs in the order in which they come. One thread.
pub(crate) fn pack_frames(
    shared: &Shared,
    frames: &Receiver<Pending<std::io::Result<CodedFrame>>>,
    packs: &Sender<Pack>,
) -> Result<()> {
    let new_pack = || PackBuilder::new(shared.repository.secret(), shared.session);
    let (mut data, mut map) = (new_pack()?, new_pack()?);
    for pending in frames {
        let frame = pending.recv().map_err(|_| Error::Internal("a compressing thread ended early".into()))?;
        let frame = frame.map_err(|error| Error::Internal(format!("cannot compress: {error}")))?;
        let builder = if frame.content == Content::Data { &mut data } else { &mut map };
        builder.push(frame)?;
        if builder.size() >= shared.pack_bytes {
            let full = std::mem::replace(builder, new_pack()?);
            send(packs, full)?;
        }
    }
    send(packs, data)?;
    send(packs, map)
}

fn send(packs: &Sender<Pack>, builder: PackBuilder) -> Result<()> {
    if builder.is_empty() {
        return Ok(());
    }
    // The receivers are gone when the store has failed, which is what gets reported.
    packs.send(builder.finish()?).map_err(|_| Error::Internal("the storing threads ended early".into()))
}

/// Puts packs into the store until there are no more. Several threads may do so at once.
///
/// `after` is called when a pack is in the store.
pub(crate) fn put_packs(shared: &Shared, packs: &Receiver<Pack>, after: &dyn Fn() -> Result<()>) -> Result<()> {
    for Pack { id, parts, size, directory } in packs {
        shared.repository.store().put(&object_name(id), parts)?;
        Progress::add(&shared.progress.stored, size);
        lock(&shared.stored).push(IndexedPack { id, size, directory });
        after()?;
    }
    Ok(())
}
