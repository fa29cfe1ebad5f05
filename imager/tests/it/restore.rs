//! Disks captured and brought back by the program: every kind of table, every kind of target.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imager::extent::{Extent, ExtentSet};
use imager::layout::{self, Wanted};

use crate::support::{
    Imager, Loop, Mount, check_volume, content, gpt_disk, noise, output, read_at, run, sh, some_files, sparse_file,
    volume, write_at,
};
use crate::volume::{FileVolume, Scratch, tree};

const MIB: u64 = 1 << 20;
const GARBAGE: u8 = 0xA5;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file full of what must not come through.
pub(crate) fn garbage(path: &Path, len: u64) -> PathBuf {
    fs::write(path, vec![GARBAGE; usize::try_from(len).unwrap()]).unwrap();
    path.to_owned()
}

pub(crate) fn gpt(dir: &Scratch) -> PathBuf {
    let disk = sparse_file(&dir.path("source"), 48 * MIB);
    gpt_disk(dir.root(), &disk, 512);
    disk
}

/// An ext4 that begins at sector 63, and a FAT and a swap as logical partitions.
pub(crate) fn mbr(dir: &Scratch) -> PathBuf {
    let disk = dir.path("source");
    fs::write(&disk, noise(48 << 20, 98)).unwrap();
    write_at(&disk, 0, &[0; 512]);
    for (at, kind, mib) in [(63 * 512, "ext4", 12), (14 * MIB, "vfat", 12), (27 * MIB, "swap", 4)] {
        write_at(&disk, at, &volume(dir.root(), kind, mib, 512));
    }
    let table = r"label: dos\n63,24576,83,*\n26624,57344,5\n28672,24576,6\n55296,8192,82\n";
    sh(&format!("printf 'unit: sectors\\n{table}' | /usr/sbin/sfdisk -q --no-reread {}", disk.display()));
    disk
}

/// The bytes in use of a disk image, as the layout has them.
fn in_use(disk: &Path) -> ExtentSet {
    let layout = layout::read(&FileVolume::open(disk), None, &Wanted::default()).unwrap();
    let of_region = |region: &layout::RegionLayout| {
        let start = region.place.start;
        region.wanted.iter().map(move |e| Extent::new(start + e.start, e.len)).collect::<Vec<_>>()
    };
    layout.regions.iter().flat_map(of_region).collect()
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    usize::try_from(extent.start).unwrap()..usize::try_from(extent.end()).unwrap()
}

/// What is in use is the same on both; what is not was left alone on the target, but for its ends.
pub(crate) fn assert_used_is_equal(source: &Path, target: &Path) {
    let (used, expected, found) = (in_use(source), content(source), content(target));
    assert_eq!(expected.len(), found.len());
    for extent in used.iter() {
        assert!(expected[range(extent)] == found[range(extent)], "{extent:?} of {} differs", source.display());
    }
    let middle = Extent::between(MIB, expected.len() as u64 - MIB);
    let free = used.complement(middle);
    for extent in free.iter() {
        let left = found[range(extent)].iter().all(|&byte| byte == GARBAGE);
        assert!(left, "{extent:?} of {} is not in use and was written", source.display());
    }
}

/// With `--all-sectors` bit for bit; without, what is in use, onto garbage.
fn round_trip(dir: &Scratch, source: &Path) {
    let imager = Imager::init(&dir.path("repository"));
    let target = dir.path("target");
    let whole = imager.capture(source, &["--all-sectors"]);
    imager.ok(&["restore", &whole, "--to", text(&target), "--verify"]);
    assert!(content(&target) == content(source), "{} is not the same, bit for bit", source.display());
    let used = imager.capture(source, &[]);
    garbage(&target, source.metadata().unwrap().len());
    imager.ok(&["restore", &used, "--to", text(&target), "--force", "--changed-only", "--verify"]);
    assert_used_is_equal(source, &target);
    imager.ok(&["verify", "--read-data"]);
}

