//! GUID partition tables: two copies of a header and an array of entries, each with its checksum.
//!
//! Total functions from bytes to [`Header`] and [`Copy`], and the choice between the copies.
//! Source: UEFI specification 2.10, section 5.3; field names are the specification's.

use std::io;

use crc::{CRC_32_ISO_HDLC, Crc};
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

/// The fields of a header whose checksum is right. All `lba` count logical sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) my_lba: u64,
    pub(super) alternate_lba: u64,
    pub(super) first_usable_lba: u64,
    pub(super) last_usable_lba: u64,
    pub(super) disk_guid: Uuid,
    pub(super) partition_entry_lba: u64,
    pub(super) number_of_partition_entries: u32,
    pub(super) size_of_partition_entry: u32,
    partition_entry_array_crc32: u32,
}

impl Header {
    /// Reads the header that fills the sector `lba`.
    fn from_bytes(sector: &[u8], lba: u64) -> Result<Self, Damage> {
        if !sector.starts_with(SIGNATURE) {
            return Err(Damage::Absent);
        }
        if checksum_of_header(sector) != field::le32(sector, HEADER_CRC32_AT) {
            return Err(Damage::HeaderChecksum);
        }
        let header = Self::fields(sector).ok_or(Damage::Nonsense("the header is too short"))?;
        if header.my_lba != lba {
            return Err(Damage::Misplaced(header.my_lba));
        }
        let entry_size = header.size_of_partition_entry;
        if !(ENTRY_SIZE_MIN..=ENTRY_SIZE_MAX).contains(&entry_size) || !entry_size.is_power_of_two() {
            return Err(Damage::Nonsense("the size of an entry is impossible"));
        }
        if header.entries_size() == 0 || header.entries_size() > ENTRIES_SIZE_MAX {
            return Err(Damage::Nonsense("the number of entries is impossible"));
        }
        if header.first_usable_lba > header.last_usable_lba {
            return Err(Damage::Nonsense("the usable sectors end before they begin"));
        }
        Ok(header)
    }

    fn fields(sector: &[u8]) -> Option<Self> {
        Some(Self {
            my_lba: field::le64(sector, MY_LBA_AT)?,
            alternate_lba: field::le64(sector, ALTERNATE_LBA_AT)?,
            first_usable_lba: field::le64(sector, FIRST_USABLE_LBA_AT)?,
            last_usable_lba: field::le64(sector, LAST_USABLE_LBA_AT)?,
            disk_guid: guid(sector, DISK_GUID_AT)?,
            partition_entry_lba: field::le64(sector, PARTITION_ENTRY_LBA_AT)?,
            number_of_partition_entries: field::le32(sector, NUMBER_OF_ENTRIES_AT)?,
            size_of_partition_entry: field::le32(sector, SIZE_OF_ENTRY_AT)?,
            partition_entry_array_crc32: field::le32(sector, ENTRIES_CRC32_AT)?,
        })
    }

    /// Size of the array of entries in bytes.
    pub(super) fn entries_size(&self) -> u64 {
        u64::from(self.number_of_partition_entries).saturating_mul(u64::from(self.size_of_partition_entry))
    }
}

/// Puts the checksums of the entries and of the header itself into a header.
pub(super) fn seal(sector: &mut [u8], entries: &[u8]) {
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
    pub(super) sector_size: u32,
}

impl Copy {
    fn read(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> Result<Self, Damage> {
        let sector = read_sector(disk, sector_size, lba)?;
        let header = Header::from_bytes(&sector, lba)?;
        let offset = header
            .partition_entry_lba
            .checked_mul(u64::from(sector_size))
            .ok_or(Damage::Nonsense("the entries lie behind the end of the disk"))?;
        let size = usize::try_from(header.entries_size()).map_err(io::Error::other)?;
        let entries = disk.read_vec(offset, size)?;
        if CRC32.checksum(&entries) != header.partition_entry_array_crc32 {
            return Err(Damage::EntriesChecksum);
        }
        Ok(Self { header, sector, entries, sector_size })
    }

    /// Do both hold the same partitions on the same disk?
    fn says_the_same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.header, &other.header);
        a.disk_guid == b.disk_guid
            && (a.first_usable_lba, a.last_usable_lba) == (b.first_usable_lba, b.last_usable_lba)
            && (a.number_of_partition_entries, a.size_of_partition_entry)
                == (b.number_of_partition_entries, b.size_of_partition_entry)
            && self.entries == other.entries
    }

    /// The header's sector, and the sectors that hold the entries.
    pub(super) fn structures(&self) -> [Extent; 2] {
        let sector = u64::from(self.sector_size);
        let entries = self.header.entries_size().next_multiple_of(sector);
        [
            Extent::new(self.header.my_lba.saturating_mul(sector), sector),
            Extent::new(self.header.partition_entry_lba.saturating_mul(sector), entries),
        ]
    }

    /// The partitions, in the order of the entries.
    pub(super) fn partitions(&self, warnings: &mut Vec<String>) -> Vec<Partition> {
        let entry_size = usize::try_from(self.header.size_of_partition_entry).unwrap_or(usize::MAX);
        let mut partitions = Vec::new();
        for (number, bytes) in (1..).zip(self.entries.chunks_exact(entry_size)) {
            let Some(entry) = Entry::from_bytes(bytes).filter(|_| is_used(bytes)) else { continue };
            let usable = self.header.first_usable_lba..=self.header.last_usable_lba;
            if !usable.contains(&entry.starting_lba) || !usable.contains(&entry.ending_lba) {
                warnings.push(format!("partition {number} lies outside of the sectors that the GPT says are usable"));
            }
            match entry.extent(self.sector_size) {
                None => warnings.push(format!(
                    "partition {number} is left out: it reaches from sector {} to {}",
                    entry.starting_lba, entry.ending_lba
                )),
                Some(extent) => partitions.push(entry.partition(number, extent)),
            }
        }
        partitions
    }
}

