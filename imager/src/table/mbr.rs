//! Master boot records, and the chains of extended boot records that hold logical partitions.
//!
//! An MBR is two magic bytes and four entries without a checksum, and boot sectors of file systems end
//! in the same two bytes; telling them apart is half of the work here. Source: the behaviour of Linux'
//! `block/partitions/msdos.c` and of libblkid; all numbers of sectors count logical sectors.

use std::collections::HashSet;

use super::{Partition, PartitionTable, Role, put, types};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, field};

/// Size of a boot record, whatever the size of a sector.
pub(super) const SIZE: usize = 512;
/// Where the disk signature lies.
pub(super) const DISK_SIGNATURE_AT: usize = 440;
const ENTRIES_AT: usize = 446;
const ENTRY_SIZE: usize = 16;
const BOOT_SIGNATURE_AT: usize = 510;
const BOOT_SIGNATURE: u16 = 0xAA55;
/// Linux makes no more partitions than this on a disk.
const NUMBER_MAX: u32 = 255;
/// A record can be empty, so that there may be more of them than partitions.
const RECORDS_MAX: usize = 1024;

const TYPE_PROTECTIVE: u8 = 0xEE;

/// One of the four entries of a boot record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) boot_indicator: u8,
    pub(super) type_id: u8,
    /// First sector; relative to the EBR or to the extended partition in an EBR.
    pub(super) start: u32,
    /// Number of sectors; 0 for an entry that is not in use.
    pub(super) sectors: u32,
}

impl Entry {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            boot_indicator: *bytes.first()?,
            type_id: *bytes.get(4)?,
            start: field::le32(bytes, 8)?,
            sectors: field::le32(bytes, 12)?,
        })
    }

    fn is_extended(&self) -> bool {
        matches!(self.type_id, 0x05 | 0x0F | 0x85)
    }

    /// The bytes it covers when it counts from the sector `base`. A 32-bit number of sectors of at most
    /// 64 KiB from a sector on the disk cannot overflow.
    fn extent(&self, base: u64, sector_size: u32) -> Extent {
        let sector = u64::from(sector_size);
        let start = base.saturating_add(u64::from(self.start)).saturating_mul(sector);
        Extent::new(start, u64::from(self.sectors).saturating_mul(sector))
    }
}

/// A sector that ends in 55 AA, read as an MBR or EBR.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootRecord {
    /// The disk's 32-bit signature; 0 for none.
    pub(super) signature: u32,
    pub(super) entries: [Entry; 4],
}

impl BootRecord {
    /// `None` for anything that does not end in 55 AA, and for AIX' own format.
    pub(super) fn from_bytes(sector: &[u8]) -> Option<Self> {
        const AIX: &[u8] = &[0xC9, 0xC2, 0xD4, 0xC1];
        if field::le16(sector, BOOT_SIGNATURE_AT) != Some(BOOT_SIGNATURE) || sector.starts_with(AIX) {
            return None;
        }
        let entry = |i: usize| Entry::from_bytes(sector.get(ENTRIES_AT + i * ENTRY_SIZE..)?);
        Some(Self {
            signature: field::le32(sector, DISK_SIGNATURE_AT)?,
            entries: [entry(0)?, entry(1)?, entry(2)?, entry(3)?],
        })
    }

    /// Is there an entry that keeps tools that know no GPT away from the disk?
    pub(super) fn is_protective(&self) -> bool {
        self.entries.iter().any(|e| e.type_id == TYPE_PROTECTIVE)
    }

    /// The entries in use that are not protective.
    pub(super) fn others(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.sectors != 0 && e.type_id != 0 && e.type_id != TYPE_PROTECTIVE)
    }

    /// Every boot indicator is one of the two values that exist. In the boot sector of a file system,
    /// code or text lies there.
    pub(super) fn has_boot_indicators(&self) -> bool {
        self.entries.iter().all(|e| matches!(e.boot_indicator, 0 | 0x80))
    }

    /// The entries in use look as if a tool had made them for a disk of this many sectors.
    pub(super) fn is_plausible(&self, disk_sectors: u64) -> bool {
        let mut used: Vec<Extent> = Vec::new();
        for entry in self.entries.iter().filter(|e| e.sectors != 0) {
            let extent = entry.extent(0, 1);
            if entry.type_id == 0
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
    for (i, entry) in record.entries.iter().enumerate() {
        if entry.type_id == TYPE_PROTECTIVE && entry.start == 1 && entry.sectors != u32::MAX {
            put(sector, ENTRIES_AT + i * ENTRY_SIZE + 12, &sectors.to_le_bytes());
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
    for (number, entry) in (1..).zip(&record.entries).filter(|(_, e)| e.sectors != 0) {
        let extent = entry.extent(0, table.sector_size);
        let role = if entry.is_extended() { Role::Extended } else { Role::Primary };
        table.partitions.push(partition(number, entry, extent, role, record.signature));
        if entry.is_extended() {
            let chain = Chain::walk(disk, entry, table.sector_size, next_logical);
            chain.add_to(table, number, extent, record.signature);
            next_logical = chain.next_number;
        }
    }
}

fn partition(number: u32, entry: &Entry, extent: Extent, role: Role, signature: u32) -> Partition {
    Partition {
        number,
        start: extent.start,
        len: extent.len,
        role,
        type_id: format!("0x{:02x}", entry.type_id),
        type_name: types::mbr_name(entry.type_id).to_owned(),
        id: (signature != 0).then(|| format!("{signature:08x}-{number:02x}")),
        name: None,
        attributes: 0,
        bootable: entry.boot_indicator == 0x80,
    }
}

/// What the boot records of an extended partition list.
struct Chain {
    logical: Vec<(u32, Entry, Extent)>,
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
    fn walk(disk: &dyn ReadAt, extended: &Entry, sector_size: u32, first_number: u32) -> Self {
        let mut chain =
            Self { logical: Vec::new(), records: ExtentSet::new(), next_number: first_number, broken: None };
        let first_sector = u64::from(extended.start);
        let whole = extended.extent(0, sector_size);
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
            for (i, entry) in record.entries.iter().enumerate().filter(|(_, e)| e.sectors != 0 && !e.is_extended()) {
                let extent = entry.extent(sector, sector_size);
                let fits = u64::from(entry.start) + u64::from(entry.sectors) <= sectors
                    && extent.intersection(whole) == extent;
                if (i < 2 || fits) && chain.next_number <= NUMBER_MAX {
                    chain.logical.push((chain.next_number, *entry, extent));
                    chain.next_number += 1;
                }
            }
            let next = record.entries.iter().find(|e| e.sectors != 0 && e.is_extended());
            link = next.map(|e| (first_sector + u64::from(e.start), u64::from(e.sectors)));
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
