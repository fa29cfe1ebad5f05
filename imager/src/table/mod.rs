//! Partition tables: GPT, MBR with its logical partitions, hybrid MBR.
//!
//! [`read`] says what a disk's table says, with everything odd about it as a warning; it clamps and
//! mends nothing. [`adapt()`] says what must change for the table to be right on another disk,
//! [`grow_last`] what makes the last partition fill its disk. Where systems disagree about a disk, the answer is the Linux kernel's, since that is
//! who restored machines mostly boot. A disk whose table cannot be trusted has [`TableKind::None`] and
//! is to be read whole. Must not know: devices, file systems inside partitions, repositories.
//!
//! Sources: UEFI specification 2.10, chapter 5 (GPT); the behaviour of Linux' `block/partitions` and of
//! libblkid (what counts as an MBR, how logical partitions are numbered).

#![forbid(unsafe_code)]

mod adapt;
mod gpt;
mod grow;
mod mbr;
mod types;

use std::io;

use serde::{Deserialize, Serialize};

use crate::extent::{Extent, ExtentSet};
use crate::read_at::ReadAt;
pub use adapt::{Ids, Patch, TableError, adapt};
pub(crate) use gpt::seal;
pub use grow::{Growth, grow_last};

/// Which kind of table a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// A GUID partition table behind a protective MBR.
    Gpt,
    /// An MBR, with or without logical partitions.
    Mbr,
    /// A GUID partition table whose MBR lists some partitions again. The GPT is what counts.
    HybridMbr,
    /// No table, or none that can be trusted.
    None,
}

/// What a partition is to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A partition that the table itself lists.
    Primary,
    /// An MBR partition that is nothing but the room for logical ones.
    Extended,
    /// A partition inside an extended one.
    Logical,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The number that Linux gives it: the `3` of `/dev/sda3`.
    pub number: u32,
    /// First byte on the disk. `start + len` fits in 64 bits, but may lie behind the end of the disk.
    pub start: u64,
    /// Number of bytes, never 0.
    pub len: u64,
    /// What it is to the table.
    pub role: Role,
    /// GPT type GUID in upper case, or MBR type as `0x83`.
    pub type_id: String,
    /// What the type is called: "EFI system", "Linux file system" … "unknown" when nobody knows.
    pub type_name: String,
    /// PARTUUID as `blkid` prints it, in lower case; for MBR the disk's signature and the number.
    pub id: Option<String>,
    /// GPT name.
    pub name: Option<String>,
    /// GPT attribute bits; 0 for MBR.
    pub attributes: u64,
    /// MBR's active flag, or GPT's attribute "legacy BIOS bootable".
    pub bootable: bool,
}

impl Partition {
    /// The bytes of the disk that it covers.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent::new(self.start, self.len)
    }
}

/// What a disk's partition table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    /// Which kind it is.
    pub kind: TableKind,
    /// The size of a logical sector in bytes, in which the table counts.
    pub sector_size: u32,
    /// PTUUID as `blkid` prints it: the GPT disk GUID, or the MBR signature as 8 hex digits.
    pub disk_id: Option<String>,
    /// The partitions, ordered by their first byte.
    pub partitions: Vec<Partition>,
    /// The whole sectors that hold the table: MBR, both GPT copies as far as they are good, EBRs. Where
    /// a chain of EBRs is broken, everything in the extended partition that no known logical partition
    /// covers: nobody knows what it is.
    pub structures: ExtentSet,
    /// What is odd about the table, a sentence each.
    pub warnings: Vec<String>,
}

impl PartitionTable {
    fn none(sector_size: u32) -> Self {
        Self {
            kind: TableKind::None,
            sector_size,
            disk_id: None,
            partitions: Vec::new(),
            structures: ExtentSet::new(),
            warnings: Vec::new(),
        }
    }
}

/// Reads the partition table of `disk`.
///
/// `sector_size` is the device's logical sector size when known. `None`, for an image file: it is found
/// from where the GPT header lies, and is 512 when there is none.
///
/// - A GPT counts only when the MBR has a protective entry (type 0xEE), as in the kernel and libblkid. A
///   GPT behind an MBR without one is a leftover, and is mentioned in a warning.
/// - A protective MBR without a readable GPT is [`TableKind::None`] with a warning.
/// - An MBR without any partition is [`TableKind::None`], since many things end in the bytes 55 AA.
/// - Sectors that cannot be read are like damaged ones, and are named in the warnings.
///
/// # Errors
/// `InvalidInput` for a sector size that is not a power of two from 512 to 65,536.
pub fn read(disk: &dyn ReadAt, sector_size: Option<u32>) -> io::Result<PartitionTable> {
    let sector_size = match sector_size {
        Some(size) if is_sector_size(size) => size,
        Some(size) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{size} is no sector size")));
        }
        None => gpt::sector_size_of(disk).unwrap_or(512),
    };
    let mut table = PartitionTable::none(sector_size);
    if disk.size() < mbr::SIZE as u64 {
        return Ok(table);
    }
    match disk.read_vec(0, mbr::SIZE) {
        Ok(sector) => match mbr::BootRecord::from_bytes(&sector) {
            Some(record) if record.is_protective() => read_gpt(disk, &record, &mut table),
            Some(record) => read_mbr(disk, &sector, &record, &mut table),
            None => warn_of_unprotected_gpt(disk, &mut table),
        },
        Err(error) => table.warnings.push(format!("the first sector cannot be read: {error}")),
    }
    table.partitions.sort_by_key(|p| (p.start, p.number));
    table.structures = table.structures.intersect(Extent::new(0, disk.size())).collect();
    if table.kind != TableKind::None {
        warn_of_overlaps(&mut table);
        warn_of_partitions_past_the_end(disk.size(), &mut table);
    }
    Ok(table)
}