#[test]
fn a_gpt_disk() {
    let dir = Scratch::new();
    round_trip(&dir, &gpt(&dir));
    let target = dir.path("target");
    assert!(run("sgdisk", ["-v", text(&target)]).contains("No problems found"));
    check_volume(dir.root(), "vfat", &read_at(&target, 2 * MIB, 12 * MIB));
    check_volume(dir.root(), "ext4", &read_at(&target, 14 * MIB, 20 * MIB));
    let mount = Mount::new(&target, &dir.path("mount"), "loop,ro,offset=14680064");
    assert_eq!(
        tree(&mount.0).into_iter().filter(|(name, _)| name != "lost+found").collect::<Vec<_>>(),
        tree(&dir.path("tree")).into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn an_mbr_disk_with_logical_partitions_and_one_at_sector_63() {
    let dir = Scratch::new();
    let source = mbr(&dir);
    round_trip(&dir, &source);
    let target = dir.path("target");
    let dump = |disk: &Path| run("sfdisk", ["-d", text(disk)]).replace(text(disk), "disk");
    assert_eq!(dump(&target), dump(&source));
    for (at, kind, mib) in [(63 * 512, "ext4", 12), (14 * MIB, "vfat", 12), (27 * MIB, "swap", 4)] {
        check_volume(dir.root(), kind, &read_at(&target, at, mib * MIB));
    }
}

#[test]
fn a_hybrid_disk() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    run("sgdisk", ["-h", "3", text(&source)]);
    round_trip(&dir, &source);
}

#[test]
fn a_file_system_on_the_bare_disk_and_one_of_an_odd_size() {
    for rest in [0, 700] {
        let dir = Scratch::new();
        let source = dir.path("source");
        fs::write(&source, [volume(dir.root(), "ext4", 20, 512), noise(rest, 5)].concat()).unwrap();
        round_trip(&dir, &source);
        check_volume(dir.root(), "ext4", &read_at(&dir.path("target"), 0, 20 * MIB));
    }
}

#[test]
fn a_gpt_disk_of_an_odd_size() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    fs::File::options().append(true).open(&source).unwrap().set_len(48 * MIB + 300).unwrap();
    write_at(&source, 48 * MIB, &noise(300, 6));
    round_trip(&dir, &source);
}

#[test]
fn disks_that_are_hardly_any() {
    for bytes in [vec![0; 3 << 20], noise(512, 1), noise(100, 2), vec![0; 1], noise((1 << 20) + 1, 3)] {
        let dir = Scratch::new();
        let source = dir.path("source");
        fs::write(&source, &bytes).unwrap();
        let imager = Imager::init(&dir.path("repository"));
        imager.capture(&source, &[]);
        imager.ok(&["restore", "latest", "--to", text(&dir.path("target")), "--verify"]);
        assert!(content(&dir.path("target")) == bytes, "{} bytes", bytes.len());
    }
}

/// An ext4 whose second half another partition claims, too, and a partition that ends behind the disk.
#[test]
fn partitions_that_overlap_or_end_behind_the_disk() {
    let dir = Scratch::new();
    let source = dir.path("source");
    fs::write(&source, noise(40 << 20, 97)).unwrap();
    write_at(&source, MIB, &volume(dir.root(), "ext4", 16, 512));
    let entry = |start: u32, sectors: u32| {
        [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &start.to_le_bytes(), &sectors.to_le_bytes()].concat()
    };
    let entries = [entry(2048, 32768), entry(20000, 20000), entry(60000, 60000), entry(130_000, 1000)].concat();
    write_at(&source, 446, &[&entries[..], &[0x55, 0xAA]].concat());
    round_trip(&dir, &source);

    let imager = Imager::at(&dir.path("repository"));
    let shown = imager.ok(&["show", "latest"]);
    assert_eq!(shown.matches("overlap").count(), 3, "each partition and the disk say so once:\n{shown}");
    assert!(shown.contains("partition 1: read whole: it overlaps another partition"), "{shown}");
    let target = dir.path("one");
    for (partition, why) in [("1", "overlaps"), ("2", "overlaps"), ("4", "behind the end"), ("5", "it has 1, 2, 3, 4")]
    {
        for args in [["--to", &format!("p{partition}={}", text(&target))], ["--only", partition]] {
            let to = ["--to", text(&target)];
            let args = [&["restore", "latest"][..], &args, if args[0] == "--only" { &to } else { &[] }].concat();
            let error = imager.fails(2, &args);
            assert!(error.contains(why), "{error}");
            assert!(!target.exists(), "{args:?} made a file");
        }
    }
    imager.ok(&["restore", "latest", "--to", &format!("p3={}", text(&target))]);
    let there = 40 * MIB - 60000 * 512;
    assert!(read_at(&target, 0, there) == read_at(&source, 60000 * 512, there));
}

