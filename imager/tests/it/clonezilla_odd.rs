//! Directories of Clonezilla that are unusual, damaged, or forged.

use std::fs;
use std::path::Path;

use crate::clonezilla::{Directory, PLAIN, Store, ZSTD};
use crate::partclone_writer::{self, How};
use crate::support::{
    Imager, Loop, check_volume, content, noise, output, read_at, run, sh, some_files, sparse_file, write_at,
};
use crate::volume::Scratch;

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory of a disk with one partition of 20 MiB, of type `kind`, whose volume is not saved yet.
fn one_partition(dir: &Path, name: &str, kind: &str) -> Directory {
    let disk = sparse_file(&dir.join(format!("{name}.disk")), 32 * MIB);
    sh(&format!("printf '2048,40960,{kind}\\n' | /usr/sbin/sfdisk -q {}", disk.display()));
    let directory = Directory::new(dir, name);
    directory.save_table(&disk, "sda", 512);
    directory
}

fn ext4(dir: &Path) -> std::path::PathBuf {
    let tree = some_files(dir);
    let volume = sparse_file(&dir.join("volume"), 20 * MIB);
    sh(&format!("/usr/sbin/mke2fs -q -t ext4 -b 4096 -d {} {}", tree.display(), volume.display()));
    volume
}

/// The restored partition.
fn restored(imager: &Imager, dir: &Scratch) -> Vec<u8> {
    let target = dir.path("restored");
    imager.ok(&["restore", "latest", "--force", "--to", text(&target)]);
    read_at(&target, MIB, 20 * MIB)
}

#[test]
fn images_of_every_version_and_checksum_give_the_same() {
    let dir = Scratch::new();
    let volume = content(&ext4(dir.root()));
    let used: Vec<bool> = volume.chunks(4096).map(|block| block.iter().any(|byte| *byte != 0)).collect();
    let imager = Imager::init(&dir.path("repository"));
    let ways = [
        ("v1", How { mode: 0xFF, blocks_per_sum: 1, reseed: false, stray: false }),
        ("v1-64bit", How { mode: 0xFF, blocks_per_sum: 1, reseed: false, stray: true }),
        ("xxh64", How { mode: 0x30, blocks_per_sum: 256, reseed: true, stray: false }),
        ("xxh3", How { mode: 0x31, blocks_per_sum: 100, reseed: true, stray: false }),
    ];
    for (name, how) in ways {
        let directory = one_partition(dir.root(), name, "83");
        let image = partclone_writer::image(&volume, 4096, &used, how);
        let path = directory.path.join("sda1.ext4-ptcl-img.uncomp");
        fs::write(&path, &image).unwrap();
        // What partclone knows itself, it must take from this writer, too.
        if how.mode == 0xFF && !how.stray {
            let target = sparse_file(&dir.path("oracle"), 20 * MIB);
            let log = dir.path("log");
            let done =
                output("partclone.restore", ["-C", "-q", "-L", text(&log), "-s", text(&path), "-O", text(&target)]);
            assert!(done.status.success(), "{done:?}");
            assert!(content(&target) == volume);
        }
        imager.ok(&["import", text(&directory.path)]);
        assert!(restored(&imager, &dir) == volume, "{name}");
        // Version 1 sums up hardly anything.
        let mut damaged = image.clone();
        damaged[image.len() - 3000] ^= 1;
        if how.mode != 0xFF {
            fs::write(&path, damaged).unwrap();
            let words = imager.fails(4, &["import", text(&directory.path)]);
            assert!(
                words.contains("sda1.ext4-ptcl-img.uncomp is damaged at byte") && words.contains("checksum"),
                "{words}"
            );
        }
    }
}