fn is_sector_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65_536).contains(&size)
}

fn read_gpt(disk: &dyn ReadAt, record: &mbr::BootRecord, table: &mut PartitionTable) {
    let copies = gpt::read_copies(disk, table.sector_size);
    copies.describe(&mut table.warnings);
    let Some(copy) = copies.chosen() else {
        table.warnings.push("there is a protective MBR, but no readable GPT".to_owned());
        if let Some(other) = gpt::sector_size_of(disk).filter(|&size| size != table.sector_size) {
            table.warnings.push(format!(
                "there is a GPT for sectors of {other} bytes, but this disk's have {}",
                table.sector_size
            ));
        }
        return;
    };
    table.kind = if record.others().next().is_some() { TableKind::HybridMbr } else { TableKind::Gpt };
    for entry in record.others() {
        table.warnings.push(format!(
            "the MBR also lists a partition of type 0x{:02x} at sector {}, {} sectors (hybrid MBR)",
            entry.sys, entry.starting_lba, entry.sectors
        ));
    }
    table.disk_id = gpt::id_of(copy.header.disk_guid);
    table.partitions = copy.partitions(&mut table.warnings);
    table.structures = copies.structures();
    table.structures.insert(Extent::new(0, u64::from(table.sector_size)));
}

fn read_mbr(disk: &dyn ReadAt, sector: &[u8], record: &mbr::BootRecord, table: &mut PartitionTable) {
    warn_of_unprotected_gpt(disk, table);
    if !record.has_boot_indicators {
        return;
    }
    let volume = mbr::volume_in(disk, sector);
    if record.entries().iter().all(|e| e.sectors == 0) {
        // Whoever put these two bytes there, nothing says where data lies.
        if volume.is_none() {
            table.warnings.push("the MBR lists no partitions".to_owned());
        }
        return;
    }
    if let Some(volume) = volume {
        if !record.is_plausible(disk.size() / u64::from(table.sector_size)) {
            return;
        }
        table.warnings.push(format!("the boot sector is an MBR, but also looks like that of a volume with {volume}"));
    }
    table.kind = TableKind::Mbr;
    table.disk_id = (record.signature() != 0).then(|| format!("{:08x}", record.signature()));
    mbr::read_partitions(disk, record, table);
    table.structures.insert(Extent::new(0, u64::from(table.sector_size)));
}

fn warn_of_unprotected_gpt(disk: &dyn ReadAt, table: &mut PartitionTable) {
    if gpt::read_copies(disk, table.sector_size).chosen().is_some() {
        table.warnings.push(
            "there is a GPT, but the MBR has no protective entry (type 0xEE) for it, so systems do not see it"
                .to_owned(),
        );
    }
}

/// Within the partitions that may not overlap: logical ones lie in extended ones, nothing else does.
fn warn_of_overlaps(table: &mut PartitionTable) {
    let mut found = Vec::new();
    for except in [Role::Extended, Role::Logical] {
        let mut furthest: Option<&Partition> = None;
        for partition in table.partitions.iter().filter(|p| p.role != except) {
            if let Some(before) = furthest.filter(|before| before.extent().end() > partition.start) {
                let warning = format!("partitions {} and {} overlap", before.number, partition.number);
                if !found.contains(&warning) {
                    found.push(warning);
                }
            }
            if furthest.is_none_or(|before| before.extent().end() < partition.extent().end()) {
                furthest = Some(partition);
            }
        }
    }
    table.warnings.append(&mut found);
}

fn warn_of_partitions_past_the_end(size: u64, table: &mut PartitionTable) {
    for partition in table.partitions.iter().filter(|p| p.extent().end() > size) {
        table.warnings.push(format!(
            "partition {} ends at byte {}, behind the end of the disk at {size}",
            partition.number,
            partition.extent().end()
        ));
    }
}

/// Overwrites a field; a buffer that is too short for it stays as it is.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        field.copy_from_slice(value);
    }
}
