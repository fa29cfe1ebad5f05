//! ext file systems that this reader must not believe: unknown features, wrong checksums and counts, unclean
//! ends, random damage.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use imager::extent::Extent;
use imager::fs::{FileSystem, Note, inspect};
use imager::read_at::ReadAt;
use tempfile::TempDir;

use crate::fs_ext_log::{Base, FORMATS, crc32c};
use crate::support::{Loop, Mount, run, sparse_file};
use crate::volume::{FileVolume, Random};

const MIB: u64 = 1 << 20;
const SUPERBLOCK: usize = 1024;

/// A fresh file system with a few files, as bytes.
fn mkfs(size: u64, args: &[&str]) -> Vec<u8> {
    let scratch = TempDir::new().unwrap();
    let image = sparse_file(&scratch.path().join("image"), size);
    run(args[0], args[1..].iter().copied().chain(["-q", "-F", image.to_str().unwrap()]));
    let script = scratch.path().join("script");
    let content = scratch.path().join("content");
    fs::write(&content, vec![0x55; 50_000]).unwrap();
    let write = |name: &str| format!("write {} {name}\n", content.display());
    fs::write(&script, ["swapfile", "one", "two"].map(write).concat()).unwrap();
    run("debugfs", ["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
    fs::read(image).unwrap()
}

fn read_whole_because(found: &FileSystem) -> &str {
    assert!(found.used.contains(Extent::new(0, found.size)), "{:?}", found.notes);
    match &found.notes[..] {
        [Note::ReadWhole { reason }] | [Note::Dirty { .. }, Note::ReadWhole { reason }] => reason,
        notes => panic!("{notes:?}"),
    }
}

fn is_dirty(found: &FileSystem) -> bool {
    matches!(found.notes.first(), Some(Note::Dirty { .. }))
}

fn set_le32(volume: &mut [u8], at: usize, value: u32) {
    volume[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn le32(volume: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(volume[at..at + 4].try_into().unwrap())
}

/// Makes the superblock's checksum right again.
fn seal_superblock(volume: &mut [u8]) {
    let crc = crc32c(&[&volume[SUPERBLOCK..SUPERBLOCK + 0x3fc]]);
    set_le32(volume, SUPERBLOCK + 0x3fc, crc);
}

#[test]
fn unknown_features_are_named() {
    let known = [("INCOMPAT", 0x60, 0x3_e7d6_u32), ("RO_COMPAT", 0x64, 0x1_f77f)];
    for args in [&["mkfs.ext2", "-b", "1024"][..], &["mkfs.ext4", "-b", "1024"]] {
        let base = mkfs(2 * MIB, args);
        for (set, at, known) in known {
            for bit in (0..32).map(|shift| 1 << shift).filter(|bit| known & bit == 0) {
                let mut volume = base.clone();
                let flags = le32(&volume, SUPERBLOCK + at);
                set_le32(&mut volume, SUPERBLOCK + at, flags | bit);
                let found = inspect(&volume);
                let expected = format!("unsupported: {set} feature bits {bit:#x}");
                // INCOMPAT_JOURNAL_DEV has a name of its own.
                let expected =
                    if (set, bit) == ("INCOMPAT", 8) { "unsupported: the external journal" } else { &expected };
                assert!(read_whole_because(&found).starts_with(expected), "{:?}", found.notes);
                assert_eq!(found.kind, "ext");
            }
        }
    }
}

#[test]
fn an_external_journal_is_read_whole_and_what_uses_it_only_when_dirty() {
    let scratch = TempDir::new().unwrap();
    let journal = sparse_file(&scratch.path().join("journal"), 8 * MIB);
    run("mke2fs", ["-q", "-F", "-b", "1024", "-O", "journal_dev", journal.to_str().unwrap()]);
    let found = inspect(&FileVolume::open(&journal));
    assert_eq!(read_whole_because(&found), "unsupported: the external journal of another file system");

    let device = Loop::attach(&journal, &[]);
    let option = format!("device={}", device.0.display());
    let mut volume = mkfs(8 * MIB, &["mkfs.ext4", "-b", "1024", "-J", &option]);
    assert_eq!(inspect(&volume).notes, []);
    volume[SUPERBLOCK + 0x60] |= 4;
    seal_superblock(&mut volume);
    let found = inspect(&volume);
    assert!(is_dirty(&found) && read_whole_because(&found).contains("another device"), "{:?}", found.notes);
}

/// Where the descriptor of group 0 is, and where its block bitmap.
fn first_group(volume: &[u8]) -> (usize, usize) {
    let descriptor = 2 * 1024;
    (descriptor, usize::try_from(le32(volume, descriptor)).unwrap() * 1024)
}

#[test]
fn a_wrong_checksum_is_damage() {
    type Patch = fn(&mut [u8]) -> usize;
    let sealed = ["mkfs.ext4", "-b", "1024"];
    let crc16 = ["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"];
    let no_hi = ["mkfs.ext4", "-b", "1024", "-O", "^64bit"];
    let superblock: Patch = |volume| {
        volume[SUPERBLOCK + 0x78] ^= 1;
        SUPERBLOCK + 0x3fc
    };
    let descriptor: Patch = |volume| {
        let (descriptor, _) = first_group(volume);
        volume[descriptor + 0x1e] ^= 1;
        descriptor
    };
    let inode_count: Patch = |volume| {
        let (descriptor, _) = first_group(volume);
        volume[descriptor + 0x0e] ^= 1;
        descriptor
    };
    // One bit moved, so that the count still holds: only the checksum can tell.
    let bitmap: Patch = |volume| {
        let (_, bitmap) = first_group(volume);
        let (used, free) = (0..1024).map(|at| bitmap + at).fold((0, 0), |(used, free), at| match volume[at] {
            0xff => (at, free),
            0 => (used, at),
            _ => (used, free),
        });
        volume[used] = 0x7f;
        volume[free] = 0x01;
        bitmap
    };
    let cases: [(&[&str], Patch, &str); 7] = [
        (&sealed, superblock, "checksum"),
        (&sealed, descriptor, "checksum"),
        (&sealed, inode_count, "checksum"),
        (&sealed, bitmap, "checksum"),
        (&no_hi, bitmap, "checksum"),
        (&crc16, descriptor, "checksum"),
        (&crc16, inode_count, "checksum"),
    ];
    for (args, patch, reason) in cases {
        let mut volume = mkfs(4 * MIB, args);
        assert_eq!(inspect(&volume).notes, [], "{args:?}");
        let offset = patch(&mut volume);
        let found = inspect(&volume);
        let expected = format!("damaged at byte {offset} of the volume");
        let actual = read_whole_because(&found);
        assert!(actual.starts_with(&expected) && actual.contains(reason), "{args:?}: {actual}, not {expected}");
    }
}

#[test]
fn without_checksums_the_counts_and_places_must_agree() {
    let base = mkfs(4 * MIB, &["mkfs.ext2", "-b", "1024"]);
    assert_eq!(inspect(&base).notes, []);
    let (descriptor, bitmap) = first_group(&base);
    let mut freed = base.clone();
    freed[bitmap + 2] = 0;
    let found = inspect(&freed);
    assert!(read_whole_because(&found).contains("contradicts the group's count"), "{:?}", found.notes);
    // The same with a count that agrees: then it is the inode table that would be free.
    let free = u16::from_le_bytes([freed[descriptor + 12], freed[descriptor + 13]]) + 8;
    freed[descriptor + 12..descriptor + 14].copy_from_slice(&free.to_le_bytes());
    let found = inspect(&freed);
    assert!(read_whole_because(&found).contains("metadata that its block bitmap calls free"), "{:?}", found.notes);
    let mut astray = base.clone();
    set_le32(&mut astray, descriptor + 8, 4090);
    assert!(read_whole_because(&inspect(&astray)).contains("points outside"));
    let found = inspect(&base[..3 << 20].to_vec());
    assert!(read_whole_because(&found).contains("claims"), "{:?}", found.notes);
}

#[test]
fn a_leftover_superblock_hides_nothing() {
    let base = mkfs(4 * MIB, &["mkfs.ext2", "-b", "1024"]);
    let later: [(usize, &[u8], &str); 4] = [
        (0, b"LUKS\xba\xbe", "LUKS"),
        (3, b"EXFAT   ", "exFAT"),
        (3, b"-FVE-FS-", "BitLocker"),
        (4096, b"\xfc\x4e\x2b\xa9", "RAID"),
    ];
    for (at, magic, name) in later {
        let mut volume = base.clone();
        volume[at..at + magic.len()].copy_from_slice(magic);
        assert!(read_whole_because(&inspect(&volume)).contains(name));
    }
}

#[test]
fn an_unclean_end_without_a_journal_is_read_whole() {
    let mut volume = mkfs(4 * MIB, &["mkfs.ext2", "-b", "1024"]);
    volume[SUPERBLOCK + 0x3a] = 0;
    let found = inspect(&volume);
    assert!(is_dirty(&found) && read_whole_because(&found).contains("older than the files"), "{:?}", found.notes);
    assert_eq!(found.kind, "ext2");
}

#[test]
fn errors_that_the_kernel_found_are_read_whole() {
    for args in [["mkfs.ext2", "-b", "1024"], ["mkfs.ext4", "-b", "1024"]] {
        let mut volume = mkfs(8 * MIB, &args);
        volume[SUPERBLOCK + 0x3a] |= 2;
        if args[0] == "mkfs.ext4" {
            seal_superblock(&mut volume);
        }
        let found = inspect(&volume);
        assert!(is_dirty(&found) && read_whole_because(&found).contains("with errors"), "{:?}", found.notes);
        assert!(found.uuid.is_some());
    }
}

#[test]
fn fast_commits_are_read_whole() {
    let scratch = TempDir::new().unwrap();
    let image = sparse_file(&scratch.path().join("image"), 64 * MIB);
    run("mkfs.ext4", ["-q", "-O", "fast_commit", image.to_str().unwrap()]);
    let root = scratch.path().join("root");
    let mount = Mount::new(&image, &root, "loop");
    fs::write(root.join("one"), vec![1; 1 << 20]).unwrap();
    fs::File::open(root.join("one")).unwrap().sync_all().unwrap();
    fs::write(root.join("two"), vec![2; 1 << 20]).unwrap();
    fs::File::open(root.join("two")).unwrap().sync_all().unwrap();
    let cut = scratch.path().join("cut");
    run("cp", [&image, &cut]);
    drop(mount);
    let found = inspect(&FileVolume::open(&cut));
    assert!(is_dirty(&found) && read_whole_because(&found).contains("fast commits"), "{:?}", found.notes);
    assert_eq!(inspect(&FileVolume::open(&image)).notes, []);
}

/// Counts what is read, so that a walk in circles shows.
struct Counting<'a> {
    volume: &'a [u8],
    read: AtomicU64,
}

impl ReadAt for Counting<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.volume.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.volume.size()
    }
}

/// Places worth damaging: the superblock, descriptors, the journal's start, inodes, bitmaps.
fn interesting_places(volume: &[u8]) -> Vec<std::ops::Range<usize>> {
    let block_size = 1024 << le32(volume, SUPERBLOCK + 0x18);
    let table = if block_size == 1024 { 2048 } else { block_size };
    let block = |at: usize| usize::try_from(le32(volume, table + at)).unwrap() * block_size;
    vec![
        SUPERBLOCK..SUPERBLOCK + 0x180,
        table..table + 256,
        block(0)..block(0) + block_size,
        block(8)..block(8) + 13 * 256,
        0..volume.len(),
    ]
}

fn damage_at_random(base: &[u8], rounds: u32, seed: u64) -> u32 {
    let mut random = Random::new(seed);
    let places = interesting_places(base);
    let mut volume = base.to_vec();
    let mut below = |limit: usize| usize::try_from(random.below(limit as u64)).unwrap();
    let mut still_mapped = 0;
    for round in 0..rounds {
        let mut undo = Vec::new();
        for _ in 0..=below(3) {
            let place = places[below(places.len())].clone();
            let at = place.start + below(place.len());
            undo.push((at, volume[at]));
            volume[at] = [0, 1, 0x7f, 0x80, 0xff, volume[at] ^ 1, volume[at].wrapping_add(1), 0x5a][below(8)];
        }
        let sum = volume[SUPERBLOCK + 0x3fc..SUPERBLOCK + 0x400].to_vec();
        if round % 4 != 0 {
            seal_superblock(&mut volume);
        }
        let disk = Counting { volume: &volume, read: AtomicU64::new(0) };
        let found = inspect(&disk);
        assert!(found.used.iter().all(|extent| extent.end() <= volume.len() as u64), "{undo:?}");
        let read = disk.read.into_inner();
        assert!(read < 8 * volume.len() as u64, "{read} bytes read after {undo:?}");
        still_mapped += u32::from(!found.notes.iter().any(|note| matches!(note, Note::ReadWhole { .. })));
        volume[SUPERBLOCK + 0x3fc..SUPERBLOCK + 0x400].copy_from_slice(&sum);
        undo.into_iter().rev().for_each(|(at, byte)| volume[at] = byte);
    }
    still_mapped
}

#[test]
fn random_damage_never_panics_and_never_reads_in_circles() {
    let variants: [&[&str]; 6] = [
        &["mkfs.ext2", "-b", "1024", "-g", "1024"],
        &["mkfs.ext3", "-b", "1024", "-J", "size=1"],
        &["mkfs.ext4", "-b", "1024", "-J", "size=1"],
        &["mkfs.ext4", "-b", "4096", "-O", "^has_journal,^metadata_csum"],
        &["mkfs.ext4", "-b", "1024", "-O", "bigalloc,^has_journal,^metadata_csum,^uninit_bg", "-C", "4096"],
        &["mkfs.ext4", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,^metadata_csum,^has_journal"],
    ];
    for (args, seed) in variants.into_iter().zip(1..) {
        let base = mkfs(4 * MIB, args);
        assert_eq!(inspect(&base).notes, [], "{args:?}");
        let mapped = damage_at_random(&base, 3000, seed);
        println!("{args:?}: {mapped} of 3000 still mapped");
    }
}

#[test]
fn random_damage_to_a_journal_in_use_never_panics() {
    for (format, seed) in FORMATS.into_iter().zip(70..) {
        let scratch = TempDir::new().unwrap();
        let mapped = damage_at_random(&Base::new(scratch.path()).cut_off(format), 500, seed);
        println!("{format:?}: {mapped} of 500 still mapped");
    }
}
