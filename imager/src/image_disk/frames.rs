//! Frames kept decompressed: the ones used last, within a budget. Each is fetched once, however many want it.
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

/// A frame's bytes, and which of its chunks were found to be what their ids say.
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
    bytes_max: u64,
    clock: AtomicU64,
}

#[derive(Default)]
struct Slots {
    by_frame: HashMap<Key, Arc<Slot>>,
    /// Bytes of frames that were put in and not thrown out.
    bytes: u64,
}

impl FrameCache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { slots: Mutex::default(), bytes_max, clock: AtomicU64::new(0) }
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
    ) -> Result<Chunk> {
        let damaged = |what| Error::damaged(object_name(frame.pack), frame.offset, what);
        if frame.entry.content != content {
            return Err(damaged("a chunk of data and one of a block map have the same name"));
        }
        let loaded = self.frame(repository, frame)?;
        let start = usize::try_from(place.at).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(usize::try_from(place.len).unwrap_or(usize::MAX));
        let bytes = loaded.bytes.get(range.clone()).ok_or_else(|| damaged("a chunk reaches behind its frame"))?;
        if !lock(&loaded.checked).contains(&place.at) {
            if repository.chunk_id(content, [bytes]) != id {
                return Err(damaged("a chunk is not what its id says"));
            }
            lock(&loaded.checked).insert(place.at);
        }
        Ok(Chunk { frame: loaded, range })
    }

    fn frame(&self, repository: &Repository, place: &FramePlace) -> Result<Arc<Frame>> {
        let key = (place.pack, place.number);
        let slot = Arc::clone(lock(&self.slots).by_frame.entry(key).or_default());
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut held = lock(&slot.frame);
        if let Some(frame) = &*held {
            return Ok(Arc::clone(frame));
        }
        match fetch(repository, place) {
            Ok(frame) => {
                let frame = Arc::new(frame);
                *held = Some(Arc::clone(&frame));
                drop(held);
                self.make_room(key, frame.bytes.len() as u64);
                Ok(frame)
            }
            Err(error) => {
                // The next one tries again.
                lock(&self.slots).by_frame.remove(&key);
                Err(error)
            }
        }
    }

    /// Counts a new frame and throws out those that were not used for longest.
    fn make_room(&self, new: Key, len: u64) {
        let mut slots = lock(&self.slots);
        slots.bytes += len;
        while slots.bytes > self.bytes_max {
            let others = slots.by_frame.iter().filter(|(key, _)| **key != new);
            // One that is being fetched is not counted yet, and not thrown out.
            let loaded = others.filter_map(|(key, slot)| {
                let len = slot.frame.try_lock().ok()?.as_ref()?.bytes.len();
                Some((slot.used.load(Ordering::Relaxed), *key, len as u64))
            });
            let Some((_, oldest, len)) = loaded.min_by_key(|(used, ..)| *used) else { break };
            slots.by_frame.remove(&oldest);
            slots.bytes = slots.bytes.saturating_sub(len);
        }
    }
}

fn fetch(repository: &Repository, place: &FramePlace) -> Result<Frame> {
    let end = place.offset + u64::from(place.entry.stored_len);
    let sealed = repository.store().get_range(&object_name(place.pack), place.offset..end)?;
    let mut sealed = sealed.try_into_mut().unwrap_or_else(|shared| bytes::BytesMut::from(&shared[..]));
    let mut bytes = vec![0; place.entry.raw_len_in_memory()];
    let reader = repository.pack_reader(place.pack);
    reader.frame(place.number, place.offset, &place.entry, &mut sealed, &mut bytes)?;
    Ok(Frame { bytes, checked: Mutex::default() })
}