#[test]
fn sectors_of_4096_bytes_on_devices_and_in_files() {
    let dir = Scratch::new();
    let source = sparse_file(&dir.path("source"), 48 * MIB);
    let disk = Loop::attach(&source, &["--sector-size", "4096"]);
    gpt_disk(dir.root(), &disk.0, 4096);
    // As a file, whose table tells the size of the sectors.
    round_trip(&dir, &source);

    let imager = Imager::at(&dir.path("repository"));
    imager.capture(&disk.0, &[]);
    let target = garbage(&dir.path("target"), 64 * MIB);
    let small = Loop::attach(&target, &[]);
    let args =
        |device: &Loop| ["restore", "latest", "--to", text(&device.0), "--confirm", text(&device.0)].map(str::to_owned);
    let restore = |device: &Loop, more: &[&str]| {
        let args = args(device);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        imager.run(&args)
    };
    let refused = restore(&small, &[]);
    assert_eq!(refused.code, 6);
    assert!(refused.err.contains("its sectors have 512 bytes, those of the image 4096"), "{}", refused.err);
    drop(small);
    let large = Loop::attach(&target, &["--sector-size", "4096"]);
    assert_eq!(restore(&large, &["--verify"]).code, 0);
    assert!(run("sgdisk", ["-v", text(&large.0)]).contains("No problems found"));
    assert_eq!(sh(&format!("/usr/sbin/blkid -p -o value -s PTTYPE {}", large.0.display())).trim(), "gpt");
    check_volume(dir.root(), "ext4", &read_at(&target, 14 * MIB, 20 * MIB));
    check_volume(dir.root(), "vfat", &read_at(&target, 2 * MIB, 12 * MIB));
}

#[test]
fn a_restored_file_is_sparse_and_larger_targets_get_their_gpt_moved() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let target = dir.path("target");
    imager.ok(&["restore", "latest", "--to", text(&target)]);
    let (used, blocks) = (in_use(&source).total(), target.metadata().unwrap().blocks() * 512);
    assert!(blocks <= used, "{blocks} bytes on disk for {used} in use");

    // A file that is larger keeps its size.
    let larger = sparse_file(&dir.path("larger"), 80 * MIB + 512);
    imager.ok(&["restore", "latest", "--to", text(&larger), "--force", "--verify"]);
    assert_eq!(larger.metadata().unwrap().len(), 80 * MIB + 512);
    let device = Loop::attach(&garbage(&dir.path("garbage"), 64 * MIB), &[]);
    let restored =
        imager.json(&["restore", "latest", "--to", text(&device.0), "--confirm", text(&device.0), "--verify"]);
    assert_eq!(restored["result"]["read_back"], true);
    assert_eq!(restored["result"]["warnings"], serde_json::json!([]));
    for disk in [&larger, &device.0] {
        let checked = run("sgdisk", ["-v", text(disk)]);
        assert!(checked.contains("No problems found"), "{checked}");
        let last = disk.metadata().map(|m| if m.len() > 0 { m.len() } else { 64 * MIB }).unwrap() / 512 - 34;
        assert!(run("sgdisk", ["-p", text(disk)]).contains(&format!("last usable sector is {last}")));
        check_volume(dir.root(), "ext4", &read_at(disk, 14 * MIB, 20 * MIB));
    }
}

#[test]
fn a_target_that_is_too_small_is_refused_and_left_alone() {
    let dir = Scratch::new();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&gpt(&dir), &[]);
    let file = garbage(&dir.path("small"), 47 * MIB);
    let device = Loop::attach(&file, &[]);
    let path = text(&device.0);
    let error = imager.fails(6, &["restore", "latest", "--to", path, "--confirm", path]);
    assert!(error.contains("1.00 MiB smaller than the disk in the image"), "{error}");
    // One of its partitions would fit; a dry run needs no --confirm.
    imager.ok(&["restore", "latest", "--to", &format!("p3={path}"), "--dry-run"]);
    assert!(content(&file).iter().all(|&byte| byte == GARBAGE));
}

