//! Where each chunk of a repository is: a sorted table, as small as it can be.
//!
//! Must not know: images, disks.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::repo::Repository;
use crate::repo::pack::{ChunkId, FrameEntry, PackId};

/// A chunk's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The first 64 bits of its id. Ids are keyed hashes, and whoever reads the chunk compares the whole.
    key: u64,
    /// Number of the frame in this table.
    frame: u32,
    /// Where the chunk begins in the frame.
    pub at: u32,
    /// Its length in bytes.
    pub len: u32,
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
                    chunks.push(Place { key: key(chunk.id), frame, at, len: chunk.len });
                    at = at.saturating_add(chunk.len);
                }
                let entry = FrameEntry { chunks: Vec::new(), ..*entry };
                frames.push(FramePlace { pack: pack.id, number, offset, entry });
            }
            Ok(())
        })?;
        chunks.sort_unstable();
        chunks.dedup_by_key(|place| place.key);
        Ok(Self { chunks, frames })
    }

    pub(super) fn find(&self, id: ChunkId) -> Option<Place> {
        let at = self.chunks.binary_search_by_key(&key(id), |place| place.key).ok()?;
        self.chunks.get(at).copied()
    }

    pub(super) fn frame(&self, place: Place) -> Option<&FramePlace> {
        self.frames.get(usize::try_from(place.frame).ok()?)
    }
}

fn key(id: ChunkId) -> u64 {
    id.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
