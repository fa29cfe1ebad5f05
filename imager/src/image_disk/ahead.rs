//! Fetching ahead: what readers that go forward will want next, on threads of its own.
//!
//! Must not know: who reads, frames.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Sender, bounded};

use super::ImageDisk;
use crate::extent::Extent;
use crate::progress::lock;

/// Fetched by one thread: most of a frame.
const PIECE_BYTES: u64 = 1 << 20;
/// So far ahead of a reader each thread fetches.
const AHEAD_BYTES: u64 = 2 << 20;
/// More threads than these decompress more than any connection carries.
const THREADS_MAX: usize = 4;
/// Readers of one disk that are told apart.
const READERS_MAX: usize = 16;
/// Who reads forward has so many reads under way at once, which come in any order.
const UNDER_WAY: u64 = 4;

/// Threads that fetch ahead, for any number of disks.
pub struct ReadAhead {
    sender: Sender<(Arc<ImageDisk>, Extent)>,
    ahead: u64,
}

impl ReadAhead {
    /// Starts the threads; they end with the last of its owners. Without a thread nothing is fetched ahead.
    #[must_use]
    pub fn start() -> Option<Arc<Self>> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (sender, receiver) = bounded::<(Arc<ImageDisk>, Extent)>(4 * count);
        let mut ahead = 0;
        for _ in 0..count {
            let receiver = receiver.clone();
            let work = move || receiver.into_iter().for_each(|(disk, place)| disk.fetch(place));
            if std::thread::Builder::new().name("read-ahead".into()).spawn(work).is_ok() {
                ahead += AHEAD_BYTES;
            }
        }
        (ahead > 0).then(|| Arc::new(Self { sender, ahead }))
    }

    /// Somebody reads `read` of a disk: whoever goes forward finds there what comes next.
    pub fn note(&self, disk: &Arc<ImageDisk>, read: Extent) {
        let next = disk.readers.note(read, self.ahead, disk.size);
        self.fetch(disk, next);
    }

    /// Somebody will want `place` of a disk. No more of it is fetched than the threads have time for.
    pub fn fetch(&self, disk: &Arc<ImageDisk>, place: Extent) {
        let pieces = (place.start..place.end()).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
        for start in pieces {
            let piece = Extent::between(start, place.end().min(start.saturating_add(PIECE_BYTES)));
            if self.sender.try_send((Arc::clone(disk), piece)).is_err() {
                break;
            }
        }
    }
}

/// Who reads a disk, the last one at the end.
#[derive(Default)]
pub(super) struct Readers(Mutex<VecDeque<Reader>>);

struct Reader {
    /// Where the next read is expected.
    end: u64,
    /// Bytes that were read in a row.
    run: u64,
    /// Up to here everything was asked for.
    asked: u64,
}

impl Readers {
    /// What is worth fetching once `read` is: as much as was read in a row, and no more than `most`.
    fn note(&self, read: Extent, most: u64, size: u64) -> Extent {
        let mut readers = lock(&self.0);
        let slack = read.len.saturating_mul(UNDER_WAY);
        let is_next = |reader: &Reader| {
            let expected = reader.end.saturating_sub(slack)..=reader.asked.saturating_add(slack);
            expected.contains(&read.start)
        };
        let known = readers.iter().position(is_next).and_then(|at| readers.remove(at));
        let mut reader = known.unwrap_or(Reader { end: 0, run: 0, asked: 0 });
        reader.end = reader.end.max(read.end());
        reader.run = reader.run.saturating_add(read.len);
        reader.asked = reader.asked.max(reader.end);
        let until = reader.end.saturating_add(reader.run.min(most)).min(size);
        let pieces = until.saturating_sub(reader.asked) / PIECE_BYTES;
        let next = Extent::new(reader.asked, pieces * PIECE_BYTES);
        reader.asked = reader.asked.max(next.end());
        readers.push_back(reader);
        if readers.len() > READERS_MAX {
            readers.pop_front();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 100 * MIB;

    /// What is fetched while `len` bytes are read at each of `starts`.
    fn fetched(starts: impl IntoIterator<Item = u64>, len: u64) -> Vec<Extent> {
        let readers = Readers::default();
        let next = starts.into_iter().map(|start| readers.note(Extent::new(start, len), 4 * MIB, SIZE));
        next.filter(|next| !next.is_empty()).collect()
    }

    fn assert_covers(fetched: &[Extent], from: u64, to: u64) {
        let (first, last) = (fetched.first().unwrap(), fetched.last().unwrap());
        assert!(fetched.windows(2).all(|pair| pair[0].end() == pair[1].start), "each once: {fetched:?}");
        assert!(first.start <= from && last.end() >= to && last.end() <= SIZE, "{fetched:?}");
    }

    #[test]
    fn who_goes_forward_finds_what_comes_next() {
        let quarter = MIB / 4;
        assert_covers(&fetched((0..200).map(|n| n * quarter), quarter), 2 * MIB, 53 * MIB);
        // To the end of the disk, and in whatever order requests that are under way come.
        assert_covers(&fetched((0..400).map(|n| n * quarter), quarter), 2 * MIB, 99 * MIB);
        assert_covers(&fetched((0..200).map(|n| (n ^ 3) * quarter), quarter), 4 * MIB, 53 * MIB);
        // Two at once.
        let two = fetched((0..200).map(|n| n / 2 * quarter + n % 2 * (50 * MIB)), quarter);
        let (low, high): (Vec<_>, Vec<_>) = two.into_iter().partition(|next| next.start < 50 * MIB);
        assert_covers(&low, 2 * MIB, 28 * MIB);
        assert_covers(&high, 52 * MIB, 78 * MIB);
    }

    #[test]
    fn who_reads_here_and_there_makes_nobody_fetch_anything() {
        assert!(fetched((0..5000).map(|n| n * 2_654_435_761 % (SIZE / 4096) * 4096), 4096).is_empty());
        assert!(fetched((0..100).rev().map(|n| n * MIB), 4096).is_empty());
        // Nor does a short file.
        assert!(fetched((0..7).map(|n| n * (64 << 10)), 64 << 10).is_empty());
    }
}
