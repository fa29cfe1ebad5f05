//! What users get wrong: each is refused with its documented exit code and with words that say what is wrong, where,
//! and what to do; and nothing is harmed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Imager, Loop, Mount, Ran, content, noise, output, run, sh, sparse_file, write_at};
use crate::volume::Scratch;

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk image of `len` bytes that do not compress.
fn disk(dir: &Scratch, len: usize) -> PathBuf {
    let path = dir.path("disk");
    fs::write(&path, noise(len, 1)).unwrap();
    path
}

/// A loop device with an empty ext4.
fn ext4(dir: &Scratch, name: &str, mib: u64) -> (PathBuf, Loop) {
    let file = sparse_file(&dir.path(name), mib * MIB);
    run("mke2fs", ["-q", "-t", "ext4", text(&file)]);
    let device = Loop::attach(&file, &[]);
    (file, device)
}

#[test]
fn what_is_no_disk_is_no_source() {
    let dir = Scratch::new();
    let disk = disk(&dir, 100_000);
    let imager = Imager::init(&dir.path("repository"));
    fs::write(dir.path("empty"), "").unwrap();
    let path = |name: &str| text(&dir.path(name)).to_owned();
    for (source, code, why) in [
        (path(""), 2, "is neither a block device nor a disk-image file"),
        (path("empty"), 2, "has no bytes"),
        (path("missing"), 1, "cannot open"),
        ("/dev/null".to_owned(), 2, "is neither a block device nor a disk-image file"),
    ] {
        for args in [&["inspect", &*source][..], &["capture", &source], &["capture", text(&disk), &source]] {
            let error = imager.fails(code, args);
            assert!(error.contains(why) && error.contains(&source), "{error}");
        }
    }
    std::os::unix::fs::symlink(&disk, dir.path("link")).unwrap();
    let error = imager.fails(2, &["capture", text(&disk), &path("link")]);
    assert!(error.contains("link is named twice"), "{error}");
    assert!(imager.ok(&["images"]).contains("no images yet"));
    assert!(imager.fails(2, &["capture"]).contains("<SOURCE>"));
}

