//! The header of a qcow2 file, and its extensions. Must not know: clusters.

use super::{BACKING_FORMAT, COMPRESSION, L1_BYTES_MAX, MAGIC, NAME_BYTES_MAX};
use crate::read_at::{ReadAt, field};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::pages::header;

/// Bytes of a header of version 2, and the least of version 3.
const V2_BYTES: u64 = 72;
const V3_BYTES: u64 = 104;
/// QEMU takes no larger cluster either.
const CLUSTER_BITS_MAX: u32 = 21;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;

const DATA_FILE_NAME: u32 = 0x4441_5441;

/// What compressed clusters are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    pub l1_offset: u64,
    /// Entries of the table at `l1_offset`: as many as the disk needs, or more.
    pub l1_entries: u64,
    pub snapshots: u32,
    pub dirty: bool,
    pub extended_l2: bool,
    pub compression: Compression,
    /// The name of the file below, and its format.
    pub backing: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// The data are in a file of that name.
    pub data_file: Option<Vec<u8>>,
}

impl Header {
    /// Bytes of an entry of a table of the second level.
    pub(super) fn l2_entry(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the disk that a table of the second level, one cluster, has entries for.
    pub(super) fn l2_span(&self) -> u64 {
        let entries = (1u64 << self.cluster_bits) / self.l2_entry() as u64;
        entries << self.cluster_bits
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`DiskError`]; what cannot be read right is refused.
    pub(super) fn read(file: &dyn ReadAt) -> Result<Self, DiskError> {
        let fixed = header(file, 0, 72)?;
        let be32 = |at| field::be32(&fixed, at).unwrap_or_default();
        let be64 = |at| field::be64(&fixed, at).unwrap_or_default();
        if !fixed.starts_with(&MAGIC) {
            return Err(DiskError::damaged(0, "it does not begin as a qcow2 file does"));
        }
        let version = be32(4);
        let features = match version {
            2 => Features::default(),
            3 => Features::read(file)?,
            1 => {
                return Err(DiskError::unsupported(
                    "a qcow file of version 1, which nothing writes any more; `qemu-img convert -O qcow2` makes a new one",
                ));
            }
            other => return Err(DiskError::unsupported(format!("qcow2 version {other} is newer than this program"))),
        };
        match be32(32) {
            0 => {}
            1 | 2 => {
                return Err(DiskError::unsupported(
                    "it is encrypted. Decrypt a copy (`qemu-img convert --object secret,… --image-opts …`) and take that",
                ));
            }
            other => return Err(DiskError::damaged(32, format!("an encryption method {other}"))),
        }
        let cluster_bits = be32(20);
        let bits_min = if features.incompatible & EXTENDED_L2 == 0 { 9 } else { 14 };
        if !(bits_min..=CLUSTER_BITS_MAX).contains(&cluster_bits) {
            return Err(DiskError::damaged(20, format!("clusters of 2^{cluster_bits} bytes")));
        }
        let mut this = Self {
            version,
            cluster_bits,
            size: be64(24),
            l1_offset: be64(40),
            l1_entries: u64::from(be32(36)),
            snapshots: be32(60),
            dirty: features.incompatible & DIRTY != 0,
            extended_l2: features.incompatible & EXTENDED_L2 != 0,
            compression: features.compression,
            backing: None,
            data_file: None,
        };
        this.check_l1(file.size())?;
        this.read_names(file, features.header_bytes, features.incompatible, (be64(8), be32(16)))?;
        Ok(this)
    }

    fn check_l1(&self, file_size: u64) -> Result<(), DiskError> {
        // The last table of the second level must not reach behind 64 bits.
        if self.size > i64::MAX.unsigned_abs() {
            return Err(DiskError::damaged(24, format!("a disk of {} bytes", self.size)));
        }
        let needed = self.size.div_ceil(self.l2_span());
        if self.l1_entries < needed || self.l1_entries.saturating_mul(8) > L1_BYTES_MAX {
            let what = format!("a table of {} entries for a disk that needs {needed}", self.l1_entries);
            return Err(DiskError::damaged(36, what));
        }
        let end = self.l1_offset.checked_add(self.l1_entries * 8);
        if !self.l1_offset.is_multiple_of(1 << self.cluster_bits) || end.is_none_or(|end| end > file_size) {
            let what = format!("its first table is said to be at {}, the file ends at {file_size}", self.l1_offset);
            return Err(DiskError::damaged(40, what));
        }
        Ok(())
    }

    /// The names of other files, which are in extensions and behind them, all within the first cluster.
    fn read_names(
        &mut self,
        file: &dyn ReadAt,
        header_bytes: u64,
        incompatible: u64,
        (name_at, name_bytes): (u64, u32),
    ) -> Result<(), DiskError> {
        let cluster = 1u64 << self.cluster_bits;
        let area = cluster.min(file.size());
        let area = header(file, 0, usize::try_from(area).unwrap_or_default())?;
        let (mut backing_format, mut data_file) = (None, None);
        let extensions_end = if name_at == 0 { cluster } else { name_at };
        let mut at = usize::try_from(header_bytes).unwrap_or(usize::MAX);
        while let (Some(kind), Some(len)) =
            (field::be32(&area, at), at.checked_add(4).and_then(|at| field::be32(&area, at)))
            && kind != 0
            && at as u64 + 8 <= extensions_end
        {
            let (start, len) = (at + 8, usize::try_from(len).unwrap_or(usize::MAX));
            let Some(content) = start.checked_add(len).and_then(|end| area.get(start..end)) else {
                return Err(DiskError::damaged(at as u64, "an extension of the header reaches behind it"));
            };
            match kind {
                BACKING_FORMAT => backing_format = Some(content.to_vec()),
                DATA_FILE_NAME => data_file = Some(content.to_vec()),
                _ => {}
            }
            at = start + len.next_multiple_of(8);
        }
        if name_at != 0 {
            let (start, len) = (usize::try_from(name_at).ok(), usize::try_from(name_bytes).unwrap_or(usize::MAX));
            let name =
                start.filter(|_| len <= NAME_BYTES_MAX).and_then(|start| area.get(start..start.checked_add(len)?));
            let name = name.ok_or_else(|| DiskError::damaged(8, "the name of the file below is not in the header"))?;
            if !name.is_empty() {
                self.backing = Some((name.to_vec(), backing_format));
            }
        }
        if incompatible & DATA_FILE != 0 {
            let nameless = || DiskError::unsupported("its data are in another file, and it does not say in which");
            self.data_file = Some(data_file.ok_or_else(nameless)?);
        }
        Ok(())
    }
}

/// What version 3 adds.
struct Features {
    incompatible: u64,
    compression: Compression,
    header_bytes: u64,
}

impl Default for Features {
    fn default() -> Self {
        Self { incompatible: 0, compression: Compression::Deflate, header_bytes: V2_BYTES }
    }
}

impl Features {
    fn read(file: &dyn ReadAt) -> Result<Self, DiskError> {
        let more = header(file, V2_BYTES, 32)?;
        let incompatible = field::be64(&more, 0).unwrap_or_default();
        let header_bytes = u64::from(field::be32(&more, 28).unwrap_or_default());
        if incompatible & CORRUPT != 0 {
            return Err(DiskError::Damaged {
                offset: V2_BYTES,
                what: "it is marked as corrupt; `qemu-img check -r all` mends what can be mended (work on a copy)"
                    .into(),
            });
        }
        let unknown = incompatible & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2);
        if unknown != 0 {
            return Err(DiskError::unsupported(format!(
                "it needs features that are not known here (bits {unknown:#x})"
            )));
        }
        if header_bytes < V3_BYTES || !header_bytes.is_multiple_of(8) || header_bytes > 4096 {
            return Err(DiskError::damaged(100, format!("a header of {header_bytes} bytes")));
        }
        let kind = if header_bytes > V3_BYTES { header(file, V3_BYTES, 1)?.first().copied().unwrap_or(0) } else { 0 };
        let compression = match (incompatible & COMPRESSION != 0, kind) {
            (false, 0) => Compression::Deflate,
            (true, 1) => Compression::Zstd,
            (true, 2..) => {
                return Err(DiskError::unsupported(format!("it is compressed by a method ({kind}) not known here")));
            }
            _ => return Err(DiskError::damaged(V3_BYTES, "its compression is said in two ways")),
        };
        Ok(Self { incompatible, compression, header_bytes })
    }
}
