//! Whatever the store does, and whenever the process dies: nothing that was there is lost, the next run
//! succeeds, and it uses what was stored before.

use std::sync::Arc;
use std::time::Duration;

use imager::repo::config::{ChunkSizes, FrameSize};
use imager::repo::manifest::ImageId;
use imager::repo::pack::Content;
use imager::repo::store::Store;
use imager::repo::{Lock, Repository};
use imager::verify::Report;
use imager::{Error, Result};
use jiff::SignedDuration;
use zeroize::Zeroizing;

use crate::engine::{
    Fault, FaultStore, MemStore, TestDisk, assert_restores, capture, chunks, data_bytes, disks, init, is_store_error,
    open, prune, verify, within,
};

/// Longer than a session counts as alive.
const ASLEEP: SignedDuration = SignedDuration::from_mins(31);

/// What came of a job whose store failed.
struct Outcome {
    store: Arc<MemStore>,
    fault: Fault,
    nth: usize,
    result: Result<()>,
}

/// Runs `job` again and again, each time on a store like `base` that fails at another call.
fn every_fault(base: &MemStore, job: &dyn Fn(Arc<dyn Store>) -> Result<()>, look: &dyn Fn(&Outcome)) {
    every_of(&Fault::ALL, base, job, look);
}

fn every_of(faults: &[Fault], base: &MemStore, job: &dyn Fn(Arc<dyn Store>) -> Result<()>, look: &dyn Fn(&Outcome)) {
    for &fault in faults {
        for nth in 0.. {
            let store = base.fork();
            let (faulty, state) = FaultStore::around(store.clone(), fault, nth);
            let result = within(Duration::from_secs(60), &format!("{fault:?} {nth}"), || job(faulty));
            if !state.has_struck() {
                assert!(result.is_ok(), "{fault:?} {nth}: {result:?}");
                assert!(nth > 0, "there was nothing to fail");
                break;
            }
            if let Err(error) = &result {
                assert!(is_store_error(error), "{fault:?} {nth}: {error}");
            }
            if fault.kills() {
                // Everybody takes it for dead from now on.
                store.advance(ASLEEP);
            }
            look(&Outcome { store, fault, nth, result });
        }
    }
}

impl Outcome {
    fn is(&self) -> String {
        format!("{:?} {}: {:?}", self.fault, self.nth, self.result)
    }

    fn sound(&self) -> Report {
        self.sound_with(&open(self.store.clone()))
    }

    fn sound_with(&self, repository: &Arc<Repository>) -> Report {
        let report = verify(repository).unwrap();
        assert!(report.is_sound(), "{}: {report:?}", self.is());
        report
    }
}