#[test]
fn bad_numbers_are_refused_before_anything_is_done() {
    let dir = Scratch::new();
    let disk = disk(&dir, 100_000);
    let imager = Imager::init(&dir.path("repository"));
    for (args, why) in [
        (&["--level", "0"][..], "a number from 1 to 22"),
        (&["--level", "23"], "a number from 1 to 22"),
        (&["--level", "high"], "a number from 1 to 22"),
        (&["--memory", "lots"], "is not a size"),
        (&["--memory", "1M"], "less than 64.0 MiB is too little"),
        (&["--memory", "-1"], "unexpected argument"),
        (&["--sector-size", "520"], "512, 4096"),
        (&["--leave-out", "logs"], "paging, hibernation"),
        (&["--no-verify", "--verify-data"], "cannot be used with"),
    ] {
        let error = imager.fails(2, &[&["capture", text(&disk)], args].concat());
        assert!(error.contains(why), "{error}");
    }
    for (size, why) in [
        ("0", "16 KiB to 4 MiB"),
        ("8K", "16 KiB to 4 MiB"),
        ("8M", "16 KiB to 4 MiB"),
        ("100k", "power of two"),
        ("x", "is not a size"),
    ] {
        let made = dir.path("made");
        let error = imager.fails(2, &["init", text(&made), "--no-password", "--chunk-size", size]);
        assert!(error.contains(why) && !made.exists(), "{error}");
    }
    for size in ["0", "100K", "32K", "8M", "1G"] {
        let made = dir.path("made");
        let error = imager.fails(2, &["init", text(&made), "--no-password", "--frame-size", size]);
        assert!(error.contains("multiple of 64 KiB up to 4 MiB") && !made.exists(), "{error}");
    }
    for args in [&["forget"][..], &["forget", "x", "--keep-last", "1"], &["forget", "--keep-last", "0"]] {
        assert!(imager.fails(2, args).contains("name images to forget, or give rules"));
    }
    assert!(imager.fails(2, &["prune", "--max-waste", "101"]).contains("0..=100"));
    assert!(imager.fails(2, &["restore", "latest"]).contains("--to"));
    assert!(imager.fails(2, &["key", "frobnicate"]).contains("unrecognized subcommand"));
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let dir = Scratch::new();
    let disk = disk(&dir, 100_000);
    let path = |name: &str| text(&dir.path(name)).to_owned();
    fs::create_dir(dir.path("empty")).unwrap();
    for place in [path("missing"), path("empty"), text(&disk).to_owned()] {
        for args in [&["images"][..], &["capture", text(&disk)], &["verify"], &["prune"]] {
            let error = Imager::at(Path::new(&place)).fails(3, args);
            assert!(error.contains(&format!("{place} holds no repository; `imager init` makes one")), "{error}");
        }
    }
    let mut command = Imager::at(Path::new("/")).command(&["images"]);
    let none = command.env_remove("IMAGER_REPO").output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8(none.stderr).unwrap().contains("--repo or in IMAGER_REPO"));

    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let error = imager.fails(3, &["init", &path("repository"), "--no-password"]);
    assert!(error.contains("already holds a repository"), "{error}");
    assert!(imager.fails(1, &["init", text(&disk), "--no-password"]).contains("cannot create"));
    // --repo counts more than the environment.
    imager.fails(3, &["images", "--repo", &path("empty")]);
    Imager::at(&dir.path("empty")).ok(&["images", "--repo", &path("repository")]);

    // Made by a later version: the checksum is right, the number is not ours.
    let config = dir.path("repository").join("config");
    let line = fs::read_to_string(&config).unwrap().lines().next().unwrap().to_owned();
    let newer = line.replace("\"version\":1", "\"version\":2");
    assert_ne!(line, newer);
    fs::write(&config, format!("{newer}\n{}\n", blake3::hash(newer.as_bytes()))).unwrap();
    let error = imager.fails(3, &["images"]);
    assert!(error.contains("version 2") && error.contains("use a newer imager"), "{error}");
    // Not made by anybody.
    fs::write(&config, format!("{newer}\n{}\n", blake3::hash(line.as_bytes()))).unwrap();
    assert!(imager.fails(4, &["images"]).contains("config is damaged"));
}

#[test]
fn a_wrong_password_or_none() {
    let dir = Scratch::new();
    let repository = dir.path("repository");
    Imager::at(&repository).with("IMAGER_PASSWORD", "right").ok(&["init", text(&repository)]);
    let error = Imager::at(&repository).with("IMAGER_PASSWORD", "wrong").fails(3, &["images"]);
    assert!(error.contains("no key slot opens with this password"), "{error}");
    for password in ["", "-"] {
        let bare = Imager::at(&repository);
        let imager = if password.is_empty() { bare.with("IMAGER_PASSWORD", "") } else { bare };
        let error = imager.fails(3, &["images"]);
        assert!(error.contains("--password-file or IMAGER_PASSWORD_FILE"), "{error}");
    }
}

