//! Captures, prunes and readers in one repository at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use imager::Error;
use imager::clock::Clock;
use imager::progress::Progress;
use imager::prune::prune_by;
use imager::repo::store::Store;
use jiff::SignedDuration;

use crate::engine::{
    MemStore, Op, StoreWith, Verdict, assert_restores, capture, disks, init, open, prune, prune_options, verify, within,
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

/// The machine sleeps while a prune is at a certain point. Gives what there is then, and how many packs were deleted.
fn a_prune_that_sleeps(at: fn(Op, &str) -> bool) -> (Arc<MemStore>, Result<(), Error>, usize) {
    let [first, second, _] = disks();
    let store = MemStore::new();
    let repository = init(store.clone());
    let goes = capture(&repository, first).unwrap().id;
    capture(&repository, second).unwrap();
    repository.forget_image(goes).unwrap();
    let before = store.names("packs");
    let seconds = Arc::new(AtomicU64::new(1000));
    let clock = Arc::clone(&seconds);
    let clock = Clock::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
    let below = store.clone();
    let sleepy = StoreWith::around(store.clone(), move |call| {
        if seconds.load(Ordering::SeqCst) == 1000 && at(call.op, call.name) {
            seconds.fetch_add(2400, Ordering::SeqCst);
            below.advance(SignedDuration::from_mins(40));
        }
        Verdict::Go
    });
    let pruned = prune_by(&clock, &open(sleepy), &prune_options(), &Progress::new()).map(drop);
    let after = store.names("packs");
    let deleted = before.iter().filter(|name| !after.contains(name)).count();
    (store, pruned, deleted)
}

#[test]
fn a_prune_that_slept_deletes_nothing_more() {
    within(Duration::from_secs(120), "a sleeping prune", || {
        let (_, pruned, undisturbed) = a_prune_that_sleeps(|_, _| false);
        pruned.unwrap();
        assert!(undisturbed > 2);
        /// When it is, by the store's calls, and how many packs are gone by then.
        type Point = (&'static str, fn(Op, &str) -> bool, usize);
        let points: [Point; 3] = [
            ("before it dooms", |op, name| op == Op::Put && name.starts_with("doomed/"), 0),
            ("before its deletes", |op, name| op == Op::FlushDeletes && name == "images", 0),
            ("at its first delete", |op, name| op == Op::Delete && name.starts_with("packs/"), 1),
        ];
        for (when, at, expected) in points {
            let (store, pruned, deleted) = a_prune_that_sleeps(at);
            let Err(Error::Busy(words)) = pruned else { panic!("{when}: {pruned:?}") };
            assert!(words.contains("40 minutes") && words.contains("run it again"), "{words}");
            assert_eq!(deleted, expected, "{when}");
            assert_eq!(store.names("doomed").len(), 1, "{when}: another prune goes on from the list");
            let again = prune(&open(store.clone())).unwrap();
            assert_eq!(deleted + again.packs_deleted, undisturbed, "{when}");
            assert!(verify(&open(store)).unwrap().is_sound());
        }
    });
}

#[test]
fn a_prune_whose_list_is_gone_deletes_nothing_more() {
    within(Duration::from_secs(120), "a prune without a list", || {
        let [first, ..] = disks();
        let store = MemStore::new();
        let repository = init(store.clone());
        let goes = capture(&repository, first).unwrap().id;
        repository.forget_image(goes).unwrap();
        let below = store.clone();
        let judged = StoreWith::around(store.clone(), move |call| {
            if call.is(Op::List, "images") {
                below.names("doomed").iter().for_each(|name| below.delete(name).unwrap());
            }
            Verdict::Go
        });
        let before = store.names("packs");
        let pruned = prune(&open(judged));
        assert!(matches!(&pruned, Err(Error::Busy(words)) if words.contains("taken away")), "{pruned:?}");
        assert_eq!(store.names("packs"), before);
    });
}
