//! What a dirty log says about the free space, as the kernel will replay it at the next mount.
//!
//! Metadata reaches its place after the log has it, so the free space trees of a file system that was not
//! unmounted may be older than its log: a block that a committed transaction took would look free. Here the
//! committed buffers that hold free space metadata are collected, and [`Replayed::apply`] lays them over
//! what is read from the volume, by the kernel's rules: a transaction counts when its commit is in the log,
//! a cancelled buffer takes back what was logged for it before, and what is on disk with a later log
//! position stays. What the kernel does after that, finishing extent frees and unlinks, only frees blocks,
//! or takes free ones whose content does not matter.
//!
//! Must not know: trees and groups. Source: `xfs_log_format.h`, and what `xfs_log_recover.c` and
//! `xfs_buf_item_recover.c` of the Linux kernel do with it. Log items are in the byte order of the machine
//! that wrote them; only little-endian ones are read.

use std::collections::{BTreeMap, HashMap};

use super::log::{Log, Record};
use super::superblock::Superblock;
use crate::fs::FsError;
use crate::read_at::field::{be32, be64, le16, le32, le64};

/// Size of a sector address ("daddr").
const DADDR_SIZE: u64 = 512;
const OPERATION_HEADER_SIZE: usize = 12;
const CLIENT_TRANSACTION: u8 = 0x69;
const CLIENT_LOG: u8 = 0xaa;
const FLAG_START: u8 = 0x01;
const FLAG_COMMIT: u8 = 0x02;
const FLAG_CONTINUE: u8 = 0x04;
const FLAG_WAS_CONTINUED: u8 = 0x08;
const FLAG_END: u8 = 0x10;
const FLAG_UNMOUNT: u8 = 0x20;
const TRANSACTION_HEADER_MAGIC: u32 = 0x5452_414e;
const TRANSACTION_HEADER_SIZE: usize = 16;
const ITEM_BUFFER: u16 = 0x123c;
const BUFFER_CANCEL: u16 = 0x2;
const BUFFER_TYPE_SHIFT: u32 = 11;
const TYPE_UNKNOWN: u16 = 0;
const TYPE_BTREE: u16 = 4;
const TYPE_AGF: u16 = 5;
const TYPE_SUPERBLOCK: u16 = 18;
/// Buffers are logged in pieces of this size.
const CHUNK_SIZE: usize = 128;

const TRANSACTIONS_MAX: usize = 1 << 10;
const REGIONS_MAX: u16 = 1 << 10;
const ITEM_SIZE_MAX: usize = 1 << 20;
/// Bounds the memory: about 100 MiB for all that is kept.
const CHUNKS_MAX: usize = 1 << 19;

/// The logged pieces of the buffers that may hold free space metadata.
#[derive(Default)]
pub(super) struct Replayed {
    /// By sector address.
    buffers: HashMap<u64, Buffer>,
    chunks: usize,
    /// The position of the last record.
    end: u64,
}

struct Buffer {
    sectors: u16,
    /// By number; of each the newest, with its log position.
    chunks: BTreeMap<u32, (u64, [u8; CHUNK_SIZE])>,
}

impl Replayed {
    /// Reads the records from log block `tail` to `head`.
    pub(super) fn from_log(log: &Log<'_>, tail: u64, head: u64) -> Result<Self, FsError> {
        let mut replay = Replay::default();
        let mut at = tail;
        while at != head {
            let (record, next) = log.record(at, head)?;
            replay.add_record(&record)?;
            at = next;
        }
        Ok(replay.replayed)
    }

