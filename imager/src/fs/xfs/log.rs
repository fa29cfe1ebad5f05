//! The log: whether it is clean, and the records of a log that is not.
//!
//! The log is a ring of 512-byte blocks. Each block carries the number of the cycle in which it was
//! written, so that the head lies where the cycle number falls by one. Only such plain rings are read, with
//! at most the last record half written; what else a power cut may leave (a hole, records beyond it) is
//! refused, because there the kernel chooses what to drop, and an allocation map must not depend on
//! choosing alike. Must not know: what the records say. Source: `xfs_log_format.h`, and what `xfs_log_recover.c` of the Linux kernel accepts.

use super::checksum;
use super::superblock::{LogPlace, Superblock};
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{be32, be64, le32};

/// Size of a log block ("basic block"), whatever the file system's blocks are.
const BLOCK_SIZE: u64 = 512;
const HEADER_MAGIC: u32 = 0xFEED_BABE;
/// One header block holds the cycle numbers of this many bytes of a record.
const DATA_SIZE_PER_HEADER: u32 = 32 << 10;
const BLOCKS_PER_HEADER: usize = 64;
const RECORD_SIZE_MAX: u32 = 256 << 10;
/// Log blocks that can be under way at once: eight buffers of 256 KiB.
const IN_FLIGHT_MAX: u64 = 8 * 512;
const CRC_AT: usize = 32;
const OPERATION_FLAGS_AT: usize = 9;
const FLAG_UNMOUNT: u8 = 0x20;
/// `sizeof(struct xlog_rec_header)` on 64-bit and on 32-bit machines: the checksum covers the padding, too.
const HEADER_SIZES: [usize; 2] = [328, 324];
const EXTENDED_HEADER_SIZE: usize = 260;
const FORMAT_LITTLE_ENDIAN: u32 = 1;

/// A log inside the volume.
pub(super) struct Log<'a> {
    volume: &'a dyn ReadAt,
    place: LogPlace,
    /// Length of the ring, in log blocks.
    blocks: u64,
    uuid: [u8; 16],
}

/// What the log says about the metadata elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The last record is that of an unmount: everything is in place.
    Clean,
    /// The records from log block `tail` up to `head` have to be replayed.
    Dirty { tail: u64, head: u64 },
}

/// A record of a dirty log, its checksum and sequence verified.
pub(super) struct Record {
    /// Cycle number above, log block below: later is greater.
    pub(super) lsn: u64,
    /// How many operations `data` holds.
    pub(super) operations: u32,
    /// The operations.
    pub(super) data: Vec<u8>,
}

impl<'a> Log<'a> {
    /// The log of the file system that `superblock` describes, at `place`.
    pub(super) fn new(volume: &'a dyn ReadAt, superblock: &Superblock, place: LogPlace) -> Self {
        Self { volume, place, blocks: place.len / BLOCK_SIZE, uuid: superblock.uuid }
    }

    /// Finds the head of the log and the last record, and what that one says.
    pub(super) fn state(&self) -> Result<State, FsError> {
        let mut head = self.find_head()?;
        let mut last = self.last_header_before(head)?;
        if last.blocks() != self.distance(last.block, head) {
            // A record that was being written when the power failed, or the first one of a log that xfsprogs has
            // made anew, with zeros behind it: for the kernel, too, the log ends before it.
            head = last.block;
            last = self.last_header_before(head)?;
        }
        if self.after(last.block, last.blocks()) != head {
            return Err(self.odd(last.block, "the last record is incomplete"));
        }
        if last.operations == 1 && self.is_unmount(&last)? {
            return Ok(State::Clean);
        }
        let (tail_cycle, tail) = (last.tail_lsn >> 32, last.tail_lsn & 0xffff_ffff);
        if tail == head {
            return Ok(State::Clean);
        }
        if tail >= self.blocks || self.header(tail)?.cycle != u32::try_from(tail_cycle).unwrap_or(0) {
            return Err(self.odd(last.block, "the last record's tail is no record"));
        }
        Ok(State::Dirty { tail, head })
    }

    /// Reads the record at log block `at` and says where the next one begins.
    ///
    /// `head` is where the records end.
    pub(super) fn record(&self, at: u64, head: u64) -> Result<(Record, u64), FsError> {
        let header = self.header(at)?;
        let room = self.distance(at, head);
        if header.blocks() > room || header.len > header.size {
            return Err(self.odd(at, "a record reaches past the head"));
        }
        if header.lsn != u64::from(header.cycle) << 32 | at || header.format != FORMAT_LITTLE_ENDIAN {
            return Err(self.odd(at, "a record of another place or byte order"));
        }
        let (headers, mut data) = self.contents(&header)?;
        restore_first_words(&headers, &mut data).ok_or_else(|| self.odd(at, "a record's header is cut off"))?;
        data.truncate(usize::try_from(header.len).unwrap_or(0));
        let next = self.after(at, header.blocks());
        Ok((Record { lsn: header.lsn, operations: header.operations, data }, next))
    }

