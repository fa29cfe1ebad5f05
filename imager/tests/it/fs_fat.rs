//! FAT: the map against what `fsck.fat` counts and `mshowfat` and `partclone.vfat` list, and against
//! `fsck.fat` and mtools on a copy of only the used bytes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, SpareKind, inspect};

use crate::support::{run, sh, sparse_file};
use crate::volume::{FileVolume, Overlay, Random, Scratch, copy_used, tree};

const KIB: u64 = 1 << 10;

fn mkfs(image: &Path, size: u64, options: &str) {
    sparse_file(image, size);
    sh(&format!("mkfs.fat {options} {} 2>&1", image.display()));
}

fn map_of(image: &Path) -> FileSystem {
    inspect(&FileVolume::open(image))
}

/// Runs one of the mtools on `image`; they work on odd geometries when told not to check.
fn mtool<S: AsRef<OsStr>>(tool: &str, image: &Path, args: impl IntoIterator<Item = S>) -> String {
    let mut all = vec!["MTOOLS_SKIP_CHECK=1".into(), OsStr::new(tool).into(), OsStr::new("-i").into(), image.into()];
    all.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
    run("env", all)
}

/// Files of many sizes in the root and in directories, every second deleted, the holes filled with one file.
fn fill(image: &Path, scratch: &Path, room: u64, seed: u64) {
    let mut random = Random::new(seed);
    let files = scratch.join("files");
    for directory in ["", "first", "first/below"] {
        fs::create_dir_all(files.join(directory)).unwrap();
        for number in 0..24 {
            let len = usize::try_from(random.below(room / 160)).unwrap();
            fs::write(files.join(directory).join(format!("file {number}")), random.bytes(len)).unwrap();
        }
    }
    let entries: Vec<PathBuf> = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()).collect();
    mtool(
        "mcopy",
        image,
        [OsStr::new("-s")].into_iter().chain(entries.iter().map(|e| e.as_os_str())).chain(["::/".as_ref()]),
    );
    for directory in ["", "first/", "first/below/"] {
        let deleted = (0..24).step_by(2).map(|number| format!("::/{directory}file {number}"));
        mtool("mdel", image, deleted);
    }
    let len = usize::try_from(room / 4).unwrap();
    fs::write(files.join("large"), random.bytes(len)).unwrap();
    mtool("mcopy", image, [files.join("large").as_os_str(), "::/".as_ref()]);
}

fn files_of(image: &Path, scratch: &Path) -> std::collections::BTreeMap<String, String> {
    let target = scratch.join("read back");
    let _ = fs::remove_dir_all(&target);
    fs::create_dir(&target).unwrap();
    mtool("mcopy", image, ["-s".as_ref(), "-Q".as_ref(), "::/*".as_ref(), target.as_os_str()]);
    tree(&target)
}

