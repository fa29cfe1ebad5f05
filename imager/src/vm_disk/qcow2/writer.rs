//! Writes qcow2, version 3.
//!
//! ```text
//! plain:       header │ refcount table │ refcounts │ L1 │ L2 tables │ clusters, ascending
//! compressed:  header │ clusters, packed │ L2 tables │ refcounts │ refcount table │ L1
//! ```
//!
//! A cluster without data is not there. Must not know: where the bytes come from.

#![forbid(unsafe_code)]

use std::io;

use super::super::blocks::Blocks;
use super::super::layout::{Layout, Put, Sequence, put_field, put_table};
use super::{COMPRESSION, L1_BYTES_MAX, MAGIC};
use crate::error::{Error, Result};

const VERSION: u32 = 3;
const HEADER_LEN: u32 = 112;
/// Refcounts have 2^4 bits.
const REFCOUNT_ORDER: u32 = 4;
const COMPRESSION_ZSTD: u8 = 1;
/// The cluster is there once only, and may be written in place.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Size of the clusters of a disk of `size` bytes: QEMU's own 64 KiB as long as their tables stay small.
#[must_use]
pub fn cluster_size(size: u64) -> u64 {
    let mut cluster = 64 << 10;
    while cluster < 2 << 20 && size / cluster > super::super::blocks::Marks::BLOCKS_MAX / 4 {
        cluster *= 2;
    }
    cluster
}

/// The header's fields that differ.
struct Header {
    size: u64,
    cluster: u64,
    l1_entries: u64,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u64,
    zstd: bool,
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_LEN as usize] {
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = [0; HEADER_LEN as usize];
        put_field(&mut bytes, 0, &MAGIC);
        put_field(&mut bytes, 4, &VERSION.to_be_bytes());
        put_field(&mut bytes, 20, &self.cluster.trailing_zeros().to_be_bytes());
        put_field(&mut bytes, 24, &self.size.next_multiple_of(512).to_be_bytes());
        put_field(&mut bytes, 36, &small(self.l1_entries));
        put_field(&mut bytes, 40, &self.l1_offset.to_be_bytes());
        put_field(&mut bytes, 48, &self.refcount_offset.to_be_bytes());
        put_field(&mut bytes, 56, &small(self.refcount_clusters));
        if self.zstd {
            put_field(&mut bytes, 72, &COMPRESSION.to_be_bytes());
            put_field(&mut bytes, 104, &[COMPRESSION_ZSTD]);
        }
        put_field(&mut bytes, 96, &REFCOUNT_ORDER.to_be_bytes());
        put_field(&mut bytes, 100, &HEADER_LEN.to_be_bytes());
        bytes
    }
}

/// Entries of the L1 table.
fn l1_entries(size: u64, cluster: u64) -> Result<u64> {
    let entries = size.div_ceil(cluster.saturating_mul(cluster / 8)).max(1);
    if entries * 8 > L1_BYTES_MAX {
        return Err(Error::Usage(format!("a disk of {} does not fit into a qcow2", crate::units::size(size))));
    }
    Ok(entries)
}

/// Clusters of refcounts, and of the table of those, for a file that has `others` clusters beside them.
fn refcounts(others: u64, cluster: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (1, 1);
    loop {
        let needed = (others + blocks + table).div_ceil(cluster / 2);
        let needed_table = (needed * 8).div_ceil(cluster);
        if needed <= blocks && needed_table <= table {
            return (blocks, table);
        }
        (blocks, table) = (needed.max(blocks), needed_table.max(table));
    }
}

/// A file of clusters as they are.
pub struct Plain {
    header: Header,
    refcount_blocks: u64,
    clusters: u64,
    l2_offset: u64,
    /// The L2 tables that there are.
    tables: Blocks,
    data: Sequence,
}

