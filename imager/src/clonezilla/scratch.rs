//! Unpacked volumes: the blocks that hold something, one behind the other in a scratch file, and where each of them
//! belongs.
//!
//! Decompressed streams can be read forward only, while those who make sense of a file system read here and there. The
//! file has no name from the beginning, so that nothing is left of it however this ends; and no holes, so that it may
//! lie on a file system that knows none. Must not know: Clonezilla's formats, disks.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::partclone::Bitmap;
use crate::capture::is_zero;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range};

const WRITE_BYTES: usize = 1 << 20;
/// Words of a bitmap between two counts.
const COUNT_EVERY: usize = 8;

/// A file without a name that grows.
pub(super) struct Scratch {
    file: Arc<File>,
    directory: PathBuf,
    end: u64,
    buffer: Vec<u8>,
}

impl Scratch {
    /// Makes one in `directory`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let unnamed = options.clone().custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(directory);
        let file = match unnamed {
            Ok(file) => file,
            // Network file systems and FUSE have no files without names.
            Err(_) => {
                let path = directory.join(format!(".imager-scratch-{}", uuid::Uuid::new_v4()));
                let file = options.create_new(true).open(&path).map_err(Error::io("make", &path))?;
                std::fs::remove_file(&path).map_err(Error::io("unlink", &path))?;
                file
            }
        };
        Ok(Self { file: Arc::new(file), directory: directory.to_owned(), end: 0, buffer: Vec::new() })
    }

    /// Bytes that may still be written where it lies; none when the system does not tell.
    pub(super) fn room(&self) -> Option<u64> {
        let room = rustix::fs::fstatvfs(&*self.file).ok()?;
        Some(room.f_bavail.saturating_mul(room.f_frsize))
    }

    /// Where it lies.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.end).map_err(|error| {
            Error::io("write the scratch file in", &self.directory)(error)
                .midway("--scratch names a directory with more room")
        })?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A volume about to be stored, block by block.
pub(super) struct Storing<'a> {
    scratch: &'a mut Scratch,
    base: u64,
    block_bytes: u32,
    len: u64,
    present: Bitmap,
}

impl<'a> Storing<'a> {
    /// Begins a volume of `len` bytes, in blocks of `block_bytes`, which is not 0.
    pub(super) fn new(scratch: &'a mut Scratch, block_bytes: u32, len: u64) -> Self {
        let base = scratch.end + scratch.buffer.len() as u64;
        Self { scratch, base, block_bytes, len, present: Bitmap::new() }
    }

    /// Stores blocks from number `first` on, which is not before any that was stored. Of the last, less may be given;
    /// zeros are not kept.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] when something other than zeros lies behind the volume's end, with how much that
    /// is.
    pub(super) fn blocks(&mut self, first: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let block_bytes = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        self.push(false, first.saturating_sub(self.present.len()))?;
        for (number, block) in (first..).zip(bytes.chunks(block_bytes)) {
            let start = number.saturating_mul(self.block_bytes.into());
            let within = usize::try_from(self.len.saturating_sub(start)).unwrap_or(usize::MAX).min(block.len());
            let (inside, behind) = block.split_at(within);
            if !is_zero(behind) {
                return Err(StoreError::Behind(start.saturating_add(block.len() as u64)));
            }
            if is_zero(inside) {
                self.push(false, 1)?;
                continue;
            }
            self.push(true, 1)?;
            self.scratch.write(block)?;
            if block.len() < block_bytes {
                self.scratch.write(&vec![0; block_bytes - block.len()])?;
            }
        }
        Ok(())
    }

    fn push(&mut self, bit: bool, count: u64) -> Result<()> {
        self.present.push_run(bit, count).map_err(|_| Error::Usage("there is not enough memory to import this".into()))
    }

    /// The volume, to be read.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn finish(self) -> Result<Stored> {
        self.scratch.flush()?;
        let mut sum = 0;
        let counts = self.present.words().chunks(COUNT_EVERY).map(|words| {
            let before = sum;
            sum += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            before
        });
        let counts = counts.collect();
        let Self { scratch, base, block_bytes, len, present } = self;
        Ok(Stored { file: Arc::clone(&scratch.file), base, block_bytes: block_bytes.into(), len, present, counts })
    }
}

