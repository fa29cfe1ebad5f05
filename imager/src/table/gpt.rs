//! GUID partition tables: two copies of a header and an array of entries, each with its checksum.
//!
//! Total functions from bytes to [`Header`] and [`struct@Copy`], and the choice between the copies. The `gpt` crate
//! makes sense of what is checked here first: it knows only headers of 92 bytes and entries of 128, so it
//! gets these parts of larger ones. Source: UEFI specification 2.10, section 5.3.

use std::collections::BTreeMap;
use std::io::{self, Cursor};

use crc::{CRC_32_ISO_HDLC, Crc};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::{Partition as Entry, PartitionAttributes, file_read_partitions};
use uuid::Uuid;

use super::{Partition, Role, put, types};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, field};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_SIZE_MIN: usize = 92;
const ENTRY_SIZE_MIN: u32 = 128;
const ENTRY_SIZE_MAX: u32 = 4096;
/// What the kernel allows for the array of entries: 32,768 of the usual size.
const ENTRIES_SIZE_MAX: u64 = 4 << 20;
/// Where the primary header lies.
pub(super) const PRIMARY_LBA: u64 = 1;
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

// Where the fields of a header are, in bytes.
const HEADER_SIZE_AT: usize = 12;
const HEADER_CRC32_AT: usize = 16;
pub(super) const MY_LBA_AT: usize = 24;
pub(super) const ALTERNATE_LBA_AT: usize = 32;
pub(super) const FIRST_USABLE_LBA_AT: usize = 40;
pub(super) const LAST_USABLE_LBA_AT: usize = 48;
pub(super) const DISK_GUID_AT: usize = 56;
pub(super) const PARTITION_ENTRY_LBA_AT: usize = 72;
pub(super) const NUMBER_OF_ENTRIES_AT: usize = 80;
pub(super) const SIZE_OF_ENTRY_AT: usize = 84;
const ENTRIES_CRC32_AT: usize = 88;
/// Where an entry has the last sector of its partition.
pub(super) const ENDING_LBA_AT: usize = 40;
/// Where an entry has its own GUID.
pub(super) const UNIQUE_PARTITION_GUID_AT: usize = 16;

