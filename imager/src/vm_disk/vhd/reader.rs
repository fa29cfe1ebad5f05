//! Reads VHD. Must not know: what for.

use std::sync::Arc;

use super::read_footer::{FOOTER_BYTES, Footer, Kind, checksum};
use crate::read_at::field;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::{Contents, Disk, Joined, Part};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Map, Mapped, Run, surveyed};
use crate::vm_disk::pages::{Paged, header};

const SECTOR: u64 = 512;
const HEADER_BYTES: usize = 1024;
const FREE: u32 = 0xFFFF_FFFF;
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 4096..=1 << 28;

/// Reads `file`.
///
/// # Errors
/// [`DiskError`].
pub(in crate::vm_disk) fn open(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Disk, DiskError> {
    let (footer, note) = Footer::of(&*file)?;
    let mut notes: Vec<String> = note.into_iter().collect();
    if footer.is_saved_state {
        notes.push("it belongs to a virtual machine with a saved state; its memory is not here".to_owned());
    }
    let contents = match footer.kind {
        Kind::Fixed => {
            let room = file.size().saturating_sub(FOOTER_BYTES);
            if footer.size > room {
                let what = format!("a disk of {} bytes in a file that has room for {room}: it is cut off", footer.size);
                return Err(DiskError::damaged(room, what));
            }
            let mut disk = Joined::new();
            disk.push(footer.size, Part::Of(file, 0))?;
            Box::new(disk)
        }
        Kind::Dynamic => surveyed(Mapped::new(Blocks::read(file, &footer, cache)?, None, cache), &mut notes)?,
        Kind::Differencing => {
            return Err(DiskError::unsupported(
                "it holds only what differs from another disk (a checkpoint); merge it with its parent (`Merge-VHD`) and take the result",
            ));
        }
    };
    Ok(Disk { contents, sector_size: None, notes })
}

/// Where the blocks are: one table, and in front of each block a bit for each of its sectors.
struct Blocks {
    file: Paged,
    size: u64,
    block: u64,
    table: u64,
    entries: u64,
}

impl Blocks {
    fn read(file: Box<dyn Contents>, footer: &Footer, cache: &Arc<Cache>) -> Result<Self, DiskError> {
        let at = footer.header_offset;
        let bytes = header(&*file, at, HEADER_BYTES)?;
        let be32 = |at| field::be32(&bytes, at).unwrap_or_default();
        if !bytes.starts_with(b"cxsparse") || be32(36) != checksum(&bytes, 36) {
            return Err(DiskError::damaged(at, "the header of a dynamic disk is not here, or its checksum is wrong"));
        }
        let block = be32(32);
        if !BLOCK_BYTES.contains(&block) || !block.is_power_of_two() {
            return Err(DiskError::damaged(at + 32, format!("blocks of {block} bytes")));
        }
        let table = field::be64(&bytes, 16).unwrap_or_default();
        let (block, entries) = (u64::from(block), u64::from(be32(28)));
        if footer.size.div_ceil(block) > entries {
            let what = format!("a table of {entries} entries for a disk of {} bytes", footer.size);
            return Err(DiskError::damaged(at + 28, what));
        }
        if table.checked_add(entries * 4).is_none_or(|end| end > file.size()) {
            return Err(DiskError::damaged(at + 16, "its table reaches behind the file's end: it is cut off"));
        }
        Ok(Self { file: Paged::new(file, cache), size: footer.size, block, table, entries })
    }

    /// Bytes of the bits of a block.
    fn bitmap(&self) -> u64 {
        (self.block / SECTOR / 8).next_multiple_of(SECTOR)
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
        let start = number * self.block;
        let row = self.file.row(self.table + number * 4, 4, self.entries.saturating_sub(number))?;
        let mut entries = row.bytes().chunks_exact(4).map(|entry| field::be32(entry, 0).unwrap_or_default());
        let entry = entries.next().unwrap_or_default();
        if entry == FREE {
            let more = entries.take_while(|entry| *entry == FREE).count() as u64;
            return Ok((Run::Zero, start + (more + 1) * self.block));
        }
        let place = u64::from(entry) * SECTOR;
        let first = skip / SECTOR;
        let row = self.file.row(place + first / 8, 1, (self.block / SECTOR).div_ceil(8) - first / 8)?;
        let has_data = |sector: u64| {
            let byte = usize::try_from(sector / 8 - first / 8).ok().and_then(|at| row.bytes().get(at));
            byte.map(|byte| byte & (0x80 >> (sector % 8)) != 0)
        };
        // Sectors that were never written are zeros, whatever is in their place.
        let is_data = has_data(first);
        let same = (first..self.block / SECTOR).take_while(|sector| has_data(*sector) == is_data).count() as u64;
        let run = match is_data {
            Some(true) => Run::Plain(place + self.bitmap() + skip),
            _ => Run::Zero,
        };
        Ok((run, start + (first + same) * SECTOR))
    }
}
