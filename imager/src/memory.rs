//! How much memory a job may take, and how it is shared out.

#![forbid(unsafe_code)]

use std::fs;

use crate::extent::ExtentSet;

/// Memory that a job stays within, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// Below this nothing works well; less is not accepted.
    pub const MIN: u64 = 64 << 20;

    /// At least [`Budget::MIN`].
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(bytes.max(Self::MIN))
    }

    /// Half of what the machine has free now.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib: Option<u64> = available.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        Self::new(kib.unwrap_or(0) * 1024 / 2)
    }

    /// All of it.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Buffers of `size` bytes for reading: enough to keep an array of disks busy, and no more than the processor's
    /// cache holds until they are hashed.
    #[must_use]
    pub fn read_buffers(self, size: usize) -> usize {
        let bytes = (self.0 / 6).clamp(8 << 20, 16 << 20);
        usize::try_from(bytes).unwrap_or(8 << 20) / size.max(1)
    }

    /// Size of packs: four of them are in memory at the busiest moment.
    #[must_use]
    pub fn pack_bytes(self) -> u64 {
        (self.0 / 16).clamp(4 << 20, 16 << 20)
    }

    /// Chunks that a capture remembers as known, at 40 bytes each.
    #[must_use]
    pub fn known_chunks_max(self) -> usize {
        usize::try_from(self.0 / 2 / 40).unwrap_or(usize::MAX)
    }

    /// Chunks whose places and frames are planned at a time. Each is a want, a chunk of a frame to be read, and its
    /// share of that frame: 64 bytes together. Sets of their places never grow coarse.
    #[must_use]
    pub fn planned_chunks_max(self) -> usize {
        usize::try_from(self.0 / 2 / 64).unwrap_or(usize::MAX).min(ExtentSet::EXTENTS_MAX / 2)
    }

    /// Bytes of frames that may be fetched ahead of their use.
    #[must_use]
    pub fn fetch_ahead_bytes(self) -> u64 {
        (self.0 / 4).clamp(8 << 20, 64 << 20)
    }
}
