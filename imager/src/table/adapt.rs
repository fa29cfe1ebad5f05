//! Makes a captured table right for the disk it is restored to.
//!
//! Pure: from the bytes of the captured disk to the sectors that must differ on the target. Where a field is
//! not understood it stays as it was. Source: UEFI specification 2.10, section 5.3.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};
use uuid::{Builder, Uuid};

use super::gpt::{self, Copies, Copy};
use super::{PartitionTable, TableKind, is_sector_size, mbr, put};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, field};

/// Sectors of the target that must hold something else than was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where, in bytes; a multiple of the sector size.
    pub offset: u64,
    /// What, in whole sectors.
    pub bytes: Vec<u8>,
}

/// What becomes of the identifiers of disk and partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// They stay: the target replaces the disk that was captured.
    Keep,
    /// New ones, at random: the target will live beside it.
    New,
}

/// Why a table cannot be made right for a target.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The target is smaller than the disk that was captured.
    #[error("the target has {target} bytes, and the captured disk {needed}: use a target that is no smaller")]
    TooSmall {
        /// Size of the target in bytes.
        target: u64,
        /// Size of the captured disk in bytes.
        needed: u64,
    },
    /// A partition lies where a copy of the GPT has to be.
    #[error("partition {number} reaches into the bytes {} to {}, where the target's GPT must be", table.start, table.end())]
    NoRoom {
        /// Its number.
        number: u32,
        /// Where a part of the GPT has to be.
        table: Extent,
    },
    /// Even without partitions there would be no room.
    #[error("{0} bytes have no room for a GPT of this form")]
    NoRoomAtAll(u64),
    /// The captured bytes hold no such table.
    #[error("neither copy of the captured GPT can be read")]
    Unreadable,
    /// The captured bytes are not there.
    #[error("cannot read the captured partition table: {0}")]
    Io(#[from] io::Error),
    /// The system gives no random numbers.
    #[error("the system has no random numbers for new identifiers")]
    Random,
}

/// Says what to write so that `table`, read from `source`, is right on a target of `target_size` bytes.
///
/// `source` holds the captured disk's bytes and has its size. The patches do not overlap; whatever else was
/// captured is taken to be on the target as it was, and the target's sectors to have the same size. There are none when the size and the ids stay and the
/// table is in order.
///
/// A GPT gets its backup at the end of the target, and its protective MBR (but not a hybrid one) covers it. A
/// copy that is damaged or differs is made anew from the good one. The old backup is wiped, where no
/// partition lies in its place.
///
/// # Errors
/// See [`TableError`].
pub fn adapt(
    source: &dyn ReadAt,
    table: &PartitionTable,
    target_size: u64,
    ids: Ids,
) -> Result<Vec<Patch>, TableError> {
    if target_size < source.size() {
        return Err(TableError::TooSmall { target: target_size, needed: source.size() });
    }
    if !is_sector_size(table.sector_size) {
        return Err(TableError::Unreadable);
    }
    match table.kind {
        TableKind::None => Ok(Vec::new()),
        TableKind::Mbr => adapt_mbr(source, table, ids),
        TableKind::Gpt | TableKind::HybridMbr => adapt_gpt(source, table, target_size, ids),
    }
}

fn adapt_mbr(source: &dyn ReadAt, table: &PartitionTable, ids: Ids) -> Result<Vec<Patch>, TableError> {
    if ids == Ids::Keep {
        return Ok(Vec::new());
    }
    let mut sector = source.read_vec(0, sector_len(table)?)?;
    put(&mut sector, mbr::DISK_SIGNATURE_AT, &new_signature()?);
    Ok(vec![Patch { offset: 0, bytes: sector }])
}

