//! Writes VMDK: monolithicSparse, to be run, and streamOptimized, to be carried.
//!
//! ```text
//! sparse:  header │ descriptor │ directory, tables (the spare ones) │ directory, tables │ grains, ascending
//! stream:  header │ descriptor │ (grains, compressed │ their table)… │ directory │ header again │ end
//! ```
//!
//! A grain is 64 KiB, a table has 512 of them. Numbers are little endian and count sectors of 512 bytes. Must not
//! know: where the bytes come from.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::super::blocks::Blocks;
use super::super::layout::{Label, Layout, Put, Sequence, put_field, put_table};
use crate::error::{Error, Result};

/// Bytes of a grain.
pub const GRAIN: u64 = 64 << 10;
const SECTOR: u64 = 512;
const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
/// Grains of a table.
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Tables count sectors with 32 bits.
const FILE_MAX: u64 = (u32::MAX as u64) * SECTOR;

/// Flags: the four characters that tell a file mangled as text, and the spare directory.
const SPARSE: u32 = 3;
/// The former, compressed grains, markers.
const STREAM: u32 = 1 | 1 << 16 | 1 << 17;
/// The directory is where the header at the end says.
const AT_END: u64 = u64::MAX;

/// Kinds of markers.
const END_OF_STREAM: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

fn sector_number(sector: u64) -> u32 {
    u32::try_from(sector).unwrap_or(u32::MAX)
}

struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    spare_directory: u64,
    directory: u64,
    overhead: u64,
}

impl Header {
    fn bytes(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        put_field(&mut bytes, 0, b"KDMV");
        put_field(&mut bytes, 4, &self.version.to_le_bytes());
        put_field(&mut bytes, 8, &self.flags.to_le_bytes());
        put_field(&mut bytes, 12, &self.capacity.to_le_bytes());
        put_field(&mut bytes, 20, &GRAIN_SECTORS.to_le_bytes());
        put_field(&mut bytes, 28, &DESCRIPTOR_AT.to_le_bytes());
        put_field(&mut bytes, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put_field(&mut bytes, 44, &sector_number(TABLE_ENTRIES).to_le_bytes());
        put_field(&mut bytes, 48, &self.spare_directory.to_le_bytes());
        put_field(&mut bytes, 56, &self.directory.to_le_bytes());
        put_field(&mut bytes, 64, &self.overhead.to_le_bytes());
        put_field(&mut bytes, 73, b"\n \r\n");
        if self.flags == STREAM {
            // Deflate.
            put_field(&mut bytes, 77, &1u16.to_le_bytes());
        }
        bytes
    }
}

/// The text that describes the disk, as long as its place.
fn descriptor(capacity: u64, kind: &str, label: &Label) -> Vec<u8> {
    // A quotation mark or a line's end would end the name.
    let name: String = label.file_name.chars().map(|c| if c == '"' || c.is_control() { '_' } else { c }).collect();
    let content_id = match label.id.as_fields().0 {
        u32::MAX => 1,
        id => id,
    };
    let cylinders = (capacity / (255 * 63)).clamp(1, 65_535);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={content_id:08x}\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize(usize::try_from(DESCRIPTOR_SECTORS * SECTOR).unwrap_or(0), 0);
    bytes
}

fn too_large(size: u64) -> Error {
    Error::Usage(format!("a VMDK holds 2 TiB of data at most; the disk has {}", crate::units::size(size)))
}

/// A sparse disk in one file.
pub struct Sparse {
    capacity: u64,
    label: Label,
    tables: u64,
    spare_directory: u64,
    directory: u64,
    data: Sequence,
}

impl Sparse {
    /// For a disk of `size` bytes that has these blocks, of [`GRAIN`].
    ///
    /// # Errors
    /// [`Error::Usage`] when it has too much data.
    pub fn new(size: u64, blocks: Blocks, label: &Label) -> Result<Self> {
        let tables = blocks.len().div_ceil(TABLE_ENTRIES);
        let copy = (tables * 4).div_ceil(SECTOR) + tables * TABLE_SECTORS;
        let spare_directory = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
        let directory = spare_directory + copy;
        let first = ((directory + copy) * SECTOR).next_multiple_of(GRAIN);
        let data = Sequence { blocks, first, stride: GRAIN };
        if data.end() > FILE_MAX {
            return Err(too_large(size));
        }
        let capacity = size.div_ceil(SECTOR);
        Ok(Self { capacity, label: label.clone(), tables, spare_directory, directory, data })
    }

    fn write_copy(&self, directory: u64, put: &mut Put<'_>) -> io::Result<()> {
        let first = directory + (self.tables * 4).div_ceil(SECTOR);
        let place = |table: u64| first + table * TABLE_SECTORS;
        put_table(put, directory * SECTOR, self.tables, [0; 4], &|table| sector_number(place(table)).to_le_bytes())?;
        let blocks = &self.data.blocks;
        for table in (0..self.tables).filter(|table| blocks.any(table * TABLE_ENTRIES, TABLE_ENTRIES)) {
            put_table(put, place(table) * SECTOR, TABLE_ENTRIES, [0; 4], &|entry| {
                let offset = self.data.block(table * TABLE_ENTRIES + entry);
                offset.map_or(0, |offset| sector_number(offset / SECTOR)).to_le_bytes()
            })?;
        }
        Ok(())
    }
}

impl Layout for Sparse {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        self.data.place(offset)
    }