#[test]
fn plain_copies_and_those_of_ntfsclone() {
    let dir = Scratch::new();
    let imager = Imager::init(&dir.path("repository"));
    // What no program knows is copied as it is, or its copy padded with zeros.
    let bytes = noise(20 << 20, 5);
    let volume = dir.path("noise");
    fs::write(&volume, &bytes).unwrap();
    for (name, compress, split) in [
        ("gzip", "gzip -c -1", Some("5M")),
        ("none", "cat", None),
        ("padded", "dd bs=16M iflag=fullblock conv=sync 2>/dev/null", None),
    ] {
        let directory = one_partition(dir.root(), name, "da");
        directory.save_dd(&volume, "sda1", Store { compress: (compress, ""), split, ..PLAIN });
        imager.ok(&["import", text(&directory.path)]);
        assert!(restored(&imager, &dir) == bytes, "{name}");
    }
    // An odd number of clusters, and a copy of the boot sector behind them.
    let ntfs = sparse_file(&dir.path("ntfs"), 20 * MIB);
    fs::write(dir.path("small"), noise(3 << 20, 6)).unwrap();
    sh(&format!(
        "PATH=$PATH:/usr/sbin; mkntfs -F -Q -q {0} >/dev/null; ntfscp -q -f {0} {1} file",
        ntfs.display(),
        dir.path("small").display()
    ));
    let directory = one_partition(dir.root(), "ntfsclone", "7");
    sh(&format!(
        "/usr/sbin/ntfsclone -q --save-image -O - {} 2>/dev/null | gzip -c > {}/sda1.ntfs-img",
        ntfs.display(),
        directory.path.display()
    ));
    directory.write("parts", "sda1");
    imager.ok(&["import", text(&directory.path)]);
    let found = restored(&imager, &dir);
    let oracle = dir.path("oracle");
    sh(&format!(
        "zcat {}/sda1.ntfs-img | /usr/sbin/ntfsclone -q --restore-image -O {} - >/dev/null 2>&1",
        directory.path.display(),
        oracle.display()
    ));
    assert!(found == content(&oracle));
    fs::write(dir.path("checked"), found).unwrap();
    assert!(output("ntfsfix", ["-n", text(&dir.path("checked"))]).status.success());
    // Cut short, or longer than the partition.
    let image = directory.path.join("sda1.ntfs-img");
    let whole = content(&image);
    fs::write(&image, &whole[..whole.len() / 2]).unwrap();
    let words = imager.fails(4, &["import", text(&directory.path)]);
    assert!(words.contains("sda1.ntfs-img is damaged at byte") && words.contains("ends in the midst"), "{words}");
    let directory = one_partition(dir.root(), "too-long", "da");
    fs::write(directory.path.join("sda1.dd-img"), noise(21 << 20, 5)).unwrap();
    let words = imager.fails(2, &["import", text(&directory.path)]);
    assert!(words.contains("its partition has 20971520 bytes"), "{words}");
    fs::write(directory.path.join("sda1.dd-img"), noise(19 << 20, 5)).unwrap();
    let words = imager.fails(4, &["import", text(&directory.path)]);
    assert!(words.contains("it ends after 19922944 bytes of a volume of 20971520"), "{words}");
}

