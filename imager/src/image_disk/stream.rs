//! A disk from its first byte to its last, as fast as all processors can decompress it: pieces are read and worked
//! on by many threads and handed over in order.
//!
//! ```text
//! what the disk's runs are ─► pieces, numbered ─► threads: read, work ─► in order ─► one taker
//! ```
//!
//! No more than a window of pieces is in memory. Must not know: what the work is.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex};

use super::{Allocation, ImageDisk};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::memory::Budget;
use crate::progress::{Progress, lock};

/// Data are cut at multiples of this.
pub const PIECE: u64 = 1 << 20;
/// Runs are asked for so many bytes at a time.
const WINDOW: u64 = 64 << 20;

/// A disk that can be read anywhere and knows what its runs are.
pub trait MappedDisk: Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// What the bytes of `wanted` are, ascending, without gaps.
    ///
    /// # Errors
    /// As [`ImageDisk::allocation`].
    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>>;

    /// Fills `buf` with what is at `offset`.
    ///
    /// # Errors
    /// As [`ImageDisk::read`].
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

impl MappedDisk for ImageDisk {
    fn size(&self) -> u64 {
        self.size()
    }

    fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
        self.allocation(wanted)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read(offset, buf)
    }
}

/// What is handed over.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<T> {
    /// Data, at most [`PIECE`] bytes of it, and what the work made of them.
    Data(T),
    /// Zeros that are in use.
    Zero,
    /// Not in use; reads as zeros.
    Unused,
}

/// Reads `disk` in order. Runs of data are widened to multiples of `align`, a power of two up to [`PIECE`], for work
/// that wants whole blocks; the disk's last piece ends with the disk. `work` is called from many threads, `take` by
/// this one, in order and without gaps.
///
/// # Errors
/// What the disk, `work` or `take` say, [`Error::Interrupted`].
pub fn in_order<T: Send>(
    disk: &dyn MappedDisk,
    align: u64,
    memory: Budget,
    progress: &Progress,
    work: &(dyn Fn(Extent, &mut Vec<u8>) -> Result<T> + Sync),
    take: &mut dyn FnMut(Extent, Piece<T>) -> Result<()>,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // Others read while one waits for the store.
    let threads = cores + 2;
    let window = (memory.fetch_ahead_bytes() / PIECE).max(2 * threads as u64);
    let shared = Shared {
        disk,
        feed: Mutex::new(Feed { disk, align: align.clamp(1, PIECE), at: 0, pieces: VecDeque::new(), next: 0 }),
        state: Mutex::new(State { done: BTreeMap::new(), taken: 0, left: threads, stopped: false }),
        changed: Condvar::new(),
        window,
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let work = AssertUnwindSafe(|| shared.work(progress, work));
                if catch_unwind(work).is_err() {
                    shared.fail(Error::Internal("a thread that reads an image panicked".to_owned()));
                }
                lock(&shared.state).left -= 1;
                shared.changed.notify_all();
            });
        }
        let result = shared.take(progress, take);
        lock(&shared.state).stopped = true;
        shared.changed.notify_all();
        result
    })
}

struct Feed<'a> {
    disk: &'a dyn MappedDisk,
    align: u64,
    /// What comes next and is not cut up yet.
    at: u64,
    pieces: VecDeque<(Extent, Allocation)>,
    /// Number of the next piece.
    next: u64,
}

impl Feed<'_> {
    fn next(&mut self) -> Result<Option<(u64, Extent, Allocation)>> {
        while self.pieces.is_empty() && self.at < self.disk.size() {
            let wanted = Extent::between(self.at, self.at.saturating_add(WINDOW).min(self.disk.size()));
            let runs = self.disk.allocation(wanted)?;
            cut(wanted, &runs, self.align, &mut self.pieces);
            self.at = wanted.end();
        }
        let Some((extent, what)) = self.pieces.pop_front() else { return Ok(None) };
        self.next += 1;
        Ok(Some((self.next - 1, extent, what)))
    }
}

