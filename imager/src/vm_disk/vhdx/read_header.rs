//! The headers of a VHDX file, its regions and its metadata. Must not know: blocks, what the log is for.

use crate::read_at::{ReadAt, field};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::pages::header;

/// The first bytes of the file.
pub(in crate::vm_disk) const SIGNATURE: &[u8; 8] = b"vhdxfile";
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE_BYTES: usize = 64 << 10;
const METADATA_TABLE_BYTES: usize = 64 << 10;
const ENTRIES_MAX: u32 = 2047;

/// A GUID as it lies in the file.
pub(super) type Guid = [u8; 16];

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
    [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]
}

const BAT: Guid = guid(0x2DC2_7766, 0xF623, 0x4200, [0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08]);
const METADATA: Guid = guid(0x8B7C_A206, 0x4790, 0x4B9A, [0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E]);
const FILE_PARAMETERS: Guid = guid(0xCAA1_6737, 0xFA36, 0x4D43, [0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B]);
const DISK_SIZE: Guid = guid(0x2FA5_4224, 0xCD1B, 0x4876, [0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8]);
const DISK_ID: Guid = guid(0xBECA_12AB, 0xB2E6, 0x4523, [0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46]);
const LOGICAL_SECTOR: Guid = guid(0x8141_BF1D, 0xA96F, 0x4709, [0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F]);
const PHYSICAL_SECTOR: Guid = guid(0xCDA3_48C7, 0x445D, 0x4471, [0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56]);
const PARENT: Guid = guid(0xA8D3_5F2D, 0xB30B, 0x454D, [0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C]);

/// CRC-32C of `bytes`, the four at `at` counted as zeros.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = CRC.digest();
    digest.update(bytes.get(..at).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(bytes.get(at + 4..).unwrap_or_default());
    digest.finalize()
}

fn guid_at(bytes: &[u8], at: usize) -> Option<Guid> {
    bytes.get(at..at.checked_add(16)?)?.try_into().ok()
}

/// The log that the current header names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    pub id: Guid,
    pub offset: u64,
    pub len: u64,
}

/// The log of the current header; none when it is empty.
///
/// # Errors
/// [`DiskError::Damaged`] when neither header holds.
pub(super) fn log(file: &dyn ReadAt) -> Result<Option<Log>, DiskError> {
    let mut newest: Option<(u64, Vec<u8>)> = None;
    for at in HEADERS {
        let bytes = header(file, at, HEADER_BYTES)?;
        let number = field::le64(&bytes, 8).unwrap_or_default();
        let holds = bytes.starts_with(b"head") && field::le32(&bytes, 4) == Some(checksum(&bytes, 4));
        if holds && newest.as_ref().is_none_or(|(other, _)| number > *other) {
            newest = Some((number, bytes));
        }
    }
    let Some((_, bytes)) = newest else {
        return Err(DiskError::damaged(HEADERS[0], "both of its headers are damaged, or their checksums are wrong"));
    };
    if field::le16(&bytes, 66) != Some(1) {
        return Err(DiskError::unsupported("its version is newer than this program"));
    }
    let id = guid_at(&bytes, 48).unwrap_or_default();
    let len = u64::from(field::le32(&bytes, 68).unwrap_or_default());
    let offset = field::le64(&bytes, 72).unwrap_or_default();
    Ok((id != Guid::default()).then_some(Log { id, offset, len }))
}

/// What the metadata say.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    /// Size of the disk in bytes.
    pub size: u64,
    pub block: u64,
    pub logical_sector: u32,
    pub has_parent: bool,
    /// Where the table of blocks is.
    pub table: u64,
    pub table_bytes: u64,
}