    /// Lays what was logged for the buffer at byte `position` over `bytes`, as read from there; says
    /// whether that changed anything, and with it outdated the checksum.
    pub(super) fn apply(&self, superblock: &Superblock, position: u64, bytes: &mut [u8]) -> Result<bool, FsError> {
        let Some(buffer) = self.buffers.get(&(position / DADDR_SIZE)) else {
            return Ok(false);
        };
        if usize::from(buffer.sectors) * 512 != bytes.len() {
            return Err(odd(format!("a buffer of {} sectors at byte {position}", buffer.sectors)));
        }
        let on_disk = lsn_on_disk(superblock, bytes).unwrap_or(0);
        if on_disk > self.end {
            return Err(odd(format!("byte {position} is from after its end (xfs_repair is needed)")));
        }
        let mut changed = false;
        for (&number, (lsn, chunk)) in buffer.chunks.iter().filter(|(_, (lsn, _))| *lsn > on_disk) {
            let at = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(CHUNK_SIZE);
            let place = at.checked_add(CHUNK_SIZE).and_then(|end| bytes.get_mut(at..end));
            place.ok_or_else(|| odd(format!("lsn {lsn:#x} writes past a buffer's end")))?.copy_from_slice(chunk);
            changed = true;
        }
        Ok(changed)
    }
}

/// The log position that a metadata block on disk is up to date with. Blocks of other kinds have been
/// something else before the log made them what they are now: everything in the log is newer.
fn lsn_on_disk(superblock: &Superblock, bytes: &[u8]) -> Option<u64> {
    const BNO: u32 = u32::from_be_bytes(*b"AB3B");
    const CNT: u32 = u32::from_be_bytes(*b"AB3C");
    const AGF: u32 = u32::from_be_bytes(*b"XAGF");
    const SUPERBLOCK: u32 = super::superblock::MAGIC;
    let (lsn_at, uuid_at) = match be32(bytes, 0)? {
        BNO | CNT => (24, 32),
        AGF => (208, 64),
        SUPERBLOCK if superblock.uuid == superblock.meta_uuid => (240, 32),
        SUPERBLOCK => (240, 248),
        _ => return None,
    };
    let is_ours = bytes.get(uuid_at..uuid_at + 16)? == superblock.meta_uuid.as_slice();
    be64(bytes, lsn_at).filter(|_| is_ours)
}

/// Puts transactions together from operations that may be spread over records.
#[derive(Default)]
struct Replay {
    replayed: Replayed,
    open: HashMap<u32, Transaction>,
    kept: usize,
    newest: u64,
}

/// A transaction whose commit has not been read yet.
struct Transaction {
    lsn: u64,
    /// As much of the transaction header as has been read.
    header: Vec<u8>,
    item: Item,
    writes: Vec<Write>,
}

/// A log item: a format description and as many regions as that says, or fewer as yet.
#[derive(Default)]
struct Item {
    regions: Vec<Vec<u8>>,
    regions_expected: u16,
    size: usize,
}

/// What a transaction does to a buffer.
enum Write {
    Cancel { daddr: u64, sectors: u16 },
    Chunks { daddr: u64, sectors: u16, chunks: Vec<(u32, [u8; CHUNK_SIZE])> },
}

impl Replay {
    fn add_record(&mut self, record: &Record) -> Result<(), FsError> {
        self.replayed.end = record.lsn;
        let mut rest = record.data.as_slice();
        for _ in 0..record.operations {
            if rest.is_empty() {
                break;
            }
            let (header, after) = rest.split_at_checked(OPERATION_HEADER_SIZE).ok_or_else(cut_off)?;
            let (Some(id), Some(len)) = (be32(header, 0), be32(header, 4)) else { return Err(cut_off()) };
            let Some(&[client, flags, ..]) = header.get(8..) else { return Err(cut_off()) };
            if !matches!(client, CLIENT_TRANSACTION | CLIENT_LOG) {
                return Err(odd(format!("client {client:#x}")));
            }
            let len = usize::try_from(len).map_err(|_| cut_off())?;
            let (data, after) = after.split_at_checked(len).ok_or_else(cut_off)?;
            self.add_operation(record.lsn, id, flags, data)?;
            rest = after;
        }
        Ok(())
    }