/// Cuts a window, which begins at a multiple of [`PIECE`], into pieces.
fn cut(window: Extent, runs: &[(Extent, Allocation)], align: u64, pieces: &mut VecDeque<(Extent, Allocation)>) {
    let widened = |run: &Extent| {
        let end = run.end().checked_next_multiple_of(align).unwrap_or(u64::MAX);
        Extent::between(run.start - run.start % align, end).intersection(window)
    };
    let data: ExtentSet =
        runs.iter().filter(|(_, what)| *what == Allocation::Data).map(|(run, _)| widened(run)).collect();
    let mut found: Vec<(Extent, Allocation)> = data.iter().map(|run| (run, Allocation::Data)).collect();
    for (run, what) in runs.iter().filter(|(_, what)| *what != Allocation::Data) {
        found.extend(data.complement(*run).iter().map(|rest| (rest, *what)));
    }
    found.sort_unstable_by_key(|(run, _)| run.start);
    for (run, what) in found {
        if what != Allocation::Data {
            pieces.push_back((run, what));
            continue;
        }
        let mut at = run.start;
        while at < run.end() {
            let end = (at - at % PIECE).saturating_add(PIECE).min(run.end());
            pieces.push_back((Extent::between(at, end), what));
            at = end;
        }
    }
}

struct State<T> {
    done: BTreeMap<u64, Result<(Extent, Piece<T>)>>,
    /// Number of the piece that is taken next.
    taken: u64,
    /// Threads at work.
    left: usize,
    stopped: bool,
}

struct Shared<'a, T> {
    disk: &'a dyn MappedDisk,
    feed: Mutex<Feed<'a>>,
    state: Mutex<State<T>>,
    changed: Condvar,
    window: u64,
}

