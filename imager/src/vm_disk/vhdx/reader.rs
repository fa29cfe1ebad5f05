//! Reads VHDX. Must not know: what for.

use std::sync::Arc;

use super::read_header::{Metadata, log, metadata};
use super::read_log::replay;
use crate::read_at::field;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::{Contents, Disk};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Map, Mapped, Run, going_on, surveyed};
use crate::vm_disk::pages::Paged;

/// Sectors whose bits one block of bits has: the table has an entry for these after so many blocks.
const SECTORS_PER_BITMAP: u64 = 1 << 23;

/// Reads `file`.
///
/// # Errors
/// [`DiskError`].
pub(in crate::vm_disk) fn open(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Disk, DiskError> {
    let mut notes = Vec::new();
    let file = match log(&*file)? {
        None => file,
        Some(log) => {
            notes.push(
                "it was not closed properly; what its log says was carried out in memory, the file is as it was"
                    .to_owned(),
            );
            Box::new(replay(file, log)?)
        }
    };
    let metadata = metadata(&*file)?;
    if metadata.has_parent {
        return Err(DiskError::unsupported(
            "it holds only what differs from another disk (a checkpoint); merge it with its parent (`Merge-VHD`) and take the result",
        ));
    }
    let sector_size = Some(metadata.logical_sector);
    let contents = surveyed(Mapped::new(Blocks::new(file, metadata, cache)?, None, cache), &mut notes)?;
    Ok(Disk { contents, sector_size, notes })
}

/// Where the blocks are: one table, in which entries for bits of sectors are strewn in.
struct Blocks {
    file: Paged,
    metadata: Metadata,
    /// Blocks between two entries for bits.
    ratio: u64,
}

impl Blocks {
    fn new(file: Box<dyn Contents>, metadata: Metadata, cache: &Arc<Cache>) -> Result<Self, DiskError> {
        let ratio = (SECTORS_PER_BITMAP * u64::from(metadata.logical_sector) / metadata.block).max(1);
        let blocks = metadata.size.div_ceil(metadata.block);
        let entries = blocks + blocks.saturating_sub(1) / ratio;
        if entries * 8 > metadata.table_bytes {
            let what = format!("a table of {} bytes for a disk of {}", metadata.table_bytes, metadata.size);
            return Err(DiskError::damaged(metadata.table, what));
        }
        Ok(Self { file: Paged::new(file, cache), metadata, ratio })
    }

    fn decode(entry: u64) -> Option<Run> {
        let offset = entry >> 20 << 20;
        match entry & 7 {
            // Not there, undefined, zero, unmapped.
            0..=3 => Some(Run::Zero),
            6 if offset != 0 => Some(Run::Plain(offset)),
            _ => None,
        }
    }
}

impl Map for Blocks {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    fn block(&self) -> u64 {
        self.metadata.block
    }

    fn data(&self) -> &dyn Contents {
        self.file.file()
    }

    fn run(&self, at: u64) -> Result<(Run, u64), DiskError> {
        let block = self.metadata.block;
        let (number, skip) = (at / block, at % block);
        let place = self.metadata.table + (number + number / self.ratio) * 8;
        let row = self.file.row(place, 8, self.ratio - number % self.ratio)?;
        let mut entries = row.bytes().chunks_exact(8).map(|entry| field::le64(entry, 0).unwrap_or_default());
        let entry = entries.next().unwrap_or_default();
        let first = Self::decode(entry)
            .ok_or_else(|| DiskError::damaged(place, format!("a block in a state that there is not: {entry:#x}")))?;
        let more = going_on(first, block, entries.map_while(Self::decode));
        let run = if let Run::Plain(offset) = first { Run::Plain(offset + skip) } else { first };
        Ok((run, (number + more + 1) * block))
    }
}
