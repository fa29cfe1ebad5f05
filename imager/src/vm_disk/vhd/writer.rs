//! Writes VHD, dynamic and fixed.
//!
//! ```text
//! dynamic:  footer │ header │ block table │ (bitmap, 512 bytes │ block of 2 MiB)… │ footer
//! fixed:    the disk's bytes │ footer
//! ```
//!
//! The size: a footer holds it in bytes, and as cylinders, heads and sectors, which cannot say every size. Hyper-V,
//! Azure and VirtualBox go by the bytes. QEMU goes by the geometry unless it knows that whoever made the file filled
//! in the bytes; Hyper-V's own mark, `win `, is one that it knows. So that is the mark here, and the size is exact
//! everywhere. Must not know: where the bytes come from.

#![forbid(unsafe_code)]

use std::io;

use super::super::blocks::Blocks;
use super::super::layout::{Label, Layout, Put, Sequence, put_field, put_table};
use crate::error::{Error, Result};

/// Size of a dynamic disk's blocks.
pub const BLOCK: u64 = 2 << 20;
/// What the format allows of a dynamic disk, and Hyper-V of any.
pub const SIZE_MAX: u64 = 2040 << 30;

const SECTOR: u64 = 512;
const TABLE_AT: u64 = 1536;
const NOT_THERE: u32 = u32::MAX;
/// 2000-01-01, in seconds since 1970.
const EPOCH: u64 = 946_684_800;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
/// Blocks begin at multiples of this, so that direct I/O can write them; their bitmap is just before.
const ALIGN: u64 = 4096;

fn check_size(size: u64) -> Result<u64> {
    if size > SIZE_MAX {
        return Err(Error::Usage(format!(
            "a VHD holds 2,040 GiB at most, and the disk has {}; --format vhdx holds 64 TiB",
            crate::units::size(size)
        )));
    }
    Ok(size.next_multiple_of(SECTOR))
}

/// Cylinders, heads and sectors, by the specification's own algorithm.
fn geometry(size: u64) -> (u16, u8, u8) {
    let total = (size / SECTOR).min(65_535 * 16 * 255);
    let mut tracks;
    let (mut heads, mut sectors);
    if total >= 65_535 * 16 * 63 {
        (heads, sectors) = (16, 255);
        tracks = total / sectors;
    } else {
        sectors = 17;
        tracks = total / sectors;
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (heads, sectors) = (16, 31);
            tracks = total / sectors;
        }
        if tracks >= heads * 1024 {
            (heads, sectors) = (16, 63);
            tracks = total / sectors;
        }
    }
    let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    (u16::try_from(tracks / heads).unwrap_or(u16::MAX), byte(heads), byte(sectors))
}

fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

fn footer(size: u64, kind: u32, label: &Label) -> [u8; 512] {
    let mut bytes = [0; 512];
    put_field(&mut bytes, 0, b"conectix");
    put_field(&mut bytes, 8, &2u32.to_be_bytes());
    put_field(&mut bytes, 12, &0x0001_0000_u32.to_be_bytes());
    let header_at = if kind == DYNAMIC { 512 } else { u64::MAX };
    put_field(&mut bytes, 16, &header_at.to_be_bytes());
    let created = u32::try_from(label.created.saturating_sub(EPOCH)).unwrap_or(u32::MAX);
    put_field(&mut bytes, 24, &created.to_be_bytes());
    put_field(&mut bytes, 28, b"win ");
    put_field(&mut bytes, 32, &0x000A_0000_u32.to_be_bytes());
    put_field(&mut bytes, 36, b"Wi2k");
    put_field(&mut bytes, 40, &size.to_be_bytes());
    put_field(&mut bytes, 48, &size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size);
    put_field(&mut bytes, 56, &cylinders.to_be_bytes());
    put_field(&mut bytes, 58, &[heads, sectors]);
    put_field(&mut bytes, 60, &kind.to_be_bytes());
    put_field(&mut bytes, 68, label.id.as_bytes());
    let sum = checksum(&bytes);
    put_field(&mut bytes, 64, &sum.to_be_bytes());
    bytes
}

/// A fixed disk.
pub struct Fixed {
    size: u64,
    label: Label,
}

impl Fixed {
    /// For a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large.
    pub fn new(size: u64, label: &Label) -> Result<Self> {
        Ok(Self { size: check_size(size)?, label: label.clone() })
    }
}

impl Layout for Fixed {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        (Some(offset), u64::MAX)
    }

    fn file_size(&self) -> u64 {
        self.size + 512
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        put(self.size, &footer(self.size, FIXED, &self.label))
    }
}

/// A dynamic disk.
pub struct Dynamic {
    size: u64,
    label: Label,
    data: Sequence,
}

impl Dynamic {
    /// For a disk of `size` bytes that has these blocks, of [`BLOCK`].
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large.
    pub fn new(size: u64, blocks: Blocks, label: &Label) -> Result<Self> {
        let size = check_size(size)?;
        let first = (TABLE_AT + blocks.len() * 4 + SECTOR).next_multiple_of(ALIGN);
        Ok(Self { size, label: label.clone(), data: Sequence { blocks, first, stride: BLOCK + ALIGN } })
    }

    /// Behind the last block; where the first one's bitmap would be if there is none.
    fn footer_at(&self) -> u64 {
        if self.data.blocks.marked() == 0 { self.data.first - SECTOR } else { self.data.end() - ALIGN }
    }

    fn header(&self) -> [u8; 1024] {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = [0; 1024];
        put_field(&mut bytes, 0, b"cxsparse");
        put_field(&mut bytes, 8, &u64::MAX.to_be_bytes());
        put_field(&mut bytes, 16, &TABLE_AT.to_be_bytes());
        put_field(&mut bytes, 24, &0x0001_0000_u32.to_be_bytes());
        put_field(&mut bytes, 28, &number(self.data.blocks.len()));
        put_field(&mut bytes, 32, &number(BLOCK));
        let sum = checksum(&bytes);
        put_field(&mut bytes, 36, &sum.to_be_bytes());
        bytes
    }
}

impl Layout for Dynamic {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        self.data.place(offset)
    }

    fn file_size(&self) -> u64 {
        self.footer_at() + SECTOR
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        let blocks = &self.data.blocks;
        let footer = footer(self.size, DYNAMIC, &self.label);
        put(0, &footer)?;
        put(512, &self.header())?;
        // The table is as long as whole sectors.
        let entries = (blocks.len() * 4).next_multiple_of(SECTOR) / 4;
        let bitmap = |block| Some(self.data.block(block)?.saturating_sub(SECTOR));
        put_table(put, TABLE_AT, entries, [0xFF; 4], &|block| {
            let sector = bitmap(block).and_then(|offset| u32::try_from(offset / SECTOR).ok());
            sector.unwrap_or(NOT_THERE).to_be_bytes()
        })?;
        for offset in (0..blocks.len()).filter_map(bitmap) {
            put(offset, &[0xFF; 512])?;
        }
        put(self.footer_at(), &footer)
    }
}