impl<T: Send> Shared<'_, T> {
    /// What is wrong is told in its turn, after all that was good before it.
    fn work(&self, progress: &Progress, work: &(dyn Fn(Extent, &mut Vec<u8>) -> Result<T> + Sync)) {
        let mut buf = Vec::new();
        while !progress.is_stopped() {
            let (number, extent, what) = match lock(&self.feed).next() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => return self.fail(error),
            };
            if !self.wait_for_turn(number) {
                return;
            }
            let piece = match what {
                Allocation::Data => self.data(extent, &mut buf, work).map(Piece::Data),
                Allocation::Zero => Ok(Piece::Zero),
                Allocation::Unused => Ok(Piece::Unused),
            };
            let failed = piece.is_err();
            lock(&self.state).done.insert(number, piece.map(|piece| (extent, piece)));
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    fn data(
        &self,
        extent: Extent,
        buf: &mut Vec<u8>,
        work: &(dyn Fn(Extent, &mut Vec<u8>) -> Result<T> + Sync),
    ) -> Result<T> {
        buf.resize(usize::try_from(extent.len).unwrap_or(0), 0);
        self.disk.read(extent.start, buf)?;
        work(extent, buf)
    }

    /// False when nobody waits for it any more.
    fn wait_for_turn(&self, number: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.stopped && number >= state.taken.saturating_add(self.window) {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        !state.stopped
    }

    /// Ends the reading with an error that belongs to no piece. Pieces that are missing now never come.
    fn fail(&self, error: Error) {
        let mut state = lock(&self.state);
        state.done.entry(u64::MAX).or_insert(Err(error));
        state.stopped = true;
        drop(state);
        self.changed.notify_all();
    }

    fn take(&self, progress: &Progress, take: &mut dyn FnMut(Extent, Piece<T>) -> Result<()>) -> Result<()> {
        loop {
            progress.check()?;
            let next = {
                let mut state = lock(&self.state);
                loop {
                    let number = state.taken;
                    if let Some(next) = state.done.remove(&number) {
                        state.taken += 1;
                        break Some(next);
                    }
                    if state.left == 0 {
                        break state.done.remove(&u64::MAX);
                    }
                    state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            };
            self.changed.notify_all();
            match next {
                Some(next) => {
                    let (extent, piece) = next?;
                    take(extent, piece)?;
                }
                // Threads that were asked to stop leave without a word.
                None => return progress.check(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes, and which runs of it are what.
    struct Pretend {
        runs: Vec<(Extent, Allocation)>,
        fails_at: Option<u64>,
    }

    impl Pretend {
        fn new(runs: &[(u64, Allocation)]) -> Self {
            let mut at = 0;
            let mut placed = Vec::new();
            for (len, what) in runs {
                placed.push((Extent::new(at, *len), *what));
                at += len;
            }
            Self { runs: placed, fails_at: None }
        }

        fn byte(&self, at: u64) -> u8 {
            let run = self.runs.iter().find(|(run, _)| (run.start..run.end()).contains(&at));
            if run.is_some_and(|(_, what)| *what == Allocation::Data) { (at / 1000 % 255) as u8 + 1 } else { 0 }
        }
    }

    impl MappedDisk for Pretend {
        fn size(&self) -> u64 {
            self.runs.last().map_or(0, |(run, _)| run.end())
        }

        fn allocation(&self, wanted: Extent) -> Result<Vec<(Extent, Allocation)>> {
            let shared = self.runs.iter().map(|(run, what)| (run.intersection(wanted), *what));
            Ok(shared.filter(|(run, _)| !run.is_empty()).collect())
        }

        fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            if self.fails_at.is_some_and(|at| offset >= at) {
                return Err(Error::damaged("it", offset, "on purpose"));
            }
            for (at, byte) in (offset..).zip(buf) {
                *byte = self.byte(at);
            }
            Ok(())
        }
    }

    fn kinds() -> impl Strategy<Value = Allocation> {
        prop_oneof![Just(Allocation::Data), Just(Allocation::Zero), Just(Allocation::Unused)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn everything_comes_once_and_in_order(
            runs in proptest::collection::vec((1u64..3_000_000, kinds()), 0..12),
            shift in 0u32..21,
        ) {
            let disk = Pretend::new(&runs);
            let align = 1 << shift;
            let mut at = 0;
            let sum = |bytes: &mut [u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            in_order(&disk, align, Budget::new(0), &Progress::new(), &|extent, bytes| {
                assert!(bytes.len() as u64 == extent.len && extent.len <= PIECE);
                assert!(extent.start % align == 0 && (extent.end() % align == 0 || extent.end() == disk.size()));
                Ok(sum(bytes))
            }, &mut |extent, piece| {
                assert_eq!(extent.start, at);
                at = extent.end();
                let expected: u64 = (extent.start..extent.end()).step_by(997).map(|at| u64::from(disk.byte(at))).sum();
                match piece {
                    Piece::Data(found) => {
                        let mut bytes = vec![0; usize::try_from(extent.len).unwrap()];
                        disk.read(extent.start, &mut bytes).unwrap();
                        assert_eq!(found, sum(&mut bytes));
                    }
                    Piece::Zero | Piece::Unused => assert_eq!(expected, 0),
                }
                Ok(())
            }).unwrap();
            prop_assert_eq!(at, disk.size());
        }
    }

    #[test]
    fn an_error_comes_after_what_was_good() {
        let mut disk = Pretend::new(&[(50 * PIECE, Allocation::Data)]);
        disk.fails_at = Some(20 * PIECE);
        let mut at = 0;
        let read = in_order(&disk, 1, Budget::new(0), &Progress::new(), &|_, _| Ok(()), &mut |extent, _| {
            at = extent.end();
            Ok(())
        });
        assert!(matches!(read, Err(Error::Damaged { .. })));
        assert_eq!(at, 20 * PIECE);
    }

    #[test]
    fn a_taker_that_fails_a_stop_and_a_panic_end_it() {
        let disk = Pretend::new(&[(300 * PIECE, Allocation::Data)]);
        let full = in_order(&disk, 1, Budget::new(0), &Progress::new(), &|_, _| Ok(()), &mut |_, _| {
            Err(Error::Usage("full".into()))
        });
        assert!(matches!(full, Err(Error::Usage(_))));
        let progress = Progress::new();
        let stopped = in_order(&disk, 1, Budget::new(0), &progress, &|_, _| Ok(()), &mut |_, _| {
            progress.stop();
            Ok(())
        });
        assert!(matches!(stopped, Err(Error::Interrupted)));
        let panicked = in_order(
            &disk,
            1,
            Budget::new(0),
            &Progress::new(),
            &|_, _| -> Result<()> { std::panic::resume_unwind(Box::new(())) },
            &mut |_, _| Ok(()),
        );
        assert!(matches!(panicked, Err(Error::Internal(_))));
    }
}