/// The clusters of every file and directory, as `mshowfat` lists them; a cluster counts as one.
fn clusters_by_mshowfat(image: &Path, names: &[String]) -> ExtentSet {
    let listed = mtool("mshowfat", image, names);
    let runs = listed.lines().flat_map(|line| line.rsplit_once("::").unwrap().1.split('<').skip(1));
    let clusters = runs.map(|run| {
        let run = run.split('>').next().unwrap();
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        Extent::between(first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
    });
    clusters.collect()
}

/// The clusters of a map; a cluster counts as one.
fn clusters(found: &FileSystem, used: &ExtentSet) -> ExtentSet {
    let cluster = |position: u64| (position - found.grid_origin) / u64::from(found.block_size) + 2;
    let data = used.intersect(Extent::between(found.grid_origin, found.size));
    data.map(|extent| Extent::between(cluster(extent.start), cluster(extent.end()))).collect()
}

/// Used and all clusters, as `fsck.fat` counts them.
fn counts_by_fsck(image: &Path) -> (u64, u64) {
    let said = run("fsck.fat", ["-v".as_ref(), "-n".as_ref(), image.as_os_str()]);
    let counts = said.trim_end().lines().last().unwrap().rsplit_once("files, ").unwrap().1;
    let (used, all) = counts.trim_end_matches(" clusters").split_once('/').unwrap();
    (used.parse().unwrap(), all.parse().unwrap())
}

#[test]
fn the_map_is_that_of_the_tools_and_the_used_bytes_are_the_file_system() {
    let variants: &[(&str, u64)] = &[
        ("-F 12 -n FLOPPY", 1440),
        ("-F 12 -s 8 -f 1", 9000),
        ("-F 12 -S 1024 -s 2", 5000),
        ("-F 16 -s 1 -i 0BADCAFE", 20_000),
        ("-F 16 -s 64 -R 8", 300_000),
        ("-F 16 -S 2048 -s 4 -f 1", 100_000),
        ("-F 32 -s 1 -n 'TWO WORDS'", 60_000),
        ("-F 32 -s 8", 600_000),
        ("-F 32 -s 128 -S 512", 5_000_000),
        ("-F 32 -S 4096 -s 1 -R 32", 600_000),
    ];
    for (seed, (options, kib)) in (0..).zip(variants) {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        mkfs(&image, kib * KIB, options);
        fill(&image, scratch.root(), (kib * KIB).min(24 << 20), seed);
        let files = files_of(&image, scratch.root());
        let mut names: Vec<String> = files.keys().map(|name| format!("::/{name}")).collect();

        if options.contains("-F 32") {
            names.push("::/".to_owned());
        }
        let found = map_of(&image);
        assert_eq!((found.kind.as_str(), &found.notes), ("vfat", &vec![]), "{options}");
        let blkid =
            |tag: &str| Some(run("blkid", ["-p", "-o", "value", "-s", tag, image.to_str().unwrap()]).trim().to_owned());
        assert_eq!(found.uuid, blkid("UUID"), "{options}");
        assert_eq!(found.label, blkid("LABEL").filter(|label| !label.is_empty()), "{options}");
        // mkfs.fat leaves out what does not fill a track.
        assert!((kib * KIB - 63 * 4096..=kib * KIB).contains(&found.size), "{options}");

        let ours = clusters(&found, &found.used);
        assert_eq!(ours, clusters_by_mshowfat(&image, &names), "{options}");
        let (used, all) = counts_by_fsck(&image);
        assert_eq!(ours.total(), used, "{options}");
        assert_eq!((found.size - found.grid_origin) / u64::from(found.block_size), all, "{options}");

        let copy = scratch.path("copy");
        copy_used(&image, &copy, &found.used);
        run("fsck.fat", ["-n".as_ref(), copy.as_os_str()]);
        assert_eq!(files_of(&copy, scratch.root()), files, "{options}");
    }
}

/// The used blocks of a `partclone.vfat` image: its header says how many and how large, its bitmap which.
#[test]
fn partclone_knows_of_no_used_block_that_the_map_lacks() {
    // Not for FAT12: there partclone.vfat counts blocks that neither fsck.fat nor mshowfat know of.
    for options in ["-F 16", "-F 32 -s 1"] {
        let scratch = Scratch::new();
        let (image, clone) = (scratch.path("image"), scratch.path("clone"));
        mkfs(&image, 60_000 * KIB, options);
        fill(&image, scratch.root(), 60_000 * KIB, 7);
        let paths = format!("-s {} -o {}", image.display(), clone.display());
        sh(&format!("partclone.vfat -c -q {paths} -L /dev/null 2>/dev/null"));
        let clone = fs::read(&clone).unwrap();
        let number = |at: usize, len: usize| clone[at..at + len].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        let (blocks, block_size) = (number(60, 8), number(84, 4));
        let is_used = |block: u64| {
            let byte = clone[110 + usize::try_from(block / 8).unwrap()];
            byte >> (block % 8) & 1 == 1
        };
        let used = (0..blocks).filter(|&block| is_used(block)).map(|block| Extent::new(block * block_size, block_size));
        let used: ExtentSet = used.collect();
        let found = map_of(&image);
        assert_eq!(used.minus(&found.used), ExtentSet::new(), "{options}");
        let more = found.used.minus(&used).total();
        assert!(more < u64::from(found.block_size), "{options}: {more} bytes more than the rest behind the clusters");
    }
}

/// A small FAT16 volume with files, and where its tables are.
struct Small {
    scratch: Scratch,
    image: PathBuf,
    found: FileSystem,
    table: u64,
    table_size: u64,
}

impl Small {
    fn new(options: &str) -> Self {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        // mtools take fewer than 65,525 clusters for FAT16, whatever the boot sector says.
        let kib = if options.contains("-F 32") { 40_000 } else { 20_000 };
        mkfs(&image, kib * KIB, options);
        fill(&image, scratch.root(), 4 << 20, 3);
        let boot = fs::read(&image).unwrap();
        let le16 = |at: usize| u64::from(boot[at]) | u64::from(boot[at + 1]) << 8;
        let sectors = if le16(0x16) == 0 { le16(0x24) } else { le16(0x16) };
        let (table, table_size) = (le16(0x0e) * 512, sectors * 512);
        let found = map_of(&image);
        assert_eq!(found.kind, "vfat");
        Self { scratch, image, found, table, table_size }
    }

    /// The map with `bytes` at each `at`.
    fn patched(&self, patches: &[(u64, &[u8])]) -> FileSystem {
        let below = FileVolume::open(&self.image);
        let patches = patches.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        inspect(&Overlay { below: &below, patches })
    }

    /// The last clusters are free: these tests mark them.
    fn last_cluster(&self) -> u64 {
        (self.found.size - self.found.grid_origin) / u64::from(self.found.block_size) + 1
    }

    fn cluster(&self, number: u64) -> Extent {
        let size = u64::from(self.found.block_size);
        Extent::new(self.found.grid_origin + (number - 2) * size, size)
    }
}

fn reason(found: &FileSystem) -> &str {
    match found.notes.as_slice() {
        [Note::ReadWhole { reason }] => reason,
        other => panic!("not read whole: {other:?}"),
    }
}

#[test]
fn a_cluster_is_in_use_when_either_table_says_so() {
    let small = Small::new("-F 16");
    let last = small.last_cluster();
    assert!(!small.found.used.contains(small.cluster(last)));
    for table in [0, 1] {
        let at = small.table + table * small.table_size + last * 2;
        let found = small.patched(&[(at, &[0xff, 0xff])]);
        assert!(found.used.contains(small.cluster(last)), "table {table}");
        assert_eq!(found.used.minus(&small.found.used).total(), small.cluster(last).len);
        assert!(matches!(&found.notes[..], [Note::Remark { detail }] if detail.contains("differ in 1 entries")));
    }
}

#[test]
fn without_mirroring_only_the_active_table_counts() {
    let small = Small::new("-F 32 -s 1");
    let last = small.last_cluster();
    let second = small.table + small.table_size + last * 4;
    let mark: &[u8] = &[0xf8, 0xff, 0xff, 0x0f];
    let found = small.patched(&[(0x28, &[0x80]), (second, mark)]);
    assert_eq!((found.used, found.notes), (small.found.used.clone(), vec![]));
    let found = small.patched(&[(0x28, &[0x81]), (second, mark)]);
    assert!(found.used.contains(small.cluster(last)) && found.notes.is_empty());
    assert!(reason(&small.patched(&[(0x28, &[0x82])])).contains("table 2 of 2"));
}

#[test]
fn bad_clusters_are_left_out_with_a_remark() {
    for (options, bad) in [("-F 16", &[0xf7, 0xff][..]), ("-F 32 -s 1", &[0xf7, 0xff, 0xff, 0x0f])] {
        let small = Small::new(options);
        let last = small.last_cluster();
        let at = small.table + last * u64::try_from(bad.len()).unwrap();
        let found = small.patched(&[(at, bad), (at + small.table_size, bad)]);
        assert_eq!(found.used, small.found.used);
        assert!(matches!(&found.notes[..], [Note::Remark { detail }] if detail.contains("1 clusters are marked bad")));
        // Bad in one table, in use in the other: in use.
        let found = small.patched(&[(at, bad), (at + small.table_size, &[5])]);
        assert!(found.used.contains(small.cluster(last)));
    }
}

#[test]
fn every_mark_of_a_volume_that_was_not_unmounted_is_seen() {
    let dirty = |found: FileSystem| matches!(found.notes[..], [Note::Dirty { .. }]);
    let small = Small::new("-F 16");
    assert!(dirty(small.patched(&[(0x25, &[1])])));
    let flags = [(small.table + 3, &[0x7f][..]), (small.table + small.table_size + 3, &[0x7f])];
    assert!(dirty(small.patched(&flags)));
    let errors = flags.map(|(at, _)| (at, &[0xbf][..]));
    assert!(matches!(small.patched(&errors).notes[..], [Note::Remark { .. }]));
    let large = Small::new("-F 32 -s 1");
    assert!(dirty(large.patched(&[(0x41, &[1])])));
    let flags = [(large.table + 7, &[0x07][..]), (large.table + large.table_size + 7, &[0x07])];
    assert!(dirty(large.patched(&flags)));
}

#[test]
fn what_is_damaged_or_odd_is_read_whole_with_the_reason() {
    let small = Small::new("-F 16");
    let text = |offset, bytes: &'static [u8]| vec![(offset, bytes)];
    let cases = [
        (text(small.table, b"\xf9"), "first entry"),
        (text(0x36, b"FAT12   "), "says FAT12"),
        (text(0x16, b"\x01"), "too short"),
        (text(0x13, b"\x50\x9c"), "claims"),
        (text(0x13, &[32, 0]), "single cluster"),
        (text(0x1a8, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"), "BitLocker"),
        (text(4096, b"\xfc\x4e\x2b\xa9"), "RAID"),
        (text(512, b"LABELONE"), "LVM"),
    ];
    for (patches, expected) in cases {
        let found = small.patched(&patches);
        assert_eq!((found.kind.as_str(), found.used.total()), ("vfat", 20_000 * KIB), "{expected}");
        assert!(reason(&found).contains(expected), "{}", reason(&found));
    }
    let ext = small.patched(&[(1024, &[0; 1024]), (1080, &[0x53, 0xef])]);
    assert!(reason(&ext).contains("in front of ext"), "{}", reason(&ext));
    let large = Small::new("-F 32 -s 1");
    assert!(reason(&large.patched(&[(0x2a, &[1])])).contains("FAT32 of version"));
    assert!(reason(&large.patched(&[(0x11, &[1])])).contains("FAT32 of version"));
}

#[test]
fn other_boot_sectors_are_not_taken_for_fat() {
    let small = Small::new("-F 16");
    for oem in [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"] {
        assert_ne!(small.patched(&[(3, oem)]).kind, "vfat");
    }
    for (at, bytes) in [(0x0b, &[0, 3][..]), (0x0d, &[3]), (0x0e, &[0, 0]), (0x10, &[0]), (0x15, &[0xf7])] {
        assert_ne!(small.patched(&[(at, bytes)]).kind, "vfat", "{at:#x}");
    }
    let scratch = Scratch::new();
    let image = sparse_file(&scratch.path("ntfs"), 20 << 20);
    run("mkntfs", ["-q".as_ref(), "-F".as_ref(), "-p".as_ref(), "0".as_ref(), image.as_os_str()]);
    assert_ne!(map_of(&image).kind, "vfat");
    let image = sparse_file(&scratch.path("atari"), 20 << 20);
    run("mkfs.fat", ["-A".as_ref(), image.as_os_str()]);
    assert_ne!(map_of(&image).kind, "vfat");
    // A partition table behind a boot loader's jump, as GRUB writes it.
    let image = sparse_file(&scratch.path("mbr"), 20 << 20);
    sh(&format!(
        "echo ',,83' | sfdisk -q {0} && printf '\\xeb\\x63\\x90' | dd of={0} conv=notrunc 2>&1",
        image.display()
    ));
    assert_ne!(map_of(&image).kind, "vfat");
}

#[test]
fn page_files_are_named_and_a_hibernated_system_is_noticed() {
    let small = Small::new("-F 32 -s 1");
    let mut random = Random::new(9);
    for (name, start) in [("pagefile.sys", "page"), ("386SPART.PAR", ""), ("hiberfil.sys", "hibr"), ("other.sys", "")] {
        let path = small.scratch.path(name);
        let mut content = random.bytes(100_000);
        content[..start.len()].copy_from_slice(start.as_bytes());
        fs::write(&path, content).unwrap();
        mtool("mcopy", &small.image, [path.as_os_str(), "::/".as_ref()]);
    }
    let found = map_of(&small.image);
    assert!(matches!(found.notes[..], [Note::Hibernated { .. }]), "{:?}", found.notes);
    let kinds: Vec<_> = found.spare_files.iter().map(|file| (file.path.as_str(), file.kind)).collect();
    assert_eq!(
        kinds,
        [
            ("pagefile.sys", SpareKind::Paging),
            ("386spart.par", SpareKind::Paging),
            ("hiberfil.sys", SpareKind::Hibernation)
        ]
    );
    for file in &found.spare_files {
        let listed = clusters_by_mshowfat(&small.image, &[format!("::/{}", file.path)]);
        assert_eq!(clusters(&found, &file.extents), listed, "{}", file.path);
        assert_eq!(file.extents.minus(&found.used), ExtentSet::new());
    }
    assert!(small.patched(&[(0x41, &[1])]).spare_files.is_empty(), "not in a table that may be wrong");
}

#[test]
fn any_damage_ends_in_a_map_within_the_volume() {
    for options in ["-F 12 -s 16", "-F 16", "-F 32 -s 1"] {
        let small = Small::new(options);
        let mut random = Random::new(1);
        let below: Vec<u8> = fs::read(&small.image).unwrap();
        for _ in 0..4000 {
            // Most damage goes where the structures are.
            let limit = [90, 0x200, small.found.grid_origin, small.found.grid_origin + 4096, small.found.size];
            let limit = limit[usize::try_from(random.below(5)).unwrap()];
            let patches = (0..=random.below(3)).map(|_| {
                let len = 1 + usize::try_from(random.below(4)).unwrap();
                (random.below(limit), random.bytes(len))
            });
            let volume = Overlay { below: &below, patches: patches.collect() };
            let found = inspect(&volume);
            assert!(found.used.iter().all(|extent| extent.end() <= below.len() as u64));
        }
    }
}
