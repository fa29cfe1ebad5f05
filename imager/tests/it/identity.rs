//! Who disks are and who uses them, on real devices.

use std::fs;
use std::path::{Path, PathBuf};

use imager::disk::identity::{self, Uses};

use crate::support::{Loop, Mount, output, run, sh, sparse_file};

const MIB: u64 = 1 << 20;

fn canonical(path: impl AsRef<Path>) -> PathBuf {
    fs::canonicalize(path).unwrap()
}

#[test]
fn a_loop_device_is_told_by_its_sectors_and_size() {
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_file(&dir.path().join("disk"), 8 * MIB);
    let device = Loop::attach(&image, &["-r", "--sector-size", "4096"]);
    let by_id = dir.path().join("by-id");
    std::os::unix::fs::symlink(&device.0, &by_id).unwrap();
    let found = identity::of_device(&by_id).unwrap();
    assert_eq!(found.path, device.0);
    assert_eq!((found.size, found.logical_sector, found.physical_sector), (8 * MIB, 4096, 4096));
    assert_eq!((found.transport.as_deref(), found.read_only, found.partition_of.as_ref()), (Some("loop"), true, None));
    assert!(identity::all_disks().unwrap().contains(&found));
    assert_eq!(run("blockdev", [Path::new("--getsize64"), &found.path]).trim(), found.size.to_string());
}

#[test]
fn a_file_is_a_disk_of_its_size_and_other_things_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_file(&dir.path().join("disk"), 8 * MIB);
    let found = identity::of_file(&image).unwrap();
    assert_eq!((found.size, found.logical_sector, found.transport.as_deref()), (8 * MIB, 512, Some("file")));
    assert!(identity::of_file(dir.path()).is_err());
    assert!(identity::of_device(&image).is_err());
    assert!(identity::of_device(Path::new("/dev/null")).is_err());
    assert!(identity::uses_of(Path::new("/dev/null")).is_err());
    assert!(identity::uses_of(dir.path()).is_err());
}

#[test]
fn the_disks_are_among_those_that_lsblk_lists() {
    let listed = run("lsblk", ["--nodeps", "--bytes", "--noheadings", "--output", "PATH,SIZE,LOG-SEC,PHY-SEC"]);
    let disks = identity::all_disks().unwrap();
    assert!(!disks.is_empty());
    for disk in disks.iter().filter(|disk| disk.transport.as_deref() != Some("loop")) {
        let line = format!("{} {} {} {}", disk.path.display(), disk.size, disk.logical_sector, disk.physical_sector);
        let lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(lines.into_iter().any(|listed| listed == line), "{line} is not in {listed}");
    }
}

/// A disk with an ext4 on partition 2, in use one after the other by mount, swap and another loop device.
#[test]
fn whoever_uses_a_disk_is_found_from_the_disk_its_partition_and_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_file(&dir.path().join("disk"), 48 * MIB);
    let path = image.display();
    sh(&format!(r"printf 'label: dos\nstart=2048,size=16MiB\nsize=24MiB\n' | /usr/sbin/sfdisk -q {path}"));
    let disk = Loop::attach(&image, &["-P"]);
    let partition = |n: u32| PathBuf::from(format!("{}p{n}", disk.0.display()));
    // For kernels that were built without partition tables.
    output("partx", [Path::new("--add"), &disk.0]);
    let first = identity::of_device(&partition(1)).unwrap();
    assert_eq!((first.partition_of.as_ref(), first.size), (Some(&disk.0), 16 * MIB));

    assert!(identity::uses_of(&disk.0).unwrap().is_empty());
    let holder = disk.0.file_name().unwrap().to_str().unwrap().to_owned();
    let by_file = |uses: &Uses| Uses { holders: vec![holder.clone()], ..uses.clone() };
    assert_eq!(identity::uses_of(&image).unwrap(), by_file(&Uses::default()));

    run("mke2fs", [Path::new("-q"), &partition(2)]);
    {
        let mount = Mount::new(&partition(2), &dir.path().join("a mount"), "ro");
        let expected = Uses { mounted_at: vec![(partition(2), canonical(&mount.0))], ..Uses::default() };
        assert_eq!(identity::uses_of(&disk.0).unwrap(), expected);
        assert_eq!(identity::uses_of(&partition(2)).unwrap(), expected);
        assert_eq!(identity::uses_of(&image).unwrap(), by_file(&expected));
        assert!(identity::uses_of(&partition(1)).unwrap().is_empty());
        let below = identity::backing_disks(&mount.0.join("to/be/made")).unwrap();
        assert!(below.contains(&disk.0), "{below:?}");
        for disk in identity::backing_disks(dir.path()).unwrap() {
            assert!(below.contains(&disk), "the disk of the image file is missing in {below:?}");
        }
    }
    {
        let upper = Loop::attach(&partition(1), &["-r"]);
        let uses = identity::uses_of(&disk.0).unwrap();
        assert_eq!(uses.holders, [upper.0.file_name().unwrap().to_str().unwrap()]);
    }
    run("mkswap", [Path::new("-q"), &partition(1)]);
    run("swapon", [&partition(1)]);
    let uses = identity::uses_of(&image).unwrap();
    run("swapoff", [&partition(1)]);
    assert_eq!(uses.swap, [partition(1)]);
    output("partx", [Path::new("--delete"), &disk.0]);
}

#[test]
fn every_disk_of_a_btrfs_is_in_use_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = ["a", "b"].map(|name| sparse_file(&dir.path().join(name), 128 * MIB));
    let disks = images.each_ref().map(|image| Loop::attach(image, &[]));
    run("mkfs.btrfs", [Path::new("-q"), Path::new("-f"), &disks[0].0, &disks[1].0]);
    run("btrfs", [Path::new("device"), Path::new("scan"), &disks[0].0, &disks[1].0]);
    let mount = Mount::new(&disks[0].0, &dir.path().join("mount"), "rw");
    run("btrfs", [Path::new("subvolume"), Path::new("create"), &mount.0.join("inner")]);
    let below = identity::backing_disks(&mount.0.join("inner")).unwrap();
    for (disk, image) in disks.iter().zip(&images) {
        assert!(below.contains(&disk.0), "{below:?}");
        let uses = identity::uses_of(image).unwrap();
        assert_eq!(uses.mounted_at, [(disk.0.clone(), canonical(&mount.0))]);
    }
}

#[test]
fn an_image_file_under_fuse_is_in_use_without_a_loop_device() {
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_file(&dir.path().join("ntfs"), 16 * MIB);
    run("mkfs.ntfs", [Path::new("-q"), Path::new("-F"), &image]);
    let at = dir.path().join("mount");
    fs::create_dir(&at).unwrap();
    run("ntfs-3g", [&image, &at]);
    let mount = Mount(canonical(&at));
    let uses = identity::uses_of(&image).unwrap();
    assert_eq!(uses.mounted_at, [(canonical(&image), mount.0.clone())]);
    assert_eq!(identity::backing_disks(&mount.0).unwrap(), identity::backing_disks(dir.path()).unwrap());
}
