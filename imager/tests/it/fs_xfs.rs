//! XFS: the map against what `xfs_db` says, and against `xfs_repair` and the kernel on a copy of only the used
//! bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, inspect};
use imager::read_at::ReadAt;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::support::{Mount, output, run, sh, sparse_file};
use crate::volume::{FileVolume, Overlay, Random, Scratch, copy_used, tree};

const MIB: u64 = 1 << 20;

fn mkfs(image: &Path, size: u64, options: &str) {
    sparse_file(image, size);
    sh(&format!("mkfs.xfs -q -f --unsupported {options} {} 2>&1", image.display()));
}

fn map_of(image: &Path) -> FileSystem {
    inspect(&FileVolume::open(image))
}

/// Writes out what a mounted file system holds back.
fn sync(root: &Path) {
    nix::unistd::syncfs(File::open(root).unwrap()).unwrap();
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
    sync(root);
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
    let geometry: Vec<u64> =
        db(&["sb 0".into(), "print blocksize agblocks agcount".into()]).lines().map(number).collect();
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
        let agf: Vec<u64> =
            db(&[format!("agf {ag}"), "print flfirst fllast flcount".into()]).lines().map(number).collect();
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
        let _ = match random.below(14) {
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
            // Hundreds of free extents come and go at once: the trees grow and lose blocks.
            10 | 11 => File::options().write(true).open(root.join("holes")).and_then(|file| {
                let start = i64::try_from(random.below(8 << 20)).unwrap() / 8192 * 8192;
                if random.below(3) == 0 {
                    return fallocate(&file, FallocateFlags::empty(), start, 2 << 20).map_err(Into::into);
                }
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let mut holes = 0..i64::try_from(random.below(150)).unwrap();
                holes.try_for_each(|hole| fallocate(&file, flags, start + hole * 8192, 4096).map_err(Into::into))
            }),
            12 => fs::remove_dir_all(root.join(format!("churn {}", random.below(40)))),
            _ => fs::remove_file(&path),
        };
        if operation % 700 == 699 && random.below(2) == 0 {
            sync(root);
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
        ("", "", 2000),
        ("-b size=1024 -m rmapbt=1", ",logbsize=256k", 3000),
        ("-l size=13m,su=32k -m rmapbt=1", ",logbsize=256k,sync", 2500),
        ("-l size=13m -d agcount=9", ",wsync", 2000),
        ("-b size=65536", ",logbsize=64k", 1000),
        ("-s size=4096 -l size=13m", ",logbsize=32k,sync", 1500),
    ];
    let crash = |seed: u64, (options, mount_options, operations): &(&str, &str, u64)| {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        mkfs(&image, 300 * MIB, options);
        let mount = Mount::new(&image, &scratch.path("mnt"), "loop");
        fill(&mount.0, seed);
        drop(mount);
        let mount = Mount::new(&image, &scratch.path("mnt"), &format!("loop{mount_options}"));
        churn(&mount.0, seed, operations / 2);
        sync(&mount.0);
        churn(&mount.0, seed + 1000, operations / 2);
        // What has not reached the log yet is lost, or is flushed to the log first.
        let shutdown = if seed.is_multiple_of(2) { "shutdown" } else { "shutdown -f" };
        run("xfs_io", ["-x", "-c", shutdown, mount.0.to_str().unwrap()]);
        drop(mount);

        let found = map_of(&image);
        assert!(matches!(found.notes[..], [Note::Dirty { .. }]), "{options}: {:?}", found.notes);
        assert_used_bytes_are_enough(&image, &scratch, &found);
        // The trees as they are on disk would have lost blocks: the log was needed.
        let (free_on_disk, _) = free_by_xfs_db(&image);
        let is_needed = free_on_disk.minus(&found.used) != free_on_disk;
        let log = sh(&format!("xfs_logprint -t {} 2>&1", image.display()));
        (is_needed, number_after(&log, "tail:") > number_after(&log, "head:"))
    };
    let (mut needed, mut wrapped) = (0, 0);
    // Where the kernel is in its log at the end depends on what else the machine does.
    for round in 0..4 {
        // Most of the time is waiting for the kernel: all at once.
        let crashes: Vec<(bool, bool)> = std::thread::scope(|scope| {
            let seeds = 10 * round..;
            let threads: Vec<_> =
                seeds.zip(variants).map(|(seed, variant)| scope.spawn(move || crash(seed, variant))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        needed += crashes.iter().filter(|(is_needed, _)| *is_needed).count();
        wrapped += crashes.iter().filter(|(_, is_wrapped)| *is_wrapped).count();
        if needed >= 3 && wrapped >= 1 {
            break;
        }
    }
    assert!(needed >= 3 && wrapped >= 1, "{needed} logs were needed, {wrapped} were wrapped");
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

/// Version 4, which today's kernels no longer mount: filled by `mkfs.xfs`, thinned out by `xfs_repair`.
fn version_4(image: &Path, scratch: &Scratch, options: &str) {
    let mut random = Random::new(4);
    let content = scratch.path("content");
    fs::create_dir(&content).unwrap();
    let mut prototype = String::from("/dev/null\n0 0\nd--755 0 0\n");
    let mut script = String::new();
    for number in 0..1200 {
        let path = content.join(number.to_string());
        let len = usize::try_from(random.below(12_000)).unwrap();
        fs::write(&path, random.bytes(len)).unwrap();
        prototype += &format!("file{number} ---644 0 0 {}\n", path.display());
        if number % 2 == 0 {
            script += &format!("path /file{number}\nwrite -d core.mode 0\n");
        }
    }
    let (prototype_file, script_file) = (scratch.path("prototype"), scratch.path("script"));
    fs::write(&prototype_file, prototype + "$\n").unwrap();
    fs::write(&script_file, script).unwrap();
    mkfs(image, 100 * MIB, &format!("-m crc=0 {options} -p {}", prototype_file.display()));
    let (image, script) = (image.display(), script_file.display());
    sh(&format!("xfs_db -x {image} <{script} >/dev/null 2>&1; xfs_repair {image} 2>&1"));
}

#[test]
fn version_4_is_read_as_xfs_db_reads_it() {
    for options in
        ["-d agcount=2", "-b size=512 -d agcount=2", "-l version=1 -b size=1024", "-s size=4096 -b size=16384"]
    {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        version_4(&image, &scratch, options);
        let found = map_of(&image);
        assert_eq!((found.kind.as_str(), &found.notes), ("xfs", &vec![]), "{options}");
        assert_map_is_that_of_xfs_db(&image, &found);
        assert!(found.used.as_slice().len() > 200, "{options}: {} extents", found.used.as_slice().len());
        let copy = scratch.path("copy");
        copy_used(&image, &copy, &found.used);
        assert_healthy(&copy);
    }
}

#[test]
fn a_new_uuid_leaves_the_old_one_on_the_metadata() {
    let scratch = Scratch::new();
    let image = scratch.path("image");
    mkfs(&image, 300 * MIB, "");
    let old = map_of(&image);
    run("xfs_admin", ["-U".as_ref(), "generate".as_ref(), image.as_os_str()]);
    let new = map_of(&image);
    assert_eq!(new.notes, []);
    assert_ne!(new.uuid, old.uuid);
    assert_eq!(
        new.uuid.as_deref(),
        Some(run("blkid", ["-p", "-o", "value", "-s", "UUID", image.to_str().unwrap()]).trim())
    );
    assert_eq!(new.used, old.used);
}

#[test]
fn a_log_that_xfs_repair_has_made_anew_is_clean() {
    let scratch = Scratch::new();
    let image = scratch.path("image");
    mkfs(&image, 300 * MIB, "-l size=13m");
    let mount = Mount::new(&image, &scratch.path("mnt"), "loop,wsync");
    churn(&mount.0, 2, 6000);
    run("xfs_io", ["-x", "-c", "shutdown -f", mount.0.to_str().unwrap()]);
    drop(mount);
    output("xfs_repair", ["-L".as_ref(), image.as_os_str()]);
    let found = map_of(&image);
    assert_eq!(found.notes, []);
    assert_map_is_that_of_xfs_db(&image, &found);
}

fn reason(found: &FileSystem) -> &str {
    match found.notes.as_slice() {
        [Note::ReadWhole { reason }] => reason,
        other => panic!("not read whole: {other:?}"),
    }
}

#[test]
fn a_log_or_a_realtime_section_elsewhere_is_said() {
    let scratch = Scratch::new();
    let (image, other) = (scratch.path("image"), sparse_file(&scratch.path("other"), 100 * MIB));
    mkfs(&image, 300 * MIB, &format!("-l logdev={},size=64m", other.display()));
    let found = map_of(&image);
    assert_eq!((found.kind.as_str(), found.used.total()), ("xfs", 300 * MIB));
    assert!(reason(&found).contains("log is on another device"));

    mkfs(&image, 300 * MIB, &format!("-r rtdev={},size=64m", other.display()));
    let found = map_of(&image);
    assert!(matches!(&found.notes[..], [Note::Remark { detail }] if detail.contains("realtime")), "{:?}", found.notes);
    assert_map_is_that_of_xfs_db(&image, &found);
}

/// A volume of version 5, and what becomes of it when bytes change.
struct Sample {
    volume: FileVolume,
    found: FileSystem,
}

/// A sector or block to be changed: its position, its length, the place of its checksum.
type Place = (u64, usize, usize);

const SUPERBLOCK: Place = (0, 512, 224);
const AGF: Place = (512, 512, 216);

impl Sample {
    fn new(scratch: &Scratch) -> Self {
        let image = scratch.path("image");
        mkfs(&image, 300 * MIB, "");
        let mount = Mount::new(&image, &scratch.path("mnt"), "loop");
        fill(&mount.0, 1);
        drop(mount);
        Self { volume: FileVolume::open(&image), found: map_of(&image) }
    }

    fn be32(&self, at: u64) -> u32 {
        u32::from_be_bytes(self.volume.read_vec(at, 4).unwrap().try_into().unwrap())
    }

    /// The root of the first group's tree by block number.
    fn root(&self) -> Place {
        (u64::from(self.be32(512 + 16)) * 4096, 4096, 52)
    }

    /// `place` with `bytes` at `at`, its checksum made right again.
    fn sealed(&self, (position, len, crc_at): Place, changes: &[(usize, &[u8])]) -> (u64, Vec<u8>) {
        let mut sector = self.volume.read_vec(position, len).unwrap();
        for (at, bytes) in changes {
            sector[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        sector[crc_at..crc_at + 4].fill(0);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&sector);
        sector[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        (position, sector)
    }

    fn patched(&self, patches: Vec<(u64, Vec<u8>)>) -> FileSystem {
        inspect(&Overlay { below: &self.volume, patches })
    }
}

#[test]
fn features_that_do_not_touch_the_free_space_are_read_and_others_are_not() {
    let scratch = Scratch::new();
    let sample = Sample::new(&scratch);
    let incompat = sample.be32(216);
    for known in [0x8, 0x20, 0x40, 0x80, 0x100] {
        let found = sample.patched(vec![sample.sealed(SUPERBLOCK, &[(216, &(incompat | known).to_be_bytes())])]);
        assert_eq!((found.used, found.notes), (sample.found.used.clone(), vec![]), "{known:#x}");
    }
    let cases: &[(usize, u32, &str)] = &[
        (216, incompat | 0x10, "needsrepair"),
        (216, incompat | 0x200, "zoned"),
        (216, incompat | 0x8000_0000, "incompatible features 0x80000000"),
        (212, sample.be32(212) | 0x10, "read-only compatible features 0x10"),
        (220, 2, "incompatible log features 0x2"),
        (200, sample.be32(200) | 0x400, "features 0x400"),
        (124, sample.be32(124) | 0x100, "sb_inprogress"),
    ];
    for (at, value, expected) in cases {
        let found = sample.patched(vec![sample.sealed(SUPERBLOCK, &[(*at, &value.to_be_bytes())])]);
        assert!(reason(&found).starts_with("unsupported: ") && reason(&found).contains(expected), "{}", reason(&found));
        assert_eq!(found.used.total(), sample.volume.size());
    }
}

#[test]
fn every_damage_is_found() {
    let scratch = Scratch::new();
    let sample = Sample::new(&scratch);
    let root = sample.root();
    let free_blocks = sample.be32(512 + 52);
    let level = sample.volume.read_vec(root.0 + 5, 1).unwrap()[0];
    assert_eq!(level, 1, "the sample has leaves below its root");
    let leaf = (u64::from(sample.be32(root.0 + 56 + 336 * 8)) * 4096, 4096, 52);
    let first = sample.volume.read_vec(leaf.0 + 56, 8).unwrap();
    let number = |n: u32| n.to_be_bytes();

    let unsealed = |(at, ..): Place, offset: u64| vec![(at + offset, vec![0x5a])];
    let cases = [
        (unsealed(SUPERBLOCK, 130), "the superblock's checksum"),
        (unsealed(AGF, 59), "checksum of a group's free space header"),
        (unsealed(root, 60), "checksum of a free space tree block"),
        (unsealed(leaf, 63), "checksum of a free space tree block"),
        (vec![sample.sealed(SUPERBLOCK, &[(84, &number(77))])], "77 blocks per allocation group"),
        (vec![sample.sealed(SUPERBLOCK, &[(88, &number(5))])], "5 allocation groups"),
        (vec![sample.sealed(SUPERBLOCK, &[(4, &number(4097))])], "block size 4097"),
        (vec![sample.sealed(SUPERBLOCK, &[(96, &number(0x7fff_ffff))])], "a log of 2147483647 blocks"),
        (vec![sample.sealed(AGF, &[(8, &number(1))])], "no free space header of this group"),
        (vec![sample.sealed(AGF, &[(12, &number(9999))])], "no free space header of this group"),
        (vec![sample.sealed(AGF, &[(28, &number(1))])], "tree block of level 0"),
        (vec![sample.sealed(AGF, &[(28, &number(3))])], "tree block of level 2"),
        (vec![sample.sealed(AGF, &[(52, &number(free_blocks + 1))])], "in the header"),
        (vec![sample.sealed(root, &[(16, &number(1))])], "of another place"),
        (vec![sample.sealed(root, &[(32, &number(1))])], "of another place"),
        (vec![sample.sealed(root, &[(48, &number(1))])], "of another place"),
        (vec![sample.sealed(root, &[(56 + 8, &number(0))])], "out of order"),
        (vec![sample.sealed(root, &[(56 + 336 * 8, &number(0x00ff_ffff))])], "leaves its group"),
        (vec![sample.sealed(root, &[(56 + 336 * 8, &number(u32::try_from(root.0 / 4096).unwrap()))])], "of level 0"),
        (vec![sample.sealed(leaf, &[(56 + 8, &first[..])])], "out of order"),
        (vec![sample.sealed(leaf, &[(56 + 4, &number(2000))])], "overlaps"),
        (vec![sample.sealed(leaf, &[(56 + 4, &number(u32::MAX))])], "free blocks at block"),
        (vec![sample.sealed(leaf, &[(56 + 4, &number(0))])], "0 free blocks at block"),
        (vec![sample.sealed(leaf, &[(6, &[0, 0])])], "tree block of level 0"),
    ];
    for (patches, expected) in cases {
        let found = sample.patched(patches);
        assert!(reason(&found).contains(expected), "{expected}: {}", reason(&found));
        assert!(reason(&found).starts_with("damaged at byte"), "{}", reason(&found));
        assert_eq!(found.used.total(), sample.volume.size());
    }
    let cut = imager::read_at::Window::new(&sample.volume, 0, 299 * MIB);
    assert!(reason(&inspect(&cut)).contains("the volume has"));
}

/// The number that follows the word `name`.
fn number_after(text: &str, name: &str) -> u64 {
    let mut words = text.split_whitespace().skip_while(|word| *word != name).skip(1);
    words.next().unwrap().parse().unwrap()
}

#[test]
fn a_log_that_a_power_cut_has_torn_is_not_followed() {
    let scratch = Scratch::new();
    let image = scratch.path("image");
    mkfs(&image, 300 * MIB, "");
    let mount = Mount::new(&image, &scratch.path("mnt"), "loop");
    churn(&mount.0, 3, 1000);
    run("xfs_io", ["-x", "-c", "shutdown -f", mount.0.to_str().unwrap()]);
    drop(mount);
    let volume = FileVolume::open(&image);
    let log = sh(&format!("xfs_logprint -t {} 2>&1", image.display()));
    let (start, tail, head) =
        (number_after(&log, "daddr:") * 512, number_after(&log, "tail:"), number_after(&log, "head:"));
    assert!(head > tail + 100);
    let patched = |at: u64, bytes: &[u8]| inspect(&Overlay { below: &volume, patches: vec![(at, bytes.to_vec())] });
    assert!(matches!(patched(start, &[]).notes[..], [Note::Dirty { .. }]));

    for block in [head - 60, head + 3, tail] {
        // The number of the cycle before, or the next.
        let found = patched(start + block * 512, if block > head { &[0, 0, 0, 1] } else { &[0; 4] });
        assert!(reason(&found).starts_with("unsupported: the log cannot be trusted"), "{block}: {}", reason(&found));
    }
    // One bit in the middle of a record, one in a header.
    for at in [start + (tail + 20) * 512 + 77, start + tail * 512 + 50] {
        let byte = volume.read_vec(at, 1).unwrap()[0];
        let found = patched(at, &[byte ^ 0x10]);
        assert!(reason(&found).contains("checksum is wrong"), "{}", reason(&found));
        assert_eq!(found.used.total(), 300 * MIB);
    }
}

#[test]
fn a_record_that_was_half_written_does_not_count() {
    let scratch = Scratch::new();
    let image = scratch.path("image");
    mkfs(&image, 300 * MIB, "");
    let mount = Mount::new(&image, &scratch.path("mnt"), "loop,sync");
    churn(&mount.0, 5, 400);
    run("xfs_io", ["-x", "-c", "shutdown -f", mount.0.to_str().unwrap()]);
    drop(mount);
    let log = sh(&format!("xfs_logprint -t {} 2>&1", image.display()));
    let (start, head) = (number_after(&log, "daddr:") * 512, number_after(&log, "head:"));
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 512], start + (head - 1) * 512).unwrap();
    let cut = sh(&format!("xfs_logprint -t {} 2>&1", image.display()));
    assert!(number_after(&cut, "head:") < head - 1, "the tools end the log earlier, too");
    let found = map_of(&image);
    assert!(matches!(found.notes[..], [Note::Dirty { .. }]), "{:?}", found.notes);
    assert_used_bytes_are_enough(&image, &scratch, &found);
}

#[test]
fn any_damage_ends_in_a_map_within_the_volume() {
    // Without checksums, so that damage gets as far as it can.
    let scratch = Scratch::new();
    let image = scratch.path("image");
    version_4(&image, &scratch, "-b size=512 -d agcount=2");
    let below = fs::read(&image).unwrap();
    let is_metadata = |sector: &[u8]| [&b"XFSB"[..], b"XAGF", b"ABTB", b"\xfe\xed\xba\xbe"].contains(&&sector[..4]);
    let places: Vec<usize> = (0..below.len()).step_by(512).filter(|&at| is_metadata(&below[at..])).collect();
    assert!(places.len() > 10);
    let mut random = Random::new(2);
    let mut whole = 0;
    for _ in 0..3000 {
        let patches = (0..=random.below(2)).map(|_| {
            let place = places[usize::try_from(random.below(places.len() as u64)).unwrap()];
            let len = 1 + usize::try_from(random.below(4)).unwrap();
            let limit = if random.below(2) == 0 { 32 } else { 500 };
            let within = random.below(limit);
            (place as u64 + within, random.bytes(len))
        });
        let found = inspect(&Overlay { below: &below, patches: patches.collect() });
        assert!(found.used.iter().all(|extent| extent.end() <= below.len() as u64));
        whole += u32::from(matches!(found.notes[..], [Note::ReadWhole { .. }]));
    }
    assert!(whole > 1000, "only {whole} of 3000 were noticed");
}
