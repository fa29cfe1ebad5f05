//! Reads that come back in any order, or not at all, make the image that reads in order make, or none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imager::Error;
use imager::disk::identity::Identity;
use imager::disk::source::Source;
use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::repo::Repository;

use crate::engine::{DiskContent, FaultDisk, MemStore, TestDisk, capture, capture_sources, init, within};
use crate::support::noise;

const MIB: u64 = 1 << 20;

/// Some reads take longer than others, some need none, and one brings down the thread that waits for it.
struct Uneven {
    disk: FaultDisk,
    reads: AtomicUsize,
    panics_at: usize,
}

impl ReadAt for Uneven {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() < 256 << 10 {
            // Before the capture, to find out what is on the disk; or because of the bad sectors.
            return self.disk.read_at(offset, buf);
        }
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        assert!(number != self.panics_at, "on purpose");
        std::thread::sleep(Duration::from_millis([1, 14, 0, 3, 27, 0, 8][number % 7]));
        self.disk.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }
}

impl Source for Uneven {
    fn identity(&self) -> &Identity {
        self.disk.identity()
    }

    fn sector_size(&self) -> Option<u32> {
        self.disk.sector_size()
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> usize {
        // All, none, and half of it.
        let there = [buf.len(), 0, buf.len() / 2][usize::try_from(offset / MIB % 3).unwrap()];
        self.disk.read_at(offset, &mut buf[..there]).map_or(0, |()| there)
    }
}

/// Noise, zeros and words, so that cuts come from all there is.
fn bytes() -> Vec<u8> {
    let words = |from: u32| (from..from + 100_000).flat_map(|number| format!("{number:7}\n").into_bytes());
    let parts = [noise(9 << 20, 7), vec![0; 3 << 20], words(0).collect(), noise(70_000, 8), words(5).collect()];
    let mut bytes = [parts.concat(), noise(20 << 20, 9)].concat();
    bytes.truncate(bytes.len() / 512 * 512);
    bytes
}

fn uneven(bytes: &[u8], panics_at: usize) -> Uneven {
    let mut disk = FaultDisk::new(DiskContent::Bytes(Arc::new(bytes.to_vec())));
    disk.bad.insert(Extent::new(25 * MIB + 512, 1024));
    Uneven { disk, reads: AtomicUsize::new(0), panics_at }
}

fn repository() -> Arc<Repository> {
    init(MemStore::new())
}

#[test]
fn the_image_is_the_same_whatever_comes_back_first() {
    within(Duration::from_secs(120), "capturing", || {
        let (repository, bytes) = (repository(), bytes());
        let mut readable = bytes.clone();
        let bad = usize::try_from(25 * MIB + 512).unwrap();
        readable[bad..bad + 1024].fill(0);
        let first = capture_sources(&repository, &[Box::new(uneven(&bytes, usize::MAX))]).unwrap().manifest;
        assert_eq!(first.disks[0].unreadable, [Extent::new(25 * MIB + 512, 1024)]);
        for _ in 0..3 {
            let again = capture_sources(&repository, &[Box::new(uneven(&bytes, usize::MAX))]).unwrap().manifest;
            assert_eq!(again.stats.new, 0);
            for (again, first) in again.disks[0].regions.iter().zip(&first.disks[0].regions) {
                assert_eq!(again.root, first.root);
            }
        }
        // A disk without bad sectors has the same chunks everywhere else.
        let whole = capture(&repository, &TestDisk::new(readable)).unwrap().manifest;
        assert!(whole.stats.new < MIB && whole.stats.known > 30 * MIB, "{:?}", whole.stats);
    });
}

#[test]
fn a_thread_that_falls_ends_the_capture_and_nobody_waits_for_it() {
    for panics_at in [0, 1, 5, 9] {
        within(Duration::from_secs(120), "capturing", move || {
            let failed = capture_sources(&repository(), &[Box::new(uneven(&bytes(), panics_at))]);
            assert!(matches!(failed, Err(Error::Internal(_))), "{panics_at}");
        });
    }
}
