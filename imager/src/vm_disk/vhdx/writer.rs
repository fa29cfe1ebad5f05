//! Writes VHDX, dynamic.
//!
//! ```text
//!   0      file type        64 KiB each, in the first MiB
//!  64 KiB  header 1
//! 128 KiB  header 2
//! 192 KiB  regions 1
//! 256 KiB  regions 2
//!   1 MiB  log, empty
//!   2 MiB  metadata
//!   3 MiB  block table       then the blocks, ascending
//! ```
//!
//! Must not know: where the bytes come from.

#![forbid(unsafe_code)]

use std::io;

use crc::{CRC_32_ISCSI, Crc, Table};
use uuid::{Uuid, uuid};

use super::super::blocks::Blocks;
use super::super::layout::{Label, Layout, Put, Sequence, put_field, put_table};
use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;
const KIB: usize = 1 << 10;
/// What the format allows.
pub const SIZE_MAX: u64 = 64 << 40;
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

const TABLE_REGION: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
const METADATA_REGION: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");
const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
/// Flags of metadata: of the disk, and of the file; both are required.
const OF_DISK: u32 = 6;
const OF_FILE: u32 = 4;

/// States of blocks.
const ZERO: u64 = 2;
const PRESENT: u64 = 6;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Size of the blocks of a disk of `size` bytes: the smallest, which take least space, as long as their table stays
/// small.
#[must_use]
pub fn block_size(size: u64) -> u64 {
    let mut block = MIB;
    while block < 256 * MIB && size / block > 1 << 20 {
        block *= 2;
    }
    block
}

/// A dynamic VHDX.
pub struct Dynamic {
    size: u64,
    sector: u32,
    label: Label,
    data: Sequence,
    table_bytes: u64,
    /// Blocks that share a bitmap in differencing disks; the table has room for it all the same.
    chunk: u64,
}

impl Dynamic {
    /// For a disk of `size` bytes in sectors of `sector` that has these blocks, of [`block_size`].
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large, or has other sectors than 512 or 4,096 bytes.
    pub fn new(size: u64, sector: u32, blocks: Blocks, label: &Label) -> Result<Self> {
        if size > SIZE_MAX {
            return Err(Error::Usage(format!(
                "a VHDX holds 64 TiB at most, and the disk has {}",
                crate::units::size(size)
            )));
        }
        if !matches!(sector, 512 | 4096) {
            return Err(Error::Usage(format!(
                "a VHDX has sectors of 512 or 4,096 bytes, and the disk's have {sector}"
            )));
        }
        let chunk = (u64::from(sector) << 23) / blocks.block_size();
        let entries = blocks.len() + blocks.len().saturating_sub(1) / chunk;
        let table_bytes = (entries * 8).next_multiple_of(MIB).max(MIB);
        let data = Sequence { first: TABLE_AT + table_bytes, stride: blocks.block_size(), blocks };
        Ok(Self { size: size.next_multiple_of(sector.into()), sector, label: label.clone(), data, table_bytes, chunk })
    }

    fn header(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4 * KIB];
        put_field(&mut bytes, 0, b"head");
        put_field(&mut bytes, 8, &sequence.to_le_bytes());
        // What was written last, and the data written last: nothing since the disk was made.
        put_field(&mut bytes, 16, &self.label.id.to_bytes_le());
        put_field(&mut bytes, 32, &self.label.id.to_bytes_le());
        // No log: its id is zero. Its version is 0, the format's 1.
        put_field(&mut bytes, 66, &1u16.to_le_bytes());
        put_field(&mut bytes, 68, &0x10_0000_u32.to_le_bytes());
        put_field(&mut bytes, 72, &LOG_AT.to_le_bytes());
        with_checksum(bytes)
    }

    fn regions(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * KIB];
        put_field(&mut bytes, 0, b"regi");
        put_field(&mut bytes, 8, &2u32.to_le_bytes());
        let regions = [(TABLE_REGION, TABLE_AT, self.table_bytes), (METADATA_REGION, METADATA_AT, MIB)];
        for (at, (id, offset, len)) in (16..).step_by(32).zip(regions) {
            put_field(&mut bytes, at, &id.to_bytes_le());
            put_field(&mut bytes, at + 16, &offset.to_le_bytes());
            put_field(&mut bytes, at + 24, &u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
            // Required.
            put_field(&mut bytes, at + 28, &1u32.to_le_bytes());
        }
        with_checksum(bytes)
    }

    fn metadata(&self) -> Vec<u8> {
        let block = u32::try_from(self.data.blocks.block_size()).unwrap_or(u32::MAX);
        let mut parameters = block.to_le_bytes().to_vec();
        // Neither fixed nor with a parent.
        parameters.extend_from_slice(&0u32.to_le_bytes());
        let items = [
            (FILE_PARAMETERS, OF_FILE, parameters),
            (DISK_SIZE, OF_DISK, self.size.to_le_bytes().to_vec()),
            (DISK_ID, OF_DISK, self.label.id.to_bytes_le().to_vec()),
            (LOGICAL_SECTOR, OF_DISK, self.sector.to_le_bytes().to_vec()),
            (PHYSICAL_SECTOR, OF_DISK, 4096u32.to_le_bytes().to_vec()),
        ];
        let mut bytes = vec![0; 128 * KIB];
        put_field(&mut bytes, 0, b"metadata");
        put_field(&mut bytes, 10, &5u16.to_le_bytes());
        let mut offset = 64 * KIB;
        for (at, (id, flags, value)) in (32..).step_by(32).zip(items) {
            put_field(&mut bytes, at, &id.to_bytes_le());
            put_field(&mut bytes, at + 16, &u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
            put_field(&mut bytes, at + 20, &u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            put_field(&mut bytes, at + 24, &flags.to_le_bytes());
            put_field(&mut bytes, offset, &value);
            offset += value.len();
        }
        bytes
    }

    /// After every chunk of blocks comes the entry of a bitmap, which such disks have none of.
    fn entry(&self, index: u64) -> u64 {
        let (chunk, within) = (index / (self.chunk + 1), index % (self.chunk + 1));
        if within == self.chunk {
            return 0;
        }
        match self.data.block(chunk * self.chunk + within) {
            Some(offset) => offset | PRESENT,
            None => ZERO,
        }
    }
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = CRC.checksum(&bytes);
    put_field(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

impl Layout for Dynamic {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        self.data.place(offset)
    }

    fn file_size(&self) -> u64 {
        self.data.end()
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        let mut file_type = b"vhdxfile".to_vec();
        file_type.extend("Lifeboat imager".encode_utf16().flat_map(u16::to_le_bytes));
        put(0, &file_type)?;
        put(64 << 10, &self.header(1))?;
        put(128 << 10, &self.header(2))?;
        put(192 << 10, &self.regions())?;
        put(256 << 10, &self.regions())?;
        put(METADATA_AT, &self.metadata())?;
        let blocks = self.data.blocks.len();
        let entries = blocks + blocks.saturating_sub(1) / self.chunk;
        put_table(put, TABLE_AT, entries, [0; 8], &|index| self.entry(index).to_le_bytes())
    }
}
