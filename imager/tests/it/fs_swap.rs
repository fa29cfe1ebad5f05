//! Swap spaces as mkswap makes them, in partitions and in files: what is kept, and what makes all of it data.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imager::extent::{Extent, ExtentSet};
use imager::fs::{FileSystem, Note, SpareKind, inspect};
use tempfile::TempDir;

use crate::support::{Mount, run, sparse_file};
use crate::volume::{FileVolume, Random, copy_used, tree};

const MIB: u64 = 1 << 20;
const UUID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

/// A fresh swap space of 4 MiB, as bytes.
fn mkswap(args: &[&str]) -> Vec<u8> {
    let scratch = TempDir::new().unwrap();
    let file = sparse_file(&scratch.path().join("swap"), 4 * MIB);
    run("mkswap", args.iter().copied().chain(["-q", "-U", UUID, file.to_str().unwrap()]));
    fs::read(file).unwrap()
}

fn write_at(volume: &mut [u8], at: usize, bytes: &[u8]) {
    volume[at..at + bytes.len()].copy_from_slice(bytes);
}

fn read_whole_because(found: &FileSystem) -> &str {
    assert!(found.used.contains(Extent::new(0, found.size)));
    match &found.notes[..] {
        [Note::ReadWhole { reason }] => reason,
        notes => panic!("{notes:?}"),
    }
}

#[test]
fn only_the_header_page_is_in_use() {
    for page_size in [4096, 8192, 16384, 32768, 65536] {
        let mut volume = mkswap(&["-p", &page_size.to_string(), "-L", "paging"]);
        // What was paged out.
        let garbage = Random::new(page_size).bytes(volume.len());
        let header = usize::try_from(page_size).unwrap();
        volume[header..].copy_from_slice(&garbage[header..]);
        let found = inspect(&volume);
        assert_eq!((found.kind.as_str(), u64::from(found.block_size)), ("swap", page_size));
        assert_eq!((found.label.as_deref(), found.uuid.as_deref()), (Some("paging"), Some(UUID)));
        assert_eq!(found.used.as_slice(), [Extent::new(0, page_size)]);
        assert_eq!((found.size, found.notes), (4 * MIB, vec![]));
    }
}

#[test]
fn what_blkid_calls_swap_is_swap_with_the_used_page_alone() {
    let scratch = TempDir::new().unwrap();
    let (image, copy) = (scratch.path().join("image"), scratch.path().join("copy"));
    fs::write(&image, mkswap(&["-L", "paging"])).unwrap();
    copy_used(&image, &copy, &inspect(&FileVolume::open(&image)).used);
    let blkid =
        |file: &Path| run("blkid", ["-p", "-o", "export", file.to_str().unwrap()]).replace(file.to_str().unwrap(), "");
    assert!(blkid(&copy).contains("TYPE=swap"));
    assert_eq!(blkid(&copy), blkid(&image));
}

#[test]
fn what_lies_behind_the_swap_space_is_in_use() {
    let mut volume = mkswap(&[]);
    volume.extend([7; 5000]);
    let found = inspect(&volume);
    assert_eq!(found.used.as_slice(), [Extent::new(0, 4096), Extent::new(4 * MIB, 5000)]);
}