fn adapt_gpt(
    source: &dyn ReadAt,
    table: &PartitionTable,
    target_size: u64,
    ids: Ids,
) -> Result<Vec<Patch>, TableError> {
    let copies = gpt::read_copies(source, table.sector_size);
    let good = copies.chosen().ok_or(TableError::Unreadable)?;
    let grows = target_size / u64::from(table.sector_size) > source.size() / u64::from(table.sector_size);
    if ids == Ids::Keep && !grows && copies.agree() {
        return Ok(Vec::new());
    }
    let plan = Plan::new(&copies, good, target_size)?;
    let mut entries = good.entries.clone();
    let mut disk_guid = good.header.disk_guid;
    if ids == Ids::New {
        disk_guid = new_guid()?;
        let entry_size = usize::try_from(good.header.part_size).map_err(io::Error::other)?;
        for entry in entries.chunks_exact_mut(entry_size).filter(|entry| gpt::is_used(entry)) {
            put(entry, gpt::UNIQUE_PARTITION_GUID_AT, &new_guid()?.to_bytes_le());
        }
    }
    let mut patches = Vec::new();
    for (place, own) in [(&plan.primary, copies.primary.as_ref().ok()), (&plan.backup, copies.backup_like(good))] {
        let mut header = own.unwrap_or(good).sector.clone();
        let (first, last) = (good.header.first_usable, plan.last_usable_lba);
        put(&mut header, gpt::MY_LBA_AT, &place.header_lba.to_le_bytes());
        put(&mut header, gpt::ALTERNATE_LBA_AT, &place.alternate_lba.to_le_bytes());
        put(&mut header, gpt::FIRST_USABLE_LBA_AT, &first.to_le_bytes());
        put(&mut header, gpt::LAST_USABLE_LBA_AT, &last.to_le_bytes());
        put(&mut header, gpt::DISK_GUID_AT, &disk_guid.to_bytes_le());
        put(&mut header, gpt::PARTITION_ENTRY_LBA_AT, &place.entries_lba.to_le_bytes());
        put(&mut header, gpt::NUMBER_OF_ENTRIES_AT, &good.header.num_parts.to_le_bytes());
        put(&mut header, gpt::SIZE_OF_ENTRY_AT, &good.header.part_size.to_le_bytes());
        gpt::seal(&mut header, &entries);
        patches.push(plan.patch(place.header_lba, header));
        let mut padded = entries.clone();
        padded.resize(usize::try_from(plan.entries_len()).map_err(io::Error::other)?, 0);
        patches.push(plan.patch(place.entries_lba, padded));
    }
    patches.extend(plan.wipe(&copies, good)?);
    patches.extend(adapt_protective_mbr(source, table, &plan, ids)?);
    // What the target will hold anyway needs no writing.
    let captured = copies.structures();
    patches.retain(|patch| {
        let extent = Extent::new(patch.offset, patch.bytes.len() as u64);
        let same = || source.read_vec(patch.offset, patch.bytes.len()).is_ok_and(|bytes| bytes == patch.bytes);
        !(captured.contains(extent) && same())
    });
    patches.sort_by_key(|patch| patch.offset);
    Ok(patches)
}

/// Where the two copies go on the target.
struct Plan {
    primary: Place,
    backup: Place,
    last_usable_lba: u64,
    /// The disk's last sector.
    last_lba: u64,
    /// The backup comes to lie at the end of the target, wherever it was.
    backup_moves: bool,
    sector: u64,
    entry_sectors: u64,
}

/// Where a copy goes.
#[derive(Clone, Copy)]
struct Place {
    header_lba: u64,
    alternate_lba: u64,
    entries_lba: u64,
}

impl Plan {
    /// A copy that is good stays where it is, but for the backup when the disk grows.
    fn new(copies: &Copies, good: &Copy, target_size: u64) -> Result<Self, TableError> {
        let sector = u64::from(good.sector_size);
        let last_lba = (target_size / sector).saturating_sub(1);
        let grows = last_lba > copies.last_lba;
        let entry_sectors = good.entries_size().div_ceil(sector);
        let old_backup = copies.backup_like(good).filter(|_| !grows);
        let (backup_lba, backup_entries_lba) = match old_backup {
            Some(backup) => (backup.header.current_lba, backup.header.part_start),
            None => (last_lba, last_lba.checked_sub(entry_sectors).ok_or(TableError::NoRoomAtAll(target_size))?),
        };
        let entries_lba = match &copies.primary {
            Ok(primary) => primary.header.part_start,
            Err(_) => gpt::PRIMARY_LBA + 1,
        };
        let before_backup = backup_entries_lba.saturating_sub(1);
        let last_usable_lba = match old_backup {
            Some(_) => good.header.last_usable,
            None if grows => before_backup,
            // A disk that was cut short has less room than its table says.
            None => good.header.last_usable.min(before_backup),
        };
        let plan = Self {
            primary: Place { header_lba: gpt::PRIMARY_LBA, alternate_lba: backup_lba, entries_lba },
            backup: Place { header_lba: backup_lba, alternate_lba: gpt::PRIMARY_LBA, entries_lba: backup_entries_lba },
            last_usable_lba,
            last_lba,
            backup_moves: old_backup.is_none(),
            sector,
            entry_sectors,
        };
        plan.check(good, target_size)?;
        Ok(plan)
    }