#[test]
fn a_source_that_is_in_use_needs_live() {
    let dir = Scratch::new();
    let (file, device) = ext4(&dir, "source", 24);
    let imager = Imager::init(&dir.path("repository"));
    {
        let mount = Mount::new(&device.0, &dir.path("a mount"), "rw");
        for source in [&file, &device.0] {
            let error = imager.fails(2, &["capture", text(source)]);
            assert!(error.contains("is mounted for writing at") && error.contains("a mount"), "{error}");
            assert!(error.contains("remount it read-only; --live captures it all the same"), "{error}");
        }
        fs::write(mount.0.join("file"), noise(100_000, 1)).unwrap();
        let ran = imager.run(&["capture", text(&device.0), "--live"]);
        assert!(ran.code == 0 && ran.err.contains("warning: ") && ran.err.contains("old and new blocks"), "{ran:?}");
        let manifest = imager.json(&["show", "latest"])["manifest"].clone();
        let warnings = manifest["disks"][0]["warnings"].to_string();
        assert!(warnings.contains("mounted for writing"), "{warnings}");
        assert!(imager.ok(&["show", "latest"]).contains("warning: "));
    }
    {
        let _mount = Mount::new(&device.0, &dir.path("a mount"), "ro");
        imager.ok(&["capture", text(&device.0)]);
        assert!(!imager.ok(&["show", "latest"]).contains("mounted"));
    }
    run("mkswap", ["-q", text(&device.0)]);
    run("swapon", [text(&device.0)]);
    let ran = imager.run(&["capture", text(&device.0)]);
    let restored = imager.run(&["restore", "latest", "--to", text(&device.0), "--confirm", text(&device.0)]);
    run("swapoff", [text(&device.0)]);
    assert!(ran.code == 2 && ran.err.contains("in use as swap space"), "{ran:?}");
    assert!(restored.code == 6 && restored.err.contains("`swapoff` it first"), "{restored:?}");
}

#[test]
fn a_target_that_is_in_use_is_refused() {
    let dir = Scratch::new();
    let source = disk(&dir, 3 << 20);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&source, &[]);
    let (file, device) = ext4(&dir, "target", 24);
    let before = content(&file);
    let refused = |target: &Path, why: &str| {
        let error = imager.fails(6, &["restore", "latest", "--to", text(target), "--confirm", text(target), "--force"]);
        assert!(error.contains(text(target)) && error.contains(why), "{error}");
        imager.fails(6, &["restore", "latest", "--to", text(target), "--dry-run", "--force"]);
    };
    {
        let _mount = Mount::new(&device.0, &dir.path("mount"), "ro,noload");
        refused(&device.0, "is mounted at");
        refused(&file, "is mounted at");
    }
    {
        let above = Loop::attach(&device.0, &[]);
        refused(&device.0, &format!("{} sits on it", above.0.file_name().unwrap().to_str().unwrap()));
    }
    refused(&file, "sits on it");
    drop(device);
    let read_only = Loop::attach(&file, &["-r"]);
    refused(&read_only.0, "it is read-only");
    drop(read_only);
    assert!(content(&file) == before);
    // Now nobody uses it, and it is only a file that exists.
    let error = imager.fails(6, &["restore", "latest", "--to", text(&file)]);
    assert!(error.contains("the file exists; --force overwrites it"), "{error}");
    imager.ok(&["restore", "latest", "--to", text(&file), "--force"]);
}

#[test]
fn a_target_that_holds_the_repository_is_refused() {
    let dir = Scratch::new();
    let file = sparse_file(&dir.path("target"), 64 * MIB);
    run("sgdisk", ["-o", "-n", "1:2048:+40M", "-n", "2:0:+10M", text(&file)]);
    let device = Loop::attach(&file, &["-P"]);
    // For kernels that were built without partition tables.
    output("partx", [Path::new("--add"), &device.0]);
    let partition = |n: u32| PathBuf::from(format!("{}p{n}", device.0.display()));
    run("mke2fs", ["-q", text(&partition(1))]);
    let small = dir.path("small");
    fs::write(&small, noise(1 << 20, 2)).unwrap();
    {
        let mount = Mount::new(&partition(1), &dir.path("mount"), "rw");
        let imager = Imager::init(&mount.0.join("repository"));
        // It is a disk with one partition, of 1 MiB.
        let source = sparse_file(&dir.path("disk"), 4 * MIB);
        run("sgdisk", ["-o", "-n", "1:2048:+1M", text(&source)]);
        write_at(&source, MIB, &noise(1 << 20, 3));
        imager.capture(&source, &[]);
        let restore =
            |to: &str, confirm: &Path| imager.run(&["restore", "latest", "--to", to, "--confirm", text(confirm)]);
        let refused = restore(text(&device.0), &device.0);
        assert!(refused.code == 6 && refused.err.contains("the repository"), "{refused:?}");
        let refused = restore(&format!("p1={}", text(&partition(1))), &partition(1));
        assert!(refused.code == 6 && refused.err.contains("is mounted at"), "{refused:?}");
        let refused = imager.run(&["restore", "latest", "--to", text(&file), "--force"]);
        assert!(refused.code == 6 && refused.err.contains("is mounted at"), "{refused:?}");
        // Another partition of that disk does not hold it.
        let ran = restore(&format!("p1={}", text(&partition(2))), &partition(2));
        assert_eq!(ran.code, 0, "{ran:?}");
        imager.ok(&["verify", "--read-data"]);
        let mut written = content(&partition(2));
        written.truncate(1 << 20);
        assert!(written == noise(1 << 20, 3));
    }
    output("partx", [Path::new("--delete"), &device.0]);
}

