//! Where each chunk of a repository is: a sorted table, as small as it can be.
//!
//! Must not know: images, disks.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::key_table::KeyTable;
use crate::repo::Repository;
use crate::repo::pack::{ChunkId, FrameEntry, PackId};

/// A chunk's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The first 96 bits of its id, in two parts. Ids are keyed hashes: no repository has two that begin alike.
    key: u64,
    more_of_key: u32,
    /// Number of the frame in this table.
    frame: u32,
    /// Where the chunk begins in the frame.
    pub at: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Place {
    fn key(&self) -> (u64, u32) {
        (self.key, self.more_of_key)
    }
}

/// A frame's place.
pub(super) struct FramePlace {
    pub pack: PackId,
    pub number: u32,
    pub offset: u64,
    /// Without its chunks.
    pub entry: FrameEntry,
}

/// Every chunk that the repository has now.
pub(super) struct Places {
    chunks: Vec<Place>,
    table: KeyTable,
    frames: Vec<FramePlace>,
}

impl Places {
    /// Reads the index.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn read(repository: &Repository) -> Result<Self> {
        let (mut chunks, mut frames) = (Vec::new(), Vec::new());
        repository.for_each_pack(&mut |pack| {
            for (number, (entry, offset)) in (0..).zip(pack.directory.frames.iter().zip(pack.directory.frame_offsets()))
            {
                let Ok(frame) = u32::try_from(frames.len()) else { return Ok(()) };
                let mut at = 0u32;
                for chunk in &entry.chunks {
                    let (key, more_of_key) = key(chunk.id);
                    chunks.push(Place { key, more_of_key, frame, at, len: chunk.len });
                    at = at.saturating_add(chunk.len);
                }
                let entry = FrameEntry { chunks: Vec::new(), ..*entry };
                frames.push(FramePlace { pack: pack.id, number, offset, entry });
            }
            Ok(())
        })?;
        chunks.sort_unstable();
        chunks.dedup_by_key(|place| place.key());
        let table = KeyTable::new(chunks.iter().map(|place| place.key));
        Ok(Self { chunks, table, frames })
    }

    pub(super) fn find(&self, id: ChunkId) -> Option<Place> {
        let key = key(id);
        let alike = self.chunks.get(self.table.alike(key.0))?;
        alike.get(alike.binary_search_by_key(&key, Place::key).ok()?).copied()
    }

    pub(super) fn frame(&self, place: Place) -> Option<&FramePlace> {
        self.frames.get(usize::try_from(place.frame).ok()?)
    }
}

fn key(id: ChunkId) -> (u64, u32) {
    let first = id.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let more = id.0.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    (first, more)
}
