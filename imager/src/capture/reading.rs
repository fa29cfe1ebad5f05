//! Reads of a disk, and the buffers they go to.
//!
//! A read that fails is tried again in smaller parts, down to the sector; what stays unreadable is
//! reported and reads as zeros. Must not know: chunks, repositories.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::thread::sched_getcpu;

use super::jobs::ReadJob;
use crate::disk::source::{AlignedBuf, Source};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::progress::lock;

/// A buffer that goes back to its pool when it is dropped.
pub(crate) struct PooledBuf {
    buf: Option<AlignedBuf>,
    processor: usize,
    home: Arc<BufferPool>,
}

impl PooledBuf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], AlignedBuf::as_slice)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.buf.as_mut().map_or(&mut [], AlignedBuf::as_mut_slice)
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            lock(&self.home.free).push((self.processor, buf));
            self.home.came_back.notify_one();
        }
    }
}

/// A bounded number of buffers of one size. Each goes to the processor that filled it last and may have it in its
/// cache. When another has it there, and the two share none, filling it takes up to three times as long.
pub(crate) struct BufferPool {
    /// With the number of the processor, the one that came back last at the end.
    free: Mutex<Vec<(usize, AlignedBuf)>>,
    came_back: Condvar,
}

impl BufferPool {
    pub(crate) fn new(count: usize, size: usize) -> Arc<Self> {
        let free = (0..count).map(|_| (0, AlignedBuf::new(size))).collect();
        Arc::new(Self { free: Mutex::new(free), came_back: Condvar::new() })
    }

    /// Waits for a free buffer.
    pub(crate) fn get(self: &Arc<Self>) -> PooledBuf {
        let mut free = lock(&self.free);
        while free.is_empty() {
            free = self.came_back.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        let processor = sched_getcpu();
        // If there is none, the one that was free for the longest time.
        let own = free.iter().rposition(|(last, _)| *last == processor);
        let (_, buf) = free.remove(own.unwrap_or(0));
        PooledBuf { buf: Some(buf), processor, home: Arc::clone(self) }
    }
}

/// What one read gave.
pub(crate) struct Segment {
    pub job: ReadJob,
    buf: PooledBuf,
    /// What could not be read, relative to the region.
    pub bad: ExtentSet,
}

impl Segment {
    pub(crate) fn new(job: ReadJob, buf: PooledBuf, bad: ExtentSet) -> Self {
        Self { job, buf, bad }
    }

    /// Bytes of the segment, relative to the region. They must lie within the job.
    pub(crate) fn bytes(&self, extent: Extent) -> &[u8] {
        let start = usize::try_from(extent.start - self.job.extent.start).unwrap_or(usize::MAX);
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        self.buf.as_slice().get(start..start.saturating_add(len)).unwrap_or_default()
    }
}

/// Carries out one read if that needs no waiting for a disk; whether it did. What `buf` has otherwise is of no use.
pub(crate) fn read_cached(source: &dyn Source, job: &ReadJob, buf: &mut [u8]) -> bool {
    let len = usize::try_from(job.extent.len).unwrap_or(usize::MAX);
    let Some(bytes) = buf.get_mut(..len) else { return false };
    source.read_cached(job.region_start + job.extent.start, bytes) == len
}

/// Carries out one read; gives what could not be read, relative to the region, which is zeros in `buf`.
///
/// # Errors
/// [`Error::SourceVanished`].
pub(crate) fn read(source: &dyn Source, job: &ReadJob, buf: &mut [u8]) -> Result<ExtentSet> {
    let len = usize::try_from(job.extent.len).map_err(|_| Error::Internal("a read of impossible length".into()))?;
    let bytes = buf.get_mut(..len).ok_or_else(|| Error::Internal("a read larger than its buffer".into()))?;
    if source.read_at(job.region_start + job.extent.start, bytes).is_ok() {
        return Ok(ExtentSet::new());
    }
    let mut bad = ExtentSet::new();
    for wanted in &job.wanted {
        let start = usize::try_from(wanted.start - job.extent.start).unwrap_or(usize::MAX);
        let len = usize::try_from(wanted.len).unwrap_or(usize::MAX);
        if let Some(part) = bytes.get_mut(start..start.saturating_add(len)) {
            read_in_parts(source, job.region_start, wanted.start, part, &mut bad)?;
        }
    }
    Ok(bad)
}

/// Tries `buf` as a whole, then in sixteenths, down to the sector.
fn read_in_parts(source: &dyn Source, region_start: u64, at: u64, buf: &mut [u8], bad: &mut ExtentSet) -> Result<()> {
    let error = match source.read_at(region_start + at, buf) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // Looking costs more than a sector, and a disk that has gone makes large reads fail, too.
    let vanished = || if buf.len() > 4096 { source.vanished() } else { None };
    if let Some(detail) = is_fatal(&error).then(|| error.to_string()).or_else(vanished) {
        return Err(Error::SourceVanished { path: source.identity().path.clone(), detail });
    }
    let sector = usize::try_from(source.identity().logical_sector.max(512)).unwrap_or(512);
    if buf.len() <= sector {
        buf.fill(0);
        bad.insert(Extent::new(at, buf.len() as u64));
        return Ok(());
    }
    let part = (buf.len() / 16).next_multiple_of(sector).max(sector);
    let mut offset = at;
    for piece in buf.chunks_mut(part) {
        let len = piece.len() as u64;
        read_in_parts(source, region_start, offset, piece, bad)?;
        offset += len;
    }
    Ok(())
}

/// Errors that no smaller read will cure: the device is not there any more.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::ENXIO | nix::libc::EBADF))
}
