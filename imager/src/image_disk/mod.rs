//! The disks of an image, to be read at any place at any time, as if they were there.
//!
//! ```text
//! place ─► leaf of the block map ─► chunk ─► frame (kept decompressed, within a budget) ─► checked bytes
//! ```
//!
//! Opening reads the index and nothing else: leaves and frames are fetched when they are needed. Space that was not
//! in use reads as zeros. Many threads may read at once. Must not know: who reads, protocols, formats of disk images.

mod ahead;
mod frames;
mod places;
mod spans;
pub mod stream;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;

pub use self::ahead::ReadAhead;
use self::ahead::Readers;
use self::frames::{Chunk, Depth, FrameCache};
use self::places::Places;
use self::spans::Spans;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::memory::Budget;
use crate::progress::lock;
use crate::read_at::{ReadAt, check_range};
use crate::repo::Repository;
use crate::repo::block_map::{self, FANOUT, Record, Root, Run, SPAN};
use crate::repo::manifest::{DiskImage, Manifest};
use crate::repo::pack::{Check, ChunkId, Content};

/// Who reads no more than this at once, and nothing near it lately, reads here and there.
const SMALL_READ_BYTES: u64 = 64 << 10;
/// Near is what may lie in the same frame.
const NEAR_BYTES: u64 = 2 << 20;
/// Lately is so many reads ago.
const LATELY: usize = 16;

/// What a run of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Bytes that were stored.
    Data,
    /// Zeros that were in use.
    Zero,
    /// Not in use, or it could not be read; reads as zeros.
    Unused,
}

/// Where the chunks of a repository are, shared by everything that reads from it.
pub struct Shelf {
    repository: Arc<Repository>,
    places: RwLock<Arc<Places>>,
    frames: FrameCache,
}

impl Shelf {
    /// Reads the index. `cache` is for decompressed frames. Chunks are what their ids say.
    ///
    /// # Errors
    /// What the store says.
    pub fn open(repository: Arc<Repository>, cache: Budget) -> Result<Arc<Self>> {
        Self::with_check(repository, cache, Check::Ids)
    }

    /// As [`Shelf::open`], for who reads for a moment and keeps nothing: of frames that are read whole, only the seals
    /// are checked. They say that a frame is what was written, not that this was what had been read.
    ///
    /// # Errors
    /// As there.
    pub fn open_for_serving(repository: Arc<Repository>, cache: Budget) -> Result<Arc<Self>> {
        Self::with_check(repository, cache, Check::Seal)
    }

    fn with_check(repository: Arc<Repository>, cache: Budget, check: Check) -> Result<Arc<Self>> {
        let places = RwLock::new(Arc::new(Places::read(&repository)?));
        Ok(Arc::new(Self { repository, places, frames: FrameCache::new(cache.bytes(), check) }))
    }

    /// A chunk, checked. After a prune has moved it, it is looked for again.
    fn chunk(&self, id: ChunkId, content: Content, depth: Depth) -> Result<Chunk> {
        let seen = self.places();
        match self.chunk_at(&seen, id, content, depth) {
            Err(Error::Missing { .. }) => {
                let mut places = self.places.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                // Another reader may have been here already.
                if Arc::ptr_eq(&places, &seen) {
                    *places = Arc::new(Places::read(&self.repository)?);
                }
                let fresh = Arc::clone(&places);
                drop(places);
                self.chunk_at(&fresh, id, content, depth)
            }
            other => other,
        }
    }

    fn chunk_at(&self, places: &Places, id: ChunkId, content: Content, depth: Depth) -> Result<Chunk> {
        let place = places.find(id).ok_or_else(|| Error::Missing { object: format!("chunk {id}") })?;
        let frame = places.frame(place).ok_or_else(|| Error::Internal("a chunk without a frame".into()))?;
        self.frames.chunk(&self.repository, frame, place, id, content, depth)
    }

    /// Fetches the frame of a chunk, unless somebody else does: whoever fetches ahead does not wait.
    fn fetch(&self, id: ChunkId) -> Result<()> {
        let places = self.places();
        let frame = places.find(id).and_then(|place| places.frame(place));
        if frame.is_none_or(|frame| self.frames.is_being_fetched(frame)) {
            return Ok(());
        }
        self.chunk_at(&places, id, Content::Data, Depth::Frame).map(drop)
    }

    fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A disk of an image.
pub struct ImageDisk {
    shelf: Arc<Shelf>,
    size: u64,
    sector_size: u32,
    /// Ascending, without gaps: place on the disk and root of the block map.
    regions: Vec<(Extent, Option<Root>)>,
    spans: Spans,
    /// Where the last reads were.
    lately: Mutex<VecDeque<u64>>,
    readers: Readers,
}

impl ImageDisk {
    /// The disks of an image, in its order.
    #[must_use]
    pub fn all_of(shelf: &Arc<Shelf>, manifest: &Manifest) -> Vec<Self> {
        manifest.disks.iter().map(|disk| Self::new(shelf, disk)).collect()
    }

    fn new(shelf: &Arc<Shelf>, disk: &DiskImage) -> Self {
        let mut regions: Vec<_> =
            disk.regions.iter().map(|region| (Extent::new(region.start, region.len), region.root)).collect();
        regions.sort_unstable_by_key(|(place, _)| place.start);
        Self {
            shelf: Arc::clone(shelf),
            size: disk.size,
            sector_size: disk.sector_size,
            regions,
            spans: Spans::default(),
            lately: Mutex::default(),
            readers: Readers::default(),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Size of a sector in bytes.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Fills `buf` with what is at `offset`.
    ///
    /// # Errors
    /// [`Error::Usage`] behind the end; [`Error::Damaged`], [`Error::Missing`], what the store says: `buf` then has
    /// no meaning.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let wanted = self.within(offset, buf.len() as u64)?;
        self.for_each_part(wanted, &mut |place, part| {
            let to = range(place.start - offset, place.len).and_then(|range| buf.get_mut(range)).unwrap_or_default();
            match part {
                Some((chunk, range)) => to.copy_from_slice(chunk.bytes().get(range).unwrap_or_default()),
                None => to.fill(0),
            }
        })
    }

    /// What is at `wanted`, ascending, without gaps: memory of the cache, or nothing where there are zeros.
    ///
    /// # Errors
    /// As [`ImageDisk::read`].
    pub fn parts(&self, wanted: Extent) -> Result<Vec<(Extent, Option<Bytes>)>> {
        let mut parts = Vec::new();
        self.for_each_part(self.within(wanted.start, wanted.len)?, &mut |place, part| {
            parts.push((place, part.map(|(chunk, range)| Bytes::from_owner(chunk).slice(range))));
        })?;
        Ok(parts)
    }

    /// Visits the parts of `wanted`, ascending, without gaps: which bytes of which chunk, or zeros.
    fn for_each_part(
        &self,
        wanted: Extent,
        visit: &mut dyn FnMut(Extent, Option<(Chunk, Range<usize>)>),
    ) -> Result<()> {
        let is_near = self.is_near_others(wanted.start);
        let depth = if wanted.len <= SMALL_READ_BYTES && !is_near { Depth::Chunk } else { Depth::Frame };
        let mut at = wanted.start;
        self.for_each_record(wanted, &mut |start, record| {
            let Run::Chunk(id) = record.run else { return Ok(()) };
            let shared = Extent::new(start, record.len.into()).intersection(wanted);
            if shared.is_empty() {
                return Ok(());
            }
            if shared.start < at {
                return Err(Error::damaged(format!("chunk {id}"), 0, "it lies where another one does"));
            }
            let chunk = self.shelf.chunk(id, Content::Data, depth)?;
            let of = range(shared.start - start, shared.len);
            match of.filter(|of| of.end <= chunk.bytes().len() && chunk.bytes().len() as u64 == u64::from(record.len)) {
                Some(of) => {
                    if at < shared.start {
                        visit(Extent::between(at, shared.start), None);
                    }
                    visit(shared, Some((chunk, of)));
                    at = shared.end();
                    Ok(())
                }
                None => Err(Error::damaged(format!("chunk {id}"), 0, "its length is not the block map's")),
            }
        })?;
        if at < wanted.end() {
            visit(Extent::between(at, wanted.end()), None);
        }
        Ok(())
    }

    /// Whether something near `offset` was read lately; from now on, it was.
    fn is_near_others(&self, offset: u64) -> bool {
        let mut lately = lock(&self.lately);
        let is_near = lately.iter().any(|other| other.abs_diff(offset) <= NEAR_BYTES);
        if lately.len() == LATELY {
            lately.pop_front();
        }
        lately.push_back(offset);
        is_near
    }

    /// Fetches what is at `place`, but for what somebody is fetching already.
    fn fetch(&self, place: Extent) {
        // What fails here fails again, and is reported, when it is read.
        let _ = self.for_each_record(place, &mut |_, record| match record.run {
            Run::Chunk(id) => self.shelf.fetch(id),
            _ => Ok(()),
        });
    }

    /// What the bytes of `wanted` are, ascending, without gaps; neighbours differ.
    ///
    /// # Errors
    /// As [`ImageDisk::read`].
    pub fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
        let wanted = self.within(wanted.start, wanted.len)?;
        let mut runs: Vec<(Extent, Allocation)> = Vec::new();
        let mut at = wanted.start;
        let mut add = |extent: Extent, what| match runs.last_mut() {
            _ if extent.is_empty() => {}
            Some((last, same)) if *same == what => *last = Extent::between(last.start, extent.end()),
            _ => runs.push((extent, what)),
        };
        self.for_each_record(wanted, &mut |start, record| {
            let shared = Extent::new(start, record.len.into()).intersection(wanted);
            if !shared.is_empty() {
                add(Extent::between(at, shared.start.max(at)), Allocation::Unused);
                let what = match record.run {
                    Run::Chunk(_) => Allocation::Data,
                    Run::Zero => Allocation::Zero,
                    Run::Unreadable => Allocation::Unused,
                };
                add(shared, what);
                at = shared.end();
            }
            Ok(())
        })?;
        add(Extent::between(at, wanted.end()), Allocation::Unused);
        Ok(runs)
    }

