//! Makes the last partition of a GPT as large as the disk allows: for an image of a small disk that was written to a larger
//! one.
//!
//! Pure: from the bytes of the disk to the sectors that must be written, in steps. Each step has to be on the medium before
//! the next begins: whenever the power goes, one of the two copies is good and lies where everybody looks for it, and doing
//! it again ends in the same state. Source: UEFI specification 2.10, section 5.3.

use std::io;

use super::adapt::{Patch, TableError};
use super::gpt::{self, Copy};
use super::{PartitionTable, TableKind, mbr, put};
use crate::extent::Extent;
use crate::read_at::ReadAt;

/// Partitions end where flash likes to have ends.
const ALIGNMENT: u64 = 1 << 20;

/// What makes the last partition larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The partition's number.
    pub number: u32,
    /// Where it will lie.
    pub partition: Extent,
    /// What to write. A step may be written in any order, but all of it, and flushed, before the next. None when the
    /// disk is as it should be.
    pub steps: Vec<Vec<Patch>>,
}

/// Plans to make the last partition of `table`, which was read from `disk`, as large as the disk allows.
///
/// 1. The backup, with the larger partition, goes to the disk's end; the primary is the old one and good.
/// 2. The primary's entries, then its header: should one be there without the other, the primary is not good, and the
///    backup counts, which is where the specification has it.
/// 3. The protective MBR.
///
/// What is left of the old backup lies inside the partition, where nobody looks for it.
///
/// # Errors
/// [`TableError::Unreadable`] for anything but a GPT of which one copy is good and which has a partition,
/// [`TableError::NoRoom`] when the disk is smaller than its partitions, [`TableError::Io`].
pub fn grow_last(disk: &dyn ReadAt, table: &PartitionTable) -> Result<Growth, TableError> {
    if table.kind != TableKind::Gpt {
        return Err(TableError::Unreadable);
    }
    let copies = gpt::read_copies(disk, table.sector_size);
    let good = copies.chosen().ok_or(TableError::Unreadable)?;
    let sector = u64::from(table.sector_size);
    let entry_sectors = good.entries_size().div_ceil(sector);
    let no_room = || TableError::NoRoomAtAll(disk.size());
    let backup_entries = copies.last_lba.checked_sub(entry_sectors).ok_or_else(no_room)?;
    let last_usable = backup_entries.checked_sub(1).ok_or_else(no_room)?;
    let usable_end = backup_entries.saturating_mul(sector);

    let partitions = good.partitions(&mut Vec::new());
    let last = partitions.iter().max_by_key(|partition| partition.extent().end()).ok_or(TableError::Unreadable)?;
    if last.extent().end() > usable_end {
        let table = Extent::between(usable_end, disk.size().max(usable_end));
        return Err(TableError::NoRoom { number: last.number, table });
    }
    let end = (usable_end / ALIGNMENT * ALIGNMENT).max(last.extent().end());
    let partition = Extent::between(last.start, end);

    let entries = enlarged(good, last.number, end / sector)?;
    let mut padded = entries.clone();
    padded.resize(usize::try_from(entry_sectors.saturating_mul(sector)).map_err(io::Error::other)?, 0);
    let primary_entries = match &copies.primary {
        Ok(primary) => primary.header.part_start,
        Err(_) => gpt::PRIMARY_LBA + 1,
    };
    let patch = |lba: u64, bytes: Vec<u8>| Patch { offset: lba.saturating_mul(sector), bytes };
    let header = |own: u64, other: u64, entries_lba: u64| {
        let mut header = good.sector.clone();
        put(&mut header, gpt::MY_LBA_AT, &own.to_le_bytes());
        put(&mut header, gpt::ALTERNATE_LBA_AT, &other.to_le_bytes());
        put(&mut header, gpt::LAST_USABLE_LBA_AT, &last_usable.to_le_bytes());
        put(&mut header, gpt::PARTITION_ENTRY_LBA_AT, &entries_lba.to_le_bytes());
        gpt::seal(&mut header, &entries);
        patch(own, header)
    };
    let mut boot_record = disk.read_vec(0, usize::try_from(table.sector_size).map_err(io::Error::other)?)?;
    mbr::set_protective_size(&mut boot_record, u32::try_from(copies.last_lba).unwrap_or(u32::MAX));

    let steps = [
        vec![patch(backup_entries, padded.clone()), header(copies.last_lba, gpt::PRIMARY_LBA, backup_entries)],
        vec![patch(primary_entries, padded)],
        vec![header(gpt::PRIMARY_LBA, copies.last_lba, primary_entries)],
        vec![patch(0, boot_record)],
    ];
    // What is there already needs no writing: a second time there is nothing to do.
    let differs = |patch: &Patch| disk.read_vec(patch.offset, patch.bytes.len()).map(|bytes| bytes != patch.bytes);
    let mut wanted = Vec::new();
    for step in steps {
        let mut rest = Vec::new();
        for patch in step {
            // What cannot be read may well be written.
            if differs(&patch).unwrap_or(true) {
                rest.push(patch);
            }
        }
        wanted.extend((!rest.is_empty()).then_some(rest));
    }
    Ok(Growth { number: last.number, partition, steps: wanted })
}

/// The entries, with this partition's end before another sector.
fn enlarged(good: &Copy, number: u32, end_lba: u64) -> Result<Vec<u8>, TableError> {
    let mut entries = good.entries.clone();
    let size = usize::try_from(good.header.part_size).map_err(io::Error::other)?;
    let index = usize::try_from(number.saturating_sub(1)).map_err(io::Error::other)?;
    let entry = entries.chunks_exact_mut(size).nth(index).ok_or(TableError::Unreadable)?;
    put(entry, gpt::ENDING_LBA_AT, &end_lba.saturating_sub(1).to_le_bytes());
    Ok(entries)
}
