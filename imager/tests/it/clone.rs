//! Linked clones: disks at once that hold their own changes, and whose image stays as long as they need it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::restore::gpt;
use crate::support::{Imager, content, noise, output, run, write_at};
use crate::volume::Scratch;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running server for a linked clone.
struct Serving(Child);

impl Serving {
    fn of(imager: &Imager, args: &[&str]) -> Self {
        let mut child = imager.command(&[args, &["--json"]].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(first["type"], "serving");
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn stop(mut self) {
        run("kill", ["-INT", &self.0.id().to_string()]);
        assert!(self.0.wait().unwrap().code() == Some(0), "Ctrl-C is how it ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An image of a GPT disk, a linked clone of it, and what a restore makes of it.
fn linked(dir: &Scratch) -> (Imager, String, PathBuf) {
    let disk = gpt(dir);
    let imager = Imager::init(&dir.path("repository"));
    let image = imager.capture(&disk, &[]);
    let file = dir.path("vm.qcow2");
    let made = imager.json(&["clone", "--linked", "latest", "-o", text(&file)]);
    assert_eq!((made["type"].as_str(), made["image"].as_str()), (Some("linked"), Some(&*image)));
    imager.ok(&["restore", "latest", "--to", text(&dir.path("restored"))]);
    (imager, image, file)
}

#[test]
fn a_linked_clone_is_the_images_disk_and_what_is_written_goes_to_it_alone() {
    let dir = Scratch::new();
    let (imager, _, file) = linked(&dir);
    assert!(fs::metadata(&file).unwrap().len() <= 4 << 16);
    let packs = || run("find", [text(&dir.path("repository").join("packs")), "-type", "f", "-printf", "%p %s %T@\n"]);
    let before = packs();

    let refused = output("qemu-img", ["compare", text(&dir.path("restored")), text(&file)]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("vm.qcow2.imager-serve.sock"), "QEMU says what is missing: {said}");

    let serving = Serving::of(&imager, &["serve", "--for", text(&file)]);
    let info = run("qemu-img", ["info", "--output=json", text(&file)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((info["format"].as_str(), info["backing-filename-format"].as_str()), (Some("qcow2"), Some("raw")));
    assert!(run("qemu-img", ["check", text(&file)]).contains("No errors were found"));
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&dir.path("restored")), text(&file)]);

    run("qemu-io", ["-f", "qcow2", "-c", "write -P 0xa7 5M 70000", "-c", "write -z 20M 1M", text(&file)]);
    let mut expected = content(&dir.path("restored"));
    expected[5 << 20..(5 << 20) + 70_000].fill(0xA7);
    expected[20 << 20..21 << 20].fill(0);
    fs::write(dir.path("expected"), &expected).unwrap();
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&dir.path("expected")), text(&file)]);
    assert!(run("qemu-img", ["check", text(&file)]).contains("No errors were found"));
    serving.stop();
    assert_eq!(packs(), before, "the repository has the same packs as before");

    // The other way to serve it; the restored disk again from an untouched clone.
    let second = dir.path("second.qcow2");
    imager.ok(&["clone", "--linked", "latest", "-o", text(&second)]);
    let serving = Serving::of(&imager, &["clone", "--serve", text(&second)]);
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&dir.path("restored")), text(&second)]);
    serving.stop();
}

#[test]
fn another_image_is_not_taken_for_the_one_that_a_clone_needs() {
    let dir = Scratch::new();
    let (imager, _, file) = linked(&dir);
    let other = dir.path("other");
    fs::write(&other, noise(48 << 20, 5)).unwrap();
    imager.capture(&other, &[]);
    let socket = format!("{}.imager-serve.sock", text(&file));
    let serving = Serving::of(&imager, &["serve", "latest", "--socket", &socket]);
    let refused = output("qemu-io", ["-f", "qcow2", "-c", "read 0 512", text(&file)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("export not available"), "{said}");
    serving.stop();
}

#[test]
fn an_image_stays_while_a_clone_needs_it() {
    let dir = Scratch::new();
    let (imager, image, file) = linked(&dir);
    let listed = imager.json(&["clone", "--list"]);
    let id = listed["clone"].as_str().unwrap().to_owned();
    assert_eq!((listed["image"].as_str(), listed["files"][0]["path"].as_str()), (Some(&*image), Some(text(&file))));
    assert!(listed["state"].as_str().unwrap().starts_with("holds "), "{listed}");

    let error = imager.fails(9, &["forget", "latest"]);
    assert!(error.contains(&id) && error.contains(text(&file)) && error.contains("--release"), "{error}");
    let second = dir.path("second");
    fs::write(&second, noise(2 << 20, 5)).unwrap();
    imager.capture(&second, &[]);
    let said = imager.ok(&["forget", "--keep-last", "1"]);
    assert!(said.contains("kept") && said.contains(&id) && said.contains("0 images"), "{said}");

    // Somebody takes the manifest away all the same: a prune keeps what the clone needs, and it is served.
    fs::remove_file(dir.path("repository").join("images").join(&image)).unwrap();
    imager.ok(&["prune", "--max-waste", "0"]);
    imager.ok(&["verify", "--read-data"]);
    let serving = Serving::of(&imager, &["serve", "--for", text(&file)]);
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&dir.path("restored")), text(&file)]);
    serving.stop();

    // A clone whose file is gone is listed until it is released.
    fs::rename(&file, dir.path("moved.qcow2")).unwrap();
    assert_eq!(imager.json(&["clone", "--list"])["state"], "gone");
    let size = || run("du", ["-s", "--block-size=1", text(&dir.path("repository").join("packs"))]);
    let before = size();
    assert_eq!(imager.json(&["clone", "--release", text(&file)])["clone"], id.as_str());
    assert!(imager.ok(&["clone", "--list"]).contains("no linked clones"));
    imager.ok(&["prune"]);
    assert_ne!(size(), before, "what only the clone needed is freed");
    imager.fails(7, &["serve", "--for", text(&dir.path("moved.qcow2"))]);
    imager.ok(&["verify", "--read-data"]);
}

