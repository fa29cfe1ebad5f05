//! XFS: the map against what `xfs_db` says, and against `xfs_repair` and the kernel on a copy of only the used
//! bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, inspect};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::support::{Mount, run, sh, sparse_file};
use crate::volume::{FileVolume, Random, Scratch, copy_used, tree};

const MIB: u64 = 1 << 20;

fn mkfs(image: &Path, size: u64, options: &str) {
    sparse_file(image, size);
    sh(&format!("mkfs.xfs -q -f --unsupported {options} {} 2>&1", image.display()));
}

fn map_of(image: &Path) -> FileSystem {
    inspect(&FileVolume::open(image))
}

/// Files, directories and holes of many sizes, every second of them deleted again.
fn fill(root: &Path, seed: u64) {
    let mut random = Random::new(seed);
    for directory in 0..8 {
        let directory = root.join(format!("directory {directory}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..150 {
            let len = usize::try_from(random.below(30_000)).unwrap();
            fs::write(directory.join(format!("file {number}")), random.bytes(len)).unwrap();
        }
        std::os::unix::fs::symlink("x".repeat(900), directory.join("link")).unwrap();
    }
    nix::unistd::sync();
    for directory in 0..8 {
        for number in (0..150).step_by(2) {
            fs::remove_file(root.join(format!("directory {directory}/file {number}"))).unwrap();
        }
    }
    let path = root.join("holes");
    fs::write(&path, random.bytes(12 << 20)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    for hole in 0..1400 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, hole * 8192, 4096).unwrap();
    }
    fs::write(root.join("written again"), random.bytes(3 << 20)).unwrap();
}

/// Every free block by `xfs_db`, as bytes: those of the tree by block number, and those of the free lists.
fn free_by_xfs_db(image: &Path) -> (ExtentSet, ExtentSet) {
    let db = |commands: &[String]| {
        let mut args = vec!["-r".to_owned()];
        args.extend(commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()]));
        args.push(image.to_str().unwrap().to_owned());
        run("xfs_db", args)
    };
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let geometry: Vec<u64> = db(&["sb 0".into(), "print blocksize agblocks agcount".into()]).lines().map(number).collect();
    let (block_size, ag_blocks, ag_count) = (geometry[0], geometry[1], geometry[2]);
    let extent = |ag, block, len| Extent::new((ag * ag_blocks + block) * block_size, len * block_size);

    let mut all: Vec<Extent> = Vec::new();
    for line in db(&["freesp -d".into()]).lines().skip(1) {
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        if let [ag, block, len] = fields[..] {
            all.push(extent(ag, block, len));
        } else {
            break;
        }
    }
    all.sort();
    let mut lists: Vec<Extent> = Vec::new();
    for ag in 0..ag_count {
        let agf: Vec<u64> = db(&[format!("agf {ag}"), "print flfirst fllast flcount".into()]).lines().map(number).collect();
        let entries = db(&[format!("agfl {ag}"), "print bno".into()]);
        let entries: Vec<u64> = (entries.split_whitespace().skip(2))
            .flat_map(|entry| {
                let (place, block) = entry.split_once(':').unwrap();
                let (first, last) = place.split_once('-').unwrap_or((place, place));
                let count = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
                vec![block.parse().unwrap_or(u64::MAX); count]
            })
            .collect();
        for index in 0..agf[2] {
            let at = usize::try_from(agf[0] + index).unwrap() % entries.len();
            lists.push(extent(ag, entries[at], 1));
        }
    }
    lists.sort();
    let lists = lists.into_iter().collect();
    (all.into_iter().collect::<ExtentSet>().minus(&lists), lists)
}

fn assert_map_is_that_of_xfs_db(image: &Path, found: &FileSystem) {
    let (free, lists) = free_by_xfs_db(image);
    assert!(!free.is_empty());
    let ours = found.used.complement(Extent::new(0, found.size));
    assert_eq!(ours, free, "not the extents of the tree by block number");
    assert_eq!(lists.minus(&found.used), ExtentSet::new(), "blocks of the free lists count as in use");
}