/// Why a copy of the table is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("there is no header")]
    Absent,
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    #[error("the header says that it lies at sector {0}")]
    Misplaced(u64),
    #[error("{0}")]
    Nonsense(&'static str),
    #[error("the checksum of the entries is wrong")]
    EntriesChecksum,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Damage {
    /// What the copy is, as the end of a sentence.
    fn state(&self) -> String {
        match self {
            Self::Absent => "is missing".to_owned(),
            damage => format!("is damaged ({damage})"),
        }
    }
}

/// Reads the header that fills the sector `lba`.
fn header_from_bytes(sector: &[u8], lba: u64) -> Result<Header, Damage> {
    if !sector.starts_with(SIGNATURE) {
        return Err(Damage::Absent);
    }
    if checksum_of_header(sector) != field::le32(sector, HEADER_CRC32_AT) {
        return Err(Damage::HeaderChecksum);
    }
    let header = standard_header(sector).ok_or(Damage::Nonsense("the header is too short"))?;
    if header.current_lba != lba {
        return Err(Damage::Misplaced(header.current_lba));
    }
    if !(ENTRY_SIZE_MIN..=ENTRY_SIZE_MAX).contains(&header.part_size) || !header.part_size.is_power_of_two() {
        return Err(Damage::Nonsense("the size of an entry is impossible"));
    }
    if entries_size(&header) == 0 || entries_size(&header) > ENTRIES_SIZE_MAX {
        return Err(Damage::Nonsense("the number of entries is impossible"));
    }
    if header.first_usable > header.last_usable {
        return Err(Damage::Nonsense("the usable sectors end before they begin"));
    }
    Ok(header)
}

/// The fields that every header has. A larger one is cut, and gets the checksum of what is left.
fn standard_header(sector: &[u8]) -> Option<Header> {
    let mut header = *sector.first_chunk::<HEADER_SIZE_MIN>()?;
    put(&mut header, HEADER_SIZE_AT, &92u32.to_le_bytes());
    let checksum = checksum_of_header(&header)?;
    put(&mut header, HEADER_CRC32_AT, &checksum.to_le_bytes());
    let disk = [&[0; 512], header.as_slice()].concat();
    read_header_from_arbitrary_device(&mut Cursor::new(disk), LogicalBlockSize::Lb512).ok()
}

/// The entries of an array by their numbers, whatever follows the fields that each has.
fn standard_entries(header: &Header, entries: &[u8]) -> io::Result<BTreeMap<u32, Entry>> {
    let entry_size = usize::try_from(header.part_size).map_err(io::Error::other)?;
    let entries: Vec<u8> = entries.chunks_exact(entry_size).flat_map(|entry| entry.iter().take(128)).copied().collect();
    let header = Header { part_start: 0, part_size: 128, crc32_parts: CRC32.checksum(&entries), ..header.clone() };
    file_read_partitions(&mut Cursor::new(entries), &header, LogicalBlockSize::Lb512)
}

/// Size of the array of entries in bytes.
fn entries_size(header: &Header) -> u64 {
    u64::from(header.num_parts).saturating_mul(u64::from(header.part_size))
}

/// Puts the checksums of the entries and of the header itself into a header.
pub(crate) fn seal(sector: &mut [u8], entries: &[u8]) {
    put(sector, ENTRIES_CRC32_AT, &CRC32.checksum(entries).to_le_bytes());
    if let Some(checksum) = checksum_of_header(sector) {
        put(sector, HEADER_CRC32_AT, &checksum.to_le_bytes());
    }
}

/// The checksum that the header in this sector should have: over its size, with zeroes in its own place.
fn checksum_of_header(sector: &[u8]) -> Option<u32> {
    let size = usize::try_from(field::le32(sector, HEADER_SIZE_AT)?).ok()?;
    let header = sector.get(..size).filter(|header| header.len() >= HEADER_SIZE_MIN)?;
    let mut digest = CRC32.digest();
    digest.update(header.get(..HEADER_CRC32_AT)?);
    digest.update(&[0; 4]);
    digest.update(header.get(HEADER_CRC32_AT + 4..)?);
    Some(digest.finalize())
}

/// A good copy of the table.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) header: Header,
    /// The sector that the header lies in.
    pub(super) sector: Vec<u8>,
    /// The bytes of the array, all of it and nothing else.
    pub(super) entries: Vec<u8>,
    /// Those that are not all zeroes, by their numbers.
    standard_entries: BTreeMap<u32, Entry>,
    pub(super) sector_size: u32,
}

impl Copy {
    fn read(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> Result<Self, Damage> {
        let sector = read_sector(disk, sector_size, lba)?;
        let header = header_from_bytes(&sector, lba)?;
        let offset = header
            .part_start
            .checked_mul(u64::from(sector_size))
            .ok_or(Damage::Nonsense("the entries lie behind the end of the disk"))?;
        let size = usize::try_from(entries_size(&header)).map_err(io::Error::other)?;
        let entries = disk.read_vec(offset, size)?;
        if CRC32.checksum(&entries) != header.crc32_parts {
            return Err(Damage::EntriesChecksum);
        }
        let standard_entries = standard_entries(&header, &entries)?;
        Ok(Self { header, sector, entries, standard_entries, sector_size })
    }

    /// Do both hold the same partitions on the same disk?
    fn says_the_same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.header, &other.header);
        a.disk_guid == b.disk_guid
            && (a.first_usable, a.last_usable) == (b.first_usable, b.last_usable)
            && (a.num_parts, a.part_size) == (b.num_parts, b.part_size)
            && self.entries == other.entries
    }

    /// Size of the array of entries in bytes.
    pub(super) fn entries_size(&self) -> u64 {
        entries_size(&self.header)
    }

    /// The header's sector, and the sectors that hold the entries.
    pub(super) fn structures(&self) -> [Extent; 2] {
        let sector = u64::from(self.sector_size);
        let entries = self.entries_size().next_multiple_of(sector);
        [
            Extent::new(self.header.current_lba.saturating_mul(sector), sector),
            Extent::new(self.header.part_start.saturating_mul(sector), entries),
        ]
    }

    /// The partitions, in the order of the entries.
    pub(super) fn partitions(&self, warnings: &mut Vec<String>) -> Vec<Partition> {
        let mut partitions = Vec::new();
        for (&number, entry) in self.standard_entries.iter().filter(|(_, entry)| entry.is_used()) {
            let usable = self.header.first_usable..=self.header.last_usable;
            if !usable.contains(&entry.first_lba) || !usable.contains(&entry.last_lba) {
                warnings.push(format!("partition {number} lies outside of the sectors that the GPT says are usable"));
            }
            match extent(entry, self.sector_size) {
                None => warnings.push(format!(
                    "partition {number} is left out: it reaches from sector {} to {}",
                    entry.first_lba, entry.last_lba
                )),
                Some(extent) => partitions.push(partition(number, entry, extent)),
            }
        }
        partitions
    }
}

