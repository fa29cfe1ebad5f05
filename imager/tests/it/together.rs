//! Captures, prunes and readers in one repository at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imager::Error;
use imager::repo::store::Store;
use jiff::SignedDuration;

use crate::engine::{
    MemStore, Op, StoreWith, Verdict, assert_restores, capture, disks, init, open, prune, verify, within,
};

#[test]
fn two_captures_a_prune_and_a_reader_do_not_harm_each_other() {
    within(Duration::from_secs(600), "working together", || {
        let [first, second, third] = disks();
        let store = MemStore::new();
        let repository = init(Arc::clone(&store) as Arc<dyn Store>);
        let old = capture(&repository, second).unwrap().id;
        let kept = capture(&repository, first).unwrap().id;
        repository.forget_image(old).unwrap();
        let done = AtomicBool::new(false);
        let own = || open(Arc::clone(&store) as Arc<dyn Store>);
        let images = std::thread::scope(|scope| {
            let captures = [second, third].map(|disk| {
                scope.spawn(move || {
                    let repository = own();
                    (0..4).map(|_| capture(&repository, disk).unwrap().id).collect::<Vec<_>>()
                })
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    prune(&own()).unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_restores(&own(), kept, first);
                }
            });
            let images = captures.map(|capture| capture.join());
            done.store(true, Ordering::Relaxed);
            images.map(Result::unwrap)
        });
        prune(&repository).unwrap();
        let report = verify(&repository).unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_restores(&repository, kept, first);
        for (ids, disk) in images.iter().zip([second, third]) {
            ids.iter().for_each(|id| assert_restores(&repository, *id, disk));
        }
    });
}

/// The capture sleeps for two hours between its packs and its manifest; a prune takes it for dead.
#[test]
fn a_capture_that_slept_while_its_packs_were_deleted_makes_no_image() {
    within(Duration::from_secs(120), "a sleeping capture", || {
        let [disk, ..] = disks();
        let store = MemStore::new();
        init(Arc::clone(&store) as Arc<dyn Store>);
        let below = Arc::clone(&store);
        let slept = AtomicBool::new(false);
        let sleepy = StoreWith::around(Arc::clone(&store) as Arc<dyn Store>, move |call| {
            if call.is(Op::Put, "index") && !slept.swap(true, Ordering::SeqCst) {
                below.advance(SignedDuration::from_hours(2));
                let freed = prune(&open(Arc::clone(&below) as Arc<dyn Store>)).unwrap();
                assert!(freed.packs_deleted > 0, "the prune had something to delete");
            }
            Verdict::Go
        });
        let captured = capture(&open(sleepy), disk);
        assert!(matches!(captured, Err(Error::DamageFound(_))), "{captured:?}");
        let repository = open(store);
        assert!(repository.image_ids().unwrap().is_empty());
        let again = capture(&repository, disk).unwrap().id;
        assert_restores(&repository, again, disk);
    });
}
