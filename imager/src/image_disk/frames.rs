//! Frames kept decompressed, or a few chunks of them: the ones used last, within a budget. Each is fetched once, however
//! many want it, unless at first only single chunks of it were wanted.
//!
//! Must not know: block maps, disks.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::places::{FramePlace, Place};
use crate::error::{Error, Result};
use crate::progress::lock;
use crate::repo::Repository;
use crate::repo::pack::{Check, ChunkId, Content, PackId, object_name};

/// How much of a frame is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Up to the end of the chunk that is wanted, which alone is kept: for one who reads here and there.
    Chunk,
    /// All of it: the neighbours will be wanted, too.
    Frame,
}

/// Bytes of a frame, and which of its chunks were found to be what their ids say.
struct Frame {
    /// Which of the frame's bytes the first one is.
    start: usize,
    bytes: Vec<u8>,
    /// All of it is what was written: its seal was looked at, and the ids need not be.
    is_sealed: bool,
    checked: Mutex<HashSet<u32>>,
}

impl Frame {
    fn get(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.bytes.get(range.start.checked_sub(self.start)?..range.end.checked_sub(self.start)?)
    }
}

/// A chunk's bytes, within its frame.
pub(super) struct Chunk {
    frame: Arc<Frame>,
    range: Range<usize>,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        self.frame.get(&self.range).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// A place in the cache; locked while something of its frame is being fetched.
#[derive(Default)]
struct Slot {
    held: Mutex<Held>,
    used: AtomicU64,
}

/// What is there of a frame: all of it, or single chunks.
#[derive(Default)]
struct Held(Vec<Arc<Frame>>);

/// So many chunks are taken out of a frame one by one before all of it is decompressed.
const SINGLE_CHUNKS_MAX: usize = 2;

impl Held {
    fn find(&self, range: &Range<usize>) -> Option<&Arc<Frame>> {
        self.0.iter().find(|frame| frame.get(range).is_some())
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|frame| frame.bytes.len() as u64).sum()
    }
}

type Key = (PackId, u32);

/// Frames, the newest of them.
pub(super) struct FrameCache {
    slots: Mutex<Slots>,
    /// Memory of frames that were thrown out: what the system gives anew, it has to clear first.
    spare: Mutex<Vec<Vec<u8>>>,
    bytes_max: u64,
    /// How whole frames are checked.
    check: Check,
    clock: AtomicU64,
}

/// Frames whose memory waits for the next: about as many as are thrown out of a small cache at once.
const SPARE_FRAMES: usize = 16;

#[derive(Default)]
struct Slots {
    by_frame: HashMap<Key, Arc<Slot>>,
    /// Bytes of frames that were put in and not thrown out.
    bytes: u64,
}

impl Slots {
    fn has(&self, key: Key, slot: &Arc<Slot>) -> bool {
        self.by_frame.get(&key).is_some_and(|there| Arc::ptr_eq(there, slot))
    }
}

impl FrameCache {
    pub(super) fn new(bytes_max: u64, check: Check) -> Self {
        Self { slots: Mutex::default(), spare: Mutex::default(), bytes_max, check, clock: AtomicU64::new(0) }
    }

    /// The chunk `id`, which is at `place` of `frame`.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Missing`], what the store says.
    pub(super) fn chunk(
        &self,
        repository: &Repository,
        frame: &FramePlace,
        place: Place,
        id: ChunkId,
        content: Content,
        depth: Depth,
    ) -> Result<Chunk> {
        let damaged = |what| Error::damaged(object_name(frame.pack), frame.offset, what);
        if frame.entry.content != content {
            return Err(damaged("a chunk of data and one of a block map have the same name"));
        }
        let start = usize::try_from(place.at).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(usize::try_from(place.len).unwrap_or(usize::MAX));
        let loaded = self.frame(repository, frame, &range, depth)?;
        let bytes = loaded.get(&range).ok_or_else(|| damaged("a chunk reaches behind its frame"))?;
        if !loaded.is_sealed && !lock(&loaded.checked).contains(&place.at) {
            if repository.chunk_id(content, [bytes]) != id {
                return Err(damaged("a chunk is not what its id says"));
            }
            lock(&loaded.checked).insert(place.at);
        }
        Ok(Chunk { frame: loaded, range })
    }

    /// Whether somebody is fetching something of a frame at this moment.
    pub(super) fn is_being_fetched(&self, frame: &FramePlace) -> bool {
        let slot = lock(&self.slots).by_frame.get(&(frame.pack, frame.number)).map(Arc::clone);
        slot.is_some_and(|slot| slot.held.try_lock().is_err())
    }