#[test]
fn a_full_store_keeps_what_it_has_and_the_next_capture_goes_on() {
    let dir = Scratch::new();
    let source = disk(&dir, 24 << 20);
    let (_file, device) = ext4(&dir, "store", 48);
    let mount = Mount::new(&device.0, &dir.path("mount"), "rw");
    let imager = Imager::init(&mount.0.join("repository"));
    let filler = mount.0.join("filler");
    fs::write(&filler, vec![1; 26 << 20]).unwrap();
    let capture = ["capture", text(&source), "--memory", "64M"];
    let error = imager.fails(5, &capture);
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains("what was stored so far is kept: the same command again goes on from there"), "{error}");
    imager.ok(&["verify", "--read-data"]);
    assert!(imager.ok(&["images"]).contains("no images yet"));
    assert_eq!(sh(&format!("find {} -name '*#*'", text(&mount.0))), "", "half-written objects are left");
    fs::remove_file(&filler).unwrap();
    let captured = imager.json(&capture);
    assert!(captured["stats"]["known"].as_u64().unwrap() >= 4 * MIB, "{captured}");
    imager.ok(&["verify", "--read-data"]);
    // Not even the session fits.
    for n in 0..3 {
        // What was deleted is free only after the journal's next commit.
        run("sync", ["-f", text(&mount.0)]);
        output("dd", ["if=/dev/zero", &format!("of={}{n}", text(&filler)), "bs=1k", "conv=fsync"]);
    }
    let error = imager.fails(5, &["capture", text(&source), "--memory", "64M"]);
    assert!(error.contains("No space left on device") && !error.contains("kept"), "{error}");
    // Nor does the target.
    let error = imager.fails(1, &["restore", "latest", "--to", text(&mount.0.join("target"))]);
    assert!(error.contains("No space left on device") && error.contains("--force --changed-only"), "{error}");
}

#[test]
fn a_repository_that_can_only_be_read_can_be_read() {
    let dir = Scratch::new();
    let source = disk(&dir, 1 << 20);
    let writable = Imager::init(&dir.path("repository"));
    writable.capture(&source, &["--name", "one"]);
    writable.capture(&source, &["--name", "two"]);
    let mount = Mount::new(&dir.path("repository"), &dir.path("mount"), "bind");
    run("mount", ["-o", "remount,ro,bind", text(&mount.0)]);
    let imager = Imager::at(&mount.0);
    imager.ok(&["images"]);
    imager.ok(&["show", "one"]);
    imager.ok(&["diff", "one", "two"]);
    imager.ok(&["verify", "--read-data"]);
    imager.ok(&["forget", "one", "--dry-run"]);
    imager.ok(&["restore", "one", "--to", text(&dir.path("target")), "--verify"]);
    assert!(content(&dir.path("target")) == content(&source));
    for args in [&["capture", text(&source)][..], &["forget", "one"], &["prune"]] {
        let error = imager.fails(5, args);
        assert!(error.contains("Read-only file system") && error.ends_with("system\n"), "{error}");
    }
    assert_eq!(imager.lines(&["images"]).len(), 2);
}

