//! A disk whose blocks lie somewhere in a file: what all the sparse formats have in common.
//!
//! A format says what a run of the disk is ([`Map`]); reading, and finding what may differ from zero, is done here.
//! Must not know: formats.

use std::io;
use std::sync::Arc;

use super::cache::{Cache, Share};
use super::contents::{Contents, read_padded};
use super::error::DiskError;
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

/// What a run of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Zeros.
    Zero,
    /// What the disk below has there; zeros without one.
    Below,
    /// Bytes of the file, from this offset on.
    Plain(u64),
    /// A part of a compressed block.
    Packed(Packed),
}

/// A compressed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// Where it is in the file, in bytes.
    pub offset: u64,
    /// Bytes that it takes there at least.
    pub len: u64,
    /// Where its content begins on the disk.
    pub start: u64,
}

/// Where a disk's blocks are.
pub(super) trait Map: Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Bytes of a block.
    fn block(&self) -> u64;

    /// The file that has the blocks.
    fn data(&self) -> &dyn Contents;

    /// What is at byte `at`, which is less than the size, and up to which byte of the disk that holds.
    ///
    /// # Errors
    /// What reading the tables says.
    fn run(&self, at: u64) -> Result<(Run, u64), DiskError>;

    /// The content of a compressed block.
    ///
    /// # Errors
    /// [`DiskError::Damaged`], what reading says.
    fn unpack(&self, packed: Packed) -> Result<Vec<u8>, DiskError> {
        Err(DiskError::damaged(packed.offset, "a compressed block in a format without"))
    }
}

/// How many more blocks of `block` bytes go on as `first` does.
pub(super) fn going_on(first: Run, block: u64, following: impl Iterator<Item = Run>) -> u64 {
    let mut count = 0;
    for run in following {
        count += 1;
        let expected = match first {
            Run::Plain(offset) => offset.checked_add(block.saturating_mul(count)).map(Run::Plain),
            Run::Packed(_) => None,
            other => Some(other),
        };
        if expected != Some(run) {
            return count - 1;
        }
    }
    count
}

/// A disk with a map.
pub(super) struct Mapped<M> {
    map: M,
    below: Option<Box<dyn Contents>>,
    unpacked: Share,
}

/// What going over all tables gave.
pub(super) struct Survey {
    /// What may differ from zero.
    pub data: ExtentSet,
    /// Bytes of blocks that lie behind the file's end.
    pub missing: u64,
}

impl<M: Map> Mapped<M> {
    pub(super) fn new(map: M, below: Option<Box<dyn Contents>>, cache: &Arc<Cache>) -> Self {
        Self { map, below, unpacked: cache.share() }
    }

    /// Goes over all tables.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when a block is not in the file.
    pub(super) fn survey(&self) -> Result<Survey, DiskError> {
        let (in_file, file_size) = (self.map.data().data_extents()?, self.map.data().size());
        let below = self.below.as_ref().map(|below| below.data_extents()).transpose()?.unwrap_or_default();
        let mut survey = Survey { data: ExtentSet::new(), missing: 0 };
        let mut at = 0;
        while at < self.map.size() {
            let (run, end) = self.run(at)?;
            let place = Extent::between(at, end);
            match run {
                Run::Zero => {}
                Run::Below => below.intersect(place).for_each(|extent| survey.data.insert(extent)),
                Run::Plain(offset) => {
                    // The last block of a file may not be written to its end.
                    let missing = offset.saturating_add(place.len).saturating_sub(file_size);
                    if offset >= file_size || missing >= self.map.block() {
                        return Err(behind_the_end(at, offset, file_size));
                    }
                    survey.missing += missing;
                    for extent in in_file.intersect(Extent::new(offset, place.len)) {
                        survey.data.insert(Extent::new(at + (extent.start - offset), extent.len));
                    }
                }
                Run::Packed(packed) => {
                    if packed.offset.checked_add(packed.len).is_none_or(|end| end > file_size) {
                        return Err(behind_the_end(at, packed.offset, file_size));
                    }
                    survey.data.insert(place);
                }
            }
            at = end;
        }
        Ok(survey)
    }

    fn run(&self, at: u64) -> Result<(Run, u64), DiskError> {
        let (run, end) = self.map.run(at)?;
        let end = end.min(self.map.size());
        // A map that stands still would be read for ever.
        if end > at { Ok((run, end)) } else { Err(DiskError::damaged(0, format!("a table says nothing of byte {at}"))) }
    }

    fn read_below(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.below {
            Some(below) => read_padded(&**below, at, buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

fn behind_the_end(at: u64, offset: u64, file_size: u64) -> DiskError {
    let what = format!("byte {at} of the disk is said to be here, but the file ends at {file_size}: it is cut off");
    DiskError::damaged(offset, what)
}

impl<M: Map> ReadAt for Mapped<M> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        let until = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (run, mut end) = self.run(at)?;
            if let Run::Plain(start) = run {
                // What follows on in the file, too, is one read.
                while end < until
                    && let (Run::Plain(next), next_end) = self.run(end)?
                    && start.checked_add(end - at) == Some(next)
                {
                    end = next_end;
                }
            }
            let len = usize::try_from(end.min(until) - at).map_err(io::Error::other)?;
            let (now, later) = rest.split_at_mut(len);
            match run {
                Run::Zero => now.fill(0),
                Run::Below => self.read_below(at, now)?,
                Run::Plain(start) if start >= self.map.data().size() => {
                    return Err(behind_the_end(at, start, self.map.data().size()).into());
                }
                Run::Plain(start) => read_padded(self.map.data(), start, now)?,
                Run::Packed(packed) => {
                    let block = self.unpacked.get(packed.offset, || Ok(self.map.unpack(packed)?))?;
                    let skip = usize::try_from(at - packed.start).map_err(io::Error::other)?;
                    let bytes = block.get(skip..skip.saturating_add(len));
                    let short = || DiskError::damaged(packed.offset, "a compressed block is too short");
                    now.copy_from_slice(bytes.ok_or_else(short)?);
                }
            }
            (at, rest) = (end.min(until), later);
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.map.size()
    }
}

/// A disk whose tables were gone over, with what was found.
struct Surveyed<M> {
    disk: Mapped<M>,
    data: ExtentSet,
}

impl<M: Map> ReadAt for Surveyed<M> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }
}

impl<M: Map> Contents for Surveyed<M> {
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        Ok(self.data.clone())
    }
}

/// Goes over all tables of a disk, so that what is wrong with them is said before anything is read; what is odd
/// becomes a note.
///
/// # Errors
/// As [`Mapped::survey`].
pub(super) fn surveyed<M: Map + 'static>(
    disk: Mapped<M>,
    notes: &mut Vec<String>,
) -> Result<Box<dyn Contents>, DiskError> {
    let survey = disk.survey()?;
    if survey.missing > 0 {
        notes.push(format!(
            "the file ends {} bytes before its last block does; they are read as zeros, as its own programs do",
            survey.missing
        ));
    }
    Ok(Box::new(Surveyed { disk, data: survey.data }))
}