#[test]
fn chosen_partitions_go_where_they_fit_and_nowhere_else() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let target = dir.path("target");
    let restore = ["restore", "latest", "--force", "--only", "2,3", "--to", text(&target)];
    let is_good = || {
        check_volume(dir.root(), "vfat", &read_at(&target, 2 * MIB, 12 * MIB));
        check_volume(dir.root(), "ext4", &read_at(&target, 14 * MIB, 20 * MIB));
    };
    // The disk has them: the rest of it stays as it is.
    fs::copy(&source, &target).unwrap();
    write_at(&target, 0, b"another boot loader");
    write_at(&target, MIB, &vec![GARBAGE; 33 << 20]);
    write_at(&target, 34 * MIB, b"other data");
    imager.ok(&restore);
    is_good();
    assert!(read_at(&target, 0, 19) == b"another boot loader" && read_at(&target, 34 * MIB, 10) == b"other data");
    assert!(read_at(&target, MIB, MIB).iter().all(|&byte| byte == GARBAGE));
    // The disk has no table: it gets the table and the boot loader with it, but not partition 1.
    for size in [48, 64] {
        garbage(&target, size * MIB);
        imager.ok(&restore);
        is_good();
        assert!(run("sgdisk", ["-v", text(&target)]).contains("No problems found"));
        assert!(read_at(&target, 0, 440) == noise(440, 2) && read_at(&target, 0x8000, 60_000) == noise(60_000, 3));
        assert!(read_at(&target, MIB, MIB).iter().all(|&byte| byte == GARBAGE));
    }
    // The disk has another layout.
    garbage(&target, 64 * MIB);
    run("sgdisk", ["-o", "-n", "2:4096:+13M", "-n", "3:0:+20M", text(&target)]);
    let before = content(&target);
    let error = imager.fails(6, &restore);
    assert!(error.contains("its partitions lie at other places"), "{error}");
    // No disk at all yet, and none after a refusal.
    fs::remove_file(&target).unwrap();
    imager.ok(&["restore", "latest", "--only", "3", "--to", text(&target)]);
    assert_eq!(target.metadata().unwrap().len(), 48 * MIB);
    fs::write(&target, before).unwrap();
    imager.fails(6, &restore);
}

#[test]
fn one_partition_goes_into_a_partition_or_a_file() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let file = dir.path("esp");
    imager.ok(&["restore", "latest", "--to", &format!("p2={}", text(&file)), "--verify"]);
    assert_eq!(file.metadata().unwrap().len(), 12 * MIB);
    check_volume(dir.root(), "vfat", &content(&file));

    let target = garbage(&dir.path("target"), 64 * MIB);
    run("sgdisk", ["-o", "-n", "1:2048:+8M", "-n", "2:0:+25M", text(&target)]);
    let disk = Loop::attach(&target, &["-P"]);
    // For kernels that were built without partition tables.
    output("partx", [Path::new("--add"), &disk.0]);
    let before = content(&target);
    let partition = |n: u32| PathBuf::from(format!("{}p{n}", disk.0.display()));
    let (one, two) = (partition(1), partition(2));
    let error = imager.fails(6, &["restore", "latest", "--only", "3", "--to", text(&one), "--confirm", text(&one)]);
    assert!(error.contains("12.0 MiB smaller than partition 3 in the image"), "{error}");
    let error = imager.fails(6, &["restore", "latest", "--only", "2,3", "--to", text(&two), "--confirm", text(&two)]);
    assert!(error.contains("takes exactly one"), "{error}");
    let error = imager.fails(6, &["restore", "latest", "--to", text(&two), "--confirm", text(&two)]);
    assert!(error.contains("smaller than the disk in the image"), "{error}");
    assert!(content(&target) == before);
    imager.ok(&["restore", "latest", "--only", "3", "--to", text(&two), "--confirm", text(&two), "--verify"]);
    imager.fails(6, &["restore", "latest", "--only", "3", "--to", text(&two), "--confirm", text(&disk.0)]);
    let after = content(&target);
    let place = range(Extent::new(9 * MIB, 20 * MIB));
    check_volume(dir.root(), "ext4", &after[place.clone()]);
    assert!(after[..place.start] == before[..place.start] && after[place.end..] == before[place.end..]);
    output("partx", [Path::new("--delete"), &disk.0]);
}