impl Plain {
    /// For a disk of `size` bytes that has these blocks, of [`cluster_size`].
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large.
    pub fn new(size: u64, blocks: Blocks) -> Result<Self> {
        let cluster = blocks.block_size();
        let per_table = cluster / 8;
        let l1_entries = l1_entries(size, cluster)?;
        let mut tables = super::super::blocks::Marks::new(l1_entries, 1)?;
        for table in (0..l1_entries).filter(|table| blocks.any(table * per_table, per_table)) {
            tables.insert(crate::extent::Extent::new(table, 1));
        }
        let tables = tables.counted();
        let l1_clusters = (l1_entries * 8).div_ceil(cluster);
        let others = 1 + l1_clusters + tables.marked() + blocks.marked();
        let (refcount_blocks, refcount_clusters) = refcounts(others, cluster);
        let l1_offset = (1 + refcount_clusters + refcount_blocks) * cluster;
        let l2_offset = l1_offset + l1_clusters * cluster;
        let first = l2_offset + tables.marked() * cluster;
        let header =
            Header { size, cluster, l1_entries, l1_offset, refcount_offset: cluster, refcount_clusters, zstd: false };
        let clusters = others + refcount_blocks + refcount_clusters;
        Ok(Self {
            header,
            refcount_blocks,
            clusters,
            l2_offset,
            tables,
            data: Sequence { blocks, first, stride: cluster },
        })
    }
}

impl Layout for Plain {
    fn place(&self, offset: u64) -> (Option<u64>, u64) {
        self.data.place(offset)
    }

    fn file_size(&self) -> u64 {
        self.clusters * self.header.cluster
    }

    fn write_tables(&self, put: &mut Put<'_>) -> io::Result<()> {
        let Header { cluster, refcount_clusters, l1_offset, l1_entries, .. } = self.header;
        put(0, &self.header.bytes())?;
        let first_refcounts = (1 + refcount_clusters) * cluster;
        put_table(put, cluster, self.refcount_blocks, [0; 8], &|block| {
            (first_refcounts + block * cluster).to_be_bytes()
        })?;
        put_table(put, first_refcounts, self.clusters, [0; 2], &|_| 1u16.to_be_bytes())?;
        let table = |table| self.tables.number(table).map(|number| self.l2_offset + number * cluster);
        put_table(put, l1_offset, l1_entries, [0; 8], &|index| {
            table(index).map_or(0, |offset| offset | COPIED).to_be_bytes()
        })?;
        let per_table = cluster / 8;
        for (index, offset) in (0..l1_entries).filter_map(|index| Some((index, table(index)?))) {
            put_table(put, offset, per_table, [0; 8], &|entry| {
                self.data.block(index * per_table + entry).map_or(0, |offset| offset | COPIED).to_be_bytes()
            })?;
        }
        Ok(())
    }
}

/// A cluster for [`Packed`].
pub enum Cluster {
    /// As it is.
    Whole(Vec<u8>),
    /// One zstd frame, smaller than the cluster.
    Zstd(Vec<u8>),
}

impl Cluster {
    /// Compresses a cluster; the last one of a disk may be shorter than the others. None for zeros.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn of(bytes: &[u8], cluster: u64) -> io::Result<Option<Self>> {
        const LEVEL: i32 = 3;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // Readers decompress whole clusters.
        let mut whole = bytes.to_vec();
        whole.resize(usize::try_from(cluster).map_err(io::Error::other)?, 0);
        let packed = zstd::bulk::compress(&whole, LEVEL)?;
        // It may take up to a sector more than it has.
        Ok(Some(if packed.len() + 512 < whole.len() { Self::Zstd(packed) } else { Self::Whole(whole) }))
    }
}

/// A file of compressed clusters, one behind the other: written in one go, but for its header.
pub struct Packed {
    size: u64,
    cluster: u64,
    /// Where the next bytes go.
    at: u64,
    /// Of each cluster of the file.
    refcounts: Vec<u16>,
    /// The L2 tables that are there: number, entries.
    tables: Vec<(u64, Vec<u64>)>,
}

impl Packed {
    /// Of a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is too large.
    pub fn new(size: u64) -> Result<Self> {
        let cluster = cluster_size(size);
        l1_entries(size, cluster)?;
        Ok(Self { size, cluster, at: cluster, refcounts: vec![1], tables: Vec::new() })
    }