    fn add_operation(&mut self, lsn: u64, id: u32, flags: u8, data: &[u8]) -> Result<(), FsError> {
        let Some(transaction) = self.open.get_mut(&id) else {
            // What belongs to a transaction that began before the tail has been written to its place.
            if flags & FLAG_START != 0 {
                if self.open.len() >= TRANSACTIONS_MAX {
                    return Err(odd("too many transactions at once"));
                }
                self.open.insert(id, Transaction { lsn, header: vec![], item: Item::default(), writes: vec![] });
            }
            return Ok(());
        };
        let mut kind = flags & !FLAG_END;
        if kind & FLAG_WAS_CONTINUED != 0 {
            kind &= !FLAG_CONTINUE;
        }
        match kind {
            0 | FLAG_CONTINUE => transaction.begin_region(data, &mut self.kept)?,
            FLAG_WAS_CONTINUED => transaction.continue_region(data)?,
            FLAG_COMMIT => {
                if let Some(transaction) = self.open.remove(&id) {
                    self.commit(transaction)?;
                }
            }
            FLAG_UNMOUNT => {
                self.open.remove(&id);
            }
            _ => return Err(odd(format!("operation flags {flags:#x}"))),
        }
        if self.kept + self.replayed.chunks > CHUNKS_MAX {
            return Err(odd("too much in it to be replayed in memory"));
        }
        Ok(())
    }

    fn commit(&mut self, mut transaction: Transaction) -> Result<(), FsError> {
        transaction.finish_item(&mut self.kept)?;
        // The kernel's own rule for equal and descending positions has changed over the years.
        if transaction.lsn < self.newest {
            return Err(odd("transactions out of order"));
        }
        self.newest = transaction.lsn;
        for write in transaction.writes {
            self.kept = self.kept.saturating_sub(write.weight());
            match write {
                Write::Cancel { daddr, sectors } => self.replayed.cancel(daddr, sectors),
                Write::Chunks { daddr, sectors, chunks } => {
                    self.replayed.write(transaction.lsn, daddr, sectors, chunks)?;
                }
            }
        }
        Ok(())
    }
}

impl Replayed {
    fn cancel(&mut self, daddr: u64, sectors: u16) {
        if self.buffers.get(&daddr).is_some_and(|buffer| buffer.sectors == sectors)
            && let Some(buffer) = self.buffers.remove(&daddr)
        {
            self.chunks = self.chunks.saturating_sub(buffer.chunks.len());
        }
    }

    fn write(
        &mut self,
        lsn: u64,
        daddr: u64,
        sectors: u16,
        chunks: Vec<(u32, [u8; CHUNK_SIZE])>,
    ) -> Result<(), FsError> {
        let buffer = self.buffers.entry(daddr).or_insert_with(|| Buffer { sectors, chunks: BTreeMap::new() });
        if buffer.sectors != sectors {
            return Err(odd(format!("buffers of {} and of {sectors} sectors at {daddr:#x}", buffer.sectors)));
        }
        for (number, chunk) in chunks {
            if buffer.chunks.insert(number, (lsn, chunk)).is_none() {
                self.chunks += 1;
            }
        }
        Ok(())
    }
}

impl Transaction {
    fn begin_region(&mut self, data: &[u8], kept: &mut usize) -> Result<(), FsError> {
        if data.is_empty() {
            return Ok(());
        }
        if self.header.len() < TRANSACTION_HEADER_SIZE {
            if !self.header.is_empty() {
                return Err(odd("a transaction header in pieces"));
            }
            return self.add_header(data);
        }
        if self.item.is_complete() {
            self.finish_item(kept)?;
        }
        if self.item.regions.is_empty() {
            self.item.regions_expected = le16(data, 2).unwrap_or(0);
            if !(1..=REGIONS_MAX).contains(&self.item.regions_expected) {
                return Err(odd(format!("an item of {} regions", self.item.regions_expected)));
            }
        }
        self.item.grow(data.len())?;
        self.item.regions.push(data.to_vec());
        Ok(())
    }

    fn continue_region(&mut self, data: &[u8]) -> Result<(), FsError> {
        if self.header.len() < TRANSACTION_HEADER_SIZE {
            return self.add_header(data);
        }
        self.item.grow(data.len())?;
        self.item.regions.last_mut().ok_or_else(|| odd("an item continued before it began"))?.extend(data);
        Ok(())
    }

    fn add_header(&mut self, data: &[u8]) -> Result<(), FsError> {
        self.header.extend(data);
        if self.header.len() > TRANSACTION_HEADER_SIZE || le32(&self.header, 0) != Some(TRANSACTION_HEADER_MAGIC) {
            return Err(odd("a transaction without a header"));
        }
        Ok(())
    }

