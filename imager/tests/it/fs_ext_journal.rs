//! ext3 and ext4 that were cut off: what the kernel will have in use after it has replayed the journal must be
//! in our map before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imager::extent::ExtentSet;
use imager::fs::{FileSystem, Note, inspect};
use tempfile::TempDir;

use crate::fs_ext::used_by_dumpe2fs;
use crate::support::{Mount, output, run, sparse_file};
use crate::volume::{FileVolume, Random, copy_used, tree};

const MIB: u64 = 1 << 20;

/// A directory on a file system that can copy a file at one instant, however busy the file is: what a
/// crash leaves on the disk.
struct Stage {
    root: PathBuf,
    _mount: Mount,
    _scratch: TempDir,
}

impl Stage {
    fn new() -> Self {
        let scratch = TempDir::new().unwrap();
        let disk = sparse_file(&scratch.path().join("stage"), 8 << 30);
        run("mkfs.xfs", ["-q", "-m", "reflink=1", disk.to_str().unwrap()]);
        let root = scratch.path().join("root");
        Self { _mount: Mount::new(&disk, &root, "loop"), root, _scratch: scratch }
    }
}

fn snapshot(source: &Path, target: &Path) {
    run("cp", ["--reflink=always", source.to_str().unwrap(), target.to_str().unwrap()]);
}

/// Writes, renames, grows, syncs and deletes files until told to stop.
fn busy(root: &Path, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    let mut names: Vec<PathBuf> = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let directory = root.join(format!("{seed}-{}", random.below(40)));
        let name = directory.join(format!("{number}"));
        let magnitude = random.below(19);
        let len = usize::try_from(random.below(1 << magnitude)).unwrap();
        let bytes = random.bytes(len);
        // No room is no failure: the names that are there are deleted below.
        let written = fs::create_dir_all(&directory).and_then(|()| fs::write(&name, &bytes));
        names.push(name);
        if random.below(4) == 0 {
            let _unlinked_meanwhile = fs::File::open(names.last().unwrap()).and_then(|file| file.sync_all());
        }
        let full = written.is_err() || names.len() > 300;
        for _ in 0..if full { 60 } else { random.below(2) } {
            let index = usize::try_from(random.below(names.len() as u64)).unwrap();
            let _never_written = fs::remove_file(names.swap_remove(index));
            if names.is_empty() {
                break;
            }
        }
    }
}

/// The map as dumpe2fs has it once e2fsck has replayed the journal, and nothing else.
fn used_after_replay(image: &Path, found: &FileSystem) -> ExtentSet {
    let replayed = image.with_extension("replayed");
    snapshot(image, &replayed);
    let check = output("e2fsck", ["-y", "-E", "journal_only", replayed.to_str().unwrap()]);
    assert!(check.status.code().is_some_and(|code| code < 2), "{check:?}");
    used_by_dumpe2fs(&replayed, found)
}

/// Cuts a busy file system off many times.
fn check_cut_off(mkfs: &[&str], options: &str) {
    let stage = Stage::new();
    let image = sparse_file(&stage.root.join("image"), 96 * MIB);
    let (program, args) = mkfs.split_first().unwrap();
    run(program, args.iter().copied().chain(["-q", "-F", image.to_str().unwrap()]));
    let root = stage.root.join("mounted");
    let mount = Mount::new(&image, &root, &format!("loop,{options}"));
    let stop = AtomicBool::new(false);
    let snapshots: Vec<PathBuf> = (0..5).map(|number| stage.root.join(format!("cut{number}"))).collect();
    std::thread::scope(|scope| {
        for seed in 1..3 {
            scope.spawn({
                let (root, stop) = (&root, &stop);
                move || busy(root, stop, seed)
            });
        }
        for (number, target) in (1..).zip(&snapshots) {
            std::thread::sleep(Duration::from_millis(100 * number));
            snapshot(&image, target);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(mount);
    let (mut older, mut read_whole) = (0, 0);
    for cut in &snapshots {
        let found = inspect(&FileVolume::open(cut));
        assert!(matches!(found.notes.first(), Some(Note::Dirty { .. })), "{:?}", found.notes);
        let after = used_after_replay(cut, &found);
        let missing = after.minus(&found.used);
        assert!(missing.is_empty(), "{mkfs:?} {options}: in use, but not for us: {:?}", missing.as_slice());
        read_whole += u32::from(found.notes.iter().any(|note| matches!(note, Note::ReadWhole { .. })));
        // dumpe2fs fails where the bitmap and the descriptor on the volume are of different times.
        let on_disk = output("dumpe2fs", [cut]).status.success().then(|| used_by_dumpe2fs(cut, &found));
        older += u32::from(on_disk.is_none_or(|on_disk| !after.minus(&on_disk).is_empty()));

        let copy = cut.with_extension("copy");
        copy_used(cut, &copy, &found.used);
        drop(Mount::new(&copy, &root, "loop"));
        run("e2fsck", ["-fn", copy.to_str().unwrap()]);
        let files = {
            let _mount = Mount::new(cut, &root, "loop");
            tree(&root)
        };
        let _mount = Mount::new(&copy, &root, "loop");
        assert_eq!(tree(&root), files);
    }
    assert_eq!(read_whole, 0, "{mkfs:?} {options}");
    assert!(older > 0, "the bitmaps on the volume were never older than the journal: this test shows nothing");
}

#[test]
fn ext3_cut_off() {
    check_cut_off(&["mkfs.ext3", "-b", "1024", "-J", "size=2"], "defaults");
}

#[test]
fn ext4_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "4096"], "defaults");
}

#[test]
fn ext4_with_a_small_journal_and_many_groups_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024", "-g", "2048", "-J", "size=1"], "defaults");
}

#[test]
fn ext4_with_journaled_data_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024"], "data=journal");
}

#[test]
fn ext4_with_version_1_checksums_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"], "journal_checksum");
}

#[test]
fn ext4_with_asynchronous_commits_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024"], "journal_async_commit,data=writeback");
}

#[test]
fn ext4_with_asynchronous_commits_and_version_1_checksums_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"], "journal_async_commit,data=writeback");
}

#[test]
fn ext4_with_clusters_cut_off() {
    check_cut_off(&["mkfs.ext4", "-b", "1024", "-O", "bigalloc", "-C", "4096"], "defaults");
}
