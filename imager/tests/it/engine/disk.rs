//! A disk that is computed, as large as a test wants, with bad sectors, and that can vanish.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imager::disk::identity::Identity;
use imager::disk::source::Source;
use imager::extent::{Extent, ExtentSet};
use imager::read_at::{ReadAt, check_range};

/// What is on a [`FaultDisk`].
pub(crate) enum Content {
    /// These bytes.
    Bytes(Arc<Vec<u8>>),
    /// As many bytes as this, all different, nothing that anybody would understand.
    Noise(u64),
}

/// A disk that can fail.
pub(crate) struct FaultDisk {
    identity: Identity,
    content: Content,
    /// What cannot be read, in whole sectors.
    pub(crate) bad: ExtentSet,
    /// It is gone once so many reads were made.
    pub(crate) vanishes_at: usize,
    reads: AtomicUsize,
}

impl FaultDisk {
    pub(crate) fn new(content: Content) -> Self {
        let size = match &content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Noise(size) => *size,
        };
        let reads = AtomicUsize::new(0);
        Self { identity: super::identity(size), content, bad: ExtentSet::new(), vanishes_at: usize::MAX, reads }
    }
}

impl ReadAt for FaultDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        if self.reads.fetch_add(1, Ordering::SeqCst) >= self.vanishes_at {
            return Err(io::Error::from_raw_os_error(nix::libc::ENODEV));
        }
        let whole_sectors = Extent::between(offset / 512 * 512, (offset + buf.len() as u64).next_multiple_of(512));
        if self.bad.intersect(whole_sectors).next().is_some() {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        match &self.content {
            Content::Bytes(bytes) => bytes.read_at(offset, buf),
            Content::Noise(_) => {
                for (at, word) in (offset..).step_by(8).zip(buf.chunks_mut(8)) {
                    // SplitMix64, by position: reads of sectors are aligned to words.
                    let mut z = (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
                    word.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..word.len()]);
                }
                Ok(())
            }
        }
    }

    fn size(&self) -> u64 {
        self.identity.size
    }
}

impl Source for FaultDisk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sector_size(&self) -> Option<u32> {
        Some(512)
    }
}