/// FAT, exFAT and many network shares.
#[test]
fn a_store_without_hard_links() {
    let dir = Scratch::new();
    let file = sparse_file(&dir.path("stick"), 64 * MIB);
    run("mkfs.exfat", [&file]);
    let device = Loop::attach(&file, &[]);
    let at = dir.path("mount");
    fs::create_dir(&at).unwrap();
    run("mount.exfat-fuse", [&device.0, &at]);
    let mount = Mount(at);
    let repository = mount.0.join("repository");
    let imager = Imager::at(&repository).with("IMAGER_PASSWORD", "x");
    imager.ok(&["init", text(&repository)]);
    imager.fails(3, &["init", text(&repository)]);
    let source = disk(&dir, 6 << 20);
    imager.capture(&source, &[]);
    imager.ok(&["verify", "--read-data"]);
    imager.ok(&["restore", "latest", "--to", text(&dir.path("target"))]);
    assert!(content(&dir.path("target")) == content(&source));
    imager.ok(&["forget", "latest"]);
    imager.ok(&["prune"]);
}

/// A copy of the program that everybody may run, as somebody who may do nothing else.
struct Nobody<'d> {
    dir: &'d Scratch,
    program: PathBuf,
}

impl<'d> Nobody<'d> {
    fn new(dir: &'d Scratch) -> Self {
        let program = dir.path("imager");
        fs::copy(env!("CARGO_BIN_EXE_imager"), &program).unwrap();
        fs::set_permissions(dir.root(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, program }
    }

    fn run(&self, repository: &Path, args: &[&str]) -> Ran {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&self.program).args(args);
        command.env("IMAGER_REPO", repository).env("LC_ALL", "C").current_dir(self.dir.root());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[test]
fn without_permission() {
    let dir = Scratch::new();
    let nobody = Nobody::new(&dir);
    let source = disk(&dir, 1 << 20);
    let device = Loop::attach(&source, &[]);
    let repository = dir.path("repository");
    let imager = Imager::init(&repository);
    imager.capture(&source, &[]);
    let denied = |code: i32, words: &str, args: &[&str]| {
        let ran = nobody.run(&repository, args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(ran.err.contains(words) && ran.err.contains("Permission denied (run it as root?)"), "{ran:?}");
    };
    let path = text(&device.0);
    denied(1, &format!("cannot open {path}"), &["inspect", path]);
    denied(1, &format!("cannot open {path}"), &["capture", path]);
    denied(1, &format!("cannot open {path}"), &["restore", "latest", "--to", path, "--confirm", path]);
    denied(1, "cannot open", &["restore", "latest", "--to", text(&dir.path("target"))]);
    let file = dir.path("file");
    fs::write(&file, "precious").unwrap();
    denied(1, "cannot open", &["restore", "latest", "--to", text(&file), "--force"]);
    denied(5, "the store failed to write sessions/", &["capture", text(&source)]);
    denied(5, "the store failed to delete images/", &["forget", "latest"]);
    denied(1, "cannot create", &["init", text(&dir.path("another")), "--no-password"]);
    // What everybody may read, everybody may use.
    for args in [&["images"][..], &["verify", "--read-data"], &["inspect", text(&source)]] {
        assert_eq!(nobody.run(&repository, args).code, 0, "{args:?}");
    }
    let home = dir.path("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
    let ran = nobody.run(&repository, &["restore", "latest", "--to", text(&home.join("target"))]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(content(&home.join("target")) == content(&source));
    // A repository that may not be entered is not said to be none.
    fs::set_permissions(&repository, fs::Permissions::from_mode(0o700)).unwrap();
    denied(5, "the store failed to read config", &["images"]);
    let hidden = repository.join("deeper");
    fs::create_dir(&hidden).unwrap();
    let ran = nobody.run(&hidden, &["images"]);
    assert!(ran.code == 1 && ran.err.contains("cannot open the repository"), "{ran:?}");
}
