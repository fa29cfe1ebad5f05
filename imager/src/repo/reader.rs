//! Reading single chunks: for walking block maps, and for the few bytes that a plan needs before data flow.
//!
//! Must not know: disks. Bulk reading is the restore's pipeline.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Repository;
use super::block_map::{self, Record, Root, Subtree};
use super::index::IndexedPack;
use super::pack::{Check, ChunkEntry, ChunkId, Content, FrameEntry, PackId, object_name};
use crate::error::{Error, Result};

/// Frames kept decompressed.
const CACHED_FRAMES: usize = 64;

struct FrameRef {
    pack: PackId,
    number: u32,
    offset: u64,
    entry: FrameEntry,
}

/// Finds and reads chunks by their id.
pub struct ChunkReader<'r> {
    repository: &'r Repository,
    frames: Vec<FrameRef>,
    chunks: HashMap<ChunkId, (u32, u32, u32)>,
    cache: VecDeque<(u32, Arc<Vec<u8>>)>,
}

impl<'r> ChunkReader<'r> {
    /// Knows no chunk yet.
    #[must_use]
    pub fn new(repository: &'r Repository) -> Self {
        Self { repository, frames: Vec::new(), chunks: HashMap::new(), cache: VecDeque::new() }
    }

    /// Learns the chunks of a pack for which `wanted` says yes.
    pub fn add_pack(&mut self, pack: &IndexedPack, wanted: impl Fn(Content, &ChunkEntry) -> bool) {
        let frames = pack.directory.frames.iter().zip(pack.directory.frame_offsets());
        for (number, (entry, offset)) in (0..).zip(frames) {
            let Ok(index) = u32::try_from(self.frames.len()) else { return };
            let mut at = 0;
            let mut used = false;
            for chunk in &entry.chunks {
                if wanted(entry.content, chunk) {
                    self.chunks.insert(chunk.id, (index, at, chunk.len));
                    used = true;
                }
                at += chunk.len;
            }
            if used {
                let entry = FrameEntry { chunks: Vec::new(), ..*entry };
                self.frames.push(FrameRef { pack: pack.id, number, offset, entry });
            }
        }
    }

    /// True when the chunk's place is known.
    #[must_use]
    pub fn knows(&self, id: ChunkId) -> bool {
        self.chunks.contains_key(&id)
    }

    /// The content of a chunk, checked against its id.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], or what the store says.
    pub fn chunk(&mut self, id: ChunkId) -> Result<Vec<u8>> {
        let missing = || Error::Missing { object: format!("chunk {id}") };
        let &(index, at, len) = self.chunks.get(&id).ok_or_else(missing)?;
        let frame = self.frame(index)?;
        let place = self.frames.get(usize::try_from(index).unwrap_or(usize::MAX)).ok_or_else(missing)?;
        let range = usize::try_from(at).ok().zip(usize::try_from(at.saturating_add(len)).ok());
        let bytes = range.and_then(|(start, end)| frame.get(start..end)).ok_or_else(missing)?;
        if self.repository.chunk_id(place.entry.content, [bytes]) == id {
            return Ok(bytes.to_vec());
        }
        Err(Error::damaged(object_name(place.pack), place.offset, "a chunk is not what its id says"))
    }

    fn frame(&mut self, index: u32) -> Result<Arc<Vec<u8>>> {
        if let Some(position) = self.cache.iter().position(|(cached, _)| *cached == index) {
            let hit = self.cache.remove(position);
            if let Some(hit) = hit {
                self.cache.push_back(hit.clone());
                return Ok(hit.1);
            }
        }
        let frame = usize::try_from(index).ok().and_then(|index| self.frames.get(index));
        let frame = frame.ok_or_else(|| Error::Internal("a frame without a place".into()))?;
        let end = frame.offset + u64::from(frame.entry.stored_len);
        let sealed = self.repository.store().get_range(&object_name(frame.pack), frame.offset..end)?;
        let mut data = vec![0; frame.entry.raw_len_in_memory()];
        let reader = self.repository.pack_reader(frame.pack);
        reader.frame(Check::Ids, frame.number, frame.offset, &frame.entry, &mut sealed.to_vec(), &mut data)?;
        let data = Arc::new(data);
        if self.cache.len() >= CACHED_FRAMES {
            self.cache.pop_front();
        }
        self.cache.push_back((index, Arc::clone(&data)));
        Ok(data)
    }

    /// Walks a region's block map.
    ///
    /// # Errors
    /// As [`ChunkReader::chunk`]; what `visit` says.
    pub fn walk(&mut self, root: Root, region_len: u64, visit: impl FnMut(Record) -> Result<()>) -> Result<()> {
        self.walk_into(root, region_len, |_| true, visit)
    }

    /// As [`ChunkReader::walk`]; `enter` decides whether to go into a leaf or node.
    ///
    /// # Errors
    /// As [`ChunkReader::chunk`]; what `visit` says.
    pub fn walk_into(
        &mut self,
        root: Root,
        region_len: u64,
        enter: impl FnMut(Subtree) -> bool,
        visit: impl FnMut(Record) -> Result<()>,
    ) -> Result<()> {
        struct Walker<'a, 'r, E, V>(&'a mut ChunkReader<'r>, E, V);
        impl<E: FnMut(Subtree) -> bool, V: FnMut(Record) -> Result<()>> block_map::Visitor for Walker<'_, '_, E, V> {
            fn fetch(&mut self, id: ChunkId) -> Result<Vec<u8>> {
                self.0.chunk(id)
            }

            fn enter(&mut self, subtree: Subtree) -> bool {
                (self.1)(subtree)
            }

            fn record(&mut self, record: Record) -> Result<()> {
                (self.2)(record)
            }
        }
        block_map::walk(root, region_len, &mut Walker(self, enter, visit))
    }
}
