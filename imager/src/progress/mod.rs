//! How far long work is, and how to stop it.
//!
//! The work counts, whoever started it looks. Must not know: terminals.

#![forbid(unsafe_code)]

mod map;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use self::map::DiskMap;
pub use self::map::{CELLS, Covered};
use crate::error::{Error, Result};
use crate::extent::Extent;

/// What is being done right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Finding out what there is to do.
    Planning,
    /// Moving data.
    Copying,
    /// Making sure that it arrived.
    Verifying,
    /// Making it durable and visible.
    Finishing,
}

impl Phase {
    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Copying => "copying",
            Self::Verifying => "verifying",
            Self::Finishing => "finishing",
        }
    }
}

/// Counts of bytes, shared between the work and its watchers.
#[derive(Default)]
pub struct Progress {
    /// Bytes that the present phase has to handle.
    pub total: AtomicU64,
    /// Bytes handled.
    pub done: AtomicU64,
    /// Zeros among them.
    pub zero: AtomicU64,
    /// Bytes in chunks that the repository, or the target, had already.
    pub known: AtomicU64,
    /// Bytes in chunks that were new, or had to be written.
    pub new: AtomicU64,
    /// Bytes written to the store, or read from it.
    pub stored: AtomicU64,
    /// The compression level in use.
    pub level: AtomicU64,
    maps: OnceLock<Vec<DiskMap>>,
    phase: Mutex<Option<Phase>>,
    messages: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Progress {
    /// Nothing done yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Begins a phase that has `total` bytes to handle.
    pub fn begin(&self, phase: Phase, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        // At the end it shows what was done.
        if phase != Phase::Finishing {
            self.maps.get().into_iter().flatten().for_each(DiskMap::clear);
        }
        *lock(&self.phase) = Some(phase);
    }

    /// From now on it is counted where on these disks, of so many bytes, the work is. Only the first call counts.
    pub fn map_disks(&self, disks: impl IntoIterator<Item = (PathBuf, u64)>) {
        self.maps.get_or_init(|| disks.into_iter().map(|(path, size)| DiskMap::new(path, size)).collect());
    }

    /// These bytes of the disk at `path` were handled in this phase; nothing for a disk that has no map.
    pub fn cover(&self, path: &Path, extent: Extent) {
        if let Some(map) = self.maps.get().into_iter().flatten().find(|map| map.is_of(path)) {
            map.cover(extent);
        }
    }

    /// Where on each disk the present phase has been; empty before it has been anywhere.
    #[must_use]
    pub fn covered(&self) -> Vec<Covered> {
        let maps = self.maps.get().map(Vec::as_slice).unwrap_or_default();
        let covered: Vec<Option<Covered>> = maps.iter().map(DiskMap::covered).collect();
        if covered.iter().all(Option::is_none) {
            return Vec::new();
        }
        maps.iter().zip(covered).map(|(map, covered)| covered.unwrap_or_else(|| map.empty())).collect()
    }

    /// The phase, once there is one.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        *lock(&self.phase)
    }

    /// Says something that the user should see at once.
    pub fn say(&self, message: impl Into<String>) {
        lock(&self.messages).push(message.into());
    }

    /// What was said since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.messages))
    }

    /// Asks the work to stop cleanly.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the work was asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// [`Error::Interrupted`] once the work was asked to stop.
    ///
    /// # Errors
    /// As it says.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Locks a mutex; a thread that panicked while it held it leaves plain data behind, which is still good.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