/// Why blocks were not stored.
#[derive(Debug)]
pub(super) enum StoreError {
    /// They end at this byte, behind the volume's end.
    Behind(u64),
    Other(Error),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// A volume that was unpacked. What it has no blocks for is zeros.
pub(super) struct Stored {
    file: Arc<File>,
    base: u64,
    block_bytes: u64,
    len: u64,
    present: Bitmap,
    /// How many blocks there are before every [`COUNT_EVERY`]th word.
    counts: Vec<u64>,
}

impl Stored {
    /// Where it may differ from zeros.
    pub(super) fn data(&self) -> ExtentSet {
        let mut data = ExtentSet::new();
        let mut at = 0;
        while let Some((first, blocks)) = self.present.next_run(at, u64::MAX) {
            data.insert(
                Extent::new(first * self.block_bytes, blocks * self.block_bytes).intersection(Extent::new(0, self.len)),
            );
            at = first + blocks;
        }
        data
    }

    /// How many blocks there are before block `number`.
    fn before(&self, number: u64) -> u64 {
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
        let group = word / COUNT_EVERY;
        let Some(before) = self.counts.get(group) else { return self.present.count() };
        let words = self.present.words();
        let whole = words.get(group * COUNT_EVERY..word).unwrap_or_default();
        let part = words.get(word).copied().unwrap_or(0) & !(u64::MAX << (number % 64));
        before + whole.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() + u64::from(part.count_ones())
    }
}

impl ReadAt for Stored {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let mut at = offset / self.block_bytes;
        while let Some((first, blocks)) = self.present.next_run(at, u64::MAX) {
            let run = Extent::new(first * self.block_bytes, blocks * self.block_bytes);
            let wanted = run.intersection(Extent::between(offset, end));
            if wanted.is_empty() {
                break;
            }
            let place = self.base + self.before(first) * self.block_bytes + (wanted.start - run.start);
            let start = usize::try_from(wanted.start - offset).map_err(io::Error::other)?;
            let len = usize::try_from(wanted.len).map_err(io::Error::other)?;
            let part = buf.get_mut(start..start + len).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.file.read_exact_at(part, place)?;
            at = first + blocks;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_volume_reads_back_as_it_was(
            runs in proptest::collection::vec((0u8..4, 1usize..200), 1..20),
            odd in 0usize..500,
            reads in proptest::collection::vec((any::<u16>(), 0usize..5000), 8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut scratch = Scratch::new(dir.path()).unwrap();
            // Another volume lies before it.
            let mut other = Storing::new(&mut scratch, 512, 512);
            other.blocks(0, &[7; 512]).unwrap();
            let other = other.finish().unwrap();
            let mut volume = Vec::new();
            for (kind, blocks) in &runs {
                volume.extend(vec![*kind; blocks * 512]);
            }
            let len = volume.len() - odd;
            volume[len..].fill(0);
            let mut storing = Storing::new(&mut scratch, 512, len as u64);
            let mut at = 0;
            for (kind, blocks) in runs {
                // Blocks of zeros may be given, or left out.
                if kind != 0 || blocks % 2 == 0 {
                    storing.blocks(at as u64, &volume[at * 512..][..blocks * 512]).unwrap();
                }
                at += blocks;
            }
            let stored = storing.finish().unwrap();
            prop_assert_eq!(stored.read_vec(0, len).unwrap(), &volume[..len]);
            for (start, count) in reads {
                let start = usize::from(start) % len;
                let count = count.min(len - start);
                prop_assert_eq!(stored.read_vec(start as u64, count).unwrap(), &volume[start..start + count]);
            }
            let data = stored.data();
            for extent in data.complement(Extent::new(0, len as u64)).iter() {
                let range = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end()).unwrap();
                prop_assert!(volume[range].iter().all(|byte| *byte == 0));
            }
            prop_assert_eq!(other.read_vec(0, 512).unwrap(), vec![7; 512]);
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn only_zeros_may_lie_behind_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new(dir.path()).unwrap();
        let mut storing = Storing::new(&mut scratch, 4096, 6000);
        let mut blocks = vec![1; 8192];
        assert!(matches!(storing.blocks(0, &blocks), Err(StoreError::Behind(8192))));
        blocks[6000..].fill(0);
        let mut storing = Storing::new(&mut scratch, 4096, 6000);
        storing.blocks(0, &blocks).unwrap();
        assert_eq!(storing.finish().unwrap().read_vec(0, 6000).unwrap(), vec![1; 6000]);
    }
}