#[test]
fn a_damaged_clone_object_keeps_everything_until_it_is_released() {
    let dir = Scratch::new();
    let (imager, image, _) = linked(&dir);
    let id = imager.json(&["clone", "--list"])["clone"].as_str().unwrap().to_owned();
    let object = dir.path("repository").join("clones").join(&id);
    write_at(&object, 40, b"damage");
    imager.fails(4, &["prune"]);
    let error = imager.fails(4, &["forget", &image]);
    assert!(error.contains(&format!("--release {id}")), "{error}");
    assert_eq!(imager.run(&["verify"]).code, 4);
    imager.ok(&["clone", "--release", &id]);
    imager.ok(&["forget", &image]);
    imager.ok(&["prune"]);
}

#[test]
fn every_disk_of_a_machine_gets_a_file_and_nothing_is_overwritten() {
    let dir = Scratch::new();
    let (first, second) = (dir.path("first"), dir.path("second"));
    fs::write(&first, noise(3 << 20, 1)).unwrap();
    // An odd size: a disk in a virtual machine has whole sectors.
    fs::write(&second, noise((2 << 20) + 77, 2)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["capture", text(&first), text(&second)]);
    let file = dir.path("vm.qcow2");
    imager.ok(&["clone", "--linked", "latest", "-o", text(&file)]);
    let disk = |number| dir.path(&format!("vm-disk{number}.qcow2"));
    let serving = Serving::of(&imager, &["serve", "--for", text(&disk(1))]);
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&first), text(&disk(0))]);
    run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", text(&disk(1)), text(&dir.path("copy"))]);
    let copy = content(&dir.path("copy"));
    assert!(copy.len().is_multiple_of(512) && copy[..(2 << 20) + 77] == content(&second));
    serving.stop();
    let error = imager.fails(6, &["clone", "--linked", "latest", "-o", text(&file)]);
    assert!(error.contains("is there already"), "{error}");
    imager.ok(&["clone", "--linked", "latest", "--disk", "1", "-o", text(&file)]);
    let error = imager.fails(2, &["clone", "--linked", "latest", "--disk", "2", "-o", text(&dir.path("x"))]);
    assert!(error.contains("no disk 2"), "{error}");
    let long = dir.path(&"long".repeat(30));
    let error = imager.fails(2, &["clone", "--linked", "latest", "--disk", "0", "-o", text(&long)]);
    assert!(error.contains("--socket"), "{error}");
    assert_eq!(imager.lines(&["clone", "--list"]).len(), 2, "what failed is not registered");
    assert!(!long.exists());
    imager.fails(2, &["serve", "--for", text(&first)]);
}

#[test]
fn a_linked_clone_stands_alone_once_it_is_detached_and_a_full_one_from_the_beginning() {
    let dir = Scratch::new();
    let (imager, image, file) = linked(&dir);
    let full = dir.path("full.qcow2");
    let made = imager.json(&["clone", "--full", "latest", "-o", text(&full)]);
    assert_eq!((made["type"].as_str(), made["files"][0]["disk"].as_u64()), (Some("full"), Some(0)));
    imager.fails(6, &["clone", "--full", "latest", "-o", text(&full)]);

    let serving = Serving::of(&imager, &["serve", "--for", text(&file)]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 0xa7 5M 70000", "-c", "write -z 20M 1M", text(&file)]);
    let mut machine = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", text(&file)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It says something as soon as it has the file open.
    let mut prompt = [0; 8];
    std::io::Read::read_exact(machine.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let error = imager.fails(9, &["clone", "--detach", text(&file)]);
    assert!(error.contains("open in a virtual machine"), "{error}");
    drop(machine.stdin.take());
    machine.wait().unwrap();
    serving.stop();

    assert_eq!(imager.json(&["clone", "--detach", text(&file)])["type"], "detached");
    let mut expected = content(&dir.path("restored"));
    expected[5 << 20..(5 << 20) + 70_000].fill(0xA7);
    expected[20 << 20..21 << 20].fill(0);
    fs::write(dir.path("expected"), &expected).unwrap();
    assert!(imager.ok(&["clone", "--list"]).contains("no linked clones"));
    assert!(!PathBuf::from(format!("{}.clone.json", text(&file))).exists());
    imager.ok(&["forget", &image]);
    imager.ok(&["prune"]);
    for (disk, raw) in [(&file, "expected"), (&full, "restored")] {
        run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&dir.path(raw)), text(disk)]);
        assert!(run("qemu-img", ["check", text(disk)]).contains("No errors were found"));
        assert!(!run("qemu-img", ["info", text(disk)]).contains("backing file"));
    }
    imager.fails(2, &["clone", "--detach", text(&file)]);
}
