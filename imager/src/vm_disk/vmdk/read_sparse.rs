//! Sparse extents, plain and compressed. Must not know: descriptors, other extents.

use std::collections::HashSet;
use std::sync::Arc;

use crate::read_at::field;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::Contents;
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Map, Packed, Run, going_on};
use crate::vm_disk::pages::{Paged, header};
use crate::vm_disk::unpack;

/// The first four bytes.
pub(in crate::vm_disk) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const SECTOR: u64 = 512;
const HEADER_BYTES: usize = 512;
/// The directory's place when only the footer knows it.
const AT_END: u64 = u64::MAX;
/// The footer is followed by the marker of the stream's end.
const FOOTER_FROM_END: u64 = 1024;

const HAS_ZERO_GRAINS: u32 = 1 << 2;
const IS_COMPRESSED: u32 = 1 << 16;
const HAS_MARKERS: u32 = 1 << 17;

/// Sectors of the disk that one entry of the directory stands for fit in 32 bits.
const GRAIN_SECTORS_MAX: u64 = 1 << 15;
const ENTRIES_PER_TABLE_MAX: u32 = 512;

/// A sparse extent: where its grains are, a directory of tables.
pub(super) struct Sparse {
    file: Paged,
    /// Bytes.
    pub size: u64,
    grain: u64,
    entries_per_table: u64,
    directory: u64,
    directory_entries: u64,
    has_zero_grains: bool,
    is_compressed: bool,
    /// Its descriptor, when it has one: offset and bytes.
    pub descriptor: Option<(u64, u64)>,
    pub is_unclean: bool,
}

impl Sparse {
    /// Reads the header of `file`, and its footer.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn read(file: Box<dyn Contents>, cache: &Arc<Cache>) -> Result<Self, DiskError> {
        let front = header(&*file, 0, HEADER_BYTES)?;
        let in_front = Header::from_bytes(&front).map_err(|what| DiskError::damaged(0, what))?;
        let mut used = in_front.clone();
        if in_front.directory == AT_END {
            let at = file.size().saturating_sub(FOOTER_FROM_END);
            used = Header::from_bytes(&header(&*file, at, HEADER_BYTES)?)
                .map_err(|what| DiskError::damaged(at, format!("{what} in its footer: it is cut off")))?;
        }
        let at = if in_front.directory == AT_END { file.size().saturating_sub(FOOTER_FROM_END) } else { 0 };
        used.check().map_err(|what| DiskError::damaged(at, what))?;
        if used.version > 3 {
            return Err(DiskError::unsupported(format!("VMDK version {} is newer than this program", used.version)));
        }
        if used.flags & IS_COMPRESSED != 0 && (used.compression != 1 || used.flags & HAS_MARKERS == 0) {
            return Err(DiskError::unsupported("it is compressed in a way that is not known here"));
        }
        let per_table = u64::from(used.entries_per_table);
        let size = used.capacity * SECTOR;
        let directory_entries = used.capacity.div_ceil(used.grain * per_table);
        let directory = used.directory.checked_mul(SECTOR);
        let end = directory.and_then(|at| at.checked_add(directory_entries * 4));
        let (Some(directory), true) = (directory, end.is_some_and(|end| end <= file.size())) else {
            return Err(DiskError::damaged(at + 56, "its directory reaches behind the file's end: it is cut off"));
        };
        let descriptor = (in_front.descriptor != 0 && in_front.descriptor_sectors != 0)
            .then(|| (in_front.descriptor.saturating_mul(SECTOR), in_front.descriptor_sectors.saturating_mul(SECTOR)));
        let this = Self {
            file: Paged::new(file, cache),
            size,
            grain: used.grain * SECTOR,
            entries_per_table: per_table,
            directory,
            directory_entries,
            has_zero_grains: used.flags & HAS_ZERO_GRAINS != 0,
            is_compressed: used.flags & IS_COMPRESSED != 0,
            descriptor,
            is_unclean: used.is_unclean,
        };
        this.check_tables()?;
        Ok(this)
    }

    /// The bytes of the descriptor.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when it is not in the file.
    pub(super) fn descriptor_bytes(&self) -> Result<Option<Vec<u8>>, DiskError> {
        let Some((at, len)) = self.descriptor else { return Ok(None) };
        let len = usize::try_from(len.min(super::read_descriptor::BYTES_MAX)).unwrap_or_default();
        header(self.file.file(), at, len).map(Some)
    }

    /// Each table belongs to one entry of the directory: one that were there many times would make a small file take
    /// for ever.
    fn check_tables(&self) -> Result<(), DiskError> {
        let mut seen = HashSet::new();
        let mut index = 0;
        while index < self.directory_entries {
            let at = self.directory + index * 4;
            let row = self.file.row(at, 4, self.directory_entries - index)?;
            for (number, entry) in row.bytes().chunks_exact(4).enumerate() {
                let table = field::le32(entry, 0).unwrap_or_default();
                if table != 0 && !seen.insert(table) {
                    return Err(DiskError::damaged(at + number as u64 * 4, "a table is there twice"));
                }
            }
            index += (row.bytes().len() / 4) as u64;
        }
        Ok(())
    }

    fn decode(&self, entry: u32, start: u64) -> Run {
        let offset = u64::from(entry) * SECTOR;
        match entry {
            0 => Run::Below,
            1 if self.has_zero_grains => Run::Zero,
            // Behind the marker there is something.
            _ if self.is_compressed => Run::Packed(Packed { offset, len: MARKER_BYTES as u64 + 1, start }),
            _ => Run::Plain(offset),
        }
    }
}