fn assert_healthy(image: &Path) {
    sh(&format!("xfs_repair -n {} 2>&1", image.display()));
}

#[test]
fn the_map_is_that_of_xfs_db_and_the_used_bytes_are_the_file_system() {
    let variants: &[(&str, u64)] = &[
        ("-L 'a label' -m uuid=01234567-89ab-cdef-0123-456789abcdef", 400 * MIB),
        ("-b size=1024 -m rmapbt=1,reflink=1,finobt=1", 400 * MIB),
        ("-b size=2048 -i nrext64=1 -d agcount=37", 600 * MIB),
        ("-b size=65536", 800 * MIB),
        ("-s size=4096 -m bigtime=0,inobtcount=0,reflink=0,finobt=0", 400 * MIB),
        ("-d agsize=128m -l agnum=2", 520 * MIB),
        ("-l su=256k -d su=64k,sw=4", 1000 * MIB),
        ("", 4 << 40),
    ];
    for (number, (options, size)) in variants.iter().enumerate() {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        mkfs(&image, *size, options);
        let mount = Mount::new(&image, &scratch.path("mnt"), "loop,logbsize=256k");
        fill(&mount.0, u64::try_from(number).unwrap());
        let files = tree(&mount.0);
        drop(mount);

        let found = map_of(&image);
        assert_eq!((found.kind.as_str(), &found.notes), ("xfs", &vec![]), "{options}");
        assert_map_is_that_of_xfs_db(&image, &found);
        assert!(found.used.total() < *size / 2, "{options}");

        let copy = scratch.path("copy");
        copy_used(&image, &copy, &found.used);
        assert_healthy(&copy);
        let mount = Mount::new(&copy, &scratch.path("mnt"), "loop");
        assert_eq!(tree(&mount.0), files, "{options}");
    }
}

/// Changes a tree at random: creates, overwrites, appends, truncates, punches, renames, clones, deletes.
fn churn(root: &Path, seed: u64, operations: u64) {
    let mut random = Random::new(seed);
    for operation in 0..operations {
        let directory = root.join(format!("churn {}", random.below(6)));
        let path = directory.join(random.below(120).to_string());
        let other = root.join(format!("churn {}/{}", random.below(6), random.below(120)));
        // A refusal (no such file, no space, is a directory) is part of the churn.
        let _ = match random.below(12) {
            0..=4 => fs::create_dir_all(&directory).and_then(|()| {
                let len = usize::try_from(random.below(60_000)).unwrap();
                fs::write(&path, random.bytes(len))
            }),
            5 => File::options().append(true).open(&path).and_then(|file| {
                file.write_all_at(&random.bytes(9000), 0)?;
                if random.below(4) == 0 { file.sync_all() } else { Ok(()) }
            }),
            6 => File::options().write(true).open(&path).and_then(|file| file.set_len(random.below(50_000))),
            7 => File::options().write(true).open(&path).and_then(|file| {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let start = i64::try_from(random.below(40_000)).unwrap();
                fallocate(&file, flags, start, 8192).map_err(Into::into)
            }),
            8 => fs::rename(&path, &other),
            9 => fs::copy(&path, &other).map(|_| ()),
            10 => fs::remove_dir_all(root.join(format!("churn {}", random.below(40)))),
            _ => fs::remove_file(&path),
        };
        if operation % 700 == 699 && random.below(2) == 0 {
            nix::unistd::sync();
        }
    }
}