    /// Nothing that is written touches another part of the table, or a partition.
    fn check(&self, good: &Copy, target_size: u64) -> Result<(), TableError> {
        let mut taken = ExtentSet::new();
        taken.insert(Extent::new(0, self.sector));
        for extent in self.structures() {
            if taken.intersect(extent).next().is_some() || extent.end() > target_size {
                return Err(TableError::NoRoomAtAll(target_size));
            }
            taken.insert(extent);
        }
        if good.header.first_usable > self.last_usable_lba {
            return Err(TableError::NoRoomAtAll(target_size));
        }
        for partition in good.partitions(&mut Vec::new()) {
            let inside = taken.intersect(partition.extent()).next();
            let behind =
                || Extent::between(self.last_usable_lba.saturating_add(1).saturating_mul(self.sector), target_size);
            let behind = (partition.extent().end() > target_size).then(behind);
            if let Some(table) = inside.or(behind) {
                return Err(TableError::NoRoom { number: partition.number, table });
            }
        }
        Ok(())
    }

    fn entries_len(&self) -> u64 {
        self.entry_sectors.saturating_mul(self.sector)
    }

    /// Both headers and both arrays.
    fn structures(&self) -> [Extent; 4] {
        let at = |lba: u64, len: u64| Extent::new(lba.saturating_mul(self.sector), len);
        let (header, entries) = (self.sector, self.entries_len());
        [
            at(self.primary.header_lba, header),
            at(self.primary.entries_lba, entries),
            at(self.backup.header_lba, header),
            at(self.backup.entries_lba, entries),
        ]
    }

    fn patch(&self, lba: u64, bytes: Vec<u8>) -> Patch {
        Patch { offset: lba.saturating_mul(self.sector), bytes }
    }

    /// Zeroes for what is left of a backup that moves: a good one is known in full, of a damaged one at most
    /// the header.
    fn wipe(&self, copies: &Copies, good: &Copy) -> Result<Vec<Patch>, TableError> {
        let old: ExtentSet = match &copies.backup {
            Ok(backup) => backup.structures().into_iter().collect(),
            Err(_) => copies.remains_of_backup.into_iter().collect(),
        };
        let mut kept: ExtentSet = self.structures().into_iter().collect();
        kept.insert(Extent::new(0, self.sector));
        good.partitions(&mut Vec::new()).iter().for_each(|partition| kept.insert(partition.extent()));
        let zeroes = |extent: Extent| {
            let len = usize::try_from(extent.len).map_err(io::Error::other)?;
            Ok(Patch { offset: extent.start, bytes: vec![0; len] })
        };
        old.minus(&kept).iter().map(zeroes).collect()
    }
}

/// The protective entry covers the disk, or all of it that 32 bits can count, or claims all that 32 bits can
/// count from the start. A hybrid MBR stays as it is.
fn adapt_protective_mbr(
    source: &dyn ReadAt,
    table: &PartitionTable,
    plan: &Plan,
    ids: Ids,
) -> Result<Option<Patch>, TableError> {
    let captured = source.read_vec(0, sector_len(table)?)?;
    let mut sector = captured.clone();
    if plan.backup_moves && table.kind == TableKind::Gpt {
        let sectors = u32::try_from(plan.last_lba).unwrap_or(u32::MAX);
        mbr::set_protective_size(&mut sector, sectors);
    }
    let has_signature = field::le32(&sector, mbr::DISK_SIGNATURE_AT).is_some_and(|signature| signature != 0);
    if ids == Ids::New && has_signature {
        put(&mut sector, mbr::DISK_SIGNATURE_AT, &new_signature()?);
    }
    Ok((sector != captured).then_some(Patch { offset: 0, bytes: sector }))
}

fn sector_len(table: &PartitionTable) -> Result<usize, TableError> {
    Ok(usize::try_from(table.sector_size).map_err(io::Error::other)?)
}

fn random<const N: usize>() -> Result<[u8; N], TableError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TableError::Random)?;
    Ok(bytes)
}

fn new_guid() -> Result<Uuid, TableError> {
    Ok(Builder::from_random_bytes(random()?).into_uuid())
}

/// 0 would mean that there is none.
fn new_signature() -> Result<[u8; 4], TableError> {
    loop {
        let signature = random()?;
        if signature != [0; 4] {
            return Ok(signature);
        }
    }
}
