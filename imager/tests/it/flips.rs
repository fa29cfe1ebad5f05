//! Damage of every kind to every object of a small repository: it is found, and nothing wrong is restored.

use std::sync::Arc;
use std::time::Duration;

use imager::capture::Verify;
use imager::progress::Progress;
use imager::repo::config::{ChunkSizes, FrameSize};
use imager::repo::manifest::ImageId;
use imager::repo::store::Store;
use imager::repo::{Lock, Repository};
use imager::verify::verify_repository;

use crate::engine::{MemStore, TestDisk, assert_same, capture, memory, restored, within};
use crate::volume::Random;

const DAMAGES: usize = 5_000;

#[test]
fn damage_to_an_unencrypted_repository_is_found() {
    damage_is_found(&Lock::None, 1);
}

#[test]
fn damage_to_an_encrypted_repository_is_found() {
    damage_is_found(&Lock::Password(b"secret".to_vec().into()), 2);
}

fn damage_is_found(lock: &Lock, seed: u64) {
    within(Duration::from_secs(900), "damaging a repository", || {
        let store = MemStore::new();
        let chunks = ChunkSizes::around(16 << 10).unwrap();
        let repository = Arc::new(
            Repository::create(Arc::clone(&store) as Arc<dyn Store>, lock, chunks, FrameSize::new(64 << 10).unwrap())
                .unwrap(),
        );
        let mut random = Random::new(seed);
        let days = [0, 1].map(|_| TestDisk::new([random.bytes(90_000), vec![7; 30_000]].concat()));
        let images = days.map(|disk| (capture(&repository, &disk).unwrap().id, disk));
        assert!(is_sound(&repository));
        for number in 0..DAMAGES {
            let (undo, what) = damage(&store, &mut random);
            assert!(!is_sound(&repository), "{what} is not found");
            if number % 20 == 0 {
                images.iter().for_each(|(id, disk)| never_wrong(&repository, *id, disk));
            }
            undo.into_iter().for_each(|(name, bytes)| store.set(&name, bytes));
        }
        assert!(is_sound(&repository));
    });
}

fn is_sound(repository: &Arc<Repository>) -> bool {
    let report = verify_repository(repository, Verify::Data, memory(), &Progress::new());
    report.is_ok_and(|report| report.is_sound() && report.leftovers.is_empty())
}

/// A restore gives what was captured, or says that it cannot.
fn never_wrong(repository: &Arc<Repository>, image: ImageId, disk: &TestDisk) {
    if let Ok(bytes) = restored(repository, image) {
        assert_same(&bytes, &disk.restored);
    }
}

type Undo = Vec<(String, bytes::Bytes)>;

/// Damages something, and says what and how to undo it.
fn damage(store: &MemStore, random: &mut Random) -> (Undo, String) {
    let names = store.names("");
    let pick = |random: &mut Random| names[usize::try_from(random.below(names.len() as u64)).unwrap()].clone();
    loop {
        let name = pick(random);
        let bytes = store.get(&name).unwrap();
        let undo = vec![(name.clone(), bytes.clone())];
        let len = bytes.len() as u64;
        match random.below(20) {
            0 => {
                let len = usize::try_from(random.below(len)).unwrap();
                store.set(&name, bytes.slice(..len));
                return (undo, format!("{name} cut to {len} bytes"));
            }
            1 => {
                store.set(&name, [bytes.as_ref(), &random.bytes(1)].concat());
                return (undo, format!("{name} made longer"));
            }
            // That an image, or one of several passwords, is gone cannot be known; without an index everything works.
            2 if name.starts_with("packs/") => {
                store.delete(&name).unwrap();
                return (undo, format!("{name} deleted"));
            }
            3 => {
                let other = pick(random);
                let folder = |name: &str| name.split('/').next().unwrap().to_owned();
                if other != name && folder(&other) == folder(&name) {
                    let there = store.get(&other).unwrap();
                    store.set(&name, there.clone());
                    store.set(&other, bytes);
                    return ([undo, vec![(other.clone(), there)]].concat(), format!("{name} and {other} swapped"));
                }
            }
            _ => {
                let bit = random.below(len * 8);
                let mut damaged = bytes.to_vec();
                damaged[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
                store.set(&name, damaged);
                return (undo, format!("{name} with bit {bit} flipped"));
            }
        }
    }
}