/// An element of the array of entries.
struct Entry {
    partition_type_guid: Uuid,
    unique_partition_guid: Uuid,
    starting_lba: u64,
    /// The last sector, not the one after it.
    ending_lba: u64,
    attributes: u64,
    partition_name: String,
}

impl Entry {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            partition_type_guid: guid(bytes, 0)?,
            unique_partition_guid: guid(bytes, UNIQUE_PARTITION_GUID_AT)?,
            starting_lba: field::le64(bytes, 32)?,
            ending_lba: field::le64(bytes, 40)?,
            attributes: field::le64(bytes, 48)?,
            partition_name: name(bytes.get(56..128)?),
        })
    }

    /// `None` when it ends before it begins, or ends behind the last byte that 64 bits can count.
    fn extent(&self, sector_size: u32) -> Option<Extent> {
        let sector = u64::from(sector_size);
        let start = self.starting_lba.checked_mul(sector)?;
        let end = self.ending_lba.checked_add(1)?.checked_mul(sector)?;
        (start < end).then(|| Extent::between(start, end))
    }

    fn partition(self, number: u32, extent: Extent) -> Partition {
        const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;
        let type_id = self.partition_type_guid.hyphenated().to_string().to_uppercase();
        Partition {
            number,
            start: extent.start,
            len: extent.len,
            role: Role::Primary,
            type_name: types::gpt_name(&type_id).to_owned(),
            type_id,
            id: id_of(self.unique_partition_guid),
            name: Some(self.partition_name).filter(|name| !name.is_empty()),
            attributes: self.attributes,
            bootable: self.attributes & LEGACY_BIOS_BOOTABLE != 0,
        }
    }
}

/// Does this element of the array describe a partition?
pub(super) fn is_used(entry: &[u8]) -> bool {
    guid(entry, 0).is_some_and(|partition_type| !partition_type.is_nil())
}

/// A GUID as `blkid` prints it; none when it is all zeroes.
pub(super) fn id_of(guid: Uuid) -> Option<String> {
    (!guid.is_nil()).then(|| guid.hyphenated().to_string())
}

fn guid(bytes: &[u8], at: usize) -> Option<Uuid> {
    let bytes = bytes.get(at..)?.first_chunk::<16>()?;
    Some(Uuid::from_bytes_le(*bytes))
}

/// UTF-16 up to the first zero.
fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).filter_map(|unit| field::le16(unit, 0)).take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
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
        .and_then(|sector| field::le64(&sector, 32));
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
                    && primary.header.alternate_lba == backup.header.my_lba
                    && backup.header.alternate_lba == primary.header.my_lba
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
            Ok(backup) if backup.header.my_lba < self.last_lba => warnings.push(format!(
                "the backup GPT is at sector {}, not in the disk's last sector {}: the disk has grown",
                backup.header.my_lba, self.last_lba
            )),
            _ => {}
        }
        if chosen.header.last_usable_lba > self.last_lba {
            warnings.push(format!(
                "the GPT is for a disk of at least {} sectors, this one has {}: it was cut short",
                chosen.header.last_usable_lba.saturating_add(1),
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
    Header::from_bytes(&read_sector(disk, sector_size, lba)?, lba)
}

fn read_sector(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> io::Result<Vec<u8>> {
    let offset = lba.checked_mul(u64::from(sector_size)).ok_or(io::ErrorKind::UnexpectedEof)?;
    disk.read_vec(offset, usize::try_from(sector_size).map_err(io::Error::other)?)
}