#[test]
fn rolling_back_writes_only_what_differs() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let file = garbage(&dir.path("target"), 48 * MIB);
    let device = Loop::attach(&file, &[]);
    let roll_back = |more: &[&str]| {
        let args = ["restore", "latest", "--to", text(&device.0), "--confirm", text(&device.0)];
        let restored = imager.json(&[&args, more].concat());
        restored["result"]["written"].as_u64().unwrap()
    };
    let everything = roll_back(&[]);
    let good = content(&file);
    // The first and the last MiB are always written anew.
    let idle = roll_back(&["--changed-only", "--verify"]);
    assert!(idle < 3 * MIB && everything > 9 * MIB, "{idle} of {everything}");
    assert!(content(&file) == good);
    // Something in use, something that was zero, something that nobody uses.
    let used = in_use(&source);
    let (noisy, zero) = (14 * MIB + 6 * MIB, 34 * MIB + 4096);
    assert!(used.contains(Extent::new(noisy, 4096)) && used.contains(Extent::new(zero, 4096)));
    for at in [noisy, zero, 40 * MIB] {
        write_at(&device.0, at, &[1; 4096]);
    }
    let written = roll_back(&["--changed-only", "--verify"]);
    assert!(written > idle && written <= idle + 2 * 262_144, "{written} after {idle}");
    let mut expected = good.clone();
    expected[range(Extent::new(40 * MIB, 4096))].fill(1);
    assert!(content(&file) == expected);
    // A wiped table.
    write_at(&device.0, 0, &vec![0; 1 << 20]);
    write_at(&device.0, 47 * MIB, &vec![7; 1 << 20]);
    assert_eq!(roll_back(&["--changed-only", "--verify"]), idle);
    assert!(content(&file) == expected);
}

#[test]
fn new_ids_are_new_and_only_a_table_has_them() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &["--name", "gpt"]);
    let target = dir.path("target");
    let restored = imager.ok(&["restore", "gpt", "--to", text(&target), "--new-ids", "--verify"]);
    assert!(restored.contains("new identifiers"), "{restored}");
    let guids = |disk: &Path| {
        let info = |n: &str| run("sgdisk", ["-i", n, text(disk)]);
        let unique = |n: &str| info(n).lines().find(|line| line.contains("unique GUID")).unwrap().to_owned();
        let disk = run("sgdisk", ["-p", text(disk)]);
        let disk = disk.lines().find(|line| line.contains("identifier")).unwrap().to_owned();
        [disk, unique("1"), unique("2"), unique("3")]
    };
    let (old, new) = (guids(&source), guids(&target));
    assert!(old.iter().zip(&new).all(|(old, new)| old != new), "{old:?} {new:?}");
    assert!(run("sgdisk", ["-v", text(&target)]).contains("No problems found"));
    for only in [&["--only", "3"][..], &[]] {
        let to = format!("{}{}", if only.is_empty() { "p3=" } else { "" }, text(&target));
        let error = imager.fails(2, &[&["restore", "gpt", "--to", &to, "--new-ids", "--force"], only].concat());
        assert!(error.contains("this restore writes none"), "{error}");
    }
    assert_eq!(guids(&target), new, "a refused restore has touched its target");

    fs::remove_file(&source).unwrap();
    let source = mbr(&dir);
    imager.capture(&source, &["--name", "mbr"]);
    imager.ok(&["restore", "mbr", "--to", text(&target), "--new-ids", "--force"]);
    assert_ne!(read_at(&target, 440, 4), read_at(&source, 440, 4));
    assert_eq!(read_at(&target, 446, 66), read_at(&source, 446, 66));
}

