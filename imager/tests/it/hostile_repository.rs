//! Repositories that somebody wrote who means harm: sealed correctly, since an unencrypted repository's secret is
//! public, and wrong all the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use imager::Error;
use imager::capture::{self, Captured, Level, Options, Verify};
use imager::disk::source::{Source, SourceDisk};
use imager::disk::target::{Replace, TargetDisk};
use imager::extent::Extent;
use imager::layout::Wanted;
use imager::memory::Budget;
use imager::progress::Progress;
use imager::prune::{self, DryRun};
use imager::repo::block_map::Root;
use imager::repo::config::{ChunkSizes, FrameSize, Hex};
use imager::repo::frame;
use imager::repo::manifest::{Manifest, Region};
use imager::repo::object::Kind;
use imager::repo::pack::{ChunkEntry, ChunkId, Content, PackBuilder, RawFrame, object_name};
use imager::repo::reader::ChunkReader;
use imager::repo::store::CrateStore;
use imager::repo::{Lock, Repository};
use imager::restore::{self, ChangedOnly, DiskTarget, OnDamage, Plan, ReadBack, Unused, WhatToWrite};
use imager::table::Ids;
use imager::verify::{verify_image, verify_repository};

use crate::engine::within;
use crate::support::{output, sh};

fn create(directory: &Path) -> Arc<Repository> {
    fs::create_dir_all(directory).unwrap();
    let store = Arc::new(CrateStore::local(directory).unwrap());
    Arc::new(
        Repository::create(store, &Lock::None, ChunkSizes::around(64 << 10).unwrap(), FrameSize::default()).unwrap(),
    )
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
        owner: None,
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

/// Puts one pack of one frame into the repository, and gives the ids of its chunks.
pub(crate) fn put_pack(repository: &Repository, content: Content, chunks: &[&[u8]]) -> Vec<ChunkId> {
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| repository.chunk_id(content, [*chunk])).collect();
    let entry = |(id, chunk): (&ChunkId, &&[u8])| ChunkEntry { id: *id, len: u32::try_from(chunk.len()).unwrap() };
    let frame = RawFrame { content, data: chunks.concat(), chunks: ids.iter().zip(chunks).map(entry).collect() };
    let mut builder = PackBuilder::new(repository.secret(), Hex([9; 16])).unwrap();
    builder.push(frame::compress(frame, 1, &mut drop).unwrap()).unwrap();
    let pack = builder.finish().unwrap();
    repository.store().put(&object_name(pack.id), pack.parts).unwrap();
    ids
}

pub(crate) fn leaf(records: &[(u32, u32, ChunkId)]) -> Vec<u8> {
    let record =
        |(start, len, id): &(u32, u32, ChunkId)| [&start.to_le_bytes()[..], &len.to_le_bytes(), &id.0].concat();
    records.iter().flat_map(record).collect()
}

/// Writes the first disk of an image to a new file.
fn restore(repository: &Arc<Repository>, manifest: &Manifest, to: &Path) -> imager::Result<()> {
    let target = TargetDisk::new_file(to, manifest.disks[0].size, Replace::Yes).unwrap();
    let target = DiskTarget { disk: 0, target: Arc::new(target), what: WhatToWrite::All };
    let options = restore::Options {
        changed_only: ChangedOnly::No,
        unused: Unused::Leave,
        ids: Ids::Keep,
        read_back: ReadBack::No,
        damage: OnDamage::Stop,
        memory: Budget::new(0),
    };
    let progress = Progress::default();
    let plan = Plan::new(repository, manifest, vec![target], &options, &progress)?;
    restore::restore(repository, plan, &options, &progress).map(drop)
}

#[test]
fn a_chunk_is_never_written_beyond_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let repository = create(&dir.path().join("repository"));
    fs::write(dir.path().join("disk"), noise(16384, 2)).unwrap();
    let manifest = capture(&repository, &dir.path().join("disk")).unwrap().manifest;
    let content = noise(8192, 3);
    let [chunk] = put_pack(&repository, Content::Data, &[&content])[..] else { panic!() };
    for (name, len, is_sound) in [("shorter", 4096, false), ("longer", 12288, false), ("equal", 8192, true)] {
        let [id] = put_pack(&repository, Content::Map, &[&leaf(&[(4096, len, chunk)])])[..] else { panic!() };
        let mut manifest = manifest.clone();
        manifest.disks[0].regions[0].root = Some(Root { id, height: 0 });
        let to = dir.path().join(name);
        let restored = restore(&repository, &manifest, &to);
        let report = verify_image(
            &repository,
            imager::repo::config::Hex([7; 16]),
            &manifest,
            Verify::Data,
            Budget::new(0),
            &Progress::default(),
        );
        assert_eq!(report.unwrap().is_sound(), is_sound, "{name}");
        if is_sound {
            restored.unwrap();
            assert_eq!(fs::read(&to).unwrap(), [vec![0; 4096], content.clone(), vec![0; 4096]].concat());
        } else {
            assert!(matches!(restored, Err(Error::DamageFound(_))), "{name}: {restored:?}");
            assert!(!to.exists(), "{name}: nothing is made for a restore that is refused");
        }
    }
}

pub(crate) fn node_of(children: u32, child: ChunkId) -> Vec<u8> {
    (0..children).flat_map(|number| [&number.to_le_bytes()[..], &child.0].concat()).collect()
}

