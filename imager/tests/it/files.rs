//! Single files out of images: what `imager cp`, `ls` and `find` give is what the file systems' own drivers show.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::support::{Imager, Mount, sh, sparse_file};
use crate::volume::Scratch;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Fills the mounted directory `$1` with everything that a Unix file system may hold.
const UNIX_TREE: &str = r#"
    cd "$1"
    mkdir many deep names links special attributes empty-directory
    (cd many; seq -f 'a file with a longer name %06g' 10000 | xargs -d '\n' touch; echo one >'a file with a longer name 007777')
    rm many/*00[1-4]*
    (cd deep; for i in $(seq 40); do mkdir "$(printf 'level %0100d' "$i")"; cd level*; echo "$i" >file; done)
    touch names/$'new\nline' names/$'\e[31mred' names/$'\xff\xfe' names/'Übung ☃' names/"$(printf 'x%.0s' $(seq 255))"
    : >empty; echo hello >text; head -c 3M /dev/urandom >noise
    truncate -s 5G large; printf 'near the end' | dd of=large bs=1 seek=4831838208 conv=notrunc status=none
    for i in $(seq 0 2 1200); do head -c 4096 /dev/urandom | dd of=fragments bs=4096 seek=$i conv=notrunc status=none; done
    head -c 20 /dev/urandom >links/one; ln links/one links/two; ln links/one many/three
    ln -s text links/short; ln -s "$(printf 'l%.0s' $(seq 59))" links/59; ln -s "$(printf 'l%.0s' $(seq 60))" links/60
    ln -s "/$(printf 'very/long/%.0s' $(seq 90))" links/long; ln -s ../deep links/directory
    mknod special/null c 1 3; mknod special/disk b 259 70000; mkfifo special/fifo
    chown 1234:70000 text; chmod 4755 text; chmod 1777 empty-directory; chown 99:98 links/short -h
    touch -d '1965-03-04 05:06:07.123456789 UTC' empty; touch -d '2037-12-31 23:59:59.999999999 UTC' special/null
    touch -h -d '2001-02-03 04:05:06.7 UTC' links/long
"#;

/// The same for extended attributes, of which the values of `$2` bytes are the largest.
const ATTRIBUTES: &str = r#"
    cd "$1/attributes"
    for i in 1 2 3; do echo $i >$i; done
    setfattr -n user.small -v value 1; setfattr -n user.empty 1
    for i in $(seq 30); do setfattr -n user.number$i -v "value of number $i" 2; done
    setfattr -n user.large -v "$(printf "%0$2d" 7)" 3; setfattr -n trusted.own -v t 3
    setfattr -n security.capability -v 0x0100000200000020000000000000000000000000 3
    setfacl -m u:1234:rw,g:4321:r 1; mkdir d; setfacl -d -m u:5:rwx d
"#;

/// A file system on a disk without partitions, filled by a script while it is mounted.
fn filled(dir: &Scratch, size: u64, make: &str, scripts: &[&str]) -> PathBuf {
    let disk = sparse_file(&dir.path("disk"), size);
    sh(&format!("set -- {}; {make}", disk.display()));
    let mount = Mount::new(&disk, &dir.path("filling"), "loop");
    for script in scripts {
        sh(&format!("set -- {} 3000\n{script}", mount.0.display()));
    }
    drop(mount);
    disk
}

/// What is known of every file below a directory, but for the root's own times.
fn survey(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if name == b"lost+found" {
                continue;
            }
            let content = if kind.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else if kind.is_dir() {
                todo.push(path.clone());
                String::new()
            } else if kind.is_file() && meta.len() < 64 << 20 {
                blake3::hash(&fs::read(&path).unwrap()).to_string()
            } else if kind.is_file() {
                let mut bytes = vec![0; 1 << 20];
                let file = fs::File::open(&path).unwrap();
                let mut hash = blake3::Hasher::new();
                for offset in (0..meta.len()).step_by(512 << 20).chain([meta.len() - (1 << 20)]) {
                    file.read_exact_at(&mut bytes, offset).unwrap();
                    hash.update(&bytes);
                }
                assert!(meta.blocks() * 512 < 64 << 20, "the holes of {} are gone", path.display());
                hash.finalize().to_string()
            } else {
                assert!(kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket());
                meta.rdev().to_string()
            };
            let links = if kind.is_dir() { 0 } else { meta.nlink() };
            let size = if kind.is_dir() { 0 } else { meta.size() };
            let (mode, owner, time) = (meta.mode(), (meta.uid(), meta.gid()), (meta.mtime(), meta.mtime_nsec()));
            found.insert(name, format!("{mode:o} {owner:?} {time:?} {links} {size} {content}"));
        }
    }
    found
}

fn attributes(root: &Path) -> String {
    sh(&format!("cd {}; getfattr -R -d -m - -e hex -h . 2>/dev/null | grep -v lost+found", root.display()))
}

fn assert_same(original: &BTreeMap<Vec<u8>, String>, copy: &BTreeMap<Vec<u8>, String>) {
    for (name, expected) in original {
        let shown = String::from_utf8_lossy(name);
        assert_eq!(copy.get(name).unwrap_or_else(|| panic!("{shown} is missing")), expected, "{shown}");
    }
    assert_eq!(copy.len(), original.len());
}

/// Captures the disk, copies all files out, and compares them with what a mount shows.
fn copied_is_what_was_there(dir: &Scratch, disk: &Path, mount_options: &str) -> Imager {
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(disk, &[]);
    let copy = dir.path("copy");
    let summary = imager.json(&["cp", "-r", "latest:disk0/", text(&copy)]);
    assert_eq!(summary["failed"], 0, "{summary}");
    assert_eq!(summary["not_kept"].as_array().unwrap().len(), 0, "{summary}");
    let original = Mount::new(disk, &dir.path("original"), mount_options);
    assert_same(&survey(&original.0), &survey(&copy));
    assert_eq!(attributes(&original.0), attributes(&copy));
    // The same again finds everything there.
    let again = imager.json(&["cp", "-r", "latest:disk0/", text(&copy), "--json"]);
    assert_eq!((&again["failed"], &again["files"]), (&summary["failed"], &serde_json::json!(0)), "{again}");
    drop(original);
    imager
}

#[test]
fn ext4() {
    let dir = Scratch::new();
    let disk =
        filled(&dir, 96 << 20, "mkfs.ext4 -q -F -N 16000 -I 256 -O ea_inode,inline_data $1", &[UNIX_TREE, ATTRIBUTES]);
    let imager = copied_is_what_was_there(&dir, &disk, "loop,ro");
    let long = imager.ok(&["ls", "-l", "latest:disk0/special"]);
    assert!(long.contains("1, 3 2037-12-31 23:59 null") && long.contains("259, 70000"), "{long}");
    let found = imager.ok(&["find", "latest:disk0", "--name", "*a?g*", "--size", "+1G", "--type", "f"]);
    assert_eq!(found, "/large\n");
}

#[test]
fn ext2_and_ext3() {
    for (make, tree) in
        [("mkfs.ext2 -q -F -b 1024 -I 128 -N 16000 $1", UNIX_TREE), ("mkfs.ext3 -q -F -N 16000 $1", UNIX_TREE)]
    {
        let dir = Scratch::new();
        // ext2 has no nanoseconds, and what a small inode cannot say is not asked for.
        let disk = filled(&dir, 96 << 20, make, &[tree]);
        copied_is_what_was_there(&dir, &disk, "loop,ro");
    }
}

#[test]
fn xfs() {
    for options in ["", "-b size=1024 -n size=8192 -i size=512", "-m crc=0 -n ftype=0"] {
        let dir = Scratch::new();
        let make = format!("mkfs.xfs -q -f --unsupported {options} $1");
        let disk = filled(&dir, 128 << 20, &make, &[UNIX_TREE, ATTRIBUTES]);
        copied_is_what_was_there(&dir, &disk, "loop,ro,norecovery");
    }
}