#[test]
fn damage_is_found_and_its_place_named() {
    let dir = Scratch::new();
    let volume = ext4(dir.root());
    let imager = Imager::init(&dir.path("repository"));
    for (name, compress) in [
        ("gz", "gzip -c"),
        ("zst", "zstd -q -c"),
        ("lz4", "lz4 -q -c"),
        ("xz", "xz -c -1"),
        ("bz2", "bzip2 -c"),
        ("uncomp", "cat"),
    ] {
        let directory = one_partition(dir.root(), name, "83");
        directory.save(&volume, "sda1", "ext4", Store { compress: (compress, name), split: Some("500k"), ..PLAIN });
        let piece = |suffix: &str| directory.path.join(format!("sda1.ext4-ptcl-img.{name}.{suffix}"));
        let good = content(&piece("ab"));
        for (what, bytes) in [
            ("flipped", {
                let mut bytes = good.clone();
                bytes[200_000] ^= 0x40;
                bytes
            }),
            ("cut short", good[..good.len() - 1].to_vec()),
        ] {
            fs::write(piece("ab"), bytes).unwrap();
            let words = imager.fails(4, &["import", text(&directory.path)]);
            assert!(
                words.contains(&format!("sda1.ext4-ptcl-img.{name}.a")) && words.contains("is damaged at byte"),
                "{name} {what}: {words}"
            );
        }
        fs::write(piece("ab"), good).unwrap();
        // A piece in the midst, and the last one.
        let moved = dir.path("moved");
        fs::rename(piece("ab"), &moved).unwrap();
        let words = imager.fails(4, &["import", text(&directory.path)]);
        assert!(
            words.contains(&format!("sda1.ext4-ptcl-img.{name}.ab is damaged")) && words.contains("missing"),
            "{words}"
        );
        fs::rename(&moved, piece("ab")).unwrap();
        let pieces = fs::read_dir(&directory.path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("sda1."))
            .count();
        let last = format!("a{}", char::from(b'a' + u8::try_from(pieces - 1).unwrap()));
        fs::remove_file(piece(&last)).unwrap();
        let words = imager.fails(4, &["import", text(&directory.path)]);
        assert!(words.contains(&format!("is sda1.ext4-ptcl-img.{name}.{last} missing?")), "{name}: {words}");
    }
    assert!(imager.lines(&["images"]).is_empty());
    // Nothing is left of what was unpacked.
    let left = fs::read_dir(dir.path("repository"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("scratch"));
    assert_eq!(left.count(), 0);
}

#[test]
fn what_cannot_be_imported_is_refused_with_words() {
    let dir = Scratch::new();
    let volume = ext4(dir.root());
    let imager = Imager::init(&dir.path("repository"));
    let saved = |name: &str| {
        let directory = one_partition(dir.root(), name, "83");
        directory.save(&volume, "sda1", "ext4", ZSTD);
        directory
    };
    let refused = |directory: &Directory, code: i32, word: &str| {
        let words = imager.fails(code, &["import", text(&directory.path)]);
        assert!(words.contains(word), "{words}");
    };
    let directory = saved("encrypted");
    directory.write("ecryptfs.info", "");
    refused(&directory, 2, "eCryptfs");

    let directory = saved("luks");
    directory.write("luks-dev.list", "# <Block device> <UUID> <Device mapped name>\n/dev/sda1 1234 ocs_luks_abc\n");
    refused(&directory, 2, "sda1: it is a LUKS volume");

    let directory = saved("parts-only");
    fs::remove_file(directory.path.join("disk")).unwrap();
    refused(&directory, 2, "it holds partitions, not a disk: sda1; `--disk sda`");
    let said = imager.ok(&["import", text(&directory.path), "--disk", "sda"]);
    assert!(said.contains("Clonezilla saved some partitions only"), "{said}");
    check_volume(dir.root(), "ext4", &restored(&imager, &dir));

    let directory = saved("lost");
    fs::remove_file(directory.path.join("sda1.ext4-ptcl-img.zst")).unwrap();
    refused(&directory, 4, "it says that sda1 was saved, but there is no file of it");

    let directory = saved("twice");
    fs::write(directory.path.join("sda1.dd-img"), "x").unwrap();
    refused(&directory, 2, "has both sda1.dd-img and sda1.ext4-ptcl-img.zst");

    let directory = saved("lzop");
    fs::remove_file(directory.path.join("sda1.ext4-ptcl-img.zst")).unwrap();
    fs::write(directory.path.join("sda1.ext4-ptcl-img.lzo"), b"\x89LZO\0\r\n\x1a\n\x10\x30\x20\x60").unwrap();
    refused(&directory, 2, "lzop");

    let directory = saved("partimage");
    fs::rename(directory.path.join("sda1.ext4-ptcl-img.zst"), directory.path.join("sda1.000")).unwrap();
    refused(&directory, 2, "partimage");

    let directory = saved("no-room");
    let words = imager.fails(1, &["import", text(&directory.path), "--scratch", "/proc"]);
    assert!(words.contains("/proc"), "{words}");

    fs::create_dir(dir.path("nothing")).unwrap();
    let words = imager.fails(2, &["import", text(&dir.path("nothing"))]);
    assert!(words.contains("none that Clonezilla made"), "{words}");
    let words = imager.fails(2, &["import", text(&volume), "--disk", "sda"]);
    assert!(words.contains("--disk and --scratch are for directories"), "{words}");
}

#[test]
fn what_is_forged_is_bounded() {
    let dir = Scratch::new();
    let imager = Imager::init(&dir.path("repository"));
    let directory = one_partition(dir.root(), "forged", "83");
    let fails = |words: &str| {
        let ran = imager.run(&["import", text(&directory.path)]);
        assert!(matches!(ran.code, 2 | 4), "{words}: {ran:?}");
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    };
    directory.write("parts", "sda1");
    // Zeros without end, as a plain copy and as an image's bitmap.
    let bomb = |path: &Path| sh(&format!("head -c 400M /dev/zero | zstd -q -c -19 > {}", path.display()));
    bomb(&directory.path.join("sda1.dd-img"));
    fails("its partition has 20971520 bytes");
    fs::remove_file(directory.path.join("sda1.dd-img")).unwrap();
    let path = directory.path.join("sda1.ext4-ptcl-img.gz");
    bomb(&path);
    fails("it does not begin like an image of partclone");
    let how = How { mode: 0x20, blocks_per_sum: 64, reseed: true, stray: false };
    // More blocks than the partition has room for.
    let image = partclone_writer::image(&vec![1; 30 << 20], 4096, &vec![true; 30 << 8], how);
    fs::write(&path, image).unwrap();
    fails("more than the 20971520 bytes");
    for bytes in [&b""[..], b"\x1f\x8b", b"partclone-image", &[0; 200]] {
        fs::write(&path, bytes).unwrap();
        fails("is damaged at byte");
    }
    fs::write(&path, partclone_writer::image(&vec![1; 20 << 20], 4096, &vec![true; 20 << 8], how)).unwrap();
    for (table, words) in [
        (
            "label: dos\nunit: sectors\n/dev/sda1 : start=2048, size=99999999999, type=83\n",
            "lies where an MBR cannot reach",
        ),
        ("label: dos\nunit: sectors\n/dev/sda1 : start=18446744073709551615, size=18446744073709551615, type=83\n", ""),
        ("label: dos\nunit: sectors\n/dev/sda5 : start=2048, size=40960, type=83\n", "is in no extended partition"),
        ("label: gpt\nunit: sectors\n/dev/sda1 : start=2048, size=40960, type=nonsense\n", "is no GUID"),
        (
            "label: gpt\nunit: sectors\n/dev/sda999 : start=2048, size=40960, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
            "has no room for /dev/sda999",
        ),
        ("label: sun\nunit: sectors\n/dev/sda1 : start=2048, size=40960, type=83\n", "of the kind \"sun\""),
        ("/dev/sda1 : size=1\n", "line 1"),
    ] {
        directory.write("sda-pt.sf", table);
        fails(words);
    }
}

#[test]
fn a_volume_group_is_made_again() {
    let dir = Scratch::new();
    let directory = one_partition(dir.root(), "lvm", "8e");
    let partition = sparse_file(&dir.path("partition"), 20 * MIB);
    let lvm = |device: &Path, words: &str| {
        let device = device.display();
        let filter = format!(
            "devices {{ global_filter=[\"a|^{device}$|\",\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}"
        );
        sh(&format!(
            "export LVM_SUPPRESS_FD_WARNINGS=1; /usr/sbin/{} 2>/dev/null",
            words.replacen(' ', &format!(" --config '{filter}' "), 1)
        ))
    };
    let (conf, uuid) = {
        let device = Loop::attach(&partition, &[]);
        let at = device.0.display().to_string();
        lvm(&device.0, &format!("pvcreate -ff -y {at}"));
        lvm(&device.0, &format!("vgcreate -s 1M vg-t {at}"));
        let conf = dir.path("conf");
        lvm(&device.0, &format!("vgcfgbackup -f {} vg-t", conf.display()));
        let uuid = lvm(&device.0, &format!("pvs --noheadings -o uuid {at}")).trim().to_owned();
        (fs::read_to_string(conf).unwrap().replace(&at, "/dev/sda1"), uuid)
    };
    // Logical volumes need the kernel's device mapper to be made, but none to be described. The first lies in two runs.
    let volume = |name: &str, id: &str, segments: &[(u32, u32, u32)]| {
        let mut text = format!(
            "{name} {{\n id = \"{id}\"\n status = [\"READ\", \"WRITE\", \"VISIBLE\"]\n flags = []\n creation_time = 1\n \
             creation_host = \"vm\"\n segment_count = {}\n",
            segments.len()
        );
        for (number, (first, count, physical)) in (1..).zip(segments) {
            text += &format!(
                " segment{number} {{\n start_extent = {first}\n extent_count = {count}\n type = \"striped\"\n \
                 stripe_count = 1\n stripes = [\n \"pv0\", {physical}\n ]\n }}\n"
            );
        }
        text + "}\n"
    };
    let logical = format!(
        "logical_volumes {{\n{}{}}}\n}}\n",
        volume("root", "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg", &[(0, 7, 0), (7, 5, 10)]),
        volume("swap_1", "haaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg", &[(0, 2, 8)])
    );
    let end = conf.rfind('}').unwrap();
    directory.write("lvm_vg-t.conf", &format!("{}{logical}", &conf[..end]));
    directory.write("lvm_vg_dev.list", &format!("vg-t /dev/sda1 {uuid}\n"));
    directory.write(
        "lvm_logv.list",
        "/dev/vg-t/root Linux rev 1.0 ext4 filesystem data\n/dev/vg-t/swap_1 Linux swap file\n",
    );
    let tree = some_files(dir.root());
    let root = sparse_file(&dir.path("root"), 12 * MIB);
    sh(&format!("/usr/sbin/mke2fs -q -t ext4 -b 1024 -d {} {}", tree.display(), root.display()));
    directory.save(&root, "vg-t-root", "ext4", ZSTD);
    directory.write("swappt-vg-t-swap_1.info", "UUID=\"92d422f0-3a17-4e69-93f0-f8fd1091e5eb\"\nLABEL=\"\"\n");
    directory.write("parts", "sda1");

    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["import", text(&directory.path)]);
    let found = restored(&imager, &dir);
    let target = dir.path("physical");
    fs::write(&target, &found).unwrap();
    let device = Loop::attach(&target, &["-r"]);
    let at = device.0.display();
    let headers = lvm(&device.0, &format!("pvck --dump headers {at}"));
    assert!(headers.contains("# vgname vg-t") && headers.contains("pv_header_extension.version 2"), "{headers}");
    let segments = lvm(&device.0, "lvs --readonly --noheadings --units m -o lv_name,seg_start,seg_size,seg_pe_ranges");
    let words: Vec<Vec<&str>> = segments.lines().map(|line| line.split_whitespace().collect()).collect();
    let range = |range: &str| format!("{at}:{range}");
    let rows: Vec<_> = words.iter().map(|row| (row[0], row[2], row[3].to_owned())).collect();
    assert_eq!(
        rows,
        [("root", "7.00m", range("0-6")), ("root", "5.00m", range("10-14")), ("swap_1", "2.00m", range("8-9"))],
        "{segments}"
    );
    // Data begins at 1 MiB.
    let mib = usize::try_from(MIB).unwrap();
    let volume = [&found[mib..8 * mib], &found[11 * mib..16 * mib]].concat();
    check_volume(dir.root(), "ext4", &volume);
    assert!(volume == content(&root));
    let swap = dir.path("swap");
    fs::write(&swap, &found[9 * mib..11 * mib]).unwrap();
    assert!(run("blkid", ["-p", text(&swap)]).contains("92d422f0-3a17-4e69-93f0-f8fd1091e5eb"));

    let conf = fs::read_to_string(directory.path.join("lvm_vg-t.conf")).unwrap();
    directory.write("lvm_vg-t.conf", &conf.replacen("\"striped\"", "\"raid1\"", 1));
    let words = imager.fails(2, &["import", text(&directory.path)]);
    assert!(words.contains("segment1 of logical volume root is raid1"), "{words}");
    directory.write("lvm_vg-t.conf", &conf.replace("pv0 {", "pv9 {\nid = \"Xdlt6U-M4bo-xExy-XG9Q-U7pg-bOXN-n54i5Y\"\ndevice = \"/dev/sdx1\"\ndev_size = 40960\npe_start = 2048\npe_count = 19\n}\npv0 {"));
    let words = imager.fails(2, &["import", text(&directory.path)]);
    assert!(words.contains("/dev/sdx1: the volume group vg-t also lies there"), "{words}");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let dir = Scratch::new();
    let directory = one_partition(dir.root(), "stopped", "da");
    let pipe = directory.path.join("sda1.dd-img");
    fs::write(dir.path("noise"), noise(20 << 20, 5)).unwrap();
    write_at(&dir.path("noise"), 0, &[1; 512]);
    fs::copy(dir.path("noise"), &pipe).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    let scratch = dir.path("scratch");
    fs::create_dir(&scratch).unwrap();
    // Stopped at some point of the work: whichever it is, no file has a name in the directory, then or before.
    for delay in [0, 30, 100] {
        let mut child = imager
            .command(&["import", text(&directory.path), "--scratch", text(&scratch)])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        sh(&format!("kill -INT {} 2>/dev/null || true", child.id()));
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 130) | None), "{code:?}");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    }
}