#[test]
fn a_dry_run_touches_nothing_and_leaves_no_file() {
    let dir = Scratch::new();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&gpt(&dir), &[]);
    let new = dir.path("new");
    let plan = imager.json(&["restore", "latest", "--to", text(&new), "--dry-run"]);
    assert!(!new.exists());
    let disk = &plan["plan"]["disks"][0];
    assert_eq!((&plan["type"], &disk["target_size"]), (&"plan".into(), &(48 * MIB).into()));
    let stored = plan["plan"]["read"].as_u64().unwrap();
    let restored = imager.json(&["restore", "latest", "--to", text(&new)]);
    assert_eq!(restored["result"]["written"], disk["data"], "what was planned is what was written");
    assert!(restored["result"]["read"].as_u64().unwrap() >= stored);

    let old = garbage(&dir.path("old"), 10 * MIB);
    let device = Loop::attach(&garbage(&dir.path("disk"), 64 * MIB), &[]);
    imager.fails(6, &["restore", "latest", "--to", text(&old), "--dry-run"]);
    for (args, says) in [
        (&["--to", text(&old), "--force"][..], "everything"),
        (&["--to", text(&old), "--force", "--changed-only"], "everything"),
        (&["--to", text(&old), "--force", "--only", "2"], "the partition table"),
        (&["--to", text(&device.0)], "partition table: 16.0 KiB at byte 67091968 changed to fit"),
        (&["--to", text(&device.0), "--only", "3", "--discard"], "discarded first"),
        (&["--to", &format!("p3={}", text(&device.0))], "partition 3"),
    ] {
        let plan = imager.ok(&[&["restore", "latest", "--dry-run"], args].concat());
        assert!(plan.contains(says) && plan.contains("Nothing was written."), "{args:?}: {plan}");
    }
    assert!(content(&old) == vec![GARBAGE; 10 << 20]);
    assert!(content(&device.0).iter().all(|&byte| byte == GARBAGE));
}

#[test]
fn discarding_frees_what_nobody_uses() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let file = garbage(&dir.path("target"), 96 * MIB);
    let device = Loop::attach(&file, &[]);
    let ran = imager.run(&["restore", "latest", "--to", text(&device.0), "--confirm", text(&device.0), "--discard"]);
    assert_eq!((ran.code, &*ran.err), (0, ""));
    let (used, blocks) = (in_use(&source).total(), file.metadata().unwrap().blocks() * 512);
    assert!(blocks < used + 12 * MIB, "{blocks} bytes on disk for {used} in use");
    check_volume(dir.root(), "ext4", &read_at(&file, 14 * MIB, 20 * MIB));
    assert!(run("sgdisk", ["-v", text(&device.0)]).contains("No problems found"));
    // A file has holes after it, too.
    let other = garbage(&dir.path("other"), 48 * MIB);
    imager.ok(&["restore", "latest", "--to", text(&other), "--force", "--changed-only", "--discard", "--verify"]);
    assert!(other.metadata().unwrap().blocks() * 512 < used + 12 * MIB);
}

/// The larger of two disks of a machine goes to a smaller number, and each finds its way.
#[test]
fn several_disks_in_one_image() {
    let dir = Scratch::new();
    let first = gpt(&dir);
    let second = dir.path("second");
    fs::write(&second, volume(dir.root(), "ext4", 20, 512)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["capture", text(&first), text(&second), "--name", "both"]);
    let shown = imager.ok(&["show", "both"]);
    assert!(shown.contains("disk 0: ") && shown.contains("disk 1: "), "{shown}");
    // Words that begin like "disk" or "p" are no numbers of disks.
    for name in ["disk", "plain", "disk.img"] {
        let error = imager.fails(2, &["restore", "both", "--to", text(&dir.path(name))]);
        assert!(error.contains("2 disks; say which one goes there: --to disk0=TARGET"), "{error}");
        imager.command(&["restore", "both", "--to", name]).current_dir(dir.root()).output().unwrap();
        assert!(!dir.path(name).exists());
    }
    let to = |n: u32| format!("disk{n}={}", text(&dir.path(&format!("target{n}"))));
    imager.fails(2, &["restore", "both", "--to", &to(2)]);
    imager.fails(2, &["restore", "both", "--to", &to(0), "--to", &to(1), "--only", "1"]);
    imager.ok(&["restore", "both", "--to", &to(1), "--to", &to(0), "--verify"]);
    let (a, b) = (dir.path("target0"), dir.path("target1"));
    check_volume(dir.root(), "ext4", &content(&b));
    check_volume(dir.root(), "ext4", &read_at(&a, 14 * MIB, 20 * MIB));
    assert!(run("sgdisk", ["-v", text(&a)]).contains("No problems found"));
    let part = dir.path("part");
    imager.fails(2, &["restore", "both", "--to", &format!("p3={}", text(&part))]);
    imager.ok(&["restore", "both", "--to", &format!("disk0p3={}", text(&part))]);
    check_volume(dir.root(), "ext4", &content(&part));
}