    fn finish_item(&mut self, kept: &mut usize) -> Result<(), FsError> {
        let item = std::mem::take(&mut self.item);
        if item.regions.is_empty() {
            return Ok(());
        }
        if !item.is_complete() {
            return Err(odd("an item lacks regions"));
        }
        if let Some(write) = item.into_write()? {
            *kept += write.weight();
            self.writes.push(write);
        }
        Ok(())
    }
}

impl Write {
    /// How many chunks it takes to remember it.
    fn weight(&self) -> usize {
        match self {
            Self::Cancel { .. } => 1,
            Self::Chunks { chunks, .. } => chunks.len().max(1),
        }
    }
}

impl Item {
    fn is_complete(&self) -> bool {
        self.regions_expected != 0 && self.regions.len() == usize::from(self.regions_expected)
    }

    fn grow(&mut self, by: usize) -> Result<(), FsError> {
        self.size = self.size.saturating_add(by);
        if self.size > ITEM_SIZE_MAX {
            return Err(odd("an item too large"));
        }
        Ok(())
    }

    /// What the item does to a buffer that may hold free space metadata; `None` for all other items.
    ///
    /// `struct xfs_buf_log_format`: type, number of regions, flags, length in sectors (16 bits each),
    /// address (64 bits), number of words of the map of chunks (32 bits), the map.
    fn into_write(self) -> Result<Option<Write>, FsError> {
        let mut regions = self.regions.into_iter();
        let format = regions.next().unwrap_or_default();
        if le16(&format, 0) != Some(ITEM_BUFFER) {
            return Ok(None);
        }
        let fields = (le16(&format, 4), le16(&format, 6), le64(&format, 8), le32(&format, 16));
        let (Some(blf_flags), Some(sectors), Some(daddr), Some(map_words)) = fields else { return Err(cut_off()) };
        if blf_flags & BUFFER_CANCEL != 0 {
            return Ok(Some(Write::Cancel { daddr, sectors }));
        }
        let blf_type = blf_flags >> BUFFER_TYPE_SHIFT;
        if !matches!(blf_type, TYPE_UNKNOWN | TYPE_BTREE | TYPE_AGF | TYPE_SUPERBLOCK) {
            return Ok(None);
        }
        let bits = map_words.saturating_mul(32).min(u32::from(sectors) * 4);
        let is_set = |bit: u32| {
            let word = usize::try_from(bit / 32).ok().and_then(|word| le32(&format, 20 + word * 4));
            word.map(|word| word >> (bit % 32) & 1 == 1).ok_or_else(cut_off)
        };
        let mut chunks = Vec::new();
        let mut region: Vec<u8> = Vec::new();
        let mut at = 0;
        for bit in 0..bits {
            if !is_set(bit)? {
                // A run of chunks ends with its region.
                if at != region.len() {
                    return Err(odd("a region longer than its place"));
                }
                continue;
            }
            if at == region.len() {
                (region, at) = (regions.next().ok_or_else(|| odd("fewer regions than places"))?, 0);
            }
            let chunk = region.get(at..at + CHUNK_SIZE).and_then(|chunk| chunk.try_into().ok());
            chunks.push((bit, chunk.ok_or_else(|| odd("a region shorter than its place"))?));
            at += CHUNK_SIZE;
        }
        if at != region.len() || regions.next().is_some() {
            return Err(odd("more regions than places"));
        }
        Ok(Some(Write::Chunks { daddr, sectors, chunks }))
    }
}

fn odd(what: impl std::fmt::Display) -> FsError {
    FsError::unsupported(format!("dirty log that cannot be followed: {what}"))
}

