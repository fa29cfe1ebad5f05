//! Master boot records, and the chains of extended boot records that hold logical partitions.
//!
//! An MBR is two magic bytes and four entries without a checksum, and boot sectors of file systems end
//! in the same two bytes; telling them apart is half of the work here. Source: the behaviour of Linux'
//! `block/partitions/msdos.c` and of libblkid; all numbers of sectors count logical sectors.

use std::collections::HashSet;
use std::io::Cursor;

use mbrman::{BOOT_ACTIVE, BOOT_INACTIVE, MBRHeader, MBRPartitionEntry};

use super::{Partition, PartitionTable, Role, put, types};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, field};

/// Size of a boot record, whatever the size of a sector.
pub(super) const SIZE: usize = 512;
/// Where the disk signature lies.
pub(super) const DISK_SIGNATURE_AT: usize = 440;
/// Where the four entries lie; each begins with its boot indicator.
const ENTRIES_AT: [usize; 4] = [446, 462, 478, 494];
const SECTORS_IN_ENTRY_AT: usize = 12;
/// Linux makes no more partitions than this on a disk.
const NUMBER_MAX: u32 = 255;
/// A record can be empty, so that there may be more of them than partitions.
const RECORDS_MAX: usize = 1024;

const TYPE_PROTECTIVE: u8 = 0xEE;

/// Linux knows these three; `mbrman` two more.
fn is_extended(entry: &MBRPartitionEntry) -> bool {
    matches!(entry.sys, 0x05 | 0x0F | 0x85)
}

/// The bytes an entry covers when it counts from the sector `base`. A 32-bit number of sectors of at most
/// 64 KiB from a sector on the disk cannot overflow.
fn extent(entry: &MBRPartitionEntry, base: u64, sector_size: u32) -> Extent {
    let sector = u64::from(sector_size);
    let start = base.saturating_add(u64::from(entry.starting_lba)).saturating_mul(sector);
    Extent::new(start, u64::from(entry.sectors).saturating_mul(sector))
}

/// A sector that ends in 55 AA, read as an MBR or EBR.
pub(super) struct BootRecord {
    header: MBRHeader,
    /// Every boot indicator is one of the two values that exist. In the boot sector of a file system,
    /// code or text lies there.
    pub(super) has_boot_indicators: bool,
}

impl BootRecord {
    /// `None` for anything that does not end in 55 AA, and for AIX' own format.
    pub(super) fn from_bytes(sector: &[u8]) -> Option<Self> {
        const AIX: &[u8] = &[0xC9, 0xC2, 0xD4, 0xC1];
        if sector.starts_with(AIX) {
            return None;
        }
        let mut sector = *sector.first_chunk::<SIZE>()?;
        let mut has_boot_indicators = true;
        // `mbrman` refuses odd ones everywhere, Linux neither before a GPT nor in an EBR.
        for at in ENTRIES_AT {
            let boot_indicator = sector.get_mut(at)?;
            if !matches!(*boot_indicator, BOOT_INACTIVE | BOOT_ACTIVE) {
                *boot_indicator = BOOT_INACTIVE;
                has_boot_indicators = false;
            }
        }
        let header = MBRHeader::read_from(&mut Cursor::new(sector)).ok()?;
        Some(Self { header, has_boot_indicators })
    }

    /// The disk's 32-bit signature; 0 for none.
    pub(super) fn signature(&self) -> u32 {
        u32::from_le_bytes(self.header.disk_signature)
    }

    /// All four; those with 0 sectors are not in use. In an EBR they count from it or from the extended partition.
    pub(super) fn entries(&self) -> [&MBRPartitionEntry; 4] {
        let header = &self.header;
        [&header.partition_1, &header.partition_2, &header.partition_3, &header.partition_4]
    }

    /// Is there an entry that keeps tools that know no GPT away from the disk?
    pub(super) fn is_protective(&self) -> bool {
        self.entries().iter().any(|e| e.sys == TYPE_PROTECTIVE)
    }

