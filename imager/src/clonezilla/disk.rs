//! A disk put together from what is known of it: sectors of its tables, and volumes that were unpacked.
//!
//! Everything else on it is zeros. Must not know: where the pieces come from.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::scratch::Stored;
use crate::disk::identity::Identity;
use crate::disk::source::Source;
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

/// What lies in some place.
#[derive(Clone)]
enum Content {
    Bytes(Arc<[u8]>),
    /// From this byte of the volume on.
    Volume(Arc<Stored>, u64),
}

/// A disk.
pub(super) struct Assembled {
    identity: Identity,
    size: u64,
    sector_size: u32,
    /// Ascending, disjoint.
    pieces: Vec<(Extent, Content)>,
}

impl Assembled {
    /// A disk of zeros.
    pub(super) fn new(identity: Identity) -> Self {
        Self { size: identity.size, sector_size: identity.logical_sector, identity, pieces: Vec::new() }
    }

    /// Puts bytes somewhere, over whatever was put there before, as far as the disk has room.
    pub(super) fn put_bytes(&mut self, start: u64, bytes: &[u8]) {
        self.put(Extent::new(start, bytes.len() as u64), Content::Bytes(bytes.into()));
    }

    /// Puts `len` bytes of a volume, from its byte `from` on, somewhere, over whatever was put there before.
    pub(super) fn put_volume(&mut self, start: u64, volume: &Arc<Stored>, from: u64, len: u64) {
        let len = len.min(volume.size().saturating_sub(from));
        self.put(Extent::new(start, len), Content::Volume(Arc::clone(volume), from));
    }

    fn put(&mut self, place: Extent, content: Content) {
        let place = place.intersection(Extent::new(0, self.size));
        if place.is_empty() {
            return;
        }
        let mut pieces = Vec::with_capacity(self.pieces.len() + 2);
        for (old, content) in self.pieces.drain(..) {
            for kept in [
                Extent::between(old.start, old.end().min(place.start)),
                Extent::between(old.start.max(place.end()), old.end()),
            ] {
                if !kept.is_empty() {
                    pieces.push((kept, content.skip(kept.start - old.start, kept.len)));
                }
            }
        }
        pieces.push((place, content.skip(0, place.len)));
        pieces.sort_unstable_by_key(|(place, _)| place.start);
        self.pieces = pieces;
    }
}

impl Content {
    /// `len` bytes of it, from byte `from` on.
    fn skip(&self, from: u64, len: u64) -> Self {
        match self {
            // Most of what is there stays as it is when something is put beside it.
            Self::Bytes(bytes) if from == 0 && len == bytes.len() as u64 => Self::Bytes(Arc::clone(bytes)),
            Self::Bytes(bytes) => {
                let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                let end = usize::try_from(from.saturating_add(len)).unwrap_or(usize::MAX).min(bytes.len());
                Self::Bytes(bytes.get(start..end).unwrap_or_default().into())
            }
            Self::Volume(volume, start) => Self::Volume(Arc::clone(volume), start + from),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => bytes.read_at(offset, buf),
            Self::Volume(volume, start) => volume.read_at(start + offset, buf),
        }
    }
}

impl ReadAt for Assembled {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        buf.fill(0);
        let wanted = Extent::new(offset, buf.len() as u64);
        let first = self.pieces.partition_point(|(place, _)| place.end() <= wanted.start);
        for (place, content) in self.pieces.iter().skip(first).take_while(|(place, _)| place.start < wanted.end()) {
            let part = place.intersection(wanted);
            let start = usize::try_from(part.start - offset).map_err(io::Error::other)?;
            let len = usize::try_from(part.len).map_err(io::Error::other)?;
            let part_of_buf = buf.get_mut(start..start + len).ok_or(io::ErrorKind::UnexpectedEof)?;
            content.read(part.start - place.start, part_of_buf)?;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Source for Assembled {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn data_extents(&self) -> ExtentSet {
        let mut data = ExtentSet::new();
        for (place, content) in &self.pieces {
            match content {
                Content::Bytes(_) => data.insert(*place),
                Content::Volume(volume, from) => {
                    // What the volume has, seen from the disk.
                    let of_volume = volume.data();
                    for part in of_volume.intersect(Extent::new(*from, place.len)) {
                        data.insert(Extent::new(place.start + (part.start - from), part.len));
                    }
                }
            }
        }
        data
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.sector_size)
    }
}
