//! Reads qcow2. Must not know: what for.
//!
//! The state that the virtual machine sees is read; internal snapshots are not. Reference counts are not looked at.

use std::collections::HashSet;
use std::sync::Arc;

use super::read_header::{Compression, Header};
use crate::read_at::field;
use crate::vm_disk::cache::Cache;
use crate::vm_disk::contents::{Contents, Disk, Neighbours};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::mapped::{Map, Mapped, Packed, Run, going_on, surveyed};
use crate::vm_disk::pages::Paged;
use crate::vm_disk::unpack;

/// Bits of an entry that are the place of a table or cluster.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const IS_COPIED: u64 = 1 << 63;
const IS_COMPRESSED: u64 = 1 << 62;
const IS_ZERO: u64 = 1;
/// Parts of a cluster that have bits of their own in extended entries.
const SUBCLUSTERS: u64 = 32;

/// A disk in a qcow2 file.
pub struct Qcow2;

impl Qcow2 {
    /// Reads `file`; what it does not have is read from `backing`, zeros without one. A file that names another is
    /// refused when none is given.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(file: Box<dyn Contents>, backing: Option<Box<dyn Contents>>) -> Result<Disk, DiskError> {
        let header = Header::read(&*file)?;
        if let (Some((name, _)), None) = (&header.backing, &backing) {
            let name = String::from_utf8_lossy(name);
            return Err(DiskError::unsupported(format!(
                "it holds only what differs from `{name}`, which is needed, too"
            )));
        }
        if header.data_file.is_some() {
            return Err(DiskError::unsupported("its data are in another file"));
        }
        disk(file, &header, backing, None, &Arc::default())
    }
}

/// Reads `file` with the files that it names.
///
/// # Errors
/// [`DiskError`].
pub(in crate::vm_disk) fn open(
    file: Box<dyn Contents>,
    neighbours: &dyn Neighbours,
    cache: &Arc<Cache>,
) -> Result<Disk, DiskError> {
    let header = Header::read(&*file)?;
    let backing = header.backing.as_ref().map(|(name, format)| neighbours.disk(name, format.as_deref()));
    let data = header.data_file.as_ref().map(|name| neighbours.file(name));
    disk(file, &header, backing.transpose()?, data.transpose()?, cache)
}

fn disk(
    file: Box<dyn Contents>,
    header: &Header,
    backing: Option<Box<dyn Contents>>,
    data: Option<Box<dyn Contents>>,
    cache: &Arc<Cache>,
) -> Result<Disk, DiskError> {
    let mut notes = Vec::new();
    if header.dirty {
        notes.push("it was not closed properly; the data are complete as far as they were written".to_owned());
    }
    if header.snapshots > 0 {
        notes.push(format!("it has {} internal snapshots; only the current state is read", header.snapshots));
    }
    let map = Clusters {
        file: Paged::new(file, cache),
        data,
        version: header.version,
        bits: header.cluster_bits,
        size: header.size,
        l1_offset: header.l1_offset,
        l1_entries: header.size.div_ceil(header.l2_span()),
        l2_entry: header.l2_entry(),
        compression: header.compression,
    };
    map.check_tables()?;
    let contents = surveyed(Mapped::new(map, backing, cache), &mut notes)?;
    Ok(Disk { contents, sector_size: None, notes })
}

/// Where the clusters are: a table of tables.
struct Clusters {
    file: Paged,
    data: Option<Box<dyn Contents>>,
    version: u32,
    bits: u32,
    size: u64,
    l1_offset: u64,
    l1_entries: u64,
    /// Bytes of an entry of the second level.
    l2_entry: usize,
    compression: Compression,
}

impl Clusters {
    fn cluster(&self) -> u64 {
        1 << self.bits
    }

    fn entries_per_table(&self) -> u64 {
        self.cluster() / self.l2_entry as u64
    }

    /// Each table of the second level belongs to one entry of the first: one that were there many times would make
    /// a small file take for ever.
    fn check_tables(&self) -> Result<(), DiskError> {
        let mut seen = HashSet::new();
        let mut index = 0;
        while index < self.l1_entries {
            let at = self.l1_offset + index * 8;
            let row = self.file.row(at, 8, self.l1_entries - index)?;
            for (number, entry) in row.bytes().chunks_exact(8).enumerate() {
                let table = field::be64(entry, 0).unwrap_or_default() & OFFSET;
                if table != 0 && !seen.insert(table) {
                    return Err(DiskError::damaged(at + number as u64 * 8, "a table is there twice"));
                }
            }
            index += (row.bytes().len() / 8) as u64;
        }
        Ok(())
    }