/// A grain's place on the disk, and its bytes in the file.
const MARKER_BYTES: usize = 12;

/// What a header, or a footer, says. Units are sectors.
#[derive(Clone, Debug)]
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: u64,
    descriptor_sectors: u64,
    entries_per_table: u32,
    directory: u64,
    is_unclean: bool,
    compression: u16,
}

impl Header {
    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let le32 = |at| field::le32(bytes, at).unwrap_or_default();
        let le64 = |at| field::le64(bytes, at).unwrap_or_default();
        if !bytes.starts_with(MAGIC) {
            return Err("there is no header");
        }
        // Transfers as text put another end to lines.
        if le32(8) & 1 != 0 && bytes.get(73..77) != Some(b"\n \r\n") {
            return Err("the file was changed by a transfer as text");
        }
        Ok(Self {
            version: le32(4),
            flags: le32(8),
            capacity: le64(12),
            grain: le64(20),
            descriptor: le64(28),
            descriptor_sectors: le64(36),
            entries_per_table: le32(44),
            directory: le64(56),
            is_unclean: bytes.get(72).is_some_and(|&byte| byte != 0),
            compression: field::le16(bytes, 77).unwrap_or_default(),
        })
    }

    fn check(&self) -> Result<(), String> {
        if !self.grain.is_power_of_two() || self.grain > GRAIN_SECTORS_MAX {
            return Err(format!("grains of {} sectors", self.grain));
        }
        if !(1..=ENTRIES_PER_TABLE_MAX).contains(&self.entries_per_table) {
            return Err(format!("tables of {} entries", self.entries_per_table));
        }
        if self.capacity > 1 << 50 {
            return Err(format!("a disk of {} sectors", self.capacity));
        }
        Ok(())
    }
}

impl Map for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.grain
    }

    fn data(&self) -> &dyn Contents {
        self.file.file()
    }

    fn run(&self, at: u64) -> Result<(Run, u64), DiskError> {
        let (number, skip) = (at / self.grain, at % self.grain);
        let (table, index) = (number / self.entries_per_table, number % self.entries_per_table);
        let end_of = |table: u64, index: u64| (table * self.entries_per_table + index).saturating_mul(self.grain);
        let row = self.file.row(self.directory + table * 4, 4, self.directory_entries.saturating_sub(table))?;
        let mut tables = row.bytes().chunks_exact(4).map(|entry| field::le32(entry, 0).unwrap_or_default());
        let place = u64::from(tables.next().unwrap_or_default()) * SECTOR;
        if place == 0 {
            let more = tables.take_while(|table| *table == 0).count() as u64;
            return Ok((Run::Below, end_of(table + more + 1, 0)));
        }
        let row = self.file.row(place + index * 4, 4, self.entries_per_table - index)?;
        let mut entries = row.bytes().chunks_exact(4).map(|entry| field::le32(entry, 0).unwrap_or_default());
        let start = at - skip;
        let first = self.decode(entries.next().unwrap_or_default(), start);
        let more = going_on(first, self.grain, entries.map(|entry| self.decode(entry, start)));
        let run = if let Run::Plain(offset) = first { Run::Plain(offset + skip) } else { first };
        Ok((run, end_of(table, index + more + 1)))
    }

    fn unpack(&self, packed: Packed) -> Result<Vec<u8>, DiskError> {
        let damaged = |what: &str| DiskError::damaged(packed.offset, what);
        let file = self.file.file();
        let marker = header(file, packed.offset, MARKER_BYTES)?;
        let sector = field::le64(&marker, 0).unwrap_or_default();
        let len = field::le32(&marker, 8).map_or(0, u64::from);
        if sector.checked_mul(SECTOR) != Some(packed.start) {
            return Err(damaged("a grain that says of itself that it belongs elsewhere"));
        }
        // What does not compress grows, by far less.
        if len > self.grain * 2 + SECTOR {
            return Err(damaged("a compressed grain is too long"));
        }
        let stored = header(file, packed.offset + MARKER_BYTES as u64, usize::try_from(len).unwrap_or_default())?;
        let mut grain = unpack::zlib(&stored, usize::try_from(self.grain).unwrap_or_default())
            .ok_or_else(|| damaged("a compressed grain does not decompress"))?;
        // The last one may end with the disk.
        let needed = usize::try_from(self.grain.min(self.size - packed.start)).unwrap_or_default();
        if grain.len() < needed {
            return Err(damaged("a compressed grain is too short"));
        }
        grain.shrink_to_fit();
        Ok(grain)
    }
}