#[test]
fn a_damaged_repository_writes_nothing_wrong_and_the_rest_on_request() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let good = dir.path("good");
    imager.ok(&["restore", "latest", "--to", text(&good)]);
    // The largest pack is the one with the data.
    let packs = sh(&format!("find {}/packs -type f -printf '%s %p\n' | sort -rn", text(&dir.path("repository"))));
    let (len, pack) = packs.lines().next().unwrap().split_once(' ').unwrap();
    let middle = len.parse::<u64>().unwrap() / 2;
    let byte = read_at(Path::new(pack), middle, 1)[0];
    write_at(Path::new(pack), middle, &[byte ^ 4]);

    let target = dir.path("target");
    let error = imager.fails(4, &["restore", "latest", "--to", text(&target)]);
    assert!(error.contains("damaged") && error.contains("--keep-going"), "{error}");
    assert!(read_at(&target, 0, MIB).iter().all(|&byte| byte == 0), "the target looks bootable");
    let ran = imager.run(&["restore", "latest", "--to", text(&target), "--force", "--keep-going"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.out.contains("zeros because the repository is damaged"), "{ran:?}");
    let (good, found) = (content(&good), content(&target));
    let differing: Vec<usize> = (0..good.len()).filter(|&at| good[at] != found[at]).collect();
    assert!(!differing.is_empty() && differing.len() < 3 << 20, "{} bytes differ", differing.len());
    assert!(differing.iter().all(|&at| found[at] == 0), "what is lost must be zero");

    // A pack that is gone: nothing is even begun.
    fs::remove_file(pack).unwrap();
    fs::write(&target, b"precious").unwrap();
    let error = imager.fails(4, &["restore", "latest", "--to", text(&target), "--force"]);
    assert!(error.contains("nothing was written"), "{error}");
    assert_eq!(content(&target), b"precious");
}

/// A loop device whose file has become shorter gives input and output errors, as a failing disk does.
#[test]
fn what_the_source_could_not_read_is_zero_on_the_target() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let expected = content(&source);
    let disk = Loop::attach(&source, &[]);
    fs::File::options().write(true).open(&source).unwrap().set_len(20 * MIB + 512).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    let ran = imager.run(&["capture", text(&disk.0), "--all-sectors"]);
    assert_eq!(ran.code, 10, "{ran:?}");
    assert!(ran.out.contains("could not be read and will be restored as zeros"), "{ran:?}");
    let shown = imager.ok(&["show", "latest"]);
    assert!(shown.contains("unreadable: ") && shown.contains("partition 3"), "{shown}");
    let target = garbage(&dir.path("target"), 48 * MIB);
    let restored = imager.ok(&["restore", "latest", "--to", text(&target), "--force", "--changed-only", "--verify"]);
    assert!(restored.contains("zeros because the source could not be read there"), "{restored}");
    let found = content(&target);
    let readable = range(Extent::new(0, 20 * MIB + 512));
    assert!(found[readable.clone()] == expected[readable], "a sector that could be read is lost");
    assert!(found[range(Extent::between(20 * MIB + 512, 47 * MIB))].iter().all(|&byte| byte == 0));
}

