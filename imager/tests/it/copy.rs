//! Disks copied onto disks by the program: to devices and files, of the same size and larger, and what is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::restore::{assert_used_is_equal, garbage, gpt, mbr};
use crate::support::{Imager, Loop, Mount, check_volume, content, noise, read_at, run, sh, sparse_file};
use crate::volume::{Scratch, tree};

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn imager(dir: &Scratch) -> Imager {
    Imager::at(&dir.path("no-repository"))
}

#[test]
fn what_is_in_use_is_copied_to_devices_and_files() {
    for make in [gpt, mbr] {
        let dir = Scratch::new();
        let source = make(&dir);
        let before = fs::read(&source).unwrap();
        let target = garbage(&dir.path("target"), 48 * MIB);
        let device = Loop::attach(&target, &[]);
        let said = imager(&dir).ok(&[
            "copy",
            text(&source),
            "--to",
            text(&device.0),
            "--confirm",
            text(&device.0),
            "--verify",
        ]);
        assert!(said.contains("read back and found equal"), "{said}");
        drop(device);
        assert_used_is_equal(&source, &target);
        let file = dir.path("file");
        imager(&dir).ok(&["copy", text(&source), "--to", text(&file), "--all-sectors", "--verify"]);
        assert!(content(&file) == content(&source), "all sectors are the same, bit for bit");
        assert!(fs::read(&source).unwrap() == before, "the source is as it was");
    }
}

#[test]
fn a_larger_target_gets_the_backup_gpt_at_its_end_and_new_ids_on_request() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let target = garbage(&dir.path("target"), 96 * MIB);
    let device = Loop::attach(&target, &[]);
    let copy = ["copy", text(&source), "--to", text(&device.0), "--confirm", text(&device.0), "--new-ids", "--verify"];
    imager(&dir).ok(&copy);
    drop(device);
    assert!(run("sgdisk", ["-v", text(&target)]).contains("No problems found"));
    let id = |disk: &Path| sh(&format!("sgdisk -p {} | grep identifier", text(disk)));
    assert_ne!(id(&source), id(&target));
    check_volume(dir.root(), "vfat", &read_at(&target, 2 * MIB, 12 * MIB));
    let mount = Mount::new(&target, &dir.path("mount"), "loop,ro,offset=14680064");
    assert_eq!(
        tree(&mount.0).into_iter().filter(|(name, _)| name != "lost+found").collect::<Vec<_>>(),
        tree(&dir.path("tree")).into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn a_new_file_is_sparse() {
    let dir = Scratch::new();
    let source = sparse_file(&dir.path("source"), 512 * MIB);
    crate::support::write_at(&source, 256 * MIB, &noise(1 << 20, 7));
    let target = dir.path("target");
    imager(&dir).ok(&["copy", text(&source), "--to", text(&target), "--verify"]);
    assert!(content(&target) == content(&source));
    assert!(target.metadata().unwrap().blocks() * 512 < 4 * MIB);
}

#[test]
fn the_wrong_target_is_refused_and_left_alone() {
    let dir = Scratch::new();
    let source = gpt(&dir);
    let target = garbage(&dir.path("target"), 48 * MIB);
    let before = content(&target);
    let device = Loop::attach(&target, &[]);
    let source_device = Loop::attach(&source, &[]);
    let program = imager(&dir);
    let error = program.fails(6, &["copy", text(&source), "--to", text(&device.0)]);
    assert!(error.contains("--confirm"), "{error}");
    let error = program.fails(6, &["copy", text(&source), "--to", text(&device.0), "--confirm", "another"]);
    assert!(error.contains("does not name"), "{error}");
    let itself = ["copy", text(&source_device.0), "--to", text(&source_device.0), "--confirm", text(&source_device.0)];
    assert!(program.fails(2, &itself).contains("named twice"));
    assert!(program.fails(6, &["copy", text(&source), "--to", text(&target), "--force"]).contains("sits on it"));
    let small = Loop::attach(&sparse_file(&dir.path("small"), 47 * MIB), &[]);
    let error = program.fails(6, &["copy", text(&source), "--to", text(&small.0), "--confirm", text(&small.0)]);
    assert!(error.contains("1.00 MiB smaller"), "{error}");
    let sectors = Loop::attach(&sparse_file(&dir.path("sectors"), 48 * MIB), &["--sector-size", "4096"]);
    let error = program.fails(6, &["copy", text(&source), "--to", text(&sectors.0), "--confirm", text(&sectors.0)]);
    assert!(error.contains("sectors have 4096 bytes"), "{error}");
    let said = program.ok(&["copy", text(&source), "--to", text(&device.0), "--dry-run"]);
    assert!(said.contains("Nothing was written"), "{said}");
    drop(device);
    assert!(content(&target) == before);
}

#[test]
fn a_stick_is_made_from_its_image() {
    let dir = Scratch::new();
    let image = gpt(&dir);
    let stick = garbage(&dir.path("stick"), 128 * MIB);
    let program = imager(&dir);
    let error = program.fails(6, &["make-stick", text(&stick), "--image", text(&image)]);
    assert!(error.contains("no block device"), "{error}");
    let device = Loop::attach(&stick, &[]);
    let error = program.fails(6, &["make-stick", text(&device.0), "--image", text(&image)]);
    assert!(error.contains("--confirm"), "{error}");
    program.ok(&["make-stick", text(&device.0), "--image", text(&image), "--confirm", text(&device.0), "--verify"]);
    drop(device);
    assert!(run("sgdisk", ["-v", text(&stick)]).contains("No problems found"));
    check_volume(dir.root(), "ext4", &read_at(&stick, 14 * MIB, 20 * MIB));
}
