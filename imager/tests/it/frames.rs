//! How much is compressed together is the repository's choice, and nobody's who reads from it.

use std::sync::Arc;

use imager::image_disk::{ImageDisk, Shelf};
use imager::memory::Budget;
use imager::repo::config::{ChunkSizes, FrameSize};
use imager::repo::pack::Content;
use imager::repo::store::Store;
use imager::repo::{Lock, Repository};

use crate::engine::{MemStore, TestDisk, assert_same, capture, open, restored};
use crate::support::noise;

#[test]
fn frames_have_the_size_that_the_repository_was_made_with() {
    for asked in [64 << 10, 256 << 10, 4 << 20] {
        let store = MemStore::new();
        let chunks = ChunkSizes::around(16 << 10).unwrap();
        let frames = FrameSize::new(asked).unwrap();
        Repository::create(Arc::clone(&store) as Arc<dyn Store>, &Lock::None, chunks, frames).unwrap();
        // Whoever comes later knows it from the config.
        let repository = open(store);
        let lines = (0..1u32 << 19).flat_map(|number| format!("{number:7}\n").into_bytes());
        let bytes: Vec<u8> = noise(3 << 20, 5).into_iter().chain(lines).collect();
        let image = capture(&repository, &TestDisk::new(bytes.clone())).unwrap();

        let mut sizes = Vec::new();
        let visited = repository.for_each_pack(&mut |pack| {
            let data = pack.directory.frames.iter().filter(|frame| frame.content == Content::Data);
            sizes.extend(data.map(|frame| u64::from(frame.raw_len)));
            Ok(())
        });
        visited.unwrap();
        let found = sizes.iter().copied().max().unwrap();
        assert!((asked / 2..=asked).contains(&found), "{asked}: {found}");

        assert_same(&restored(&repository, image.id).unwrap(), &bytes);
        let shelf = Shelf::open(Arc::clone(&repository), Budget::new(0)).unwrap();
        let disk = ImageDisk::all_of(&shelf, &image.manifest).remove(0);
        for at in (0..bytes.len() - 5000).step_by(333_333) {
            let mut found = vec![0; 5000];
            disk.read(at as u64, &mut found).unwrap();
            assert!(found == bytes[at..at + 5000], "{asked}: {at}");
        }
    }
}
