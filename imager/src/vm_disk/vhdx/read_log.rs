//! The log of a VHDX file: changes to its tables that were made safe and perhaps not carried out. They are carried out
//! in memory; the file stays as it is.
//!
//! Must not know: what the changes are about.

use std::collections::BTreeMap;
use std::io;

use super::read_header::{Log, checksum};
use crate::extent::{Extent, ExtentSet};
use crate::read_at::{ReadAt, check_range, field};
use crate::vm_disk::contents::Contents;
use crate::vm_disk::error::DiskError;
use crate::vm_disk::pages::header;

const SECTOR: usize = 4096;
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// Logs are 1 MiB; the format has no bound.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// So many times the bytes of a log are summed, at most, to find its entries: one that was written whole is summed once
/// or twice, and of those that a newer one was written over there are few.
const SUMMED_MAX: u64 = 16;

/// A file with the changes of its log.
pub(super) struct Replayed {
    file: Box<dyn Contents>,
    size: u64,
    sectors: BTreeMap<u64, Box<[u8]>>,
    zeros: ExtentSet,
}

/// The file after its log.
///
/// # Errors
/// [`DiskError::Damaged`] when the log has no sequence of entries that holds.
pub(super) fn replay(file: Box<dyn Contents>, log: Log) -> Result<Replayed, DiskError> {
    let damaged = |what: &str| DiskError::damaged(log.offset, what);
    if log.len == 0 || log.len > LOG_BYTES_MAX || !log.len.is_multiple_of(SECTOR as u64) {
        return Err(DiskError::damaged(log.offset, format!("a log of {} bytes", log.len)));
    }
    let ring = header(&*file, log.offset, usize::try_from(log.len).unwrap_or_default())?;
    let entries = match sequence(&ring, &log) {
        Some(entries) => entries,
        // Opened for writing, and nothing came of it.
        None if !is_used(&ring, &log) => Vec::new(),
        None => {
            let advice = "let Hyper-V mend it (`Mount-VHD`), or `qemu-img check -r all` on a copy";
            return Err(damaged(&format!("its log has no run of entries that holds; {advice}")));
        }
    };
    let mut this = Replayed { size: file.size(), file, sectors: BTreeMap::new(), zeros: ExtentSet::new() };
    for entry in &entries {
        if entry.flushed > this.file.size() {
            return Err(damaged("the file is shorter than its log says: it is cut off"));
        }
        this.size = this.size.max(entry.last);
        this.apply(entry).ok_or_else(|| damaged("an entry of its log names what it does not have"))?;
    }
    Ok(this)
}

/// Whether anything in the log claims to be an entry of it.
fn is_used(ring: &[u8], log: &Log) -> bool {
    ring.chunks_exact(SECTOR).any(|sector| sector.starts_with(b"loge") && sector.get(32..48) == Some(&log.id[..]))
}

/// An entry, in one piece.
struct Entry {
    bytes: Vec<u8>,
    number: u64,
    tail: usize,
    descriptors: usize,
    /// Size of the file when it was written, and with what it is about.
    flushed: u64,
    last: u64,
}

/// The entry at byte `at` of the log, when it holds. `left` is how many bytes may still be summed.
fn entry_at(ring: &[u8], at: usize, log: &Log, left: &mut u64) -> Option<Entry> {
    let head = ring.get(at..at.checked_add(ENTRY_HEADER)?)?;
    let le32 = |at| field::le32(head, at).and_then(|n| usize::try_from(n).ok());
    let len = le32(8)?;
    if !head.starts_with(b"loge") || head.get(32..48)? != log.id || len == 0 || len % SECTOR != 0 || len > ring.len() {
        return None;
    }
    *left = left.saturating_sub(len as u64);
    if *left == 0 {
        return None;
    }
    let (first, rest) = (ring.len() - at, len.saturating_sub(ring.len() - at));
    let mut bytes = ring.get(at..at + len.min(first))?.to_vec();
    bytes.extend_from_slice(ring.get(..rest)?);
    if field::le32(&bytes, 4) != Some(checksum(&bytes, 4)) {
        return None;
    }
    let entry = Entry {
        number: field::le64(&bytes, 16)?,
        tail: le32(12)?,
        descriptors: le32(24)?,
        flushed: field::le64(&bytes, 48)?,
        last: field::le64(&bytes, 56)?,
        bytes,
    };
    let room = entry.bytes.len().saturating_sub(ENTRY_HEADER) / DESCRIPTOR;
    (entry.descriptors <= room && entry.last <= i64::MAX.unsigned_abs()).then_some(entry)
}

