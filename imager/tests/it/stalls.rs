//! Nothing hangs: not when the store is slow, not when it fails while every queue is full, not when a read or a
//! write fails at the first or the last moment, not when the user stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imager::bulk::{FrameSink, FrameTask, ReadPlan, Want, read_frames};
use imager::capture::{self, Verify};
use imager::disk::source::Source;
use imager::progress::Progress;
use imager::read_at::ReadAt;
use imager::repo::Repository;
use imager::repo::store::Store;
use imager::restore::{self, DiskTarget, Plan, WhatToWrite};
use imager::verify::verify_repository;
use imager::{Error, Result};

use crate::engine::{
    DiskContent, FaultDisk, MemStore, MemTarget, Op, StoreWith, TargetFault, Verdict, assert_same, capture_options,
    capture_sources, init, is_store_error, memory, open, restore_options, restored, verify, within,
};

/// Far more than all buffers and queues hold.
const DISK_BYTES: u64 = 60 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn noise() -> FaultDisk {
    FaultDisk::new(DiskContent::Noise(DISK_BYTES))
}

fn boxed(disk: FaultDisk) -> [Box<dyn Source>; 1] {
    [Box::new(disk)]
}

/// A store in which every call takes a while, each another one.
fn slow(inner: Arc<dyn Store>, judge: impl Fn(Op, &str) -> Verdict + Send + Sync + 'static) -> Arc<dyn Store> {
    let count = AtomicUsize::new(0);
    StoreWith::around(inner, move |call| {
        let number = count.fetch_add(1, Ordering::SeqCst) as u64;
        std::thread::sleep(Duration::from_micros(number.wrapping_mul(7919) % 9000));
        judge(call.op, call.name)
    })
}

/// An image of the noise.
fn captured() -> (Arc<MemStore>, imager::repo::manifest::ImageId) {
    let store = MemStore::new();
    let image = capture_sources(&init(store.clone()), &boxed(noise())).unwrap().id;
    (store, image)
}

fn restore_to(repository: &Arc<Repository>, target: MemTarget, progress: &Progress) -> Result<()> {
    let (_, manifest) = repository.find_image("latest")?;
    let target = DiskTarget { disk: 0, target: Arc::new(target), what: WhatToWrite::All };
    let plan = Plan::new(repository, &manifest, vec![target], &restore_options(), progress)?;
    restore::restore(repository, plan, &restore_options(), progress).map(drop)
}

fn blank_target() -> MemTarget {
    MemTarget::blank(usize::try_from(DISK_BYTES).unwrap())
}

#[test]
fn a_slow_store_only_takes_longer() {
    let store = MemStore::new();
    let repository = init(slow(store, |_, _| Verdict::Go));
    within(LIMIT, "a slow store", || {
        let image = capture_sources(&repository, &boxed(noise())).unwrap().id;
        assert!(verify(&repository).unwrap().is_sound());
        let expected = noise().read_vec(0, usize::try_from(DISK_BYTES).unwrap()).unwrap();
        assert_same(&restored(&repository, image).unwrap(), &expected);
    });
}

#[test]
fn a_source_may_vanish_at_any_read() {
    // As many reads as there are before the first of the data, which are those of the partition table.
    for vanishes_at in [0, 10, 11, 12, 20, 30, 40, 50, 55, 56, 57, 58] {
        let repository = init(MemStore::new());
        let mut disk = noise();
        disk.vanishes_at = vanishes_at;
        let result =
            within(LIMIT, &format!("vanished at {vanishes_at}"), || capture_sources(&repository, &boxed(disk)));
        match result {
            Err(Error::SourceVanished { .. }) => {}
            // The disk had been read by then.
            Ok(_) => assert!(vanishes_at >= 48, "vanished at {vanishes_at}"),
            Err(error) => panic!("vanished at {vanishes_at}: {error}"),
        }
    }
}

#[test]
fn a_store_may_fail_while_every_queue_is_full() {
    for failing in [0, 1, 2, 7, 30, 46] {
        let count = AtomicUsize::new(0);
        let store = slow(MemStore::new(), move |op, name| {
            let is_pack = op == Op::Put && name.starts_with("packs/");
            if is_pack && count.fetch_add(1, Ordering::SeqCst) >= failing { Verdict::Fail } else { Verdict::Go }
        });
        let repository = init(store);
        let result = within(LIMIT, &format!("failing at {failing}"), || capture_sources(&repository, &boxed(noise())));
        assert!(is_store_error(&result.unwrap_err()), "failing at {failing}");
    }
}

