//! Restores that are cut off: the target looks like a disk when it is one, and not before.

use std::sync::Arc;
use std::time::Duration;

use imager::restore::{Options, ReadBack};
use imager::table;

use crate::engine::{
    MemStore, MemTarget, TargetFault, TestDisk, Write, apply, capture, disks, init, restore_options, restore_with,
    within,
};
use crate::volume::Random;

/// Whether a machine would take this for a disk with partitions.
fn looks_like_a_disk(bytes: &[u8]) -> bool {
    !table::read(&bytes.to_vec(), Some(512)).unwrap().partitions.is_empty()
}

/// Whether everything that is in use on `disk` is there.
fn has_all_of(bytes: &[u8], disk: &TestDisk) -> bool {
    bytes.iter().zip(&disk.restored).all(|(found, expected)| *expected == 0 || found == expected)
}

#[test]
fn a_target_that_dies_at_any_call_looks_like_no_disk_until_it_is_one() {
    within(Duration::from_secs(600), "restoring to dying targets", || {
        let [disk, other, _] = disks();
        let repository = init(MemStore::new());
        let image = capture(&repository, disk).unwrap().id;
        for fault in [TargetFault::Once as fn(usize) -> TargetFault, TargetFault::Dead] {
            for nth in 0.. {
                let target = Arc::new(MemTarget::holding(other.bytes.to_vec(), fault(nth)));
                let result = restore_with(&repository, image, &target, &restore_options());
                let bytes = target.bytes();
                if !target.has_struck() {
                    result.unwrap();
                    assert!(has_all_of(&bytes, disk) && looks_like_a_disk(&bytes));
                    break;
                }
                assert!(result.is_err(), "call {nth} failed, the restore did not");
                let untouched = bytes == *other.bytes;
                assert!(untouched || !looks_like_a_disk(&bytes) || has_all_of(&bytes, disk), "call {nth}");
                // The next one, onto what this one left, is whole.
                let target = Arc::new(MemTarget::holding(bytes, TargetFault::None));
                let options = Options { read_back: ReadBack::Yes, ..restore_options() };
                restore_with(&repository, image, &target, &options).unwrap();
                assert!(has_all_of(&target.bytes(), disk));
            }
        }
    });
}

#[test]
fn a_power_cut_that_loses_unflushed_writes_leaves_no_half_disk() {
    let [disk, other, _] = disks();
    let repository = init(MemStore::new());
    let image = capture(&repository, disk).unwrap().id;
    let target = Arc::new(MemTarget::holding(other.bytes.to_vec(), TargetFault::None));
    restore_with(&repository, image, &target, &restore_options()).unwrap();
    let writes = target.writes();
    let mut random = Random::new(9);
    for cut in 0..=writes.len() {
        for _ in 0..4 {
            let flushed = writes[..cut].iter().rposition(|write| matches!(write, Write::Flush)).unwrap_or(0);
            let mut bytes = other.bytes.to_vec();
            let mut overwritten = false;
            for (number, write) in writes[..cut].iter().enumerate() {
                // Whatever was not flushed may be on the medium or not.
                if number < flushed || random.below(2) == 0 {
                    overwritten |= matches!(write, Write::Bytes(..));
                    apply(&mut bytes, write);
                }
            }
            assert!(!overwritten || !looks_like_a_disk(&bytes) || has_all_of(&bytes, disk), "cut at write {cut}");
        }
    }
}
