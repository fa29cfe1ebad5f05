//! Frames kept decompressed: the ones used last, within a budget. Each is fetched once, however many want it; once
//! more, when at first only its beginning was wanted and then the rest.
//!
//! Must not know: block maps, disks.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::places::{FramePlace, Place};
use crate::error::{Error, Result};
use crate::progress::lock;
use crate::repo::Repository;
use crate::repo::pack::{ChunkId, Content, PackId, object_name};

/// How much of a frame is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Up to the end of the chunk that is wanted: half of the work for one who reads here and there.
    Chunk,
    /// All of it: the neighbours will be wanted, too.
    Frame,
}

/// A frame's bytes, from its first on, and which of its chunks were found to be what their ids say.
struct Frame {
    bytes: Vec<u8>,
    checked: Mutex<HashSet<u32>>,
}

/// A chunk's bytes, within its frame.
pub(super) struct Chunk {
    frame: Arc<Frame>,
    range: std::ops::Range<usize>,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        self.frame.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// A place in the cache; locked while its frame is being fetched.
#[derive(Default)]
struct Slot {
    frame: Mutex<Option<Arc<Frame>>>,
    used: AtomicU64,
}

type Key = (PackId, u32);

/// Frames, the newest of them.
pub(super) struct FrameCache {
    slots: Mutex<Slots>,
    /// Memory of frames that were thrown out: what the system gives anew, it has to clear first.
    spare: Mutex<Vec<Vec<u8>>>,
    bytes_max: u64,
    clock: AtomicU64,
}

/// Frames whose memory waits for the next: about as many as are fetched at the same time.
const SPARE_FRAMES: usize = 8;

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
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { slots: Mutex::default(), spare: Mutex::default(), bytes_max, clock: AtomicU64::new(0) }
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
        let loaded = self.frame(repository, frame, range.end, depth)?;
        let bytes = loaded.bytes.get(range.clone()).ok_or_else(|| damaged("a chunk reaches behind its frame"))?;
        if !lock(&loaded.checked).contains(&place.at) {
            if repository.chunk_id(content, [bytes]) != id {
                return Err(damaged("a chunk is not what its id says"));
            }
            lock(&loaded.checked).insert(place.at);
        }
        Ok(Chunk { frame: loaded, range })
    }

    /// The frame at `place`, of which the first `len` bytes are there if it has as many.
    fn frame(&self, repository: &Repository, place: &FramePlace, len: usize, depth: Depth) -> Result<Arc<Frame>> {
        let key = (place.pack, place.number);
        let slot = Arc::clone(lock(&self.slots).by_frame.entry(key).or_default());
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut held = lock(&slot.frame);
        let whole = place.entry.raw_len_in_memory();
        let before = held.as_ref().map_or(0, |frame| frame.bytes.len());
        if let Some(frame) = held.as_ref().filter(|frame| frame.bytes.len() >= len.min(whole)) {
            return Ok(Arc::clone(frame));
        }
        // One that is wanted again is wanted more often than that.
        let is_enough = depth == Depth::Chunk && before == 0 && len < whole / 4 * 3;
        let room = lock(&self.spare).pop().unwrap_or_default();
        match fetch(repository, place, if is_enough { len } else { whole }, room) {
            Ok(frame) => {
                let frame = Arc::new(frame);
                *held = Some(Arc::clone(&frame));
                // While it is held, nobody throws it out before it is counted.
                self.make_room(key, &slot, frame.bytes.len().saturating_sub(before) as u64);
                Ok(frame)
            }
            Err(error) => {
                // The next one tries again.
                let mut slots = lock(&self.slots);
                if slots.has(key, &slot) {
                    slots.by_frame.remove(&key);
                    slots.bytes = slots.bytes.saturating_sub(before as u64);
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
        while slots.bytes > self.bytes_max {
            let others = slots.by_frame.iter().filter(|(key, _)| **key != new);
            // One that is being fetched is not counted yet, and not thrown out.
            let loaded = others.filter_map(|(key, slot)| {
                let len = slot.frame.try_lock().ok()?.as_ref()?.bytes.len();
                Some((slot.used.load(Ordering::Relaxed), *key, len as u64))
            });
            let Some((_, oldest, len)) = loaded.min_by_key(|(used, ..)| *used) else { break };
            let gone = slots.by_frame.remove(&oldest);
            slots.bytes = slots.bytes.saturating_sub(len);
            // Unless somebody still reads from it.
            let frame = gone.and_then(|slot| slot.frame.try_lock().ok()?.take());
            if let Some(frame) = frame.and_then(Arc::into_inner) {
                let mut spare = lock(&self.spare);
                if spare.len() < SPARE_FRAMES {
                    spare.push(frame.bytes);
                }
            }
        }
    }
}

fn fetch(repository: &Repository, place: &FramePlace, len: usize, room: Vec<u8>) -> Result<Frame> {
    let end = place.offset + u64::from(place.entry.stored_len);
    let sealed = repository.store().get_range(&object_name(place.pack), place.offset..end)?;
    let mut sealed = sealed.try_into_mut().unwrap_or_else(|shared| bytes::BytesMut::from(&shared[..]));
    let reader = repository.pack_reader(place.pack);
    let bytes = reader.frame_beginning(place.number, place.offset, &place.entry, &mut sealed, len, room)?;
    Ok(Frame { bytes, checked: Mutex::default() })
}