/// Makes the first disk of an image one of 4 EiB, each 16 MiB of it the same leaf: five objects, 2^38 places.
fn claim_exbibytes(repository: &Repository, manifest: &mut Manifest, leaf: &[u8]) {
    let [mut id] = put_pack(repository, Content::Map, &[leaf])[..] else { panic!() };
    for children in [1024, 1024, 1024, 256] {
        id = put_pack(repository, Content::Map, &[&node_of(children, id)])[0];
    }
    let disk = &mut manifest.disks[0];
    disk.size = 1 << 62;
    disk.regions.truncate(1);
    disk.regions[0] = Region { start: 0, len: 1 << 62, partition: None, root: Some(Root { id, height: 4 }) };
}

#[test]
fn a_node_that_a_map_names_more_often_than_can_be_counted_is_looked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let repository = create(&dir.path().join("repository"));
    fs::write(dir.path().join("disk"), noise(16384, 6)).unwrap();
    let captured = capture(&repository, &dir.path().join("disk")).unwrap();
    let chunks = [noise(8192, 7), noise(8192, 8)];
    let [sound, lost] = put_pack(&repository, Content::Data, &[&chunks[0], &chunks[1]])[..] else { panic!() };
    let lost = Hex(lost.0.map(|byte| !byte));
    let prune_options = prune::Options {
        waste_percent: 25,
        keep_unfinished: jiff::SignedDuration::ZERO,
        dry_run: DryRun::No,
        pack_bytes: 1 << 20,
        level: 1,
    };
    let id = Hex([7; 16]);
    let verify = |manifest: &Manifest| {
        repository.write_manifest(id, manifest).unwrap();
        within(Duration::from_secs(60), "verifying 2^38 places", || {
            let one = verify_image(&repository, id, manifest, Verify::Data, Budget::new(0), &Progress::default());
            let all = verify_repository(&repository, Verify::Data, Budget::new(0), &Progress::default());
            [one.unwrap(), all.unwrap()]
        })
    };
    let mut manifest = captured.manifest;
    claim_exbibytes(&repository, &mut manifest, &leaf(&[(0, 8192, sound)]));
    for report in verify(&manifest) {
        assert!(report.is_sound(), "{report:?}");
    }
    within(Duration::from_secs(60), "pruning 2^38 places", || {
        prune::prune(&repository, &prune_options, &Progress::default()).unwrap()
    });
    assert!(verify(&manifest)[1].is_sound(), "what the image needs is still there");

    claim_exbibytes(&repository, &mut manifest, &leaf(&[(0, 8192, sound), (65536, 8192, lost)]));
    for report in verify(&manifest) {
        assert_eq!((report.missing_chunks, report.hurt.len()), (1, 1), "{:?}", report.summary());
        let extents = &report.hurt[0].extents;
        assert_eq!(extents[1], Extent::new((16 << 20) + 65536, 8192));
        assert_eq!(extents.last().unwrap().end(), 1 << 62, "nothing counts as sound that was not looked at");
        assert!(extents.len() < 2 << 20);
    }
}

#[test]
fn what_a_newer_program_wrote_is_not_worked_against() {
    let dir = tempfile::tempdir().unwrap();
    let options = prune::Options {
        waste_percent: 25,
        keep_unfinished: jiff::SignedDuration::ZERO,
        dry_run: DryRun::No,
        pack_bytes: 1 << 20,
        level: 1,
    };
    for kind in [Kind::Session, Kind::Doomed, Kind::Image] {
        let repository = create(&dir.path().join(kind.folder()));
        put_pack(&repository, Content::Data, &[b"nobody needs this"]);
        let name = repository.write_object(kind, br#"{"version":2,"work":"something new"}"#).unwrap();
        let refused = prune::prune(&repository, &options, &Progress::default());
        assert!(matches!(refused, Err(Error::NewerFormat { found: 2, .. })), "{kind:?}: {refused:?}");
        assert_eq!(repository.store().list("packs").unwrap().len(), 1);
        repository.store().delete(&name).unwrap();
        assert_eq!(prune::prune(&repository, &options, &Progress::default()).unwrap().packs_deleted, 1);
    }
}

#[test]
fn an_image_that_has_lost_its_name_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let repository = create(&dir.path().join("repository"));
    fs::write(dir.path().join("disk"), noise(16384, 4)).unwrap();
    let id = capture(&repository, &dir.path().join("disk")).unwrap().id;
    let sound = || {
        let report = verify_repository(&repository, Verify::Data, Budget::new(0), &Progress::default()).unwrap();
        report.is_sound()
    };
    assert!(sound());
    let path = dir.path().join(format!("repository/images/{id}"));
    fs::rename(&path, path.with_extension("bak")).unwrap();
    assert!(!sound());
}

#[test]
fn an_unencrypted_repository_in_place_of_an_encrypted_one_is_given_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let repository = create(&dir.path().join("repository"));
    fs::write(dir.path().join("disk"), noise(16384, 5)).unwrap();
    fs::write(dir.path().join("password"), "secret\n").unwrap();
    let imager = |more: &[&str]| {
        let (repository, disk) = (dir.path().join("repository"), dir.path().join("disk"));
        let args = [&["capture", disk.to_str().unwrap(), "--repo", repository.to_str().unwrap()], more].concat();
        output(env!("CARGO_BIN_EXE_imager"), args)
    };
    let password = dir.path().join("password");
    let refused = imager(&["--password-file", password.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not encrypted"));
    assert_eq!(repository.store().list("packs").unwrap().len(), 0);
    assert_eq!(imager(&[]).status.code(), Some(0));
}