/// The entries to carry out, in order: of all runs of entries with ascending numbers, the one that ends with the
/// highest, from that entry's tail on.
fn sequence(ring: &[u8], log: &Log) -> Option<Vec<Entry>> {
    let mut newest: Option<(u64, usize, usize)> = None;
    let mut starts = 0;
    let mut left = SUMMED_MAX * ring.len() as u64;
    // Each start is looked at once: a run that begins within another is a part of it.
    while starts < ring.len() {
        let Some(first) = entry_at(ring, starts, log, &mut left) else {
            starts += SECTOR;
            continue;
        };
        let (mut head, mut number, mut tail, mut len) = (starts, first.number, first.tail, first.bytes.len());
        let mut passed = len;
        while passed < ring.len()
            && let Some(next) = entry_at(ring, (head + len) % ring.len(), log, &mut left)
            && Some(next.number) == number.checked_add(1)
            && passed + next.bytes.len() <= ring.len()
        {
            head = (head + len) % ring.len();
            (number, tail, len) = (next.number, next.tail, next.bytes.len());
            passed += len;
        }
        if newest.is_none_or(|(other, ..)| number > other) {
            newest = Some((number, tail, head));
        }
        starts += passed;
    }
    let (_, tail, head) = newest?;
    let mut entries: Vec<Entry> = Vec::new();
    let (mut at, mut passed) = (tail, 0);
    loop {
        let entry = entry_at(ring, at, log, &mut left).filter(|_| at.is_multiple_of(SECTOR))?;
        if entries.last().is_some_and(|last| last.number.checked_add(1) != Some(entry.number)) {
            return None;
        }
        passed += entry.bytes.len();
        let next = (at + entry.bytes.len()) % ring.len();
        entries.push(entry);
        if at == head {
            return Some(entries);
        }
        if passed >= ring.len() {
            return None;
        }
        at = next;
    }
}

impl Replayed {
    fn apply(&mut self, entry: &Entry) -> Option<()> {
        let mut data = (ENTRY_HEADER + entry.descriptors * DESCRIPTOR).next_multiple_of(SECTOR);
        for number in 0..entry.descriptors {
            let at = ENTRY_HEADER + number * DESCRIPTOR;
            let descriptor = entry.bytes.get(at..at + DESCRIPTOR)?;
            let offset = field::le64(descriptor, 16)?;
            if field::le64(descriptor, 24)? != entry.number || !offset.is_multiple_of(SECTOR as u64) {
                return None;
            }
            if descriptor.starts_with(b"zero") {
                let place = Extent::new(offset, field::le64(descriptor, 8)?);
                let gone: Vec<u64> = self.sectors.range(place.start..place.end()).map(|(at, _)| *at).collect();
                gone.iter().for_each(|at| drop(self.sectors.remove(at)));
                self.zeros.insert(place);
            } else if descriptor.starts_with(b"desc") {
                let sector = entry.bytes.get(data..data + SECTOR)?;
                data += SECTOR;
                let (high, low) = (field::le32(sector, 4)?, field::le32(sector, SECTOR - 4)?);
                if !sector.starts_with(b"data") || u64::from(high) << 32 | u64::from(low) != entry.number {
                    return None;
                }
                // The first eight bytes and the last four of what was written make room for signature and number.
                let written = [descriptor.get(8..16)?, sector.get(8..SECTOR - 4)?, descriptor.get(4..8)?].concat();
                self.sectors.insert(offset, written.into_boxed_slice());
            } else {
                return None;
            }
        }
        Some(())
    }
}

impl ReadAt for Replayed {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        crate::vm_disk::contents::read_padded(&*self.file, offset, buf)?;
        let wanted = Extent::new(offset, buf.len() as u64);
        let within = |part: Extent, start: u64| -> io::Result<std::ops::Range<usize>> {
            let from = usize::try_from(part.start - start).map_err(io::Error::other)?;
            Ok(from..from + usize::try_from(part.len).map_err(io::Error::other)?)
        };
        for part in self.zeros.intersect(wanted) {
            if let Some(part) = buf.get_mut(within(part, offset)?) {
                part.fill(0);
            }
        }
        for (at, sector) in self.sectors.range(offset.saturating_sub(SECTOR as u64 - 1)..wanted.end()) {
            let part = Extent::new(*at, SECTOR as u64).intersection(wanted);
            if let (Some(to), Some(of)) = (buf.get_mut(within(part, offset)?), sector.get(within(part, *at)?)) {
                to.copy_from_slice(of);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Contents for Replayed {
    fn data_extents(&self) -> Result<ExtentSet, DiskError> {
        let sectors: ExtentSet = self.sectors.keys().map(|at| Extent::new(*at, SECTOR as u64)).collect();
        Ok(self.file.data_extents()?.union(&sectors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(ring: &mut [u8], at: usize, len: usize) {
        let len = u32::try_from(len).unwrap();
        ring[at..at + 4].copy_from_slice(b"loge");
        ring[at + 8..at + 12].copy_from_slice(&len.to_le_bytes());
        ring[at + 12..at + 16].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
        ring[at + 32..at + 48].fill(7);
    }

    #[test]
    fn claims_without_end_are_not_summed_without_end() {
        let log = Log { id: [7; 16], offset: 0, len: 64 * SECTOR as u64 };
        let found = |claims: usize| {
            let mut ring = vec![0; 64 * SECTOR];
            for number in 0..claims {
                put(&mut ring, number * SECTOR, 64 * SECTOR);
            }
            let last = 63 * SECTOR;
            put(&mut ring, last, SECTOR);
            let sum = checksum(&ring[last..], 4);
            ring[last + 4..last + 8].copy_from_slice(&sum.to_le_bytes());
            sequence(&ring, &log).map(|entries| entries.len())
        };
        assert_eq!((found(0), found(10), found(63)), (Some(1), Some(1), None));
    }
}