#[test]
fn reading_back_may_fail_at_any_frame() {
    let (store, _) = captured();
    for failing in [0, 1, 20, 45] {
        let fails = |failing| {
            let count = AtomicUsize::new(0);
            let store = slow(store.clone(), move |op, name| {
                let is_pack = op == Op::Get && name.starts_with("packs/");
                if is_pack && count.fetch_add(1, Ordering::SeqCst) == failing { Verdict::Fail } else { Verdict::Go }
            });
            open(store)
        };
        let result = within(LIMIT, &format!("a restore that fails at {failing}"), || {
            restore_to(&fails(failing), blank_target(), &Progress::new())
        });
        assert!(is_store_error(&result.unwrap_err()));
        let result = within(LIMIT, &format!("a verification that fails at {failing}"), || {
            verify_repository(&fails(failing), Verify::Data, memory(), &Progress::new())
        });
        assert!(is_store_error(&result.unwrap_err()));
    }
}

#[test]
fn a_target_may_fail_at_any_write() {
    let (store, _) = captured();
    let repository = open(slow(store, |_, _| Verdict::Go));
    for failing in [0, 1, 2, 10, 40, 46] {
        for fault in [TargetFault::Once(failing), TargetFault::Dead(failing)] {
            let target = MemTarget::holding(vec![1; usize::try_from(DISK_BYTES).unwrap()], fault);
            let result = within(LIMIT, &format!("{fault:?}"), || restore_to(&repository, target, &Progress::new()));
            assert!(matches!(result, Err(Error::Io { .. })), "{fault:?}: {result:?}");
        }
    }
}

#[test]
fn everything_can_be_stopped() {
    let (store, _) = captured();
    for after in [0, 5, 30, 80] {
        let stopping = |what: &str, work: &mut dyn FnMut(&Arc<Progress>) -> Result<()>| {
            let progress = Arc::new(Progress::new());
            let stopped = Arc::clone(&progress);
            let stopper = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                stopped.stop();
            });
            let result = within(LIMIT, &format!("{what}, stopped after {after} ms"), || work(&progress));
            assert!(matches!(result, Err(Error::Interrupted) | Ok(())), "{what}: {result:?}");
            assert!(after > 0 || result.is_err(), "{what} was not stopped");
            stopper.join().unwrap();
        };
        stopping("a capture", &mut |progress| {
            let repository = init(slow(MemStore::new(), |_, _| Verdict::Go));
            capture::capture(&repository, &boxed(noise()), &capture_options(), progress).map(drop)
        });
        let repository = open(slow(store.clone(), |_, _| Verdict::Go));
        stopping("a restore", &mut |progress| restore_to(&repository, blank_target(), progress));
        stopping("a verification", &mut |progress| {
            verify_repository(&repository, Verify::Data, memory(), progress).map(drop)
        });
    }
}

/// Takes no frame.
struct Panicking;

impl FrameSink for Panicking {
    fn frame(&self, _: &FrameTask, _: &[u8]) -> Result<()> {
        panic!("a sink that panics, on purpose")
    }

    fn failed(&self, _: &FrameTask, error: Error) -> Result<()> {
        Err(error)
    }
}

#[test]
fn reading_ends_when_every_thread_that_takes_frames_panics() {
    let (store, _) = captured();
    let repository = open(store);
    let mut wants = Vec::new();
    let learn = &mut |pack: &imager::repo::index::IndexedPack| {
        for chunk in pack.directory.frames.iter().flat_map(|frame| &frame.chunks) {
            let first: [u8; 16] = chunk.id.0[..16].try_into().unwrap();
            wants.push(Want { chunk: u128::from_le_bytes(first), place: 0, len: chunk.len });
        }
        Ok(())
    };
    repository.for_each_pack(learn).unwrap();
    let plan = ReadPlan::new(&repository, wants, &std::collections::HashSet::new()).unwrap();
    // Many more than the queue between the threads takes.
    assert!(plan.tasks.len() > 40);
    let read = within(LIMIT, "panicking threads", || {
        read_frames(&repository, &plan.tasks, memory(), &Progress::new(), &Panicking)
    });
    assert!(matches!(read, Err(Error::Internal(_))), "{read:?}");
}