    /// What an entry of the second level says of the bytes from `skip` on of its cluster; `start` is the cluster's
    /// place on the disk.
    fn decode(&self, entry: u64, start: u64, skip: u64) -> Result<Run, String> {
        if entry & IS_COMPRESSED != 0 {
            if self.data.is_some() {
                return Err("a compressed cluster in a file that has none".to_owned());
            }
            let shift = 62 - (self.bits - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = ((entry & !(IS_COPIED | IS_COMPRESSED)) >> shift) + 1;
            let len = (sectors * 512).saturating_sub(offset % 512);
            // The last one's sector may not be written to its end.
            let len = len.min(self.file.file().size().saturating_sub(offset)).max(1);
            return Ok(Run::Packed(Packed { offset, len, start }));
        }
        let offset = entry & OFFSET;
        if self.l2_entry == 8 && entry & IS_ZERO != 0 {
            return if self.version < 3 {
                Err("a flag of version 3 in a file of version 2".to_owned())
            } else {
                Ok(Run::Zero)
            };
        }
        if offset == 0 && !(self.data.is_some() && entry & IS_COPIED != 0) {
            return Ok(Run::Below);
        }
        if !offset.is_multiple_of(self.cluster()) {
            return Err(format!("a cluster at {offset}, which is no multiple of {}", self.cluster()));
        }
        if self.data.is_some() && offset != start {
            return Err(format!("a cluster of another file at {offset}, which is not {start}"));
        }
        Ok(Run::Plain(offset + skip))
    }

    /// What an extended entry says of byte `skip` of its cluster, and up to which byte of the cluster.
    fn decode_extended(&self, entry: &[u8], start: u64, skip: u64) -> Result<(Run, u64), String> {
        let descriptor = field::be64(entry, 0).unwrap_or_default();
        let bits = field::be64(entry, 8).unwrap_or_default();
        if descriptor & IS_COMPRESSED != 0 {
            return Ok((self.decode(descriptor, start, skip)?, self.cluster()));
        }
        if descriptor & IS_ZERO != 0 {
            return Err("a reserved flag is set".to_owned());
        }
        let part = self.cluster() / SUBCLUSTERS;
        let state = |number: u64| (bits >> number & 1 != 0, bits >> (number + SUBCLUSTERS) & 1 != 0);
        let first = skip / part;
        let same = (first..SUBCLUSTERS).take_while(|number| state(*number) == state(first)).count() as u64;
        let run = match state(first) {
            (true, true) => return Err("a part of a cluster is both data and zeros".to_owned()),
            (false, true) => Run::Zero,
            (false, false) => Run::Below,
            (true, false) => match self.decode(descriptor, start, skip)? {
                Run::Below => return Err("a part of a cluster that is not there".to_owned()),
                run => run,
            },
        };
        Ok((run, (first + same) * part))
    }
}

impl Map for Clusters {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.cluster()
    }

    fn data(&self) -> &dyn Contents {
        self.data.as_deref().unwrap_or_else(|| self.file.file())
    }

    fn run(&self, at: u64) -> Result<(Run, u64), DiskError> {
        let (number, skip) = (at >> self.bits, at % self.cluster());
        let (table, index) = (number / self.entries_per_table(), number % self.entries_per_table());
        let end_of = |table: u64, index: u64| {
            table.saturating_mul(self.entries_per_table()).saturating_add(index).saturating_mul(self.cluster())
        };
        let l1_at = self.l1_offset + table * 8;
        let row = self.file.row(l1_at, 8, self.l1_entries.saturating_sub(table))?;
        let mut tables = row.bytes().chunks_exact(8).map(|entry| field::be64(entry, 0).unwrap_or_default() & OFFSET);
        let l2_offset = tables.next().unwrap_or_default();
        if l2_offset == 0 {
            let more = tables.take_while(|offset| *offset == 0).count() as u64;
            return Ok((Run::Below, end_of(table + more + 1, 0)));
        }
        if !l2_offset.is_multiple_of(self.cluster()) {
            return Err(DiskError::damaged(
                l1_at,
                format!("a table at {l2_offset}, which is no multiple of a cluster"),
            ));
        }
        let l2_at = l2_offset + index * self.l2_entry as u64;
        let row = self.file.row(l2_at, self.l2_entry, self.entries_per_table() - index)?;
        let wrong = |what: String| DiskError::damaged(l2_at, what);
        let start = at - skip;
        if self.l2_entry == 16 {
            let (run, end) = self.decode_extended(row.bytes(), start, skip).map_err(wrong)?;
            return Ok((run, start.saturating_add(end)));
        }
        let mut entries = row.bytes().chunks_exact(8).map(|entry| field::be64(entry, 0).unwrap_or_default());
        let first = self.decode(entries.next().unwrap_or_default(), start, 0).map_err(wrong)?;
        let starts = (1..).map(|more| start.saturating_add(self.cluster().saturating_mul(more)));
        // What is wrong with one that follows is said when its turn comes.
        let following = entries.zip(starts).map_while(|(entry, start)| self.decode(entry, start, 0).ok());
        let more = going_on(first, self.cluster(), following);
        let run = match first {
            Run::Plain(offset) => Run::Plain(offset + skip),
            other => other,
        };
        Ok((run, end_of(table, index + more + 1)))
    }

    fn unpack(&self, packed: Packed) -> Result<Vec<u8>, DiskError> {
        let len = usize::try_from(packed.len).unwrap_or(usize::MAX);
        let stored = self.file.file().read_vec(packed.offset, len)?;
        let cluster = usize::try_from(self.cluster()).unwrap_or_default();
        let unpacked = match self.compression {
            Compression::Deflate => unpack::deflate(&stored, cluster),
            Compression::Zstd => unpack::zstd(&stored, cluster),
        };
        unpacked
            .filter(|block| block.len() == cluster)
            .ok_or_else(|| DiskError::damaged(packed.offset, "a compressed cluster does not decompress"))
    }
}