    /// The header blocks and the data blocks of a record, its checksum verified.
    fn contents(&self, header: &Header) -> Result<(Vec<u8>, Vec<u8>), FsError> {
        let headers = self.read(header.block, header.header_blocks())?;
        let data = self.read(self.after(header.block, header.header_blocks()), header.data_blocks())?;
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if !data.get(..len).is_some_and(|data| is_intact(&headers, data)) {
            return Err(self.odd(header.block, "a record's checksum is wrong"));
        }
        Ok((headers, data))
    }

    /// The log block where the next record would be written.
    fn find_head(&self) -> Result<u64, FsError> {
        if self.blocks < 2 {
            return Err(self.odd(0, "too small"));
        }
        let (first, last) = (self.cycle(0)?, self.cycle(self.blocks - 1)?);
        if first == 0 {
            return Err(self.odd(0, "all zeros"));
        }
        let mut head = self.blocks;
        if first != last {
            if first != last.wrapping_add(1) {
                return Err(self.odd(0, "the cycle numbers make no sense"));
            }
            let mut low = 0;
            head = self.blocks - 1;
            while head - low > 1 {
                let middle = low + (head - low) / 2;
                if self.cycle(middle)? == last {
                    head = middle;
                } else {
                    low = middle;
                }
            }
        }
        let mut before = self.cycles(head.saturating_sub(IN_FLIGHT_MAX), head)?;
        while before.last() == Some(&0) {
            before.pop();
        }
        let after = self.cycles(head, (head + IN_FLIGHT_MAX).min(self.blocks))?;
        let wrapped = self.blocks.saturating_sub(IN_FLIGHT_MAX.saturating_sub(head)).max(head);
        let wrapped = self.cycles(wrapped, self.blocks)?;
        // When the head is the end, it is also the beginning: what comes next must be of the same cycle, too.
        let start = if head == self.blocks { self.cycles(0, IN_FLIGHT_MAX.min(self.blocks))? } else { Vec::new() };
        let is_plain = before.iter().chain(&start).all(|&cycle| cycle == first)
            && after.iter().chain(&wrapped).all(|&cycle| cycle == last);
        if !is_plain {
            return Err(self.odd(head, "a hole near the head, as a power cut leaves it"));
        }
        Ok(head % self.blocks)
    }

    /// The cycle numbers of the blocks from `start` up to `end`.
    fn cycles(&self, start: u64, end: u64) -> Result<Vec<u32>, FsError> {
        let bytes = self.read(start, end.saturating_sub(start))?;
        Ok(bytes.chunks_exact(512).filter_map(cycle_of).collect())
    }

    fn cycle(&self, at: u64) -> Result<u32, FsError> {
        cycle_of(&self.read(at, 1)?).ok_or_else(|| self.odd(at, "cut off"))
    }

    /// The header of the last record before `head`.
    fn last_header_before(&self, head: u64) -> Result<Header, FsError> {
        let window = (RECORD_SIZE_MAX / 512 + RECORD_SIZE_MAX / DATA_SIZE_PER_HEADER).into();
        let window = self.blocks.min(window);
        let start = (head + self.blocks - window) % self.blocks;
        let bytes = self.read(start, window)?;
        let back = bytes.rchunks_exact(512).position(|block| be32(block, 0) == Some(HEADER_MAGIC));
        let back = back.and_then(|back| u64::try_from(back).ok()).ok_or_else(|| self.odd(head, "no last record"))?;
        self.header((head + self.blocks - 1 - back) % self.blocks)
    }

    fn header(&self, at: u64) -> Result<Header, FsError> {
        let bytes = self.read(at, 1)?;
        let header = Header::from_bytes(&bytes, at).ok_or_else(|| self.odd(at, "no record header"))?;
        if header.uuid != self.uuid {
            return Err(self.odd(at, "a record of another file system"));
        }
        let versions_ok = matches!((header.version, self.place.version_2), (1, _) | (2 | 3, true));
        // mkfs.xfs writes its one record with the log's stripe unit as length, whatever the size says.
        let size_ok = header.size <= RECORD_SIZE_MAX && (header.len <= header.size || header.operations == 1);
        if !versions_ok || !(1..=RECORD_SIZE_MAX).contains(&header.len) || (header.version != 1 && !size_ok) {
            return Err(self.odd(at, "a record header that makes no sense"));
        }
        Ok(header)
    }

