//! Disk files of virtual machines as sources of images: the image is that of the raw disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imager::repo::Repository;
use imager::repo::block_map::Root;
use imager::repo::manifest::Manifest;
use imager::repo::store::CrateStore;
use std::sync::Arc;

use crate::support::{Imager, Loop, content, gpt_disk, noise, run, sparse_file, write_at};
use crate::vm_disk::convert;
use crate::volume::Scratch;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn disk(dir: &Scratch, sector: u64) -> PathBuf {
    let path = sparse_file(&dir.path("disk.raw"), 48 << 20);
    let device = Loop::attach(&path, &["--sector-size", &sector.to_string()]);
    gpt_disk(dir.root(), &device.0, sector);
    drop(device);
    path
}

fn latest(dir: &Scratch) -> Manifest {
    let store = CrateStore::local(dir.path("repository")).unwrap();
    let repository = Repository::open(Arc::new(store), || panic!("it has no password")).unwrap();
    repository.find_image("latest").unwrap().1
}

fn roots(manifest: &Manifest) -> Vec<(u64, u64, Option<Root>)> {
    let regions = manifest.disks.iter().flat_map(|disk| &disk.regions);
    regions.map(|region| (region.start, region.len, region.root)).collect()
}

#[test]
fn the_image_of_a_disk_file_is_that_of_the_raw_disk() {
    let dir = Scratch::new();
    let raw = disk(&dir, 512);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&raw, &[]);
    let expected = roots(&latest(&dir));
    assert!(expected.iter().filter(|(.., root)| root.is_some()).count() > 3);
    let restored = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&restored)]);
    let shapes: [(&str, &str, &[&str], &str); 10] = [
        ("qcow2", "qcow2", &[], ""),
        ("qcow2", "qcow2", &["-c"], "compression_type=zstd"),
        ("qcow2", "qcow2", &["-c"], "cluster_size=512"),
        ("qcow2", "qcow2", &[], "extended_l2=on"),
        ("vmdk", "vmdk", &[], ""),
        ("vmdk", "vmdk", &[], "subformat=streamOptimized"),
        ("vmdk", "vmdk", &[], "subformat=twoGbMaxExtentFlat"),
        ("vhdx", "vhdx", &[], ""),
        ("vhd", "vpc", &[], "force_size=on"),
        ("vdi", "vdi", &[], ""),
    ];
    for (ending, format, flags, options) in shapes {
        let file = convert(&raw, &dir.path(&format!("disk.{ending}")), format, flags, options);
        let result = imager.json(&["import", text(&file), "--name", "moved"]);
        assert_eq!(result["stats"]["new"], 0, "{ending} {options}: nothing is new to the repository");
        let manifest = latest(&dir);
        assert!(roots(&manifest) == expected, "{ending} {options}");
        assert_eq!((manifest.name.as_deref(), &*manifest.machine_id), (Some("moved"), "imported moved"));
        assert_eq!((manifest.machine.hostname, manifest.disks[0].size), (None, 48 << 20));
    }
    let again = dir.path("again");
    imager.ok(&["restore", "latest", "--to", text(&again)]);
    assert!(content(&again) == content(&restored));
}

#[test]
fn what_was_found_is_said() {
    let dir = Scratch::new();
    let raw = disk(&dir, 512);
    let imager = Imager::init(&dir.path("repository"));
    let file = convert(&raw, &dir.path("disk.img"), "qcow2", &[], "");
    let words = "is a disk of 48.0 MiB in the qcow2 format";
    assert!(imager.ok(&["inspect", text(&file)]).contains(words), "{}", imager.ok(&["inspect", text(&file)]));
    let seen = imager.json(&["inspect", text(&file)]);
    assert_eq!((&seen["format"], &seen["identity"]["size"]), (&"qcow2".into(), &(48 << 20).into()));
    let ran = imager.run(&["capture", text(&file)]);
    assert!(ran.code == 0 && ran.err.contains(words), "{}", ran.err);
    // As it is, byte by byte.
    let raw_seen = imager.json(&["inspect", text(&file), "--format", "raw"]);
    assert_eq!(raw_seen["identity"]["size"], fs::metadata(&file).unwrap().len());
    assert!(imager.fails(4, &["inspect", text(&raw), "--format", "vhdx"]).contains("is damaged at byte"));
    assert!(imager.fails(2, &["inspect", text(&raw), "--format", "tar"]).contains("these are: raw, qcow2"));
    assert!(imager.fails(2, &["import", text(dir.root())]).contains("is a directory"));
    assert!(imager.fails(1, &["import", text(&dir.path("gone.vmdk"))]).contains("gone.vmdk"));
}

