//! Reads VDI. Must not know: what for.

use std::sync::Arc;

use crate::read_at::field;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::{Contents, Disk};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Map, Mapped, Run, going_on, surveyed};
use crate::vm_disk::pages::{Paged, header};

/// At byte 64.
pub(in crate::vm_disk) const SIGNATURE: u32 = 0xBEDA_107F;
const HEADER_BYTES: usize = 0x200;
const VERSION: u32 = 0x0001_0001;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
/// Never written, and written with zeros.
const FREE: u32 = 0xFFFF_FFFF;
const ZERO: u32 = 0xFFFF_FFFE;
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=1 << 28;

/// Reads `file`.
///
/// # Errors
/// [`DiskError`].
pub(in crate::vm_disk) fn open(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Disk, DiskError> {
    let blocks = Blocks::read(file, cache)?;
    let mut notes = Vec::new();
    let contents = surveyed(Mapped::new(blocks, None, cache), &mut notes)?;
    Ok(Disk { contents, sector_size: None, notes })
}

/// Where the blocks are: one table.
struct Blocks {
    file: Paged,
    size: u64,
    block: u64,
    /// Bytes in front of each block's data.
    extra: u64,
    table: u64,
    entries: u64,
    /// Blocks that the file has.
    allocated: u32,
    data: u64,
}

impl Blocks {
    fn read(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Self, DiskError> {
        let bytes = header(&*file, 0, HEADER_BYTES)?;
        let le32 = |at| field::le32(&bytes, at).unwrap_or_default();
        let damaged = |at: u64, what: String| Err(DiskError::damaged(at, what));
        if le32(0x40) != SIGNATURE {
            return damaged(0x40, "it has not the signature of a VDI file".to_owned());
        }
        if le32(0x44) != VERSION {
            let words = format!(
                "VDI version {}.{}, not 1.1; `VBoxManage clonemedium` makes a new file",
                le32(0x44) >> 16,
                le32(0x44) & 0xFFFF
            );
            return Err(DiskError::unsupported(words));
        }
        match le32(0x4C) {
            DYNAMIC | FIXED => {}
            3 | 4 => {
                return Err(DiskError::unsupported(
                    "it holds only what differs from another disk (a snapshot); `VBoxManage clonemedium` makes one file of both",
                ));
            }
            other => return damaged(0x4C, format!("a disk of kind {other}")),
        }
        let size = field::le64(&bytes, 0x170).unwrap_or_default();
        let block = le32(0x178);
        if !BLOCK_BYTES.contains(&block) || !block.is_power_of_two() {
            return damaged(0x178, format!("blocks of {block} bytes"));
        }
        let this = Self {
            size,
            block: u64::from(block),
            extra: u64::from(le32(0x17C)),
            table: u64::from(le32(0x154)),
            entries: u64::from(le32(0x180)),
            allocated: le32(0x184),
            data: u64::from(le32(0x158)),
            file: Paged::new(file, cache),
        };
        if this.size.div_ceil(this.block) > this.entries {
            return damaged(0x180, format!("a table of {} entries for a disk of {size} bytes", this.entries));
        }
        if this.table + this.entries * 4 > this.file.file().size() {
            return damaged(0x154, "its table reaches behind the file's end: it is cut off".to_owned());
        }
        Ok(this)
    }

    fn decode(&self, entry: u32) -> Option<Run> {
        match entry {
            FREE | ZERO => Some(Run::Zero),
            number if number >= self.allocated => None,
            number => Some(Run::Plain(self.data + u64::from(number) * (self.block + self.extra) + self.extra)),
        }
    }
}

impl Map for Blocks {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.block
    }

    fn data(&self) -> &dyn Contents {
        self.file.file()
    }

    fn run(&self, at: u64) -> Result<(Run, u64), DiskError> {
        let (number, skip) = (at / self.block, at % self.block);
        let place = self.table + number * 4;
        let row = self.file.row(place, 4, self.entries.saturating_sub(number))?;
        let mut entries = row.bytes().chunks_exact(4).map(|entry| field::le32(entry, 0).unwrap_or_default());
        let entry = entries.next().unwrap_or_default();
        let first = self
            .decode(entry)
            .ok_or_else(|| DiskError::damaged(place, format!("block {entry} of a file that has {}", self.allocated)))?;
        let more = going_on(first, self.block, entries.map_while(|entry| self.decode(entry)));
        let run = if let Run::Plain(offset) = first { Run::Plain(offset + skip) } else { first };
        Ok((run, (number + more + 1) * self.block))
    }
}