fn cut_off() -> FsError {
    odd("an operation is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 8192;

    fn operation(id: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        [&id.to_be_bytes()[..], &len.to_be_bytes(), &[CLIENT_TRANSACTION, flags, 0, 0], data].concat()
    }

    fn begin(id: u32) -> Vec<u8> {
        let header = [&TRANSACTION_HEADER_MAGIC.to_le_bytes()[..], &[0; 12]].concat();
        [operation(id, FLAG_START, &[]), operation(id, 0, &header)].concat()
    }

    fn commit(id: u32) -> Vec<u8> {
        operation(id, FLAG_COMMIT, &[])
    }

    /// The description of a buffer of eight sectors at `BLOCK`, with `map` as its chunks.
    fn format(regions: u16, flags: u16, map: u32) -> Vec<u8> {
        let words = [ITEM_BUFFER, regions, flags, 8].map(u16::to_le_bytes).concat();
        [&words[..], &(BLOCK / 512).to_le_bytes(), &1u32.to_le_bytes(), &map.to_le_bytes()].concat()
    }

    /// A logged buffer: `map` says which of its chunks are filled with `value`, one region each run.
    fn buffer(id: u32, map: u32, runs: &[usize], value: u8) -> Vec<u8> {
        let regions = u16::try_from(runs.len()).unwrap() + 1;
        let mut bytes = operation(id, 0, &format(regions, TYPE_BTREE << BUFFER_TYPE_SHIFT, map));
        for chunks in runs {
            bytes.extend(operation(id, 0, &vec![value; chunks * CHUNK_SIZE]));
        }
        bytes
    }

    fn replay(records: &[(u64, Vec<u8>)]) -> Result<Replayed, FsError> {
        let mut replay = Replay::default();
        for (lsn, data) in records {
            replay.add_record(&Record { lsn: *lsn, operations: u32::MAX, data: data.clone() })?;
        }
        Ok(replay.replayed)
    }

    fn superblock() -> Superblock {
        Superblock {
            checksums: true,
            block_size: 4096,
            sector_size: 512,
            blocks: 1 << 20,
            ag_blocks: 1 << 18,
            ag_count: 4,
            uuid: [7; 16],
            meta_uuid: [7; 16],
            label: None,
            log: None,
            has_realtime: false,
        }
    }

    /// A tree block on disk that is up to date with `lsn`, zeros but for its header; and what is made of it.
    fn applied(replayed: &Replayed, lsn: u64) -> Vec<u8> {
        let mut block = vec![0; 4096];
        block[..4].copy_from_slice(b"AB3B");
        block[24..32].copy_from_slice(&lsn.to_be_bytes());
        block[32..48].copy_from_slice(&[7; 16]);
        replayed.apply(&superblock(), BLOCK, &mut block).unwrap();
        block
    }

    #[test]
    fn a_committed_buffer_lands_where_its_map_says() {
        let record = [begin(1), buffer(1, 0b1_1010, &[1, 2], 9), commit(1)].concat();
        let block = applied(&replay(&[(5, record)]).unwrap(), 0);
        assert!(block[128..256].iter().chain(&block[384..640]).all(|&b| b == 9));
        assert!(block[256..384].iter().chain(&block[640..]).all(|&b| b == 0));
    }

    #[test]
    fn a_run_of_chunks_may_come_in_several_regions() {
        let record = [begin(1), buffer(1, 0b1110, &[1, 1, 1], 9), commit(1)].concat();
        assert!(applied(&replay(&[(5, record)]).unwrap(), 0)[128..512].iter().all(|&b| b == 9));
    }

    #[test]
    fn what_was_not_committed_does_not_count() {
        let record = [begin(1), buffer(1, 0b10, &[1], 9)].concat();
        assert!(replay(&[(5, record)]).unwrap().buffers.is_empty());
        let record = [buffer(1, 0b10, &[1], 9), commit(1)].concat();
        assert!(replay(&[(5, record)]).unwrap().buffers.is_empty(), "it began before the tail");
    }

    #[test]
    fn a_cancelled_buffer_takes_back_what_came_before_and_not_what_comes_after() {
        let cancel = operation(2, 0, &format(1, BUFFER_CANCEL, 0));
        let first = [begin(1), buffer(1, 0b110, &[2], 1), commit(1)].concat();
        let cancel = [begin(2), cancel, commit(2)].concat();
        let last = [begin(3), buffer(3, 0b10, &[1], 3), commit(3)].concat();
        let replayed = replay(&[(5, first), (6, cancel), (7, last)]).unwrap();
        let block = applied(&replayed, 0);
        assert_eq!((block[128], block[256]), (3, 0));
        assert_eq!(replayed.chunks, 1);
    }

    #[test]
    fn what_is_newer_on_disk_stays() {
        let first = [begin(1), buffer(1, 0b110, &[2], 1), commit(1)].concat();
        let second = [begin(2), buffer(2, 0b10, &[1], 2), commit(2)].concat();
        let replayed = replay(&[(5, first), (6, second)]).unwrap();
        let at = |lsn| (applied(&replayed, lsn)[128], applied(&replayed, lsn)[256]);
        assert_eq!([at(4), at(5), at(6)], [(2, 1), (2, 0), (0, 0)]);
        let mut block = applied(&replayed, 6);
        block[31] = 7;
        assert!(replayed.apply(&superblock(), BLOCK, &mut block).is_err(), "newer than the log");
    }

    #[test]
    fn an_item_may_be_spread_over_records() {
        let [description, region] = [format(2, TYPE_AGF << BUFFER_TYPE_SHIFT, 0b10), vec![9; CHUNK_SIZE]];
        let first = [begin(1), operation(1, FLAG_CONTINUE, &description[..8])].concat();
        let second = [
            operation(1, FLAG_WAS_CONTINUED | FLAG_END, &description[8..]),
            operation(1, FLAG_CONTINUE, &region[..100]),
        ];
        let third = [operation(1, FLAG_WAS_CONTINUED | FLAG_END, &region[100..]), commit(1)];
        let replayed = replay(&[(5, first), (6, second.concat()), (7, third.concat())]).unwrap();
        assert!(applied(&replayed, 4)[128..256].iter().all(|&b| b == 9));
        assert_eq!(applied(&replayed, 5)[128], 0, "the transaction began at 5");
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let cases = [
            [begin(1), buffer(1, 0b110, &[1], 9), commit(1)].concat(),
            [begin(1), buffer(1, 0b10, &[2], 9), commit(1)].concat(),
            [begin(1), buffer(1, 0b10, &[1, 1], 9), commit(1)].concat(),
            [begin(1), operation(1, 0, &format(2, 0, 1)), commit(1)].concat(),
            [begin(1), operation(1, 0, &format(0, 0, 1)), commit(1)].concat(),
            [begin(1), begin(1)].concat(),
            [operation(1, FLAG_START, &[]), operation(1, 0, &[0; 16])].concat(),
            operation(1, FLAG_START, &[])[..11].to_vec(),
        ];
        for (number, record) in cases.into_iter().enumerate() {
            assert!(matches!(replay(&[(5, record)]), Err(FsError::Unsupported(_))), "case {number}");
        }
        let transaction = |id| [begin(id), commit(id)].concat();
        assert!(replay(&[(6, transaction(1)), (5, transaction(2))]).is_err());
    }

    #[test]
    fn the_memory_that_a_log_can_take_is_bounded() {
        let open: Vec<u8> = (0..2000).flat_map(begin).collect();
        assert!(replay(&[(5, open)]).is_err());
        let mut many = begin(1);
        for _ in 0..CHUNKS_MAX / 32 + 2 {
            many.extend(buffer(1, u32::MAX, &[32], 1));
        }
        assert!(replay(&[(5, many)]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_bytes_are_followed_or_refused(records: Vec<Vec<u8>>) {
            let _ = replay(&records.into_iter().map(|data| (1, data)).collect::<Vec<_>>());
        }

        #[test]
        fn any_damage_to_a_record_is_followed_or_refused(damage in prop::collection::vec((0..1000usize, any::<u8>()), 1..6)) {
            let mut record = [begin(1), buffer(1, 0b1_1010, &[1, 2], 9), commit(1), begin(2), buffer(2, 6, &[2], 1)].concat();
            for (at, byte) in damage {
                let at = at % record.len();
                record[at] = byte;
            }
            if let Ok(replayed) = replay(&[(5, record)]) {
                let mut block = vec![0; 4096];
                let _ = replayed.apply(&superblock(), BLOCK, &mut block);
            }
        }
    }
}
