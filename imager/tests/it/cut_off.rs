//! A restore that is cut short at any moment leaves a target that nobody takes for a finished one, whatever the
//! target's cache made of it, and the next restore succeeds.

use std::sync::Arc;

use imager::Error;
use imager::extent::Extent;
use imager::repo::Repository;
use imager::repo::manifest::ImageId;
use imager::restore::{ChangedOnly, Options, Unused};
use imager::table::{self, TableKind};

use crate::engine::{
    MemStore, MemTarget, TargetFault, Write, apply, assert_same, capture, disks, init, restore_options, restore_with,
};
use crate::volume::Random;

const SECTOR: usize = 512;
/// What the target held before: an older state of the same disk. What the image says nothing about stays.
const BEFORE: usize = 0;
const AFTER: usize = 2;

fn image_of_today() -> (Arc<Repository>, ImageId) {
    let repository = init(MemStore::new());
    capture(&repository, &disks()[BEFORE]).unwrap();
    let image = capture(&repository, &disks()[AFTER]).unwrap().id;
    (repository, image)
}

/// A whole restore.
fn undisturbed(repository: &Arc<Repository>, image: ImageId) -> Vec<u8> {
    let target = Arc::new(MemTarget::holding(disks()[BEFORE].bytes.to_vec(), TargetFault::None));
    restore_with(repository, image, &target, &restore_options()).unwrap();
    target.bytes()
}

/// The ways to restore that write differently.
fn ways() -> [Options; 2] {
    [ChangedOnly::No, ChangedOnly::Yes].map(|changed_only| Options { changed_only, ..restore_options() })
}

/// What a state on the way from one disk to another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Old,
    New,
    Between,
}

/// With a first sector, by which firmware and kernels know a disk, it is the whole old disk or the whole new one.
/// Without, no tool finds a partition table unless all data are still the old ones, or the new ones already.
fn judge(bytes: &[u8], before: &[u8], after: &[u8], when: &str) -> State {
    if bytes == before {
        return State::Old;
    }
    if bytes == after {
        return State::New;
    }
    assert!(bytes[..SECTOR].iter().all(|&byte| byte == 0), "{when}: there is a first sector, and not all of the rest");
    let inner = |bytes: &[u8], without: usize| bytes[without..bytes.len() - without].to_vec();
    if inner(bytes, 1 << 20) == inner(before, 1 << 20) || inner(bytes, 4 << 10) == inner(after, 4 << 10) {
        return State::Between;
    }
    let table = table::read(&bytes.to_vec(), Some(512)).unwrap();
    assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 0), "{when}");
    assert_eq!(table.warnings, Vec::<String>::new(), "{when}: no copy of a GPT is found");
    State::Between
}

#[test]
fn a_target_that_fails_at_any_call_looks_empty_until_it_is_complete() {
    let (repository, image) = image_of_today();
    let disks = disks();
    let after = undisturbed(&repository, image);
    for options in ways() {
        for fault in [TargetFault::Once, TargetFault::Dead] {
            for nth in 0.. {
                let when = format!("{:?} {:?}", options.changed_only, fault(nth));
                let target = Arc::new(MemTarget::holding(disks[BEFORE].bytes.to_vec(), fault(nth)));
                let result = restore_with(&repository, image, &target, &options);
                let bytes = target.bytes();
                if !target.has_struck() {
                    result.unwrap();
                    assert_same(&bytes, &after);
                    assert!(nth > 10, "there was something to fail");
                    break;
                }
                assert!(matches!(result, Err(Error::Io { .. })), "{when}: {result:?}");
                judge(&bytes, &disks[BEFORE].bytes, &after, &when);
                let again = Arc::new(MemTarget::holding(bytes, TargetFault::None));
                restore_with(&repository, image, &again, &options).unwrap();
                assert_same(&again.bytes(), &after);
            }
        }
    }
}

/// What may be on the medium when the power goes at one moment: everything up to the last flush, and of what came
/// after it any sectors.
fn states_after_a_cut(before: &[u8], writes: &[Write], look: &mut dyn FnMut(&[u8], usize)) {
    let mut random = Random::new(3);
    let mut durable = before.to_vec();
    let mut pending: Vec<Write> = Vec::new();
    for (number, write) in writes.iter().enumerate() {
        if matches!(write, Write::Flush) {
            pending.drain(..).for_each(|write| apply(&mut durable, &write));
            continue;
        }
        pending.extend(sectors_of(write));
        // None, all, only the newest, all but one kind, and any.
        for kept_percent in [0, 100, 50, 10, 90] {
            let mut state = durable.clone();
            for write in &pending {
                if random.below(100) < kept_percent {
                    apply(&mut state, write);
                }
            }
            look(&state, number);
        }
        let mut newest_only = durable.clone();
        sectors_of(write).iter().for_each(|write| apply(&mut newest_only, write));
        look(&newest_only, number);
    }
    assert!(pending.is_empty(), "the last thing is a flush");
}

/// A device may write, and lose, each sector by itself.
fn sectors_of(write: &Write) -> Vec<Write> {
    let sector = SECTOR as u64;
    match write {
        Write::Bytes(at, bytes) => {
            assert!(at.is_multiple_of(sector) && bytes.len().is_multiple_of(SECTOR), "writes are of whole sectors");
            let places = (*at..).step_by(SECTOR);
            places.zip(bytes.chunks(SECTOR)).map(|(at, bytes)| Write::Bytes(at, bytes.to_vec())).collect()
        }
        Write::Zeros(extent) => {
            let places = (extent.start..extent.end()).step_by(SECTOR);
            places.map(|at| Write::Zeros(Extent::new(at, sector.min(extent.end() - at)))).collect()
        }
        Write::Flush => vec![Write::Flush],
    }
}

#[test]
fn whatever_a_write_cache_loses_the_target_looks_empty_until_it_is_complete() {
    let (repository, image) = image_of_today();
    let before = &disks()[BEFORE].bytes;
    let after = undisturbed(&repository, image);
    let mut seen = Vec::new();
    for options in ways() {
        let target = Arc::new(MemTarget::holding(before.to_vec(), TargetFault::None));
        restore_with(&repository, image, &target, &Options { unused: Unused::Leave, ..options }).unwrap();
        assert_same(&target.bytes(), &after);
        states_after_a_cut(before, &target.writes(), &mut |state, number| {
            let when = format!("{:?}, power cut after write {number}", options.changed_only);
            seen.push(judge(state, before, &after, &when));
        });
    }
    let count = |wanted: State| seen.iter().filter(|state| **state == wanted).count();
    let counts = [State::Old, State::Between, State::New].map(count);
    assert!(counts[0] > 0 && counts[1] > 100 && counts[2] > 0, "{counts:?}");
}