    fn within(&self, offset: u64, len: u64) -> Result<Extent> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(Extent::new(offset, len)),
            _ => Err(Error::Usage(format!("{len} bytes at byte {offset} reach behind the end of the disk"))),
        }
    }

    /// Visits every record that may touch `wanted`, ascending, with its first byte on the disk.
    fn for_each_record(&self, wanted: Extent, visit: &mut dyn FnMut(u64, &Record) -> Result<()>) -> Result<()> {
        let first = self.regions.partition_point(|(place, _)| place.end() <= wanted.start);
        let touched = self.regions.iter().enumerate().skip(first);
        for (number, (place, root)) in touched.take_while(|(_, (place, _))| place.start < wanted.end()) {
            let Some(root) = root else { continue };
            let part = place.intersection(wanted);
            if part.is_empty() {
                continue;
            }
            let (from, to) = (part.start - place.start, part.end() - place.start);
            for span in from / SPAN..to.div_ceil(SPAN) {
                let records = self.spans.get((number, span), || self.leaf(*root, place.len, span))?;
                let first = records.partition_point(|record| record.start + u64::from(record.len) <= from);
                for record in records.iter().skip(first).take_while(|record| record.start < to) {
                    visit(place.start + record.start, record)?;
                }
            }
        }
        Ok(())
    }

    /// The records of one span of a region.
    fn leaf(&self, root: Root, region_len: u64, span: u64) -> Result<Vec<Record>> {
        let malformed = |id: ChunkId, what| Error::damaged(format!("block map node {id}"), 0, what);
        if root.height != block_map::height_for(region_len) {
            return Err(malformed(root.id, "a block map of another height than its region needs"));
        }
        let mut id = root.id;
        for level in (0..root.height).rev() {
            let node = self.shelf.chunk(id, Content::Map, Depth::Frame)?;
            let children = block_map::node_children(node.bytes()).map_err(|what| malformed(id, what))?;
            let number = span / FANOUT.saturating_pow(level) % FANOUT;
            match children.binary_search_by_key(&number, |(child, _)| *child) {
                Ok(at) => id = children.get(at).map_or(id, |(_, child)| *child),
                Err(_) => return Ok(Vec::new()),
            }
        }
        let leaf = self.shelf.chunk(id, Content::Map, Depth::Frame)?;
        block_map::leaf_records(leaf.bytes(), span * SPAN, region_len).map_err(|what| malformed(id, what))
    }
}

impl ReadAt for ImageDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        self.read(offset, buf).map_err(io::Error::other)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

fn range(start: u64, len: u64) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    Some(start..start.checked_add(usize::try_from(len).ok()?)?)
}