    fn is_unmount(&self, last: &Header) -> Result<bool, FsError> {
        // mkfs.xfs, xfs_repair and the kernels before 3.8 write no checksum.
        if last.crc != 0 {
            self.contents(last)?;
        }
        let data = self.read(self.after(last.block, last.header_blocks()), 1)?;
        Ok(data.get(OPERATION_FLAGS_AT).is_some_and(|flags| flags & FLAG_UNMOUNT != 0))
    }

    /// Reads `count` log blocks from `at` on, over the end of the ring if need be.
    fn read(&self, at: u64, count: u64) -> Result<Vec<u8>, FsError> {
        if at > self.blocks || count > self.blocks {
            return Err(self.odd(at, "positions outside"));
        }
        let before_end = count.min(self.blocks - at);
        let len = |blocks: u64| usize::try_from(blocks * BLOCK_SIZE).unwrap_or(usize::MAX);
        let mut bytes = self.volume.read_vec(self.place.start + at * BLOCK_SIZE, len(before_end))?;
        if before_end < count {
            bytes.extend(self.volume.read_vec(self.place.start, len(count - before_end))?);
        }
        Ok(bytes)
    }

    /// The log block that lies `count` blocks after `at`.
    fn after(&self, at: u64, count: u64) -> u64 {
        (at + count) % self.blocks
    }

    /// How many blocks lie between `at` and `head`; the whole ring when they are the same.
    fn distance(&self, at: u64, head: u64) -> u64 {
        if at < head { head - at } else { self.blocks - at + head }
    }

    fn odd(&self, at: u64, what: &str) -> FsError {
        let at = self.place.start.saturating_add(at.saturating_mul(BLOCK_SIZE));
        FsError::unsupported(format!("the log cannot be trusted: {what} (byte {at} of the volume)"))
    }
}

/// `struct xlog_rec_header`, big-endian.
struct Header {
    /// The log block that it fills.
    block: u64,
    cycle: u32,
    version: u32,
    len: u32,
    lsn: u64,
    tail_lsn: u64,
    crc: u32,
    operations: u32,
    format: u32,
    uuid: [u8; 16],
    size: u32,
}

impl Header {
    fn from_bytes(bytes: &[u8], block: u64) -> Option<Self> {
        if be32(bytes, 0)? != HEADER_MAGIC {
            return None;
        }
        Some(Self {
            block,
            cycle: be32(bytes, 4)?,
            version: be32(bytes, 8)?,
            len: be32(bytes, 12)?,
            lsn: be64(bytes, 16)?,
            tail_lsn: be64(bytes, 24)?,
            crc: le32(bytes, CRC_AT)?,
            operations: be32(bytes, 40)?,
            format: be32(bytes, 300)?,
            uuid: bytes.get(304..320)?.try_into().ok()?,
            size: be32(bytes, 320)?,
        })
    }

    fn header_blocks(&self) -> u64 {
        if self.version == 1 { 1 } else { u64::from(self.size.div_ceil(DATA_SIZE_PER_HEADER).max(1)) }
    }

    fn data_blocks(&self) -> u64 {
        u64::from(self.len).div_ceil(BLOCK_SIZE)
    }

    fn blocks(&self) -> u64 {
        self.header_blocks() + self.data_blocks()
    }
}

fn cycle_of(block: &[u8]) -> Option<u32> {
    match be32(block, 0)? {
        HEADER_MAGIC => be32(block, 4),
        cycle => Some(cycle),
    }
}

/// Compares the checksum over the header, the extended headers that the data need, and the data.
fn is_intact(headers: &[u8], data: &[u8]) -> bool {
    let headers_used = data.len().div_ceil(BLOCKS_PER_HEADER * 512);
    let extended = headers.chunks(512).take(headers_used).skip(1);
    HEADER_SIZES.iter().any(|&size| {
        let Some(mut digest) = headers.get(..size).and_then(|header| checksum::start(header, CRC_AT)) else {
            return false;
        };
        extended.clone().filter_map(|header| header.get(..EXTENDED_HEADER_SIZE)).for_each(|h| digest.update(h));
        digest.update(data);
        le32(headers, CRC_AT) == Some(digest.finalize())
    })
}

/// Puts back the first word of every block of `data`, which the cycle number has taken the place of.
fn restore_first_words(headers: &[u8], data: &mut [u8]) -> Option<()> {
    for (index, block) in data.chunks_mut(512).enumerate() {
        let (header, slot) = (index / BLOCKS_PER_HEADER, index % BLOCKS_PER_HEADER);
        // `h_cycle_data` in the first header, `xh_cycle_data` in the others.
        let at = header * 512 + if header == 0 { 44 } else { 4 } + slot * 4;
        let word = headers.get(at..at + 4)?;
        block.get_mut(..4)?.copy_from_slice(word);
    }
    Some(())
}
