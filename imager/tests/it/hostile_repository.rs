//! Repositories that somebody wrote who means harm: sealed correctly, since an unencrypted repository's secret is
//! public, and wrong all the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use imager::capture::{self, Captured, Level, Options, Verify};
use imager::disk::source::{Source, SourceDisk};
use imager::layout::Wanted;
use imager::memory::Budget;
use imager::progress::Progress;
use imager::repo::block_map::Root;
use imager::repo::config::ChunkSizes;
use imager::repo::pack::Content;
use imager::repo::reader::ChunkReader;
use imager::repo::store::CrateStore;
use imager::repo::{Lock, Repository};

use crate::support::sh;

fn create(directory: &Path) -> Arc<Repository> {
    fs::create_dir_all(directory).unwrap();
    let store = Arc::new(CrateStore::local(directory).unwrap());
    Arc::new(Repository::create(store, &Lock::None, ChunkSizes::around(64 << 10).unwrap()).unwrap())
}

fn open(directory: &Path) -> Arc<Repository> {
    let store = Arc::new(CrateStore::local(directory).unwrap());
    Arc::new(Repository::open(store, || panic!("it is not encrypted")).unwrap())
}

fn capture(repository: &Arc<Repository>, disk: &Path) -> imager::Result<Captured> {
    let sources: Vec<Box<dyn Source>> = vec![Box::new(SourceDisk::open(disk).unwrap())];
    let options = Options {
        name: None,
        note: None,
        wanted: Wanted::default(),
        level: Level::Fixed(1),
        memory: Budget::new(0),
        pack_bytes: 4 << 20,
        verify: Verify::Data,
        live: Vec::new(),
    };
    capture::capture(repository, &sources, &options, &Arc::new(Progress::default()))
}

/// Bytes that look random and are the same every time.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn root_of(captured: &Captured) -> Root {
    captured.manifest.disks[0].regions[0].root.unwrap()
}

/// The bytes of a leaf or node.
fn node(repository: &Repository, root: Root) -> Vec<u8> {
    let mut reader = ChunkReader::new(repository);
    repository
        .for_each_pack(&mut |pack| {
            reader.add_pack(pack, |content, _| content == Content::Map);
            Ok(())
        })
        .unwrap();
    reader.chunk(root.id).unwrap()
}

#[test]
fn a_file_with_the_bytes_of_a_block_map_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let first = create(&at("first"));
    sh(&format!("cp -r {0}/first {0}/second", dir.path().display()));
    fs::write(at("disk"), noise(300_000, 1)).unwrap();
    let leaf = node(&first, root_of(&capture(&first, &at("disk")).unwrap()));
    fs::write(at("file"), leaf).unwrap();

    let second = open(&at("second"));
    capture(&second, &at("file")).unwrap();
    let captured = capture(&second, &at("disk")).unwrap();
    assert_eq!(node(&second, root_of(&captured)), fs::read(at("file")).unwrap());
}
