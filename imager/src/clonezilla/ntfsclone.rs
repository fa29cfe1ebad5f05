//! Images of ntfsclone, read from beginning to end: clusters that are in use, and how many are not in between.
//!
//! It has no checksums: whether all clusters are there is all that can be told. Must not know: files, compression.
//!
//! Source: what ntfsclone of ntfs-3g writes with `--save-image` (`struct image_hdr`, versions 10.0 and 10.1).

#![forbid(unsafe_code)]

use std::io::{self, Read};

use super::partclone::{ImageError, Tail};
use crate::read_at::field;

const MAGIC: &[u8; 16] = b"\0ntfsclone-image";
/// Up to here all of version 10 have it; a header that is longer says how long it is.
const HEADER_BYTES: usize = 50;
const HEADER_BYTES_MAX: usize = 4096;
const CLUSTER_BYTES_MAX: u32 = 2 << 20;

/// What comes next: a number of clusters that are not in use, or one that is.
const GAP: u8 = 0;
const DATA: u8 = 1;

/// An image whose header was read.
pub struct Image<R> {
    reader: R,
    offset: u64,
    cluster_bytes: u32,
    device_bytes: u64,
    clusters: u64,
    used: u64,
    at: u64,
    found: u64,
}

impl<R: Read> Image<R> {
    /// Reads the header. An image of more than `bytes_max` bytes is not one of a volume of that size.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(reader: R, bytes_max: u64) -> Result<Self, ImageError> {
        let mut image =
            Self { reader, offset: 0, cluster_bytes: 0, device_bytes: 0, clusters: 0, used: 0, at: 0, found: 0 };
        let mut header = [0; HEADER_BYTES];
        image.fill(&mut header)?;
        if !header.starts_with(MAGIC) {
            return Err(ImageError::damaged(0, "it does not begin like an image of ntfsclone"));
        }
        if header.get(16) != Some(&10) {
            let version = header.get(16..18).unwrap_or_default();
            return Err(ImageError::Unsupported(format!("ntfsclone's format version {version:?} is not known")));
        }
        let number = |at| field::le64(&header, at).unwrap_or(0);
        image.cluster_bytes = field::le32(&header, 18).unwrap_or(0);
        image.device_bytes = number(22);
        let clusters = number(30);
        image.used = number(38);
        if !image.cluster_bytes.is_power_of_two() || !(512..=CLUSTER_BYTES_MAX).contains(&image.cluster_bytes) {
            return Err(ImageError::damaged(
                18,
                format!("its header says that a cluster has {} bytes", image.cluster_bytes),
            ));
        }
        let bytes = clusters.checked_mul(image.cluster_bytes.into());
        if clusters == 0 || bytes.is_none_or(|bytes| bytes > bytes_max) || image.used > clusters {
            return Err(ImageError::damaged(
                30,
                format!("its header says that there are {clusters} clusters, {} in use", image.used),
            ));
        }
        image.clusters = clusters;
        // Version 10.1 says where the clusters begin, which may be further on.
        let begin = field::le32(&header, 46).and_then(|begin| usize::try_from(begin).ok()).unwrap_or(0);
        if !(HEADER_BYTES..=HEADER_BYTES_MAX).contains(&begin) {
            return Err(ImageError::Unsupported(format!("its header says that it has {begin} bytes")));
        }
        image.fill(&mut vec![0; begin - HEADER_BYTES])?;
        Ok(image)
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u32 {
        self.cluster_bytes
    }

    /// Bytes that are in use, as the header says.
    pub fn used_bytes(&self) -> u64 {
        self.used.saturating_mul(self.cluster_bytes.into())
    }

    /// Fills `buf` with the next cluster and gives its number; none behind the last.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn next_cluster(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
        // The copy of the boot sector lies behind the last cluster, and is kept with as much as the device has there.
        while self.at <= self.clusters {
            let mut command = [0];
            match self.reader.read(&mut command) {
                Ok(0) if self.at == self.clusters => break,
                Ok(0) => return Err(ImageError::damaged(self.offset, "it ends in the midst of its clusters")),
                Ok(_) => self.offset += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImageError::Read(error)),
            }
            match command {
                [GAP] => {
                    let mut count = [0; 8];
                    self.fill(&mut count)?;
                    let count = u64::from_le_bytes(count);
                    let end = self.at.checked_add(count).filter(|end| count > 0 && *end <= self.clusters + 1);
                    self.at = end.ok_or_else(|| self.wrong("a gap that is longer than the volume"))?;
                }
                [DATA] => {
                    let left = self.device_bytes.saturating_sub(self.at * u64::from(self.cluster_bytes));
                    let is_copy = self.at == self.clusters;
                    let len = if is_copy { left.min(self.cluster_bytes.into()) } else { self.cluster_bytes.into() };
                    buf.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                    self.fill(buf)?;
                    self.at += 1;
                    self.found += u64::from(!is_copy);
                    return Ok(Some(self.at - 1));
                }
                _ => return Err(self.wrong("neither a gap nor a cluster")),
            }
        }
        if self.found != self.used {
            let what = format!("its header says that {} clusters are in use, but it has {}", self.used, self.found);
            return Err(self.wrong(&what));
        }
        Ok(None)
    }

    /// Looks what is behind the last cluster.
    ///
    /// # Errors
    /// [`ImageError::Read`].
    pub fn tail(&mut self) -> Result<Tail, ImageError> {
        let mut tail = Vec::new();
        self.reader.by_ref().take(1).read_to_end(&mut tail).map_err(ImageError::Read)?;
        Ok(if tail.is_empty() { Tail::Nothing } else { Tail::Leftovers })
    }

    fn wrong(&self, what: &str) -> ImageError {
        ImageError::damaged(self.offset, what)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), ImageError> {
        match self.reader.read_exact(buf) {
            Ok(()) => {
                self.offset += buf.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ImageError::damaged(self.offset, "it ends in the midst of its clusters"))
            }
            Err(error) => Err(ImageError::Read(error)),
        }
    }
}
