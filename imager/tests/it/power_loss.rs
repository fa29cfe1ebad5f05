//! What a store that loses power may do to deletes: an image is there with all that it needs, or not at all.

use std::sync::Arc;

use imager::Result;
use imager::repo::Repository;
use imager::repo::store::Store;

use crate::engine::{
    Fault, FaultStore, MemStore, PowerStore, assert_restores, capture, disks, init, open, prune, verify,
};

fn try_open(store: &Arc<dyn Store>) -> Result<Arc<Repository>> {
    Repository::open(Arc::clone(store), || panic!("asked for a password")).map(Arc::new)
}

/// Forgets the image of this name.
type Forget<'f> = &'f dyn Fn(&Arc<dyn Store>, &str) -> Result<()>;

/// Power is lost at every call of forgetting and pruning, and of the deletes that were not flushed those of images,
/// or of packs, or of lists are undone.
fn nothing_is_half_there(forget: Forget<'_>) {
    let [first, second, _] = disks();
    let base = MemStore::new();
    let repository = init(base.clone());
    let goes = capture(&repository, first).unwrap().id;
    let stays = capture(&repository, second).unwrap().id;
    let name = format!("images/{goes}");
    let (mut cuts, mut came_back) = (0, 0);
    loop {
        let below = PowerStore::around(base.fork());
        let (store, fault) = FaultStore::around(below.clone(), Fault::Killed, cuts);
        let _ = forget(&store, &name).and_then(|()| prune(&try_open(&store)?).map(drop));
        for folder in ["images", "packs", "doomed", "index", "sessions"] {
            let repository = open(below.after_power_loss(folder));
            let report = verify(&repository).unwrap();
            assert!(report.is_sound(), "cut at {cuts}, {folder} come back: {report:?}");
            assert!(repository.image_ids().unwrap().contains(&stays));
            came_back += usize::from(fault.has_struck() && repository.image_ids().unwrap().contains(&goes));
        }
        if !fault.has_struck() {
            assert_restores(&open(below.after_power_loss("images")), stays, second);
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 20 && came_back > 0, "{cuts} cuts, {came_back} images came back");
}

#[test]
fn a_forgotten_image_that_comes_back_has_all_its_packs() {
    let id = |name: &str| name.trim_start_matches("images/").parse().unwrap();
    nothing_is_half_there(&|store, name| try_open(store)?.forget_image(id(name)));
}

#[test]
fn so_has_one_that_somebody_deleted_by_hand() {
    nothing_is_half_there(&|store, name| store.delete(name));
}