#[test]
fn all_disks_of_one_machine_become_one_image() {
    let dir = Scratch::new();
    let raw = disk(&dir, 512);
    let other = sparse_file(&dir.path("data.raw"), 20 << 20);
    write_at(&other, 1 << 20, &noise(3 << 20, 9));
    let files = [
        convert(&raw, &dir.path("disk.vmdk"), "vmdk", &[], "subformat=twoGbMaxExtentSparse"),
        convert(&other, &dir.path("data.vhdx"), "vhdx", &[], ""),
        other.clone(),
    ];
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["import", text(&files[0]), text(&files[1]), text(&files[2]), "--note", "from the old host"]);
    let manifest = latest(&dir);
    assert_eq!((manifest.disks.len(), &*manifest.machine_id), (3, "imported disk"));
    let targets = ["a", "b", "c"].map(|name| dir.path(name));
    let mut args = vec!["restore", "latest"];
    let places: Vec<String> =
        targets.iter().enumerate().map(|(number, target)| format!("disk{number}={}", text(target))).collect();
    places.iter().for_each(|place| args.extend(["--to", place]));
    imager.ok(&args);
    assert!(content(&targets[1]) == content(&other) && content(&targets[2]) == content(&other));
    let words = imager.fails(2, &["import", text(&files[0]), text(&files[0])]);
    assert!(words.contains("is named twice"), "{words}");
}

#[test]
fn sectors_of_4096_bytes_are_kept() {
    let dir = Scratch::new();
    let raw = disk(&dir, 4096);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&raw, &[]);
    let expected = roots(&latest(&dir));
    let file = convert(&raw, &dir.path("disk.qcow2"), "qcow2", &[], "");
    imager.ok(&["import", text(&file)]);
    let manifest = latest(&dir);
    assert!(manifest.disks[0].sector_size == 4096 && roots(&manifest) == expected);
}

