//! Images of more chunks than a job may plan at a time: they are restored and verified in portions.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use imager::capture::Verify;
use imager::progress::Progress;
use imager::repo::Repository;
use imager::repo::block_map::{Root, SPAN, ZERO, height_for};
use imager::repo::manifest::{ImageId, Region};
use imager::repo::pack::{ChunkId, Content};
use imager::repo::store::{CrateStore, Store};
use imager::restore::{ChangedOnly, OnDamage, Options, ReadBack};
use imager::verify::verify_image;

use crate::engine::{
    MemStore, MemTarget, TargetFault, TestDisk, assert_same, capture, init, memory, restore_options, restore_with,
    within,
};
use crate::hostile_repository::{leaf, node_of, put_pack};

/// A chunk is so small here, and begins every so many bytes.
const CHUNK: u32 = 8;
const STEP: u64 = 111;

/// What is on the disk, and which of its bytes the image says anything about.
struct Expected {
    bytes: Vec<u8>,
    known: Vec<bool>,
}

/// An image of one disk with `places` tiny chunks, of which the last twelfth is the first once more. Every hundredth
/// is followed by zeros.
fn image_of(repository: &Arc<Repository>, places: u64) -> (ImageId, Expected) {
    let small = capture(repository, &TestDisk::new(vec![7; 1 << 20])).unwrap();
    let different = places / 12 * 11;
    let content = |number: u64| (number ^ 0x5EED_5EED_5EED_5EED).to_le_bytes();
    let mut ids: Vec<ChunkId> = Vec::new();
    for first in (0..different).step_by(60_000) {
        let contents: Vec<[u8; 8]> = (first..different.min(first + 60_000)).map(content).collect();
        let chunks: Vec<&[u8]> = contents.iter().map(|content| &content[..]).collect();
        ids.extend(put_pack(repository, Content::Data, &chunks));
    }
    let size = (places * STEP).next_multiple_of(SPAN);
    let len = usize::try_from(size).unwrap();
    let mut expected = Expected { bytes: vec![0; len], known: vec![false; len] };
    let mut leaves: Vec<Vec<(u32, u32, ChunkId)>> = vec![Vec::new(); usize::try_from(size / SPAN).unwrap()];
    for place in 0..places {
        let (start, number) = (place * STEP, place % different);
        let in_span = u32::try_from(start % SPAN).unwrap();
        if start % SPAN + 32 > SPAN {
            continue;
        }
        let records = &mut leaves[usize::try_from(start / SPAN).unwrap()];
        records.push((in_span, CHUNK, ids[usize::try_from(number).unwrap()]));
        let at = usize::try_from(start).unwrap();
        expected.bytes[at..at + 8].copy_from_slice(&content(number));
        expected.known[at..at + 8].fill(true);
        if place % 100 == 0 {
            records.push((in_span + 16, 16, ZERO));
            expected.known[at + 16..at + 32].fill(true);
        }
    }
    let leaves: Vec<ChunkId> =
        leaves.iter().flat_map(|records| put_pack(repository, Content::Map, &[&leaf(records)])).collect();
    let root = match &leaves[..] {
        [leaf] => *leaf,
        leaves => {
            let children = (0u32..).zip(leaves).flat_map(|(n, id)| {
                node_of(1, *id).into_iter().enumerate().map(
                    move |(at, byte)| {
                        if at < 4 { n.to_le_bytes()[at] } else { byte }
                    },
                )
            });
            put_pack(repository, Content::Map, &[&children.collect::<Vec<u8>>()])[0]
        }
    };
    let mut manifest = small.manifest;
    let disk = &mut manifest.disks[0];
    disk.size = size;
    let root = Some(Root { id: root, height: height_for(size) });
    disk.regions = vec![Region { start: 0, len: size, partition: None, root }];
    repository.write_manifest(small.id, &manifest).unwrap();
    (small.id, expected)
}

/// More than the smallest budget plans at a time.
fn more_than_a_portion() -> u64 {
    let portion = memory().planned_chunks_max() as u64;
    assert!(portion < 600_000, "{portion}");
    600_000
}

fn assert_known_same(found: &[u8], expected: &Expected, elsewhere: u8) {
    let whole: Vec<u8> = expected
        .bytes
        .iter()
        .zip(&expected.known)
        .map(|(byte, known)| if *known { *byte } else { elsewhere })
        .collect();
    assert_same(found, &whole);
}