/// `None` when it ends before it begins, or ends behind the last byte that 64 bits can count.
fn extent(entry: &Entry, sector_size: u32) -> Option<Extent> {
    let sector = u64::from(sector_size);
    let start = entry.first_lba.checked_mul(sector)?;
    let end = entry.last_lba.checked_add(1)?.checked_mul(sector)?;
    (start < end).then(|| Extent::between(start, end))
}

fn partition(number: u32, entry: &Entry, extent: Extent) -> Partition {
    let type_id = entry.part_type_guid.guid.hyphenated().to_string().to_uppercase();
    Partition {
        number,
        start: extent.start,
        len: extent.len,
        role: Role::Primary,
        type_name: types::gpt_name(&type_id).to_owned(),
        type_id,
        id: id_of(entry.part_guid),
        name: Some(entry.name.clone()).filter(|name| !name.is_empty()),
        attributes: entry.flags,
        bootable: entry.flags & PartitionAttributes::BOOTABLE.bits() != 0,
    }
}

/// Does this element of the array describe a partition?
pub(super) fn is_used(entry: &[u8]) -> bool {
    entry.first_chunk::<16>().is_some_and(|type_guid| *type_guid != [0; 16])
}

/// A GUID as `blkid` prints it; none when it is all zeroes.
pub(super) fn id_of(guid: Uuid) -> Option<String> {
    (!guid.is_nil()).then(|| guid.hyphenated().to_string())
}

/// What became of the two copies.
pub(super) struct Copies {
    pub(super) primary: Result<Copy, Damage>,
    pub(super) backup: Result<Copy, Damage>,
    /// The disk's last sector, where the backup header belongs.
    pub(super) last_lba: u64,
    /// A sector in the backup's place that was a header once.
    pub(super) remains_of_backup: Option<Extent>,
}

/// Reads both copies.
///
/// The backup is looked for where the primary header says (when that is good, else only after the
/// second place) and in the last sector.
pub(super) fn read_copies(disk: &dyn ReadAt, sector_size: u32) -> Copies {
    let last_lba = last_lba(disk, sector_size);
    let primary = Copy::read(disk, sector_size, PRIMARY_LBA);
    let claimed = read_sector(disk, sector_size, PRIMARY_LBA)
        .ok()
        .filter(|sector| sector.starts_with(SIGNATURE))
        .and_then(|sector| field::le64(&sector, ALTERNATE_LBA_AT));
    let mut places = vec![last_lba];
    if let Some(claimed) = claimed.filter(|&lba| lba != last_lba) {
        places.insert(usize::from(primary.is_err()), claimed);
    }
    let mut backup = Err(Damage::Absent);
    let mut remains_of_backup = None;
    for lba in places.into_iter().filter(|lba| (PRIMARY_LBA + 1..=last_lba).contains(lba)) {
        let copy = Copy::read(disk, sector_size, lba);
        if copy.is_ok() || matches!(backup, Err(Damage::Absent)) {
            backup = copy;
        }
        if backup.is_ok() {
            break;
        }
        if read_sector(disk, sector_size, lba).is_ok_and(|sector| sector.starts_with(SIGNATURE)) {
            remains_of_backup = Some(Extent::new(lba.saturating_mul(sector_size.into()), sector_size.into()));
        }
    }
    Copies { primary, backup, last_lba, remains_of_backup }
}