#[test]
fn a_hibernated_system_is_data() {
    for signature in ["S1SUSPEND\0", "S2SUSPEND\0", "ULSUSPEND\0", "LINHIB0001"] {
        let mut volume = mkswap(&["-p", "16384"]);
        write_at(&mut volume, 16384 - 10, signature.as_bytes());
        let found = inspect(&volume);
        assert_eq!((found.kind.as_str(), found.uuid.as_deref()), ("swap", Some(UUID)));
        assert_eq!(found.used, ExtentSet::whole(4 * MIB), "{signature}");
        assert!(matches!(found.notes[..], [Note::Hibernated { .. }]), "{signature}");
    }
    let mut volume = mkswap(&[]);
    write_at(&mut volume, 0, b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c");
    let found = inspect(&volume);
    assert_eq!(found.used, ExtentSet::whole(4 * MIB));
    assert!(matches!(found.notes[..], [Note::Hibernated { .. }]));
}

#[test]
fn what_a_resumed_system_leaves_in_the_header_is_no_doubt() {
    let mut volume = mkswap(&[]);
    write_at(&mut volume, 4096 - 40, b"\x12\x34\x56\x78\x9a\xbc\xde\xf0\0\0\0\0\x01\0\0\0\0\0\0\0SWAPSPACE2SWAPSPACE2");
    assert_eq!(inspect(&volume).used.total(), 4096);
}

#[test]
fn bad_pages_are_part_of_the_header() {
    for (count, pages) in [(2u32, [3u32, 9]), (1, [7, 0])] {
        let mut volume = mkswap(&[]);
        write_at(&mut volume, 1032, &count.to_le_bytes());
        write_at(&mut volume, 1536, &pages.map(u32::to_le_bytes).concat());
        assert_eq!(inspect(&volume).used.total(), 4096);
        // One that the count does not cover.
        write_at(&mut volume, 1600, &[1]);
        assert!(read_whole_because(&inspect(&volume)).contains("something else"));
    }
}

#[test]
fn a_header_of_the_other_byte_order_is_read() {
    let mut volume = mkswap(&[]);
    volume[1024..1036].chunks_exact_mut(4).for_each(<[u8]>::reverse);
    let found = inspect(&volume);
    assert_eq!((found.used.total(), found.size), (4096, 4 * MIB));
}

#[test]
fn a_leftover_signature_hides_nothing() {
    let leftovers: [(usize, &[u8], &str); 11] = [
        (0, b"\xeb\x3c\x90", "first 1024 bytes"),
        (512, b"LABELONE", "first 1024 bytes"),
        (1080, b"\x53\xee", "rest of its page"),
        (2000, b"x", "rest of its page"),
        (1024, b"\x10\x20\xf5\xf2", "another version"),
        (1028, &[0; 4], "without pages"),
        (1032, &[0xff; 4], "rest of its page"),
        (4096, b"\xfc\x4e\x2b\xa9", "RAID"),
        (65536 + 64, b"_BHRfS_M", "btrfs"),
        (32769, b"CD001", "ISO 9660"),
        (4086, b"SWAP-SPACE", "version 0"),
    ];
    for (at, bytes, reason) in leftovers {
        let mut volume = mkswap(&[]);
        write_at(&mut volume, at, bytes);
        let found = inspect(&volume);
        assert_eq!(found.kind, "swap");
        assert!(read_whole_because(&found).contains(reason), "{reason}: {:?}", found.notes);
    }
}

#[test]
fn a_swap_space_that_is_cut_short_is_read_whole() {
    let volume = mkswap(&[])[..3 << 20].to_vec();
    assert!(read_whole_because(&inspect(&volume)).contains("claims"));
}

#[test]
fn random_damage_never_panics() {
    let base = mkswap(&["-L", "paging"]);
    let base = &base[..80 << 10];
    let mut random = Random::new(3);
    for _ in 0..20_000 {
        let mut volume = base.to_vec();
        for _ in 0..=random.below(6) {
            let area = [1100, 4096, 66_000][usize::try_from(random.below(3)).unwrap()];
            let at = usize::try_from(random.below(area)).unwrap();
            volume[at] = random.bytes(1)[0];
        }
        volume.truncate(base.len() - usize::try_from(random.below(2) * random.below(80 << 10)).unwrap());
        let found = inspect(&volume);
        assert!(found.used.iter().all(|extent| extent.end() <= volume.len() as u64));
    }
}

/// Makes a file of `size` bytes in pieces, with other files between them, and swap in it.
fn make_swap_file(root: &Path, name: &str, size: u64) {
    let file = fs::File::create(root.join(name)).unwrap();
    for piece in 0..8 {
        let bytes = vec![0x5a; usize::try_from(size / 8).unwrap()];
        file.write_all_at(&bytes, piece * size / 8).unwrap();
        file.sync_all().unwrap();
        let mut between = fs::File::create(root.join(format!("{name} {piece}"))).unwrap();
        between.write_all(&[1; 9000]).unwrap();
        between.sync_all().unwrap();
    }
    run("mkswap", ["-q", root.join(name).to_str().unwrap()]);
}

#[test]
fn the_content_of_swap_files_may_be_left_out() {
    let variants: [&[&str]; 4] = [
        &["mkfs.ext2", "-b", "1024"],
        &["mkfs.ext3", "-b", "4096"],
        &["mkfs.ext4", "-b", "1024"],
        &["mkfs.ext4", "-b", "4096", "-O", "bigalloc"],
    ];
    for mkfs in variants {
        let scratch = TempDir::new().unwrap();
        let image = sparse_file(&scratch.path().join("image"), 64 * MIB);
        run(mkfs[0], mkfs[1..].iter().copied().chain(["-q", "-F", image.to_str().unwrap()]));
        let root = scratch.path().join("root");
        let mount = Mount::new(&image, &root, "loop");
        make_swap_file(&root, "swapfile", 6 * MIB);
        make_swap_file(&root, "swap.img", 2 * MIB);
        // None of these is one.
        fs::create_dir(root.join("deeper")).unwrap();
        make_swap_file(&root.join("deeper"), "swapfile", MIB);
        make_swap_file(&root, "swapfile2", MIB);
        let swap_files = ["swapfile", "swap.img"];
        let mut files = tree(&root);
        swap_files.iter().for_each(|name| assert!(files.remove(*name).is_some()));
        drop(mount);

        let found = inspect(&FileVolume::open(&image));
        assert_eq!(found.notes, [], "{mkfs:?}");
        let mut left = found.used.clone();
        for (name, size) in swap_files.into_iter().zip([6 * MIB, 2 * MIB]) {
            let spare = found.spare_files.iter().find(|spare| spare.path == format!("/{name}")).unwrap();
            assert_eq!((spare.kind, spare.extents.total()), (SpareKind::Paging, size - 4096), "{mkfs:?}");
            left = left.minus(&spare.extents);
        }
        assert_eq!(found.spare_files.len(), 2);
        assert_eq!(left.total(), found.used.total() - 8 * MIB + 2 * 4096);

        let copy = scratch.path().join("copy");
        copy_used(&image, &copy, &left);
        run("e2fsck", ["-fn", copy.to_str().unwrap()]);
        let _mount = Mount::new(&copy, &root, "loop");
        let mut restored = tree(&root);
        for name in swap_files {
            assert!(restored.remove(name).is_some());
            let blkid = run("blkid", ["-p", root.join(name).to_str().unwrap()]);
            assert!(blkid.contains("TYPE=\"swap\""), "{blkid}");
        }
        assert_eq!(restored, files, "{mkfs:?}");
    }
}

#[test]
fn a_system_that_is_hibernated_in_a_swap_file_is_noted_and_kept() {
    let scratch = TempDir::new().unwrap();
    let image = sparse_file(&scratch.path().join("image"), 16 * MIB);
    run("mkfs.ext4", ["-q", "-F", image.to_str().unwrap()]);
    let root = scratch.path().join("root");
    let mount = Mount::new(&image, &root, "loop");
    make_swap_file(&root, "swapfile", MIB);
    let file = fs::File::options().write(true).open(root.join("swapfile")).unwrap();
    file.write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    drop((file, mount));
    let found = inspect(&FileVolume::open(&image));
    assert!(matches!(&found.notes[..], [Note::Hibernated { detail }] if detail.contains("/swapfile")), "{found:?}");
    assert_eq!(found.spare_files, []);
}