/// Reads regions and metadata. The log must have been replayed.
///
/// # Errors
/// [`DiskError`].
pub(super) fn metadata(file: &dyn ReadAt) -> Result<Metadata, DiskError> {
    let regions = regions(file)?;
    let (at, len) = regions.metadata;
    if len < METADATA_TABLE_BYTES as u64 {
        return Err(DiskError::damaged(at, "its metadata are cut off"));
    }
    let bytes = header(file, at, METADATA_TABLE_BYTES)?;
    let count = field::le16(&bytes, 10).map_or(0, u32::from);
    if !bytes.starts_with(b"metadata") || count > ENTRIES_MAX {
        return Err(DiskError::damaged(at, "its metadata do not begin as they should"));
    }
    let (mut parameters, mut size, mut logical_sector) = (None, None, None);
    for number in 0..usize::try_from(count).unwrap_or_default() {
        let entry = 32 + number * 32;
        let le32 = |at| field::le32(&bytes, entry + at).unwrap_or_default();
        let (offset, item_len, flags) = (u64::from(le32(16)), le32(20), le32(24));
        let item = |wanted: usize| -> Result<Vec<u8>, DiskError> {
            if u64::from(item_len) < wanted as u64 || offset + u64::from(item_len) > len {
                return Err(DiskError::damaged(at + entry as u64, "a metadata item is cut off"));
            }
            header(file, at + offset, wanted)
        };
        match guid_at(&bytes, entry).unwrap_or_default() {
            FILE_PARAMETERS => parameters = Some(item(8)?),
            DISK_SIZE => size = field::le64(&item(8)?, 0),
            LOGICAL_SECTOR => logical_sector = field::le32(&item(4)?, 0),
            DISK_ID | PHYSICAL_SECTOR | PARENT => {}
            _ if flags & 4 != 0 => return Err(DiskError::unsupported("it needs metadata that are not known here")),
            _ => {}
        }
    }
    let (Some(parameters), Some(size), Some(logical_sector)) = (parameters, size, logical_sector) else {
        return Err(DiskError::damaged(at, "its metadata lack the size of the disk, its blocks or its sectors"));
    };
    let block = field::le32(&parameters, 0).unwrap_or_default();
    if !(1 << 20..=256 << 20).contains(&block) || !block.is_power_of_two() {
        return Err(DiskError::damaged(at, format!("blocks of {block} bytes")));
    }
    if !matches!(logical_sector, 512 | 4096) || size > 64 << 40 || !size.is_multiple_of(u64::from(logical_sector)) {
        return Err(DiskError::damaged(at, format!("a disk of {size} bytes with sectors of {logical_sector}")));
    }
    let has_parent = field::le32(&parameters, 4).unwrap_or_default() & 2 != 0;
    let (table, table_bytes) = regions.table;
    Ok(Metadata { size, block: u64::from(block), logical_sector, has_parent, table, table_bytes })
}

/// Where the regions are, and how long.
struct Regions {
    table: (u64, u64),
    metadata: (u64, u64),
}

fn regions(file: &dyn ReadAt) -> Result<Regions, DiskError> {
    let mut last = None;
    for at in REGION_TABLES {
        let bytes = header(file, at, REGION_TABLE_BYTES)?;
        if bytes.starts_with(b"regi") && field::le32(&bytes, 4) == Some(checksum(&bytes, 4)) {
            return regions_of(&bytes, at, file.size());
        }
        last = Some(DiskError::damaged(at, "both of its region tables are damaged, or their checksums are wrong"));
    }
    Err(last.unwrap_or_else(|| DiskError::damaged(0, "no region table")))
}

fn regions_of(bytes: &[u8], at: u64, file_size: u64) -> Result<Regions, DiskError> {
    let count = field::le32(bytes, 8).unwrap_or_default();
    if count > ENTRIES_MAX {
        return Err(DiskError::damaged(at + 8, format!("{count} regions")));
    }
    let (mut table, mut metadata) = (None, None);
    for number in 0..usize::try_from(count).unwrap_or_default() {
        let entry = 16 + number * 32;
        let place =
            (field::le64(bytes, entry + 16).unwrap_or_default(), field::le32(bytes, entry + 24).map_or(0, u64::from));
        if place.0.checked_add(place.1).is_none_or(|end| end > file_size) {
            return Err(DiskError::damaged(at + entry as u64, "a region reaches behind the file's end: it is cut off"));
        }
        match guid_at(bytes, entry).unwrap_or_default() {
            BAT => table = Some(place),
            METADATA => metadata = Some(place),
            _ if field::le32(bytes, entry + 28).unwrap_or_default() & 1 != 0 => {
                return Err(DiskError::unsupported("it needs a region that is not known here"));
            }
            _ => {}
        }
    }
    match (table, metadata) {
        (Some(table), Some(metadata)) => Ok(Regions { table, metadata }),
        _ => Err(DiskError::damaged(at, "its table of blocks or its metadata are missing")),
    }
}