    /// The entries in use that are not protective.
    pub(super) fn others(&self) -> impl Iterator<Item = &MBRPartitionEntry> {
        self.entries().into_iter().filter(|e| e.sectors != 0 && e.is_used() && e.sys != TYPE_PROTECTIVE)
    }

    /// The entries in use look as if a tool had made them for a disk of this many sectors.
    pub(super) fn is_plausible(&self, disk_sectors: u64) -> bool {
        let mut used: Vec<Extent> = Vec::new();
        for entry in self.entries().into_iter().filter(|e| e.sectors != 0) {
            let extent = extent(entry, 0, 1);
            if entry.is_unused()
                || extent.start == 0
                || extent.end() > disk_sectors
                || used.iter().any(|e| !e.intersection(extent).is_empty())
            {
                return false;
            }
            used.push(extent);
        }
        !used.is_empty()
    }
}

/// Makes protective entries this large, but for those that claim as much as there can be, or that do not
/// begin where they should.
pub(super) fn set_protective_size(sector: &mut [u8], sectors: u32) {
    let Some(record) = BootRecord::from_bytes(sector) else { return };
    for (at, entry) in ENTRIES_AT.into_iter().zip(record.entries()) {
        if entry.sys == TYPE_PROTECTIVE && entry.starting_lba == 1 && entry.sectors != u32::MAX {
            put(sector, at + SECTORS_IN_ENTRY_AT, &sectors.to_le_bytes());
        }
    }
}

/// The file system that a disk's first sectors seem to belong to.
pub(super) fn volume_in(disk: &dyn ReadAt, sector: &[u8]) -> Option<&'static str> {
    const EXT_MAGIC_AT: u64 = 1024 + 56;
    let oem_name = sector.get(3..11)?;
    match oem_name {
        b"NTFS    " => return Some("NTFS"),
        b"EXFAT   " => return Some("exFAT"),
        b"-FVE-FS-" => return Some("BitLocker"),
        b"ReFS\0\0\0\0" => return Some("ReFS"),
        _ => {}
    }
    if is_fat(sector)? {
        return Some("FAT");
    }
    let magic = disk.read_vec(EXT_MAGIC_AT, 2).ok()?;
    (field::le16(&magic, 0) == Some(0xEF53)).then_some("ext2, ext3 or ext4")
}

/// Are the fields that every FAT has, and that Linux checks, those of a FAT?
fn is_fat(sector: &[u8]) -> Option<bool> {
    let bytes_per_sector = field::le16(sector, 11)?;
    let sectors_per_cluster = *sector.get(13)?;
    let reserved_sectors = field::le16(sector, 14)?;
    let fats = *sector.get(16)?;
    let media = *sector.get(21)?;
    Some(
        bytes_per_sector.is_power_of_two()
            && (512..=4096).contains(&bytes_per_sector)
            && sectors_per_cluster.is_power_of_two()
            && reserved_sectors != 0
            && fats != 0
            && (media == 0xF0 || media >= 0xF8),
    )
}

/// Adds the partitions that the MBR lists, and those of its extended partitions, to `table`.
pub(super) fn read_partitions(disk: &dyn ReadAt, record: &BootRecord, table: &mut PartitionTable) {
    let mut next_logical = 5;
    for (number, entry) in (1..).zip(record.entries()).filter(|(_, e)| e.sectors != 0) {
        let extent = extent(entry, 0, table.sector_size);
        let role = if is_extended(entry) { Role::Extended } else { Role::Primary };
        table.partitions.push(partition(number, entry, extent, role, record.signature()));
        if is_extended(entry) {
            let chain = Chain::walk(disk, entry, table.sector_size, next_logical);
            chain.add_to(table, number, extent, record.signature());
            next_logical = chain.next_number;
        }
    }
}

