//! `reader.py`, which knows `FORMAT.md` and nothing else, restores what `imager restore` restores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::support::{output, run, sh, sparse_file};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");

fn python(args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(args);
    command
}

fn checked(command: &mut Command, needs: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; {needs}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}\n{needs}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A folder with the packages that the reader needs, made once for each list of them.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let list = format!("{HERE}/requirements.txt");
        let version = "import sys; print(*sys.version_info[:2], sep='.')";
        let version = checked(&mut python(&["-c", version]), "install Python 3.9 or newer (Debian: python3)");
        let named = blake3::hash(&fs::read(&list).unwrap()).to_hex();
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let ready = tmp.join(format!("python-{version}-{}", &named[..16]));
        if !ready.exists() {
            let making = tempfile::tempdir_in(tmp).unwrap();
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
            let mut install = python(&pip);
            install.args(["--no-deps", "--requirement", &list, "--target"]).arg(making.path());
            checked(
                &mut install,
                "the tests need pip (Debian: python3-pip) and a package index to install tests/it/requirements.txt from",
            );
            // Somebody else may have been faster.
            if fs::rename(making.path(), &ready).is_err() {
                assert!(ready.exists(), "{} cannot be made", ready.display());
            }
        }
        ready
    })
}

/// Runs the reader.
pub fn reader(repository: &Path, password: Option<&Path>, args: &[&str]) -> Output {
    let mut command = python(&["-B", &format!("{HERE}/reader.py")]);
    command.env("PYTHONPATH", packages()).arg(repository);
    if let Some(password) = password {
        command.arg("--password-file").arg(password);
    }
    command.args(args).output().unwrap()
}

#[track_caller]
pub fn reader_reads(repository: &Path, password: Option<&Path>, args: &[&str]) -> String {
    let output = reader(repository, password, args);
    assert!(output.status.success(), "reader.py {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn imager(repository: &Path, password: Option<&Path>, args: &[&str]) -> String {
    let mut all = vec!["--repo", repository.to_str().unwrap()];
    if let Some(password) = password {
        all.extend(["--password-file", password.to_str().unwrap()]);
    }
    all.extend(args);
    run(env!("CARGO_BIN_EXE_imager"), all)
}

/// A GPT disk with ext4 and FAT, files on both, and some deleted. Returns the files as `debugfs` and `mtype` get at
/// them.
fn make_disk(dir: &Path) -> PathBuf {
    let disk = sparse_file(&dir.join("disk"), 64 << 20);
    sh(&format!(
        r#"cd {dir}; mkdir files
        for n in 1 2 3 4 5; do head -c $((n * 333333)) /dev/urandom >files/random-$n; done
        seq 1 200000 >files/numbers; head -c 1000000 /dev/zero >files/zeros; printf x >files/small
        printf 'label: gpt\nstart=1MiB, size=40MiB, type=linux\nstart=41MiB, size=20MiB, type=uefi\n' |
            sfdisk --quiet disk
        truncate -s 40M part1; truncate -s 20M part2
        mkfs.ext4 -q -b 1024 -d files part1
        debugfs -w -R 'rm random-3' part1 2>/dev/null
        mkfs.fat -F 16 -n READER part2 >/dev/null; mcopy -i part2 files/random-2 files/numbers ::
        mcopy -i part2 files/random-4 ::; mdel -i part2 ::random-4
        dd if=part1 of=disk bs=1M seek=1 conv=notrunc,sparse status=none
        dd if=part2 of=disk bs=1M seek=41 conv=notrunc,sparse status=none"#,
        dir = dir.display()
    ));
    disk
}

fn check_files(dir: &Path, restored: &Path) {
    sh(&format!(
        r#"cd {dir}; rm -rf got part1 part2; mkdir got
        dd if={restored} of=part1 bs=1M skip=1 count=40 status=none; dd if={restored} of=part2 bs=1M skip=41 count=20 status=none
        e2fsck -fn part1 >/dev/null 2>&1; fsck.fat -n part2 >/dev/null
        debugfs -R 'rdump / got' part1 2>/dev/null
        test ! -e got/random-3
        for file in random-1 random-2 random-4 random-5 numbers zeros small; do cmp files/$file got/$file; done
        for file in random-2 numbers; do mcopy -n -i part2 ::$file - | cmp files/$file -; done"#,
        dir = dir.display(),
        restored = restored.display()
    ));
}

#[test]
fn the_reader_restores_what_the_imager_restores() {
    let dir = tempfile::tempdir().unwrap();
    let disk = make_disk(dir.path());
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).to_str().unwrap().to_owned();
    fs::write(at("password"), "päss wörd\r\nnot this\n").unwrap();
    for (name, password) in [("plain", None), ("encrypted", Some(at("password")))] {
        let (repository, password) = (at(name), password.as_deref());
        let init = ["init", &text(name), "--no-password"];
        imager(&repository, password, if password.is_some() { &init[..2] } else { &init });
        // Two captures, so that the second leans on the packs of the first.
        imager(&repository, password, &["capture", disk.to_str().unwrap(), "--name", "first"]);
        fs::write(at("more"), vec![7; 3_000_000]).unwrap();
        sh(&format!(
            "cd {0}; cp disk disk-2; dd if=more of=disk-2 bs=1M seek=20 conv=notrunc status=none",
            dir.path().display()
        ));
        imager(&repository, password, &["capture", &text("disk-2"), "--name", "second", "--all-sectors"]);

        for image in ["first", "second"] {
            let listed = reader_reads(&repository, password, &["list"]);
            let id = listed.lines().find(|line| line.ends_with(&format!(" {image}"))).unwrap();
            let id = &id[..32];
            let [ours, theirs, packs_only] =
                ["ours", "theirs", "packs-only"].map(|who| text(&format!("{who}-{name}-{image}")));
            imager(&repository, password, &["restore", image, "--to", &ours]);
            reader_reads(&repository, password, &["restore", id, "0", &theirs]);
            run("cmp", [&ours, &theirs]);
            fs::rename(repository.join("index"), at("index-aside")).unwrap();
            reader_reads(&repository, password, &["--without-index", "restore", &id[..8], "0", &packs_only]);
            fs::rename(at("index-aside"), repository.join("index")).unwrap();
            run("cmp", [&ours, &packs_only]);
            if image == "first" {
                check_files(dir.path(), Path::new(&theirs));
            } else {
                run("cmp", [&text("disk-2"), &theirs]);
            }
        }
    }
}