#[test]
fn a_disk_that_a_virtual_machine_writes_to_needs_live() {
    let dir = Scratch::new();
    let imager = Imager::init(&dir.path("repository"));
    let raw = disk(&dir, 512);
    for (format, ending) in [("qcow2", "qcow2"), ("raw", "img")] {
        let file = convert(&raw, &dir.path(&format!("disk.{ending}")), format, &[], "");
        // A program of QEMU's that waits for commands has the locks that a machine has.
        let mut writer = Command::new("qemu-io")
            .args(["-f", format, text(&file)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let locked = || fs::read_to_string("/proc/locks").unwrap().contains(&inode_of(&file));
        while !locked() {
            assert_eq!(writer.try_wait().unwrap(), None, "qemu-io ends");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let words = imager.fails(2, &["import", text(&file)]);
        assert!(words.contains("a running virtual machine writes to"), "{words}");
        imager.ok(&["import", text(&file), "--live"]);
        drop(writer.stdin.take());
        writer.wait().unwrap();
        imager.ok(&["import", text(&file)]);
    }
}

/// As `/proc/locks` shows it at the end of a device's and file's number.
fn inode_of(file: &Path) -> String {
    format!(":{} ", run("stat", ["-c", "%i", text(file)]).trim())
}

#[test]
fn damage_that_shows_first_while_reading_is_in_the_image() {
    let dir = Scratch::new();
    let raw = sparse_file(&dir.path("disk.raw"), 30 << 20);
    let letters: Vec<u8> = noise(8 << 20, 1).iter().map(|byte| b'a' + byte % 16).collect();
    write_at(&raw, 0, &letters);
    let imager = Imager::init(&dir.path("repository"));
    let file = convert(&raw, &dir.path("disk.qcow2"), "qcow2", &["-c"], "");
    // Somewhere in the middle of compressed clusters.
    let at = fs::metadata(&file).unwrap().len() / 2;
    write_at(&file, at, &noise(5000, 4));
    let ran = imager.run(&["import", text(&file)]);
    assert_eq!(ran.code, 10, "{}", ran.err);
    assert!(ran.out.contains("could not be read"), "{}", ran.out);
}

/// An OVF descriptor of a machine with these disks.
fn ovf(disks: &[&str]) -> String {
    let files = disks.iter().map(|disk| format!(r#"<File ovf:href="{disk}" ovf:id="f-{disk}" ovf:size="1"/>"#));
    let drives =
        disks.iter().map(|disk| format!(r#"<Disk ovf:capacity="1" ovf:diskId="{disk}" ovf:fileRef="f-{disk}"/>"#));
    format!(
        r#"<?xml version="1.0"?><Envelope><References>{}</References><DiskSection>{}</DiskSection>
        <VirtualSystem ovf:id="old server"><Info>x</Info></VirtualSystem></Envelope>"#,
        files.rev().collect::<String>(),
        drives.collect::<String>()
    )
}

#[test]
fn exported_machines_are_imported() {
    let dir = Scratch::new();
    let raw = disk(&dir, 512);
    let other = sparse_file(&dir.path("data.raw"), 20 << 20);
    write_at(&other, 1 << 20, &noise(3 << 20, 9));
    convert(&raw, &dir.path("vm-disk1.vmdk"), "vmdk", &[], "subformat=streamOptimized");
    convert(&other, &dir.path("vm-disk2.vmdk"), "vmdk", &[], "subformat=streamOptimized");
    let names = ["vm-disk1.vmdk", "vm-disk2.vmdk"];
    fs::write(dir.path("vm.ovf"), ovf(&names)).unwrap();
    let ova = dir.path("vm.ova");
    let tar = |files: &[&str]| {
        let args = ["--format=ustar", "-cf", text(&ova), "-C", text(dir.root())];
        run("tar", [&args[..], files].concat());
    };
    tar(&["vm.ovf", names[0], names[1]]);
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["capture", text(&raw), text(&other)]);
    let expected = roots(&latest(&dir));
    for machine in [&ova, &dir.path("vm.ovf")] {
        imager.ok(&["import", text(machine)]);
        let manifest = latest(&dir);
        assert!(roots(&manifest) == expected, "{}", machine.display());
        assert_eq!((manifest.name.as_deref(), &*manifest.machine_id), (Some("old server"), "imported old server"));
    }
    assert!(imager.fails(2, &["capture", text(&ova)]).contains("`imager import` takes it"));
    tar(&["vm.ovf", names[0]]);
    assert!(imager.fails(4, &["import", text(&ova)]).contains("its disk vm-disk2.vmdk is not in it"));
    fs::write(dir.path("vm.ovf"), ovf(&["../secret.vmdk"])).unwrap();
    assert!(imager.fails(2, &["import", text(&dir.path("vm.ovf"))]).contains("not in its own directory"));
    let bytes = content(&ova);
    fs::write(&ova, &bytes[..bytes.len() / 2]).unwrap();
    assert!(imager.fails(4, &["import", text(&ova)]).contains("it is cut off"));
}

/// The place of a file in a tar, behind its header.
fn place_in_tar(tar: &[u8], name: &str) -> usize {
    let header =
        tar.chunks(512).position(|record| record.starts_with(name.as_bytes()) && record[257..].starts_with(b"ustar"));
    (header.unwrap() + 1) * 512
}

#[test]
fn an_exported_machine_is_checked_by_its_manifest() {
    let dir = Scratch::new();
    let raw = disk(&dir, 512);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&raw, &["--name", "web1"]);
    let expected = roots(&latest(&dir));
    let ova = dir.path("web1.ova");
    imager.ok(&["export", "latest", "-o", text(&ova)]);
    let ran = imager.run(&["import", text(&ova)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(roots(&latest(&dir)) == expected && !ran.err.contains("checksum"), "{ran:?}");
    // A byte of the disk, or of the descriptor, is another.
    let good = content(&ova);
    let taken = latest(&dir).created;
    let refused = |name: &str, at: usize| {
        let mut bytes = good.clone();
        bytes[place_in_tar(&good, name) + at] ^= 1;
        fs::write(&ova, bytes).unwrap();
        imager.fails(4, &["import", text(&ova)])
    };
    for (name, at) in [("web1-disk0.vmdk", 70_000), ("web1.ovf", 10)] {
        let error = refused(name, at);
        let place = format!("web1.ova/{name} is damaged");
        let words = [&*place, "its SHA256 is", "web1.ova/web1.mf says", "export the machine again", "`tar -xf`"];
        assert!(words.iter().all(|words| error.contains(words)), "{error}");
    }
    assert_eq!(latest(&dir).created, taken, "nothing was taken");
    // As files beside each other, with sums of several kinds; and without any.
    fs::write(&ova, &good).unwrap();
    run("tar", ["-xf", text(&ova), "-C", text(dir.root())]);
    let (descriptor, manifest) = (dir.path("web1.ovf"), dir.path("web1.mf"));
    let sum = |tool: &str| run(tool, [text(&dir.path("web1-disk0.vmdk"))]).split(' ').next().unwrap().to_owned();
    for (kind, tool) in [("SHA1", "sha1sum"), ("SHA256", "sha256sum"), ("SHA512", "sha512sum")] {
        fs::write(&manifest, format!("{kind} (web1-disk0.vmdk) = {}\r\n", sum(tool).to_uppercase())).unwrap();
        let ran = imager.run(&["import", text(&descriptor)]);
        assert!(ran.code == 0 && ran.err.contains("web1.mf has no checksum of web1.ovf"), "{ran:?}");
        assert!(roots(&latest(&dir)) == expected);
        fs::write(&manifest, format!("{kind}(web1-disk0.vmdk)= {}\n", sum(tool).replace(['0', '1'], "f"))).unwrap();
        let error = imager.fails(4, &["import", text(&descriptor)]);
        assert!(error.contains(&format!("web1-disk0.vmdk is damaged at byte 0: its {kind} is")), "{error}");
    }
    fs::remove_file(&manifest).unwrap();
    let ran = imager.run(&["import", text(&descriptor)]);
    assert!(ran.code == 0 && !ran.err.contains("checksum"), "{ran:?}");
}
