//! Single files out of images: what `imager cp`, `ls` and `find` give is what the file systems' own drivers show.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::fs_ntfs::Mounted;
use crate::support::{Imager, Mount, content, output, run, sh, sparse_file, write_at};
use crate::volume::{Scratch, tree};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Fills the mounted directory `$1` with everything that a Unix file system may hold.
const UNIX_TREE: &str = r#"
    cd "$1"
    mkdir many deep names links special attributes empty-directory
    (cd many; seq -f 'a file with a longer name %06g' 10000 | xargs -d '\n' touch; echo one >'a file with a longer name 007777')
    rm many/*00[1-4]*
    (cd deep; for i in $(seq 40); do mkdir "$(printf 'level %060d' "$i")"; cd level*; echo "$i" >file; done)
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

/// The extended attributes of every file that has some. XFS shows its access control lists twice.
fn attributes(root: &Path) -> BTreeMap<String, Vec<String>> {
    let shown = output("bash", ["-c", &format!("cd {}; getfattr -R -d -m - -e hex -h .", root.display())]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let files = text.split("\n\n").filter_map(|file| file.split_once('\n'));
    let own = |line: &&str| !line.starts_with("trusted.SGI_ACL");
    let lines = |lines: &str| lines.lines().filter(own).map(ToOwned::to_owned).collect::<Vec<_>>();
    files.map(|(name, attributes)| (name.to_owned(), lines(attributes))).collect()
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
    let again = imager.json(&["cp", "-r", "latest:disk0/", text(&copy)]);
    assert_eq!((&again["failed"], &again["files"]), (&summary["failed"], &serde_json::json!(0)), "{again}");
    drop(original);
    imager
}

#[test]
fn ext4() {
    let dir = Scratch::new();
    let disk = filled(
        &dir,
        96 << 20,
        "mkfs.ext4 -q -F -b 4096 -N 16000 -I 256 -O ea_inode,inline_data $1",
        &[UNIX_TREE, ATTRIBUTES],
    );
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
    for options in ["", "-b size=1024 -n size=8192 -i size=512"] {
        let dir = Scratch::new();
        let make = format!("mkfs.xfs -q -f --unsupported {options} $1");
        let disk = filled(&dir, 128 << 20, &make, &[UNIX_TREE, ATTRIBUTES]);
        copied_is_what_was_there(&dir, &disk, "loop,ro,norecovery");
    }
}

#[test]
fn what_the_journal_has_counts() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 64 << 20);
    let dirty = dir.path("dirty");
    sh(&format!("mkfs.ext4 -q -F {}", disk.display()));
    let mount = Mount::new(&disk, &dir.path("filling"), "loop,data=journal");
    // Nothing is written to its place before the journal is full.
    sh(&format!(
        "cd {}; mkdir d; for i in $(seq 50); do seq $i 3000 >d/$i; done; rm d/7; ln d/9 nine; sync -f .; sync; \
         cp --sparse=always {} {}",
        mount.0.display(),
        disk.display(),
        dirty.display()
    ));
    drop(mount);
    assert!(run("dumpe2fs", ["-h".as_ref(), dirty.as_os_str()]).contains("needs_recovery"));
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&dirty, &[]);
    let copied = imager.run(&["cp", "-r", "latest:disk0/", text(&dir.path("copy"))]);
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.err.contains("journal was taken into account"), "{copied:?}");
    let replayed = Mount::new(&dirty, &dir.path("replayed"), "loop");
    assert_same(&survey(&replayed.0), &survey(&dir.path("copy")));
}

#[test]
fn ntfs() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 64 << 20);
    run("mkntfs", ["--force", "--quick", "--quiet", "-L", "Windows", text(&disk)]);
    let original = dir.path("original");
    {
        let mounted = Mounted::new(&disk, "compression,special_files=wsl");
        sh(&format!(
            r#"cd {}
            mkdir many compressed 'a folder'; (cd many; seq -f 'a file with a longer name %06g' 3000 | xargs -d '\n' touch)
            rm many/*00[1-2]*; : >empty; echo small >small; head -c 3M /dev/urandom >noise; ln small 'a folder/hard'
            setfattr -h -n system.ntfs_attrib_be -v 0x00000810 compressed
            seq 300000 >compressed/numbers; head -c 300000 /dev/urandom >compressed/noise; truncate -s 1M compressed/zeros
            (seq 5000; head -c 70000 /dev/zero; seq 5000; head -c 65536 /dev/urandom) >compressed/mixed
            truncate -s 6G sparse; printf 'near the end' | dd of=sparse bs=1 seek=6000000000 conv=notrunc status=none
            for i in $(seq 0 2 900); do printf "$i" | dd of=fragments bs=4096 seek=$i conv=notrunc status=none; done
            touch 'Übung ☃'; ln -s 'a folder/hard' link; setfattr -n user.stream -v 'another stream' small
            touch -d '2001-02-03 04:05:06.7 UTC' small"#,
            mounted.at.display()
        ));
        // 6 GiB of holes are not hashed twice.
        sh(&format!("mkdir {0}; cd {1}; cp -a --sparse=always . {0}", original.display(), mounted.at.display()));
    }
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let copy = dir.path("copy");
    let summary = imager.json(&["cp", "-r", "latest:disk0/", text(&copy)]);
    assert_eq!((&summary["failed"], &summary["not_kept"][0]["count"]), (&0.into(), &1.into()), "{summary}");
    for sparse in [original.join("sparse"), copy.join("sparse")] {
        let mut bytes = [0; 14];
        fs::File::open(&sparse).unwrap().read_exact_at(&mut bytes, 5_999_999_999).unwrap();
        assert_eq!(&bytes, b"\0near the end\0");
        let meta = fs::metadata(&sparse).unwrap();
        assert!(meta.len() == 6 << 30 && meta.blocks() < 4096, "{meta:?}");
        fs::remove_file(&sparse).unwrap();
    }
    assert_eq!(tree(&copy), tree(&original));
    let names = |root: &Path| -> Vec<(i64, i64, u64)> {
        ["small", "noise", "a folder/hard", "compressed/mixed"]
            .map(|name| fs::metadata(root.join(name)).unwrap())
            .map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.nlink()))
            .to_vec()
    };
    assert_eq!(names(&copy), names(&original));
    let stream = run("getfattr", ["-n", "user.stream", "--only-values", text(&copy.join("small"))]);
    assert_eq!(stream, "another stream");
    let listed = imager.json(&["ls", "latest:disk0/COMPRESSED/Numbers"]);
    assert!(listed["stored"].as_u64() < listed["size"].as_u64(), "{listed}");
}

#[test]
fn fat() {
    for (width, size) in [("12 -s 8", 8 << 20), ("16 -s 4", 24 << 20), ("32 -s 1", 64 << 20)] {
        let dir = Scratch::new();
        let disk = sparse_file(&dir.path("disk"), size);
        let tree_at = dir.path("tree");
        sh(&format!(
            r#"export LC_ALL=C.UTF-8; mkdir {0}; cd {0}; mkdir -p many deep/er/and/deeper; head -c 3M /dev/urandom >noise; : >empty
            (cd many; seq -f 'a file with a longer name %04g' 300 | xargs -d '\n' touch); echo x >'Übung ☃.text'
            echo lower >lower.txt; echo UPPER >UPPER.TXT; echo deep >deep/er/and/deeper/file
            mkfs.fat -F {1} {2} >/dev/null; mcopy -s -i {2} ./* ::"#,
            tree_at.display(),
            width,
            disk.display()
        ));
        let imager = Imager::init(&dir.path("repository"));
        imager.capture(&disk, &[]);
        let copy = dir.path("copy");
        let summary = imager.json(&["cp", "-r", "latest:disk0/", text(&copy)]);
        assert_eq!(summary["failed"], 0, "{summary}");
        assert_eq!(tree(&copy), tree(&tree_at), "FAT{width}");
        assert_eq!(imager.ok(&["ls", "latest:disk0/DEEP/ER/and"]), "deeper/\n");
    }
}

/// A running `imager mount`.
struct MountedImage {
    child: std::process::Child,
    at: PathBuf,
}

impl MountedImage {
    fn new(imager: &Imager, at: &Path) -> Self {
        use std::io::BufRead;
        fs::create_dir_all(at).unwrap();
        let mut command = imager.command(&["mount", "latest", text(at), "--json", "--memory", "64M"]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        // A slow machine may say how far it is before.
        assert!(lines.any(|line| line.unwrap().contains("\"mounted\"")));
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, at: at.to_owned() }
    }

    fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for MountedImage {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            output("umount", ["-l".as_ref(), self.at.as_os_str()]);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_mount_shows_what_the_kernels_own_does() {
    for (size, make, options) in [
        (96, "mkfs.ext4 -q -F -b 4096 -N 16000 $1", "loop,ro"),
        (128, "mkfs.xfs -q -f --unsupported $1", "loop,ro,norecovery,nouuid"),
    ] {
        let dir = Scratch::new();
        let disk = filled(&dir, size << 20, make, &[UNIX_TREE, ATTRIBUTES]);
        let imager = Imager::init(&dir.path("repository"));
        imager.capture(&disk, &[]);
        let mut mounted = MountedImage::new(&imager, &dir.path("mounted"));
        let original = Mount::new(&disk, &dir.path("original"), options);
        let files = mounted.at.join("disk0/files");
        std::thread::scope(|scope| {
            // Several read at once, and the holes are holes for who asks.
            let expected = scope.spawn(|| (survey(&original.0), attributes(&original.0)));
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| (survey(&files), attributes(&files)))).collect();
            let expected = expected.join().unwrap();
            for reader in readers {
                let (found, attributes) = reader.join().unwrap();
                assert_same(&expected.0, &found);
                assert_eq!(expected.1, attributes);
            }
        });
        sh(&format!(
            "cp --sparse=never {}/fragments /dev/null; touch {0}/new 2>/dev/null && exit 1 || true",
            files.display()
        ));
        let (ours, theirs) =
            (fs::metadata(files.join("links/one")).unwrap(), fs::metadata(original.0.join("links/one")).unwrap());
        assert_eq!((ours.ino() & 0xffff_ffff, ours.nlink()), (theirs.ino(), theirs.nlink()));
        // The disk as a file is one that the kernel mounts.
        let looped = Mount::new(&mounted.at.join("disk0/disk.raw"), &dir.path("looped"), options);
        assert_same(&survey(&original.0), &survey(&looped.0));
        drop((looped, original));
        run("kill", ["-INT", &mounted.child.id().to_string()]);
        assert_eq!(mounted.ended(), Some(0));
        assert!(!mounted.at.join("disk0").exists());
    }
}

#[test]
fn partitions_have_their_places_and_names() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 48 << 20);
    crate::support::gpt_disk(dir.root(), &disk, 512);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let names: Vec<_> =
        imager.lines(&["ls", "latest"]).iter().map(|part| part["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["p1", "p2", "p3"]);
    let target = dir.path("target");
    fs::create_dir(&target).unwrap();
    imager.ok(&["cp", "latest:p3/noise", "latest:p3/folder/../text", text(&target)]);
    imager.ok(&["cp", "latest:p2/NOISE", text(&target.join("from the ESP"))]);
    assert!(content(&target.join("noise")) == content(&target.join("from the ESP")));
    assert!(content(&target.join("noise")) == content(&dir.path("tree/noise")));
    let again = imager.ok(&["cp", "latest:p3/noise", text(&target)]);
    assert!(again.contains("1 were there already"), "{again}");
    fs::write(target.join("noise"), "mine").unwrap();
    let refused = imager.run(&["cp", "latest:p3/noise", text(&target)]);
    assert!(refused.code == 4 && refused.err.contains("--force"), "{refused:?}");
    assert_eq!(content(&target.join("noise")), b"mine");
    imager.ok(&["cp", "--force", "latest:p3/noise", text(&target)]);
    assert!(content(&target.join("noise")) == content(&dir.path("tree/noise")));
    for (args, words) in [
        (&["ls", "latest:p9/"][..], "files are in p2 (vfat"),
        (&["ls", "latest:p1/"], "files are in p2 (vfat"),
        (&["ls", "latest:p3/nose"], "there is noise"),
        (&["cp", "latest:p3/folder", "/tmp"], "-r copies all"),
        (&["find", "latest"], "in which partition?"),
    ] {
        assert!(imager.fails(2, args).contains(words), "{args:?}: {}", imager.fails(2, args));
    }
    let mut mounted = MountedImage::new(&imager, &dir.path("mounted"));
    let disk0 = mounted.at.join("disk0");
    assert!(content(&disk0.join("disk.raw")).len() == 48 << 20);
    assert!(content(&disk0.join("p2/partition.raw")) == content(&disk0.join("disk.raw"))[2 << 20..14 << 20]);
    assert!(content(&disk0.join("p2/files/noise")) == content(&disk0.join("p3/files/noise")));
    assert!(disk0.join("p2/files/NOISE").exists() && !disk0.join("p3/files/NOISE").exists());
    assert!(!disk0.join("p1/files").exists());
    run("umount", [&mounted.at]);
    assert_eq!(mounted.ended(), Some(0));
}

#[test]
fn damage_is_an_error_for_the_file_that_has_it() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 32 << 20);
    sh(&format!(
        "mkdir {0}/t; for i in $(seq 200); do seq $i 900 >{0}/t/$i; done; mkfs.ext4 -q -F -b 1024 -d {0}/t {1}",
        dir.root().display(),
        disk.display()
    ));
    // The inode of file 100, or what is in its place.
    let place = run("debugfs", ["-R", "imap /100", text(&disk)]);
    let number = |word: &str| -> u64 {
        let rest = place.split(word).nth(1).unwrap().trim();
        let digits = rest.trim_start_matches("0x").split(|c: char| !c.is_ascii_hexdigit()).next().unwrap();
        u64::from_str_radix(digits, if rest.starts_with("0x") { 16 } else { 10 }).unwrap()
    };
    write_at(&disk, number("located at block") * 1024 + number("offset") + 0x28, &[0xee; 60]);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &["--all-sectors"]);
    let copied = imager.run(&["cp", "-r", "latest:disk0/", text(&dir.path("copy"))]);
    assert!(copied.code == 4 && copied.err.contains("not copied: /100: damaged at byte"), "{copied:?}");
    assert!(copied.out.contains("copied 199 files") && copied.out.contains("1 could not be copied"), "{copied:?}");
    assert!(!dir.path("copy").join("100").exists());
}

/// Kernels of today do not mount version 4 any more; its own mkfs can fill it.
#[test]
fn xfs_version_4() {
    let dir = Scratch::new();
    let (files, disk) = (dir.path("files"), sparse_file(&dir.path("disk"), 64 << 20));
    sh(&format!(
        r#"mkdir {0}; cd {0}; mkdir -p many a/b/c; (cd many; seq -f 'a-file-with-a-longer-name-%06g' 3000 | xargs touch)
        head -c 3M /dev/urandom >noise; seq 9000 >a/b/c/numbers; ln -s ../noise a/short
        ln -s "$(printf 'long/%.0s' $(seq 120))" a/long"#,
        files.display()
    ));
    let mut proto = "/\n0 0\n".to_owned();
    describe(&files, "d--755 0 0".to_owned(), &mut proto);
    fs::write(dir.path("proto"), proto).unwrap();
    let proto = dir.path("proto");
    run(
        "mkfs.xfs",
        [
            "-q",
            "-f",
            "--unsupported",
            "-m",
            "crc=0",
            "-n",
            "ftype=0",
            "-b",
            "size=1024",
            "-p",
            text(&proto),
            text(&disk),
        ],
    );
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let copy = dir.path("copy");
    let summary = imager.json(&["cp", "-r", "latest:disk0/", text(&copy)]);
    assert_eq!((&summary["failed"], &summary["files"]), (&0.into(), &3002.into()), "{summary}");
    assert_eq!(tree(&copy), tree(&files));
}

/// Writes what `mkfs.xfs -p` makes a file of.
fn describe(path: &Path, what: String, proto: &mut String) {
    proto.push_str(&what);
    proto.push('\n');
    if !what.starts_with('d') {
        return;
    }
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        proto.push_str(entry.file_name().unwrap().to_str().unwrap());
        proto.push(' ');
        let kind = fs::symlink_metadata(&entry).unwrap().file_type();
        let what = if kind.is_dir() {
            "d--755 0 0".to_owned()
        } else if kind.is_symlink() {
            format!("l--777 0 0 {}", fs::read_link(&entry).unwrap().display())
        } else {
            format!("---644 0 0 {}", entry.display())
        };
        describe(&entry, what, proto);
    }
    proto.push_str("$\n");
}