/// An image and the disk that it is of.
type Image = (ImageId, &'static TestDisk);

fn with_images(store: &Arc<MemStore>, days: &[usize]) -> Vec<Image> {
    let repository = init(store.clone());
    let disks = disks();
    days.iter().map(|&day| (capture(&repository, &disks[day]).unwrap().id, &disks[day])).collect()
}

/// After a capture of `disk` went wrong: nothing is lost, the next one goes on from what was stored.
fn the_next_capture_goes_on(outcome: &Outcome, images: &[Image], disk: &'static TestDisk, whole: u64) {
    outcome.sound();
    let repository = open(outcome.store.clone());
    let found = repository.images().unwrap();
    assert!(found.1.is_empty(), "{}: {:?}", outcome.is(), found.1);
    for (id, _) in &found.0 {
        let disk = images.iter().find(|(image, _)| image == id).map_or(disk, |(_, disk)| disk);
        assert_restores(&repository, *id, disk);
    }
    let kept = data_bytes(&repository);
    let next = capture(&repository, disk).unwrap();
    assert_eq!(next.manifest.stats.new, whole - kept, "{}: what was stored is known", outcome.is());
    let report = outcome.sound();
    assert_eq!(report.images, found.0.len() as u64 + 1);
    assert_restores(&repository, next.id, disk);
    // What nobody needs can be removed.
    outcome.store.advance(ASLEEP);
    prune(&repository).unwrap();
    let report = outcome.sound();
    assert_eq!(report.leftovers, Vec::<String>::new(), "{}", outcome.is());
    assert_eq!(outcome.store.names("sessions"), Vec::<String>::new(), "{}", outcome.is());
    assert_eq!(chunks(&repository, Content::Data).values().map(|(len, _)| len).sum::<u64>(), whole);
}

#[test]
fn a_first_capture_loses_nothing_whatever_the_store_does() {
    let disk = &disks()[0];
    let base = MemStore::new();
    init(base.clone());
    let whole = {
        let store = base.fork();
        capture(&open(store.clone()), disk).unwrap();
        assert!(store.names("packs").len() > 3, "several packs");
        data_bytes(&open(store))
    };
    every_fault(&base, &|store| capture(&imager_open(store)?, disk).map(drop), &|outcome| {
        the_next_capture_goes_on(outcome, &[], disk, whole)
    });
}

#[test]
fn a_second_capture_loses_nothing_whatever_the_store_does() {
    let disk = &disks()[1];
    let base = MemStore::new();
    let images = with_images(&base, &[0]);
    let whole = {
        let store = base.fork();
        capture(&open(store.clone()), disk).unwrap();
        data_bytes(&open(store))
    };
    every_fault(&base, &|store| capture(&imager_open(store)?, disk).map(drop), &|outcome| {
        the_next_capture_goes_on(outcome, &images, disk, whole)
    });
}

#[test]
fn forgetting_and_pruning_lose_nothing_whatever_the_store_does() {
    let base = MemStore::new();
    let images = with_images(&base, &[0, 1]);
    let forgotten = images[0].0;
    let job = |store: Arc<dyn Store>| {
        let repository = imager_open(store)?;
        repository.forget_image(forgotten)?;
        prune(&repository).map(drop)
    };
    let whole = {
        let store = base.fork();
        let before = store.names("packs");
        job(store.clone()).unwrap();
        let after = store.names("packs");
        assert!(before.iter().any(|pack| after.contains(pack)), "some packs stay");
        assert!(after.iter().any(|pack| !before.contains(pack)), "some are rewritten");
        data_bytes(&open(store))
    };
    every_fault(&base, &job, &|outcome| {
        outcome.sound();
        let repository = open(outcome.store.clone());
        let (found, damaged) = repository.images().unwrap();
        assert!(damaged.is_empty(), "{}: {damaged:?}", outcome.is());
        for (image, disk) in images.iter().filter(|(image, _)| found.iter().any(|(id, _)| id == image)) {
            assert_restores(&repository, *image, disk);
        }
        // The next prune does the rest. If this one could not even say that it is over, that takes a while.
        repository.forget_image(forgotten).unwrap();
        if let Err(error) = prune(&repository) {
            assert!(matches!(error, Error::Busy(_)) && !outcome.store.names("sessions").is_empty(), "{error}");
        }
        outcome.store.advance(ASLEEP);
        prune(&repository).unwrap();
        let report = outcome.sound();
        assert_eq!(report.leftovers, Vec::<String>::new(), "{}", outcome.is());
        assert_restores(&repository, images[1].0, images[1].1);
        for folder in ["sessions", "doomed"] {
            assert_eq!(outcome.store.names(folder), Vec::<String>::new(), "{}", outcome.is());
        }
        let chunks = chunks(&repository, Content::Data);
        assert_eq!(chunks.values().map(|(len, _)| len).sum::<u64>(), whole, "{}", outcome.is());
        assert!(chunks.values().all(|(_, times)| *times == 1), "{}: nothing is stored twice", outcome.is());
    });
}

const PASSWORD: &[u8] = b"correct horse battery staple";

fn password(words: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(words.to_vec())
}

fn create(store: Arc<dyn Store>) -> Result<Repository> {
    Repository::create(
        store,
        &Lock::Password(password(PASSWORD)),
        ChunkSizes::around(16 << 10).unwrap(),
        FrameSize::default(),
    )
}

fn unlock(store: &Arc<MemStore>, words: &[u8]) -> Result<Arc<Repository>> {
    Repository::open(store.clone(), || Ok(password(words))).map(Arc::new)
}

#[test]
fn making_a_repository_can_be_done_again_whatever_the_store_does() {
    every_fault(&MemStore::new(), &|store| create(store).map(drop), &|outcome| {
        let made = match create(outcome.store.clone()) {
            Ok(_) => "now",
            // It was made, only the answer was lost.
            Err(Error::RepositoryExists(_)) if outcome.fault == Fault::AnswerLost => "before",
            Err(error) => panic!("{}: {error}", outcome.is()),
        };
        let repository = unlock(&outcome.store, PASSWORD).unwrap();
        let report = verify(&repository).unwrap();
        assert!(report.is_sound(), "{}, made {made}: {report:?}", outcome.is());
        assert_eq!(outcome.store.names("keys").len(), 1, "{}, made {made}", outcome.is());
    });
}

#[test]
fn adding_a_key_can_be_done_again_whatever_the_store_does() {
    let base = MemStore::new();
    create(base.clone()).unwrap();
    let second = b"another password";
    let job = |store: Arc<dyn Store>| {
        let repository = Repository::open(store, || Ok(password(PASSWORD)))?;
        repository.add_key(second, "second").map(drop)
    };
    // Opening takes its time on purpose, so that only what a put can do is tried.
    every_of(&[Fault::AnswerLost, Fault::Torn, Fault::TornAndKilled, Fault::Full], &base, &job, &|outcome| {
        let repository = unlock(&outcome.store, PASSWORD).unwrap();
        for (id, slot) in repository.keys().unwrap() {
            if slot.is_err() {
                // It cannot be told from a slot that was good once, so that it is damage; but it can be removed.
                assert_eq!(outcome.fault, Fault::TornAndKilled);
                let report = verify(&repository).unwrap();
                assert_eq!((report.damaged_objects.len(), report.hurt.len()), (1, 0), "{report:?}");
                assert!(report.damaged_objects[0].contains(&format!("imager key remove {id}")), "{report:?}");
                repository.remove_key(&id).unwrap();
            }
        }
        outcome.sound_with(&repository);
        repository.add_key(second, "second").unwrap();
        outcome.sound_with(&unlock(&outcome.store, second).unwrap());
    });
}

fn imager_open(store: Arc<dyn Store>) -> Result<Arc<Repository>> {
    Repository::open(store, || panic!("asked for a password")).map(Arc::new)
}