#[test]
fn an_image_of_two_portions_is_restored_and_verified() {
    within(Duration::from_secs(1200), "two portions", || {
        let store = MemStore::new();
        let repository = init(store.clone());
        let (id, expected) = image_of(&repository, more_than_a_portion());

        let blank = Arc::new(MemTarget::blank(expected.bytes.len()));
        let restored = restore_with(&repository, id, &blank, &restore_options()).unwrap();
        assert_known_same(&blank.bytes(), &expected, 0);
        assert!(restored.written > 8 * 590_000, "{restored:?}");

        // On a disk that is not empty zeros are written, and what the image knows nothing of stays, but for what is
        // held back.
        let mut other = expected.bytes.clone();
        other.iter_mut().zip(&expected.known).filter(|(_, known)| !**known).for_each(|(byte, _)| *byte = 0);
        let holding = 1 << 20..other.len() - (1 << 20);
        for at in holding.step_by(1 << 20).map(|at| at / 111 * 111).filter(|&at| expected.known[at]) {
            other[at] ^= 0xFF;
        }
        let target = Arc::new(MemTarget::holding(other, TargetFault::None));
        let options = Options { changed_only: ChangedOnly::Yes, read_back: ReadBack::Yes, ..restore_options() };
        let restored = restore_with(&repository, id, &target, &options).unwrap();
        assert_known_same(&target.bytes(), &expected, 0);
        assert!(restored.read_back && restored.unchanged > 8 * 500_000, "{restored:?}");

        let manifest = repository.manifest(id).unwrap();
        let verify = || verify_image(&repository, id, &manifest, Verify::Data, memory(), &Progress::new()).unwrap();
        let report = verify();
        assert!(report.is_sound() && report.bytes_read >= 8 * 550_000, "{:?}", report.summary());

        // A pack whose chunks are wanted in both portions, and one that nobody has any more.
        let mut packs = Vec::new();
        let visited = repository.for_each_pack(&mut |pack| {
            packs.push((pack.directory.frames.iter().map(|frame| frame.chunks.len()).sum::<usize>(), pack.id));
            Ok(())
        });
        visited.unwrap();
        let (count, lost) = packs.into_iter().max().unwrap();
        assert_eq!(count, 60_000);
        store.delete(&imager::repo::pack::object_name(lost)).unwrap();
        let report = verify();
        // A few chunks would cross the end of a span, and have no place.
        assert!((59_900..=60_000).contains(&report.missing_chunks), "{}", report.missing_chunks);
        assert!(!report.hurt.is_empty());
        let options = Options { damage: OnDamage::Zeros, ..restore_options() };
        let blank = Arc::new(MemTarget::blank(expected.bytes.len()));
        assert!(restore_with(&repository, id, &blank, &restore_options()).is_err());
        let restored = restore_with(&repository, id, &blank, &options).unwrap();
        assert!(restored.lost >= 8 * 59_900, "{restored:?}");
        let hurt: HashSet<u64> = report.hurt.iter().flat_map(|hurt| &hurt.extents).map(|extent| extent.start).collect();
        for (at, (found, expected)) in blank.bytes().chunks(111).zip(expected.bytes.chunks(111)).enumerate() {
            let is_lost = hurt.contains(&(at as u64 * STEP));
            assert!(found == expected || is_lost, "chunk {at} is not hurt and differs");
        }
    });
}

/// The most memory that a process had, in KiB.
fn peak_memory(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        peak = kib.unwrap_or(0).max(peak);
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{command:?}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "measures; takes minutes"]
fn peak_memory_of_restoring_and_verifying() {
    for millions in [1, 4] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir(at("repository")).unwrap();
        let store: Arc<dyn Store> = Arc::new(CrateStore::local(Path::new(&at("repository"))).unwrap());
        let repository = init(store);
        let (id, _) = image_of(&repository, millions * 1_000_000);
        let mut packs = Vec::new();
        let visited = repository.for_each_pack(&mut |pack| {
            packs.push(pack.clone());
            Ok(())
        });
        visited.unwrap();
        repository.write_index(&packs).unwrap();
        let id = id.to_string();
        for (what, args) in [
            ("restore", vec!["restore", &id, "--to", &at("disk")]),
            ("verify --read-data", vec!["verify", "--read-data"]),
        ] {
            let mut imager = Command::new(env!("CARGO_BIN_EXE_imager"));
            imager.args(["--repo", &at("repository")]).args(&args).args(["--memory", "64M"]);
            let mib = peak_memory(&mut imager) / 1024;
            fs::write(
                format!("{}/peak-{millions}-{}", env!("CARGO_TARGET_TMPDIR"), args[0]),
                format!("{what}: {mib} MiB\n"),
            )
            .unwrap();
        }
    }
}