    /// The frame at `place`, of which the bytes `range` are there if it has them.
    fn frame(
        &self,
        repository: &Repository,
        place: &FramePlace,
        range: &Range<usize>,
        depth: Depth,
    ) -> Result<Arc<Frame>> {
        let key = (place.pack, place.number);
        let slot = Arc::clone(lock(&self.slots).by_frame.entry(key).or_default());
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut held = lock(&slot.held);
        if let Some(frame) = held.find(range) {
            return Ok(Arc::clone(frame));
        }
        let before = held.len();
        let single = depth == Depth::Chunk && held.0.len() < SINGLE_CHUNKS_MAX;
        let fetched = if single {
            fetch_chunk(repository, place, range)
        } else {
            // Not locked any more while it is fetched.
            let room = lock(&self.spare).pop();
            fetch(repository, place, self.check, room.unwrap_or_default())
        };
        match fetched {
            Ok(frame) => {
                let frame = Arc::new(frame);
                if !single {
                    held.0.clear();
                }
                held.0.push(Arc::clone(&frame));
                // While it is locked, nobody throws it out before it is counted.
                self.make_room(key, &slot, held.len().saturating_sub(before));
                Ok(frame)
            }
            Err(error) => {
                // The next one tries again.
                let mut slots = lock(&self.slots);
                if slots.has(key, &slot) {
                    slots.by_frame.remove(&key);
                    slots.bytes = slots.bytes.saturating_sub(before);
                }
                Err(error)
            }
        }
    }

    /// Counts a new frame and throws out those that were not used for longest.
    fn make_room(&self, new: Key, slot: &Arc<Slot>, len: u64) {
        let mut slots = lock(&self.slots);
        // It may have been thrown out between being found and being filled; another may have taken its place since.
        slots.by_frame.entry(new).or_insert_with(|| Arc::clone(slot));
        if !slots.has(new, slot) {
            return;
        }
        slots.bytes += len;
        if slots.bytes <= self.bytes_max {
            return;
        }
        let others = slots.by_frame.iter().filter(|(key, _)| **key != new);
        let mut others: Vec<_> =
            others.map(|(key, slot)| (slot.used.load(Ordering::Relaxed), *key, Arc::clone(slot))).collect();
        others.sort_unstable_by_key(|(used, ..)| *used);
        // Some more than there must be: looking for them takes longer than throwing them out.
        let enough = self.bytes_max - self.bytes_max / 16;
        for (_, oldest, slot) in others {
            if slots.bytes <= enough {
                break;
            }
            // One that is being fetched is not counted yet, and not thrown out.
            let Ok(mut held) = slot.held.try_lock() else { continue };
            slots.by_frame.remove(&oldest);
            slots.bytes = slots.bytes.saturating_sub(held.len());
            // Unless somebody still reads from it. Whole frames begin where frames begin.
            for frame in held.0.drain(..).filter_map(Arc::into_inner).filter(|frame| frame.start == 0) {
                let mut spare = lock(&self.spare);
                if spare.len() < SPARE_FRAMES {
                    spare.push(frame.bytes);
                }
            }
        }
    }
}

thread_local! {
    /// Memory for a frame as it is stored.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn fetch(repository: &Repository, place: &FramePlace, check: Check, room: Vec<u8>) -> Result<Frame> {
    let end = place.offset + u64::from(place.entry.stored_len);
    let bytes = SEALED.with_borrow_mut(|sealed| {
        let kept = std::mem::take(sealed);
        *sealed = repository.store().get_range_in(kept, &object_name(place.pack), place.offset..end)?;
        let reader = repository.pack_reader(place.pack);
        reader.frame_in(room, check, place.number, place.offset, &place.entry, sealed)
    })?;
    Ok(Frame { start: 0, bytes, is_sealed: check == Check::Seal, checked: Mutex::default() })
}

fn fetch_chunk(repository: &Repository, place: &FramePlace, range: &Range<usize>) -> Result<Frame> {
    let name = object_name(place.pack);
    let read = |range| repository.store().get_range(&name, range);
    let reader = repository.pack_reader(place.pack);
    let bytes = reader.part(place.number, place.offset, &place.entry, range.clone(), read)?;
    Ok(Frame { start: range.start, bytes, is_sealed: false, checked: Mutex::default() })
}