fn partition(number: u32, entry: &MBRPartitionEntry, extent: Extent, role: Role, signature: u32) -> Partition {
    Partition {
        number,
        start: extent.start,
        len: extent.len,
        role,
        type_id: format!("0x{:02x}", entry.sys),
        type_name: types::mbr_name(entry.sys).to_owned(),
        id: (signature != 0).then(|| format!("{signature:08x}-{number:02x}")),
        name: None,
        attributes: 0,
        bootable: entry.is_active(),
    }
}

/// What the boot records of an extended partition list.
struct Chain {
    logical: Vec<(u32, MBRPartitionEntry, Extent)>,
    /// The sectors of the boot records.
    records: ExtentSet,
    /// The number of the next logical partition.
    next_number: u32,
    /// Why the chain ends before its end.
    broken: Option<String>,
}

impl Chain {
    /// Follows the chain of an extended partition.
    ///
    /// A data entry counts from its own boot record, a link from the start of the extended partition.
    /// A record may use all four entries, but in the last two, only what fits in is no garbage.
    fn walk(disk: &dyn ReadAt, extended: &MBRPartitionEntry, sector_size: u32, first_number: u32) -> Self {
        let mut chain =
            Self { logical: Vec::new(), records: ExtentSet::new(), next_number: first_number, broken: None };
        let first_sector = u64::from(extended.starting_lba);
        let whole = extent(extended, 0, sector_size);
        let mut seen = HashSet::new();
        let mut link = Some((first_sector, u64::from(extended.sectors)));
        while let Some((sector, sectors)) = link {
            if !seen.insert(sector) {
                chain.broken = Some(format!("it returns to sector {sector}"));
                break;
            }
            if chain.next_number > NUMBER_MAX || seen.len() > RECORDS_MAX {
                chain.broken = Some("it is too long".to_owned());
                break;
            }
            let offset = sector.saturating_mul(u64::from(sector_size));
            let record = match disk.read_vec(offset, SIZE) {
                Ok(bytes) => BootRecord::from_bytes(&bytes),
                Err(error) => {
                    chain.broken = Some(format!("sector {sector} cannot be read: {error}"));
                    break;
                }
            };
            let Some(record) = record else {
                chain.broken = Some(format!("sector {sector} is no boot record"));
                break;
            };
            chain.records.insert(Extent::new(offset, u64::from(sector_size)));
            let entries = record.entries().into_iter().enumerate();
            for (i, entry) in entries.filter(|(_, e)| e.sectors != 0 && !is_extended(e)) {
                let extent = extent(entry, sector, sector_size);
                let fits = u64::from(entry.starting_lba) + u64::from(entry.sectors) <= sectors
                    && extent.intersection(whole) == extent;
                if (i < 2 || fits) && chain.next_number <= NUMBER_MAX {
                    chain.logical.push((chain.next_number, entry.clone(), extent));
                    chain.next_number += 1;
                }
            }
            let next = record.entries().into_iter().find(|e| e.sectors != 0 && is_extended(e));
            link = next.map(|e| (first_sector + u64::from(e.starting_lba), u64::from(e.sectors)));
        }
        chain
    }

    fn add_to(&self, table: &mut PartitionTable, extended: u32, whole: Extent, signature: u32) {
        let mut known = self.records.clone();
        for (number, entry, extent) in &self.logical {
            known.insert(*extent);
            table.partitions.push(partition(*number, entry, *extent, Role::Logical, signature));
            if extent.intersection(whole) != *extent {
                table
                    .warnings
                    .push(format!("logical partition {number} lies outside of extended partition {extended}"));
            }
        }
        table.structures = table.structures.union(&self.records);
        if let Some(reason) = &self.broken {
            table
                .warnings
                .push(format!("the chain of logical partitions in extended partition {extended} is broken: {reason}"));
            table.structures = table.structures.union(&known.complement(whole));
        }
    }
}
