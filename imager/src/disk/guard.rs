//! A target that looks empty until it is complete.
//!
//! The first MiB of whatever becomes bootable, and the last of a disk, are emptied first and written last, with a
//! flush between the steps, so that nobody takes a target that was cut short for a finished one, whatever its
//! cache has lost. Must not know: where the data come from.

use std::sync::{Arc, Mutex};

use super::source::AlignedBuf;
use super::target::Target;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::progress::lock;

/// Bytes at the beginning of whatever becomes bootable, and at the end of a disk, where the backup of its partition
/// table is.
const HELD_BYTES: u64 = 1 << 20;
/// By so many of them at either end somebody might know a disk or a file system.
const NAMING_BYTES: u64 = 4 << 10;

/// What the end of a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The end of a disk, where the backup of its partition table may be.
    OfDisk,
    /// Nothing to be known by.
    Plain,
}

/// A target, and what is held back.
pub(crate) struct Guard {
    target: Arc<dyn Target>,
    /// Emptied first and written last, in bytes of the target.
    held: ExtentSet,
    /// The first sectors. Emptied before and written after all else that is held.
    first_sectors: ExtentSet,
    /// More of what is held by which it could be known; written just before those.
    naming: ExtentSet,
    /// What is held, one after another.
    bytes: Mutex<Vec<u8>>,
}

impl Guard {
    /// `places` of the target become bootable, each by itself. Nothing is written yet.
    pub(crate) fn new(target: Arc<dyn Target>, places: &[Extent], end: End) -> Self {
        let size = target.size();
        let beginnings = |len: u64| -> ExtentSet {
            places.iter().map(|place| Extent::new(place.start, len.min(place.len))).collect()
        };
        let with_end = |set: ExtentSet, len: u64| match end {
            End::OfDisk => set.union(&[Extent::between(size - len.min(size), size)].into_iter().collect()),
            End::Plain => set,
        };
        let first_sectors = beginnings(target.identity().logical_sector.into());
        let naming = with_end(beginnings(NAMING_BYTES), NAMING_BYTES).minus(&first_sectors);
        let held = with_end(beginnings(HELD_BYTES), HELD_BYTES);
        Self { target, held, first_sectors, naming, bytes: Mutex::default() }
    }

    /// The target.
    pub(crate) fn target(&self) -> &Arc<dyn Target> {
        &self.target
    }

    /// What is held back, in bytes of the target.
    pub(crate) fn held(&self) -> &ExtentSet {
        &self.held
    }

    /// Names an operation on the target that failed.
    pub(crate) fn io(&self, operation: &str, extent: Extent) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(format!("{operation} {} bytes at byte {} of", extent.len, extent.start), &self.target.identity().path)
    }

    /// Everything that was written is on the medium when this returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn flush(&self) -> Result<()> {
        self.target.flush().map_err(Error::io("flush", &self.target.identity().path))
    }

    /// Opens the target for writing, and makes it look empty.
    ///
    /// # Errors
    /// What the target says.
    pub(crate) fn begin(&self) -> Result<()> {
        *lock(&self.bytes) = vec![0; usize::try_from(self.held.total()).unwrap_or(0)];
        self.target.begin()?;
        if self.target.is_blank() {
            return Ok(());
        }
        for step in [&self.first_sectors, &self.held.minus(&self.first_sectors)] {
            for extent in step.iter() {
                self.zero(extent)?;
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Makes bytes of the target zeros at once, held or not.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn zero(&self, extent: Extent) -> Result<()> {
        self.target.zero(extent).map_err(self.io("clear", extent))
    }

    /// Writes to the target, or to memory what is held back.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let extent = Extent::new(offset, bytes.len() as u64);
        let part = |e: Extent| {
            let start = usize::try_from(e.start - offset).unwrap_or(usize::MAX);
            bytes.get(start..start.saturating_add(usize::try_from(e.len).unwrap_or(usize::MAX))).unwrap_or_default()
        };
        let mut at = 0u64;
        for region in self.held.iter() {
            let shared = region.intersection(extent);
            if !shared.is_empty() {
                let start = usize::try_from(at + shared.start - region.start).unwrap_or(usize::MAX);
                let bytes = part(shared);
                if let Some(to) = lock(&self.bytes).get_mut(start..start.saturating_add(bytes.len())) {
                    to.copy_from_slice(bytes);
                }
            }
            at += region.len;
        }
        for rest in self.held.complement(extent).iter() {
            self.target.write_at(rest.start, part(rest)).map_err(self.io("write", rest))?;
        }
        Ok(())
    }

    /// Writes what was held back: what names the rest only when that is on the medium.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn finish(&self) -> Result<()> {
        self.flush()?;
        let held = lock(&self.bytes);
        let rest = self.held.minus(&self.naming).minus(&self.first_sectors);
        for step in [&rest, &self.naming, &self.first_sectors] {
            let mut at = 0;
            for region in self.held.iter() {
                for extent in step.intersect(region) {
                    let start = at + usize::try_from(extent.start - region.start).unwrap_or(0);
                    let bytes = held.get(start..start + usize::try_from(extent.len).unwrap_or(0)).unwrap_or_default();
                    self.target.write_at(extent.start, bytes).map_err(self.io("write", extent))?;
                }
                at += usize::try_from(region.len).unwrap_or(0);
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Reads back what was held.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::DamageFound`] when it differs.
    pub(crate) fn read_back(&self) -> Result<()> {
        let held = lock(&self.bytes);
        let mut at = 0;
        for extent in self.held.iter() {
            let len = usize::try_from(extent.len).unwrap_or(0);
            let mut buf = AlignedBuf::new(len);
            self.target.read_at(extent.start, buf.as_mut_slice()).map_err(self.io("read", extent))?;
            if held.get(at..at + len) != Some(buf.as_slice()) {
                return Err(Error::DamageFound(format!(
                    "{} does not give back what was written at byte {}; the disk is not to be trusted",
                    self.target.identity().path.display(),
                    extent.start
                )));
            }
            at += len;
        }
        Ok(())
    }
}