/// What the kernel makes of a copy of `image`: its files, and what is in use after it has replayed the log.
fn replayed_by_the_kernel(image: &Path, scratch: &Scratch, size: u64) -> (BTreeMap<String, String>, ExtentSet) {
    let copy = scratch.path("replayed");
    run("cp", ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    let mount = Mount::new(&copy, &scratch.path("mnt"), "loop");
    let files = tree(&mount.0);
    drop(mount);
    let (free, _) = free_by_xfs_db(&copy);
    (files, free.complement(Extent::new(0, size)))
}

fn assert_used_bytes_are_enough(image: &Path, scratch: &Scratch, found: &FileSystem) {
    let (files, used) = replayed_by_the_kernel(image, scratch, found.size);
    assert_eq!(used.minus(&found.used), ExtentSet::new(), "in use after the replay, and not in the map");
    let copy = scratch.path("copy");
    copy_used(image, &copy, &found.used);
    let mount = Mount::new(&copy, &scratch.path("mnt"), "loop");
    assert_eq!(tree(&mount.0), files);
    drop(mount);
    assert_healthy(&copy);
}

#[test]
fn a_dirty_log_is_followed_to_what_the_kernel_makes_of_it() {
    // Small logs that go round several times, records of all sizes, log and file system sectors of 4 KiB.
    let variants: &[(&str, &str, u64)] = &[
        ("", "", 3000),
        ("-b size=1024 -m rmapbt=1", ",logbsize=256k", 6000),
        ("-l size=13m,su=32k -m rmapbt=1", ",logbsize=256k,sync", 10_000),
        ("-l size=13m -d agcount=9", ",wsync", 6000),
        ("-b size=65536", ",logbsize=64k", 3000),
        ("-s size=4096 -l size=13m", ",logbsize=32k,sync", 5000),
    ];
    let (mut followed, mut outdated) = (0, 0);
    for (seed, (options, mount_options, operations)) in (0..).zip(variants) {
        for shutdown in ["shutdown", "shutdown -f"] {
            let scratch = Scratch::new();
            let image = scratch.path("image");
            mkfs(&image, 300 * MIB, options);
            let mount = Mount::new(&image, &scratch.path("mnt"), &format!("loop{mount_options}"));
            churn(&mount.0, seed, operations / 2);
            nix::unistd::sync();
            churn(&mount.0, seed + 1000, operations / 2);
            run("xfs_io", ["-x", "-c", shutdown, mount.0.to_str().unwrap()]);
            drop(mount);

            let found = map_of(&image);
            assert!(matches!(found.notes[..], [Note::Dirty { .. }]), "{options}, {shutdown}: {:?}", found.notes);
            assert_used_bytes_are_enough(&image, &scratch, &found);
            followed += 1;
            // The trees as they are on disk would have lost blocks: the log was needed.
            let (free_on_disk, _) = free_by_xfs_db(&image);
            outdated += u32::from(free_on_disk.minus(&found.used) != free_on_disk);
        }
    }
    assert!(followed == 12 && outdated >= 6, "{outdated} of {followed} logs were needed");
}

#[test]
fn a_frozen_file_system_is_read_as_it_is() {
    let scratch = Scratch::new();
    let (image, snapshot) = (scratch.path("image"), scratch.path("snapshot"));
    mkfs(&image, 300 * MIB, "");
    let mount = Mount::new(&image, &scratch.path("mnt"), "loop");
    churn(&mount.0, 1, 2000);
    let _open_and_deleted = File::create(mount.0.join("deleted")).unwrap();
    fs::remove_file(mount.0.join("deleted")).unwrap();
    run("xfs_freeze", ["-f".as_ref(), mount.0.as_os_str()]);
    run("cp", ["--sparse=always".as_ref(), image.as_os_str(), snapshot.as_os_str()]);
    run("xfs_freeze", ["-u".as_ref(), mount.0.as_os_str()]);
    drop(_open_and_deleted);
    drop(mount);
    let found = map_of(&snapshot);
    assert!(!matches!(found.notes[..], [Note::ReadWhole { .. }]), "{:?}", found.notes);
    assert_used_bytes_are_enough(&snapshot, &scratch, &found);
}