#[test]
fn the_reader_notices_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).to_str().unwrap().to_owned();
    fs::write(at("password"), "right").unwrap();
    fs::write(at("other"), "wrong").unwrap();
    fs::write(at("disk"), b"0123456789abcde\n".repeat(20_000)).unwrap();
    let said = |repository: &str, password: Option<&str>, args: &[&str]| {
        let output = reader(&at(repository), password.map(at).as_deref(), args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !said.contains("Traceback"), "{args:?}: {said}");
        said
    };
    for (name, password) in [("plain", None), ("encrypted", Some("password"))] {
        let init = ["init", &text(name), "--no-password"];
        let key = password.map(at);
        imager(&at(name), key.as_deref(), if key.is_some() { &init[..2] } else { &init });
        imager(&at(name), key.as_deref(), &["capture", &text("disk")]);
        // One bit of each object in turn.
        let objects = sh(&format!("cd {}; find . -type f", text(name)));
        for (number, object) in objects.lines().enumerate() {
            let path = at(name).join(object);
            let sound = fs::read(&path).unwrap();
            let mut damaged = sound.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 4;
            fs::write(&path, &damaged).unwrap();
            // With an index nobody reads a pack's own directory.
            let how: &[&str] = if object.starts_with("./packs/") { &["--without-index"] } else { &[] };
            let restore = ["restore", "", "0", &text(&format!("{name}-{number}"))];
            let said = said(name, password, &[how, &restore].concat());
            assert!(!said.contains("not as the format"), "{object}: {said}");
            fs::write(&path, &sound).unwrap();
        }
        reader_reads(&at(name), key.as_deref(), &["restore", "", "0", &text(&format!("{name}-sound"))]);
        assert_eq!(fs::read(at(&format!("{name}-sound"))).unwrap(), fs::read(at("disk")).unwrap());
    }
    assert!(said("encrypted", Some("other"), &["list"]).contains("no key slot opens"));
    assert!(said("encrypted", None, &["list"]).contains("give --password-file"));
    assert!(said("plain", Some("password"), &["list"]).contains("fits no repository"));
    assert!(said("nowhere", None, &["list"]).contains("holds no repository"));
    assert!(said("plain", None, &["restore", "ffffffffffff", "0", &text("x")]).contains("0 images"));
    assert!(said("plain", None, &["restore", "", "1", &text("x")]).contains("no disk 1"));
    assert!(said("plain", None, &["restore", "", "0", &text("disk")]).contains("exists"));
}

/// The page is the measure of the reader: it stays small enough to be read.
#[test]
fn the_reader_is_small() {
    assert!(include_str!("reader.py").lines().count() < 300);
    let output = output("python3", ["-c", &format!("compile(open('{HERE}/reader.py').read(), 'reader.py', 'exec')")]);
    assert!(output.status.success());
}