#[test]
fn odd_targets() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let before = content(&source);
    // The source itself, damaged meanwhile.
    write_at(&source, 15 * MIB, &noise(1 << 20, 8));
    imager.fails(6, &["restore", "latest", "--to", text(&source)]);
    imager.ok(&["restore", "latest", "--to", text(&source), "--force", "--verify"]);
    let layout = in_use(&source);
    for extent in layout.iter() {
        assert!(content(&source)[range(extent)] == before[range(extent)]);
    }
    // Symbolic links, as in /dev/disk/by-id.
    let device = Loop::attach(&garbage(&dir.path("disk"), 48 * MIB), &[]);
    let link = dir.path("by-id");
    std::os::unix::fs::symlink(&device.0, &link).unwrap();
    let file_link = dir.path("link");
    std::os::unix::fs::symlink(dir.path("target"), &file_link).unwrap();
    let error = imager.fails(6, &["restore", "latest", "--to", text(&link)]);
    assert!(error.contains(&format!("--confirm {}", text(&device.0))), "{error}");
    let error = imager.fails(6, &["restore", "latest", "--to", text(&link), "--confirm", text(&dir.path("disk"))]);
    assert!(error.contains("which --confirm does not name"), "{error}");
    for (to, confirm) in [(&link, &link), (&link, &device.0), (&device.0, &link)] {
        imager.ok(&["restore", "latest", "--to", text(to), "--confirm", text(confirm), "--changed-only"]);
    }
    let both = format!("p3={}", text(&link));
    let error = imager.fails(2, &["restore", "latest", "--to", text(&device.0), "--to", &both]);
    assert!(error.contains("is named twice"), "{error}");
    garbage(&dir.path("target"), MIB);
    imager.ok(&["restore", "latest", "--to", text(&file_link), "--force"]);
    assert_eq!(dir.path("target").metadata().unwrap().len(), 48 * MIB);
    // Places where no disk image belongs.
    let repository = dir.path("repository");
    for (target, why) in [
        (repository.join("disk.img"), "within the repository"),
        (repository.join("config"), "within the repository"),
        (repository.clone(), "it is a directory"),
        (dir.path("missing/disk.img"), "No such file or directory"),
        ("/dev/no-such-disk".into(), "there is no such device"),
        ("/dev/null".into(), "neither a block device nor a file"),
    ] {
        let ran = imager.run(&["restore", "latest", "--to", text(&target), "--force"]);
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains(why), "{}", ran.err);
    }
    imager.ok(&["verify", "--read-data"]);
}

#[test]
fn paging_and_hibernation_files_are_left_out_on_request() {
    let dir = Scratch::new();
    let source = sparse_file(&dir.path("source"), 40 * MIB);
    run("mkntfs", ["-q", "-F", "-f", text(&source)]);
    let files = some_files(dir.root());
    let at = dir.path("mount");
    fs::create_dir(&at).unwrap();
    let mounted = || {
        run("ntfs-3g", [&source, &at]);
        Mount(at.clone())
    };
    {
        let mount = mounted();
        fs::write(mount.0.join("pagefile.sys"), noise(6 << 20, 10)).unwrap();
        // A header of zeros: nobody is hibernated.
        fs::write(mount.0.join("hiberfil.sys"), [vec![0; 4096], noise(5 << 20, 11)].concat()).unwrap();
        run("cp", ["-r", text(&files), text(&mount.0)]);
    }
    let imager = Imager::init(&dir.path("repository"));
    let read = |args: &[&str]| {
        let id = imager.capture(&source, args);
        imager.json(&["show", &id])["manifest"].clone()
    };
    let (all, less) = (read(&[]), read(&["--leave-out", "paging", "--leave-out", "hibernation"]));
    assert_eq!(all["disks"][0]["volumes"][0].get("left_out"), None);
    assert_eq!(less["disks"][0]["volumes"][0]["left_out"], serde_json::json!(["hiberfil.sys", "pagefile.sys"]));
    let bytes = |manifest: &serde_json::Value, what: &str| manifest["stats"][what].as_u64().unwrap();
    assert!(bytes(&all, "new") > 13 * MIB, "the first stores both files: {all}");
    assert!(bytes(&less, "zero") >= bytes(&all, "zero") + 10 * MIB, "{less}");
    assert!(imager.ok(&["show", "latest"]).contains("left out: hiberfil.sys, pagefile.sys"), "show says so");

    // Onto garbage, with the old files there: what was left out is zeros, the rest is there.
    garbage(&dir.path("target"), 40 * MIB);
    imager.ok(&["restore", "latest", "--to", text(&dir.path("target")), "--force", "--changed-only", "--verify"]);
    fs::rename(dir.path("target"), &source).unwrap();
    let mount = mounted();
    assert!(content(&mount.0.join("hiberfil.sys")).iter().all(|&byte| byte == 0));
    assert!(content(&mount.0.join("pagefile.sys")).iter().all(|&byte| byte == 0));
    assert_eq!(tree(&mount.0.join("tree")), tree(&files));
}