    fn file_size(&self) -> u64 {
        self.data.end()
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        let header = Header {
            version: 1,
            flags: SPARSE,
            capacity: self.capacity,
            spare_directory: self.spare_directory,
            directory: self.directory,
            overhead: self.data.first / SECTOR,
        };
        put(0, &header.bytes())?;
        put(DESCRIPTOR_AT * SECTOR, &descriptor(self.capacity, "monolithicSparse", &self.label))?;
        self.write_copy(self.spare_directory, put)?;
        self.write_copy(self.directory, put)
    }
}

/// A grain with its marker, whole sectors; none for zeros. The last one of a disk may be shorter than the others.
///
/// # Errors
/// When there is no memory for it.
pub fn packed_grain(number: u64, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    const MARKER: usize = 12;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut marker = vec![0; MARKER];
    put_field(&mut marker, 0, &(number * GRAIN_SECTORS).to_le_bytes());
    let mut encoder = ZlibEncoder::new(marker, Compression::fast());
    encoder.write_all(bytes)?;
    // Readers decompress whole grains.
    let short = usize::try_from(GRAIN).unwrap_or(0).saturating_sub(bytes.len());
    encoder.write_all(&vec![0; short])?;
    let mut packed = encoder.finish()?;
    let len = u32::try_from(packed.len() - MARKER).map_err(io::Error::other)?;
    put_field(&mut packed, 8, &len.to_le_bytes());
    packed.resize(packed.len().next_multiple_of(512), 0);
    Ok(Some(packed))
}

/// A stream of compressed grains, written from its first byte to its last.
pub struct Stream<W> {
    out: W,
    capacity: u64,
    /// The next sector.
    at: u64,
    /// Where each table is that was written; 0 for those that are not there.
    directory: Vec<u32>,
    /// The present table's number and entries.
    table: Option<(u64, Vec<u32>)>,
}

impl<W: Write> Stream<W> {
    /// Begins the stream of a disk of `size` bytes.
    ///
    /// # Errors
    /// What `out` says; when the disk is too large.
    pub fn new(mut out: W, size: u64, label: &Label) -> io::Result<Self> {
        let capacity = size.div_ceil(SECTOR);
        let tables = usize::try_from(size.div_ceil(GRAIN * TABLE_ENTRIES)).ok().filter(|tables| *tables <= 16 << 20);
        let tables = tables.ok_or_else(|| io::Error::other(too_large(size).to_string()))?;
        out.write_all(&Self::header(capacity, AT_END))?;
        out.write_all(&descriptor(capacity, "streamOptimized", label))?;
        let used = DESCRIPTOR_AT + DESCRIPTOR_SECTORS;
        let padding = usize::try_from((GRAIN_SECTORS - used) * SECTOR).map_err(io::Error::other)?;
        out.write_all(&vec![0; padding])?;
        Ok(Self { out, capacity, at: GRAIN_SECTORS, directory: vec![0; tables], table: None })
    }

    fn header(capacity: u64, directory: u64) -> [u8; 512] {
        Header { version: 3, flags: STREAM, capacity, spare_directory: 0, directory, overhead: GRAIN_SECTORS }.bytes()
    }

    /// Adds what [`packed_grain`] made of grain `number`, which comes behind all that were added before.
    ///
    /// # Errors
    /// What `out` says; when there is too much data.
    pub fn add(&mut self, number: u64, packed: &[u8]) -> io::Result<()> {
        let (table, place) = (number / TABLE_ENTRIES, number % TABLE_ENTRIES);
        if self.table.as_ref().is_some_and(|(present, _)| *present != table) {
            self.finish_table()?;
        }
        let at =
            u32::try_from(self.at).map_err(|_| io::Error::other("a VMDK holds 2 TiB of compressed data at most"))?;
        let (_, entries) = self.table.get_or_insert_with(|| (table, vec![0; 512]));
        if let Some(entry) = usize::try_from(place).ok().and_then(|place| entries.get_mut(place)) {
            *entry = at;
        }
        self.write(packed)
    }

    fn write(&mut self, sectors: &[u8]) -> io::Result<()> {
        self.at += sectors.len() as u64 / SECTOR;
        self.out.write_all(sectors)
    }

    fn marker(&mut self, kind: u32, sectors: u64) -> io::Result<()> {
        let mut bytes = [0; 512];
        put_field(&mut bytes, 0, &sectors.to_le_bytes());
        put_field(&mut bytes, 12, &kind.to_le_bytes());
        self.write(&bytes)
    }

    fn finish_table(&mut self) -> io::Result<()> {
        let Some((number, entries)) = self.table.take() else { return Ok(()) };
        self.marker(TABLE, TABLE_SECTORS)?;
        if let Some(place) = usize::try_from(number).ok().and_then(|number| self.directory.get_mut(number)) {
            *place = u32::try_from(self.at).map_err(io::Error::other)?;
        }
        self.write(&entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Writes what comes behind the grains, and gives back what it was written to.
    ///
    /// # Errors
    /// What `out` says.
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_table()?;
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|table| table.to_le_bytes()).collect();
        directory.resize(directory.len().next_multiple_of(512), 0);
        self.marker(DIRECTORY, directory.len() as u64 / SECTOR)?;
        let directory_at = self.at;
        self.write(&directory)?;
        self.marker(FOOTER, 1)?;
        let header = Self::header(self.capacity, directory_at);
        self.write(&header)?;
        self.marker(END_OF_STREAM, 0)?;
        self.out.flush()?;
        Ok(self.out)
    }
}