impl Copies {
    /// The copy that counts: the primary one if it is good.
    pub(super) fn chosen(&self) -> Option<&Copy> {
        self.primary.as_ref().or(self.backup.as_ref()).ok()
    }

    /// The backup, if it is good and says the same.
    pub(super) fn backup_like(&self, good: &Copy) -> Option<&Copy> {
        self.backup.as_ref().ok().filter(|backup| backup.says_the_same_as(good))
    }

    /// Both are good, know of each other and say the same.
    pub(super) fn agree(&self) -> bool {
        match (&self.primary, &self.backup) {
            (Ok(primary), Ok(backup)) => {
                primary.says_the_same_as(backup)
                    && primary.header.backup_lba == backup.header.current_lba
                    && backup.header.backup_lba == primary.header.current_lba
            }
            _ => false,
        }
    }

    /// Says what is wrong with them.
    pub(super) fn describe(&self, warnings: &mut Vec<String>) {
        match (&self.primary, &self.backup) {
            (Ok(_), Ok(_)) if !self.agree() => {
                warnings.push("the primary and the backup GPT differ; the primary was used".to_owned());
            }
            (Ok(_), Ok(_)) => {}
            (Err(damage), Ok(_)) => warnings.push(format!("the primary GPT {}; the backup was used", damage.state())),
            (Ok(_), Err(damage)) => warnings.push(format!("the backup GPT {}; the primary was used", damage.state())),
            (Err(primary), Err(backup)) => {
                warnings.push(format!("the primary GPT {}, and the backup GPT {}", primary.state(), backup.state()))
            }
        }
        let Some(chosen) = self.chosen() else { return };
        match &self.backup {
            Ok(backup) if backup.header.current_lba < self.last_lba => warnings.push(format!(
                "the backup GPT is at sector {}, not in the disk's last sector {}: the disk has grown",
                backup.header.current_lba, self.last_lba
            )),
            _ => {}
        }
        if chosen.header.last_usable > self.last_lba {
            warnings.push(format!(
                "the GPT is for a disk of at least {} sectors, this one has {}: it was cut short",
                chosen.header.last_usable.saturating_add(1),
                self.last_lba.saturating_add(1)
            ));
        }
    }

    /// The sectors of the copies that are good.
    pub(super) fn structures(&self) -> ExtentSet {
        [&self.primary, &self.backup].into_iter().flatten().flat_map(Copy::structures).collect()
    }
}

/// For which size of sectors this disk has a GPT; `None` when it has none.
pub(super) fn sector_size_of(disk: &dyn ReadAt) -> Option<u32> {
    const SIZES: [u32; 4] = [512, 4096, 2048, 1024];
    let primary = |size: &u32| read_header(disk, *size, PRIMARY_LBA).is_ok();
    let backup = |size: &u32| match last_lba(disk, *size) {
        lba if lba > PRIMARY_LBA => read_header(disk, *size, lba).is_ok(),
        _ => false,
    };
    SIZES.into_iter().find(primary).or_else(|| SIZES.into_iter().find(backup))
}

fn last_lba(disk: &dyn ReadAt, sector_size: u32) -> u64 {
    (disk.size() / u64::from(sector_size)).saturating_sub(1)
}

fn read_header(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> Result<Header, Damage> {
    header_from_bytes(&read_sector(disk, sector_size, lba)?, lba)
}

fn read_sector(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> io::Result<Vec<u8>> {
    let offset = lba.checked_mul(u64::from(sector_size)).ok_or(io::ErrorKind::UnexpectedEof)?;
    disk.read_vec(offset, usize::try_from(sector_size).map_err(io::Error::other)?)
}