    /// Size of its clusters.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Adds cluster number `number`, which comes behind all that were added before.
    ///
    /// # Errors
    /// What `put` says; when there are more bytes than an entry can say.
    pub fn add(&mut self, number: u64, cluster: &Cluster, put: &mut Put<'_>) -> io::Result<()> {
        let (bytes, is_packed) = match cluster {
            Cluster::Whole(bytes) => (bytes, false),
            Cluster::Zstd(bytes) => (bytes, true),
        };
        if !is_packed {
            self.at = self.at.next_multiple_of(self.cluster);
        }
        let entry = if is_packed { self.packed_entry(bytes.len() as u64)? } else { self.at | COPIED };
        put(self.at, bytes)?;
        let end = self.at + bytes.len() as u64;
        // A reader reads whole sectors.
        let last = if is_packed { end.next_multiple_of(512) } else { end };
        for cluster in self.at / self.cluster..last.div_ceil(self.cluster) {
            self.count(cluster);
        }
        self.at = end;
        let per_table = self.cluster / 8;
        let table = number / per_table;
        if self.tables.last().is_none_or(|(last, _)| *last != table) {
            let entries = vec![0; usize::try_from(per_table).map_err(io::Error::other)?];
            self.tables.push((table, entries));
        }
        let place = usize::try_from(number % per_table).map_err(io::Error::other)?;
        if let Some(field) = self.tables.last_mut().and_then(|(_, entries)| entries.get_mut(place)) {
            *field = entry;
        }
        Ok(())
    }

    /// Low bits: the offset; above: how many sectors more than the first it touches.
    fn packed_entry(&self, len: u64) -> io::Result<u64> {
        let offset_bits = 62 - (self.cluster.trailing_zeros() - 8);
        let sectors = (self.at % 512 + len).div_ceil(512).saturating_sub(1);
        if self.at >> offset_bits != 0 {
            return Err(io::Error::other("more compressed data than a qcow2 can hold"));
        }
        Ok(COMPRESSED | sectors << offset_bits | self.at)
    }

    fn count(&mut self, cluster: u64) {
        let index = usize::try_from(cluster).unwrap_or(usize::MAX);
        if self.refcounts.len() <= index {
            self.refcounts.resize(index + 1, 0);
        }
        if let Some(count) = self.refcounts.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// Writes the tables behind the clusters, and the header. Gives the file's size.
    ///
    /// # Errors
    /// What `put` says.
    pub fn finish(mut self, put: &mut Put<'_>) -> Result<u64, io::Error> {
        let cluster = self.cluster;
        let l1_entries = l1_entries(self.size, cluster).map_err(io::Error::other)?;
        let l2_offset = self.at.next_multiple_of(cluster);
        let l1_offset = l2_offset + self.tables.len() as u64 * cluster;
        let l1_clusters = (l1_entries * 8).div_ceil(cluster);
        let refcount_offset = l1_offset + l1_clusters * cluster;
        let (blocks, table) = refcounts(refcount_offset / cluster, cluster);
        let clusters = refcount_offset / cluster + blocks + table;
        for cluster in l2_offset / cluster..clusters {
            self.count(cluster);
        }
        let mut l1 = vec![0u64; usize::try_from(l1_entries).map_err(io::Error::other)?];
        for (index, (number, entries)) in (0u64..).zip(&self.tables) {
            let offset = l2_offset + index * cluster;
            put(offset, &entries.iter().flat_map(|entry| entry.to_be_bytes()).collect::<Vec<u8>>())?;
            if let Some(entry) = usize::try_from(*number).ok().and_then(|number| l1.get_mut(number)) {
                *entry = offset | COPIED;
            }
        }
        let entry = |index: u64| l1.get(usize::try_from(index).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        put_table(put, l1_offset, l1_entries, [0; 8], &|index| entry(index).to_be_bytes())?;
        let first_refcounts = refcount_offset + table * cluster;
        put_table(put, refcount_offset, blocks, [0; 8], &|block| (first_refcounts + block * cluster).to_be_bytes())?;
        let count = |index: u64| self.refcounts.get(usize::try_from(index).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        put_table(put, first_refcounts, clusters, [0; 2], &|index| count(index).to_be_bytes())?;
        let header = Header {
            size: self.size,
            cluster,
            l1_entries,
            l1_offset,
            refcount_offset,
            refcount_clusters: table,
            zstd: true,
        };
        put(0, &header.bytes())?;
        Ok(clusters * cluster)
    }
}
