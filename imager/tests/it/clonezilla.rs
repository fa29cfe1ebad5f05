//! Directories of Clonezilla, put together as it does it, with the real partclone: imported, restored, compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use imager::clonezilla::partclone::Image;

use crate::restore::{gpt, mbr};
use crate::support::{
    Imager, Loop, check_volume, content, output, read_at, run, sh, some_files, sparse_file, write_at,
};
use crate::volume::Scratch;

const MIB: u64 = 1 << 20;

/// How many directories there are.
static MADE: AtomicU32 = AtomicU32::new(0);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How Clonezilla was told to store volumes.
#[derive(Clone, Copy)]
pub(crate) struct Store {
    /// What compresses, with the end of the name; nothing for `uncomp`.
    pub(crate) compress: (&'static str, &'static str),
    /// Options of partclone: Clonezilla's own are these, too.
    pub(crate) partclone: &'static str,
    /// Bytes of a piece.
    pub(crate) split: Option<&'static str>,
}

pub(crate) const PLAIN: Store = Store { compress: ("cat", "uncomp"), partclone: "-z 10485760", split: None };
pub(crate) const ZSTD: Store = Store { compress: ("zstd -q -c -T2 -3", "zst"), ..PLAIN };

/// A directory as `ocs-sr savedisk` writes it.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// Where volumes are cut out.
    work: PathBuf,
}

impl Directory {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let (path, work) = (dir.join(name), dir.join(format!("{name}.work")));
        fs::create_dir_all(&path).unwrap();
        fs::create_dir_all(&work).unwrap();
        let directory = Self { path, work };
        // Each is a second younger than the one before: `latest` goes by that.
        let second = MADE.fetch_add(1, Ordering::Relaxed);
        let time = format!("2021-02-03 04:{:02}:{:02}", 5 + second / 60, second % 60);
        directory.write("clonezilla-img", &format!("This image was saved by Clonezilla at {time} UTC.\nThe log:\n"));
        directory
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    fn add_word(&self, name: &str, word: &str) {
        let old = fs::read_to_string(self.path.join(name)).unwrap_or_default();
        self.write(name, format!("{old} {word}").trim());
    }

    /// What Clonezilla keeps of a disk's table, by the commands that it uses, `off` by one as in those.
    pub(crate) fn save_table(&self, disk: &Path, name: &str, sector: u64) {
        self.add_word("disk", name);
        let p = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        let (disk_text, dir) = (disk.display(), self.path.display());
        let sectors = fs::metadata(disk).unwrap().len() / sector;
        sh(&format!(
            "/usr/sbin/sfdisk -d {disk_text} 2>/dev/null | sed 's|{disk_text}|/dev/{name}{p}|g; s|^device: .*|device: /dev/{name}|' > {dir}/{name}-pt.sf"
        ));
        let dump = fs::read_to_string(self.path.join(format!("{name}-pt.sf"))).unwrap();
        let kind = if dump.contains("label: gpt") { "gpt" } else { "msdos" };
        self.write(
            &format!("{name}-pt.parted"),
            &format!(
                "Model: ATA Acme Fast Disk (scsi)\nDisk /dev/{name}: {sectors}s\nSector size (logical/physical): {sector}B/4096B\n\
                 Partition Table: {kind}\nDisk Flags: \n\nNumber  Start   End     Size    File system  Name  Flags\n"
            ),
        );
        sh(&format!("dd if={disk_text} of={dir}/{name}-mbr bs=512 count=1 2>/dev/null"));
        if kind == "gpt" {
            let skip = fs::metadata(disk).unwrap().len() / 512 - 33 + 1;
            sh(&format!(
                "dd if={disk_text} of={dir}/{name}-gpt-1st bs=512 count=34 2>/dev/null; \
                 dd if={disk_text} of={dir}/{name}-gpt-2nd bs=512 skip={skip} count=33 2>/dev/null"
            ));
        } else {
            let starts = dump
                .lines()
                .filter_map(|line| line.split_once("start=")?.1.split(',').next()?.trim().parse::<u64>().ok());
            let count = starts.min().unwrap() - 1;
            sh(&format!(
                "dd if={disk_text} of={dir}/{name}-hidden-data-after-mbr bs=512 skip=1 count={count} 2>/dev/null"
            ));
        }
    }

    /// Cuts a volume out of a disk.
    fn cut(&self, disk: &Path, device: &str, start: u64, len: u64) -> PathBuf {
        let path = self.work.join(device);
        fs::write(&path, read_at(disk, start, len)).unwrap();
        path
    }

    /// Saves a volume with partclone, as file system `kind`.
    pub(crate) fn save(&self, volume: &Path, device: &str, kind: &str, store: Store) {
        let program = match kind {
            "ext2" | "ext3" | "ext4" => "extfs",
            other => other,
        };
        // partclone sleeps for two seconds whatever it does, so that what it made of a volume is kept beside it.
        let changed = fs::metadata(volume).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let options = store.partclone.replace(' ', "");
        let saved = volume.with_extension(format!("{}{options}.ptcl", changed.as_nanos()));
        if !saved.exists() {
            let log = self.work.join("log");
            sh(&format!(
                "/usr/sbin/partclone.{program} -c -s {} -o {} -L {} -q {} 2>/dev/null",
                volume.display(),
                saved.display(),
                log.display(),
                store.partclone
            ));
        }
        let image = format!("cat {}", saved.display());
        let base = format!("{device}.{kind}-ptcl-img.{}", store.compress.1);
        self.pipe(&image, &base, store);
    }

    /// Saves a volume with dd.
    pub(crate) fn save_dd(&self, volume: &Path, device: &str, store: Store) {
        self.pipe(&format!("dd if={} bs=1M 2>/dev/null", volume.display()), &format!("{device}.dd-img"), store);
    }

    fn pipe(&self, from: &str, base: &str, store: Store) {
        let target = self.path.join(base);
        let end = match store.split {
            Some(bytes) => format!("split -a 2 -b {bytes} - {}.", target.display()),
            None => format!("cat > {}", target.display()),
        };
        sh(&format!("{from} | {} | {end}", store.compress.0));
        self.add_word("parts", base.split('.').next().unwrap());
    }

    /// Saves a swap space as Clonezilla does: hardly.
    fn save_swap(&self, device: &str, uuid: &str, label: &str) {
        self.write(&format!("swappt-{device}.info"), &format!("UUID=\"{uuid}\"\nLABEL=\"{label}\"\n"));
    }

    fn image_of(&self, device: &str) -> PathBuf {
        let names = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<PathBuf> = names
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{device}.")))
            .collect();
        found.sort();
        found.remove(0)
    }
}

/// What partclone itself makes of the image of a volume, on a device of zeros.
fn oracle(image: &Path, len: u64, work: &Path) -> Vec<u8> {
    let target = sparse_file(&work.join("oracle"), len);
    let log = work.join("oracle.log");
    sh(&format!(
        "/usr/sbin/partclone.restore -C -q -L {} -s {} -O {} 2>/dev/null",
        log.display(),
        image.display(),
        target.display()
    ));
    let mut bytes = content(&target);
    bytes.resize(usize::try_from(len).unwrap(), 0);
    bytes
}

/// Which bytes partclone's image has, by this program's own reading of it.
fn used_in(image: &Path, len: u64) -> Vec<std::ops::Range<usize>> {
    let bytes = content(image);
    let image = Image::open(bytes.as_slice(), len).unwrap();
    let block = usize::try_from(image.header().block_bytes).unwrap();
    let blocks = (0..image.used().len()).filter(|number| image.used().get(*number));
    blocks.map(|number| usize::try_from(number).unwrap() * block).map(|start| start..start + block).collect()
}

/// Imports a directory and restores the image's first disk to a file.
fn import(imager: &Imager, dir: &Scratch, directory: &Directory) -> PathBuf {
    imager.ok(&["import", text(&directory.path)]);
    let target = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&target)]);
    target
}

/// The partitions of a disk image: number, first byte, length.
fn partitions(disk: &Path) -> Vec<(u32, u64, u64)> {
    let dump = run("sfdisk", ["-J", text(disk)]);
    let table: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let sector = table["partitiontable"]["sectorsize"].as_u64().unwrap_or(512);
    let number = |node: &str| node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap().iter();
    partitions
        .map(|p| {
            (
                number(p["node"].as_str().unwrap()),
                p["start"].as_u64().unwrap() * sector,
                p["size"].as_u64().unwrap() * sector,
            )
        })
        .collect()
}

/// What makes, and what checks, a file system in the file `$1`.
const FILE_SYSTEMS: [(&str, u64, &str, &str); 10] = [
    ("ext4", 24, "mke2fs -q -t ext4 -d $2 $1", "e2fsck -fn $1"),
    ("ext3", 24, "mke2fs -q -t ext3 -b 1024 -d $2 $1", "e2fsck -fn $1"),
    ("ext2", 24, "mke2fs -q -t ext2 -d $2 $1", "e2fsck -fn $1"),
    ("xfs", 40, "mkfs.xfs -q -f --unsupported -d agcount=2 $1", "xfs_repair -n $1"),
    ("ntfs", 24, "mkntfs -F -Q -q $1; ntfscp -q -f $1 $2/noise noise", "ntfsfix -n $1"),
    ("fat16", 24, "mkfs.fat -F 16 $1; MTOOLS_SKIP_CHECK=1 mcopy -s -i $1 $2/noise $2/folder ::", "fsck.fat -n $1"),
    ("fat32", 40, "mkfs.fat -F 32 -s 1 $1; MTOOLS_SKIP_CHECK=1 mcopy -s -i $1 $2/noise $2/folder ::", "fsck.fat -n $1"),
    ("exfat", 24, "mkfs.exfat $1", "fsck.exfat -n $1"),
    ("btrfs", 128, "mkfs.btrfs -q --rootdir $2 $1", "btrfs check --readonly $1"),
    ("minix", 24, "mkfs.minix $1", "fsck.minix -f $1"),
];

#[test]
fn every_file_system_comes_back_as_partclone_restores_it() {
    let dir = Scratch::new();
    let tree = some_files(dir.root());
    let disk = sparse_file(&dir.path("disk"), 400 * MIB);
    let mut script = String::from("sgdisk -o");
    let mut at = 1;
    for (number, (_, mib, _, _)) in (1..).zip(FILE_SYSTEMS) {
        script += &format!(" -n {number}:{}:{}", at * 2048, (at + mib) * 2048 - 1);
        at += mib;
    }
    sh(&format!("PATH=$PATH:/usr/sbin; {script} {} >/dev/null", disk.display()));
    let directory = Directory::new(dir.root(), "all-file-systems-img");
    directory.save_table(&disk, "nvme0n1", 512);
    let places = partitions(&disk);
    for ((kind, _, make, _), (number, _, len)) in FILE_SYSTEMS.into_iter().zip(&places) {
        let device = format!("nvme0n1p{number}");
        let volume = sparse_file(&directory.work.join(&device), *len);
        sh(&format!("PATH=$PATH:/usr/sbin; set -- {} {}; ({make}) >/dev/null 2>&1", volume.display(), tree.display()));
        // Blocks that are not in use hold something, too.
        directory.save(&volume, &device, kind, PLAIN);
    }
    let imager = Imager::init(&dir.path("repository"));
    let restored = import(&imager, &dir, &directory);
    assert_eq!(partitions(&restored), places);
    for ((kind, _, _, check), (number, start, len)) in FILE_SYSTEMS.into_iter().zip(places) {
        let image = directory.image_of(&format!("nvme0n1p{number}"));
        let expected = oracle(&image, len, &directory.work);
        let found = read_at(&restored, start, len);
        let used = used_in(&image, len);
        assert!(used.len() > 1, "{kind} has no blocks");
        for range in &used {
            assert!(found[range.clone()] == expected[range.clone()], "{kind} differs in bytes {range:?}");
        }
        let mut rest = found.clone();
        used.into_iter().for_each(|range| rest[range].fill(0));
        if kind == "ntfs" {
            // The copy of the boot sector, which partclone leaves out.
            let copy = rest.len() - 512..;
            assert!(rest[copy.clone()] == found[..512]);
            rest[copy].fill(0);
        }
        assert!(rest.iter().all(|byte| *byte == 0), "{kind} has something where partclone has nothing");
        let volume = directory.work.join("checked");
        fs::write(&volume, found).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let checked = output(
            "env",
            [format!("PATH={path}"), "bash".into(), "-c".into(), format!("set -- {}; {check}", volume.display())],
        );
        assert!(checked.status.success(), "{kind}: {checked:?}");
    }
}

/// There is no lzip in Debian's own tools; its frame is soon made.
const LZIP: &str = r#"python3 -c 'import sys,lzma,zlib,struct; d=sys.stdin.buffer.read(); r=lzma.compress(d,lzma.FORMAT_RAW,filters=[{"id":lzma.FILTER_LZMA1,"dict_size":1<<20,"lc":3,"lp":0,"pb":2}]); h=b"LZIP\x01\x14"; sys.stdout.buffer.write(h+r+struct.pack("<IQQ",zlib.crc32(d),len(d),len(h)+len(r)+20))'"#;

#[test]
fn every_compression_and_every_piece() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 32 * MIB);
    sh(&format!("printf '2048,40960\\n' | /usr/sbin/sfdisk -q {}", disk.display()));
    let tree = some_files(dir.root());
    let imager = Imager::init(&dir.path("repository"));
    let work = sparse_file(&dir.path("volume"), 20 * MIB);
    sh(&format!("/usr/sbin/mke2fs -q -t ext4 -d {} {}", tree.display(), work.display()));
    write_at(&disk, MIB, &content(&work));
    let whole = content(&work);
    for (number, (compress, partclone, split)) in [
        (("gzip -c", "gz"), "-a1 -k1", Some("300k")),
        (("bash -c 'pigz -c 2>/dev/null || gzip -c'", "gz"), "-a1 -k256", None),
        (("zstd -q -c -T2 -3", "zst"), "-a1 -k2560 -K", Some("1M")),
        (("lz4 -q -c", "lz4"), "-a0", Some("1M")),
        (("lz4 -q -c -BD -B4 --content-size", "lz4"), "-a1", None),
        (("xz -c -1", "xz"), "-a1 -k7 -K", Some("1M")),
        (("bzip2 -c", "bz2"), "-a1 -k3", Some("700k")),
        (("xz --format=lzma -c -1", "lzma"), "-a1", None),
        ((LZIP, "lzip"), "-a1", None),
        (("cat", "uncomp"), "-a1", Some("1M")),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = Directory::new(dir.root(), &format!("image-{number}"));
        directory.save_table(&disk, "sda", 512);
        let store = Store { compress, partclone, split };
        directory.save(&work, "sda1", "ext4", store);
        let pieces = fs::read_dir(&directory.path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("sda1."))
            .count();
        assert_eq!(pieces > 1, split.is_some(), "{compress:?}");
        let report = imager.lines(&["import", text(&directory.path), "--name", compress.1]);
        let volume = &report.iter().find(|line| line["type"] == "volume").unwrap()["volume"];
        assert_eq!((volume["device"].as_str(), volume["file_system"].as_str()), (Some("sda1"), Some("EXTFS")));
        // The checksum is one of those that partclone has; everything but zeros is stored once.
        assert_eq!(volume["checksum"].is_null(), partclone.contains("-a0"), "{volume}");
        let result = report.iter().find(|line| line["type"] == "captured").unwrap();
        assert_eq!(
            number == 0,
            result["stats"]["new"].as_u64().unwrap() > 0,
            "{compress:?} is not the same as the others: {result}"
        );
    }
    let target = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&target)]);
    let found = read_at(&target, MIB, 20 * MIB);
    check_volume(dir.root(), "ext4", &found);
    let image = Directory { path: dir.path("image-9"), work: dir.path("image-9.work") };
    sh(&format!("cat {}/sda1.* > {}/whole", image.path.display(), image.work.display()));
    for range in used_in(&image.work.join("whole"), 20 * MIB) {
        assert_eq!(found[range.clone()], whole[range]);
    }
}

#[test]
fn a_gpt_disk_comes_back_with_its_boot_code_and_both_tables() {
    for sector in [512, 4096] {
        let dir = Scratch::new();
        let disk = if sector == 512 { gpt(&dir) } else { sparse_file(&dir.path("source"), 48 * MIB) };
        let attached = (sector == 4096).then(|| Loop::attach(&disk, &["--sector-size", "4096"]));
        if let Some(attached) = &attached {
            crate::support::gpt_disk(dir.root(), &attached.0, 4096);
        }
        let directory = Directory::new(dir.root(), "gpt-img");
        match &attached {
            Some(attached) => {
                // sfdisk asks the device; its size is the file's.
                save_table_of_device(&directory, &attached.0, &disk, sector);
            }
            None => directory.save_table(&disk, "sda", sector),
        }
        let bios = directory.cut(&disk, "sda1", MIB, MIB);
        directory.save_dd(&bios, "sda1", Store { compress: ("gzip -c", ""), ..PLAIN });
        directory.save(&directory.cut(&disk, "sda2", 2 * MIB, 12 * MIB), "sda2", "vfat", ZSTD);
        directory.save(&directory.cut(&disk, "sda3", 14 * MIB, 20 * MIB), "sda3", "ext4", ZSTD);
        let imager = Imager::init(&dir.path("repository"));
        let restored = import(&imager, &dir, &directory);
        let end = fs::metadata(&disk).unwrap().len();
        assert_eq!(fs::metadata(&restored).unwrap().len(), end);
        let head = 17_408.min(2 * sector + 16384);
        assert!(read_at(&restored, 0, head) == read_at(&disk, 0, head), "sectors of {sector}: the beginning");
        let tail = 16384 + sector;
        assert!(
            read_at(&restored, end - tail, tail) == read_at(&disk, end - tail, tail),
            "sectors of {sector}: the backup"
        );
        assert!(read_at(&restored, MIB, MIB) == content(&bios));
        check_volume(dir.root(), "vfat", &read_at(&restored, 2 * MIB, 12 * MIB));
        check_volume(dir.root(), "ext4", &read_at(&restored, 14 * MIB, 20 * MIB));
        let shown = imager.json(&["show", "latest"]);
        let manifest = shown.to_string();
        assert!(manifest.contains("imported from Clonezilla directory gpt-img of 2021-02-03 04:"), "{manifest}");
        assert!(manifest.contains("\"created\":\"2021-02-03T04:"), "{manifest}");
        assert!(manifest.contains("Acme Fast Disk"), "{manifest}");
    }
}

fn save_table_of_device(directory: &Directory, device: &Path, disk: &Path, sector: u64) {
    directory.save_table(disk, "sda", sector);
    let dump = run("sfdisk", ["-d", text(device)]).replace(&format!("{}p", device.display()), "/dev/sda");
    directory.write("sda-pt.sf", &dump);
    let (disk, dir) = (disk.display(), directory.path.display());
    sh(&format!(
        "dd if={disk} of={dir}/sda-gpt-1st bs=512 count=34 2>/dev/null; rm -f {dir}/sda-hidden-data-after-mbr"
    ));
}

#[test]
fn an_mbr_disk_comes_back_with_logical_partitions_and_a_fresh_swap() {
    let dir = Scratch::new();
    let disk = mbr(&dir);
    let directory = Directory::new(dir.root(), "mbr-img");
    directory.save_table(&disk, "sda", 512);
    let places = partitions(&disk);
    let place = |number: u32| places.iter().find(|place| place.0 == number).copied().unwrap();
    fs::write(directory.path.join("sda2-ebr"), read_at(&disk, place(2).1, 512)).unwrap();
    for (number, kind) in [(1, "ext4"), (5, "vfat")] {
        let (_, start, len) = place(number);
        let device = format!("sda{number}");
        directory.save(&directory.cut(&disk, &device, start, len), &device, kind, ZSTD);
    }
    directory.save_swap("sda6", "92d422f0-3a17-4e69-93f0-f8fd1091e5eb", "swap six");
    let imager = Imager::init(&dir.path("repository"));
    let said = imager.ok(&["import", text(&directory.path), "--note", "the old server"]);
    assert!(said.contains("sda6: the swap space was made anew, with its UUID and label"), "{said}");
    let restored = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&restored)]);
    assert_eq!(partitions(&restored), places);
    // Boot code, the space behind it, and the first boot record of the extended partition.
    assert!(read_at(&restored, 0, 63 * 512) == read_at(&disk, 0, 63 * 512));
    assert_eq!(read_at(&restored, place(2).1, 446), read_at(&disk, place(2).1, 446));
    let ids = |disk: &Path| run("sfdisk", ["-d", text(disk)]).replace(text(disk), "");
    assert_eq!(ids(&restored), ids(&disk));
    check_volume(dir.root(), "ext4", &read_at(&restored, place(1).1, place(1).2));
    check_volume(dir.root(), "vfat", &read_at(&restored, place(5).1, place(5).2));
    let swap = dir.path("swap");
    fs::write(&swap, read_at(&restored, place(6).1, place(6).2)).unwrap();
    let found = run("blkid", ["-p", "-o", "export", text(&swap)]);
    assert!(found.contains("UUID=92d422f0-3a17-4e69-93f0-f8fd1091e5eb") && found.contains("LABEL=swap"), "{found}");
    let shown = imager.json(&["show", "latest"]).to_string();
    assert!(shown.contains("the old server (imported from Clonezilla directory mbr-img"), "{shown}");
}

#[test]
fn a_table_is_made_from_the_dump_where_its_sectors_are_lost_or_other() {
    for kind in ["gpt", "mbr"] {
        let dir = Scratch::new();
        let disk = if kind == "gpt" { gpt(&dir) } else { mbr(&dir) };
        let imager = Imager::init(&dir.path("repository"));
        for change in ["lost", "damaged"] {
            let directory = Directory::new(dir.root(), &format!("{kind}-{change}"));
            directory.save_table(&disk, "sda", 512);
            for name in ["sda-mbr", "sda-gpt-1st", "sda-gpt-2nd", "sda-hidden-data-after-mbr"] {
                let path = directory.path.join(name);
                if change == "lost" {
                    let _ = fs::remove_file(&path);
                } else if path.exists() {
                    let mut bytes = content(&path);
                    let from = bytes.len().min(446);
                    bytes[from..].iter_mut().for_each(|byte| *byte ^= 0x5A);
                    fs::write(&path, bytes).unwrap();
                }
            }
            directory.write("parts", "");
            let restored = import(&imager, &dir, &directory);
            let dump = |disk: &Path| run("sfdisk", ["-d", text(disk)]).replace(text(disk), "");
            assert_eq!(dump(&restored), dump(&disk), "{kind} {change}");
            assert!(output("sfdisk", ["--verify", text(&restored)]).status.success());
            fs::remove_file(restored).unwrap();
        }
    }
}

#[test]
fn several_disks_or_one_of_them() {
    let dir = Scratch::new();
    let directory = Directory::new(dir.root(), "two-disks");
    let tree = some_files(dir.root());
    for (name, mib) in [("sda", 32), ("sdb", 40)] {
        let disk = sparse_file(&dir.path(name), mib * MIB);
        sh(&format!("printf '2048,40960\\n' | /usr/sbin/sfdisk -q {}", disk.display()));
        let volume = sparse_file(&directory.work.join("volume"), 20 * MIB);
        sh(&format!("/usr/sbin/mke2fs -q -t ext4 -L {name} -d {} {}", tree.display(), volume.display()));
        directory.save_table(&disk, name, 512);
        directory.save(&volume, &format!("{name}1"), "ext4", ZSTD);
        fs::remove_file(&volume).unwrap();
    }
    directory.write(
        "Info-smart.txt",
        "This image was saved …\nFor the drive: /dev/sdb\nDevice Model:     Other Disk\nSerial Number:    S-42\n",
    );
    directory.write(
        "Info-dmi.txt",
        "System Information\n\tManufacturer: Acme\n\tUUID: 12345678-9abc-def0-1234-56789abcdef0\n",
    );
    let imager = Imager::init(&dir.path("repository"));
    imager.ok(&["import", text(&directory.path), "--name", "both"]);
    let both = imager.json(&["show", "both"]).to_string();
    assert!(both.contains("S-42") && both.contains("uuid 12345678-9abc-def0-1234-56789abcdef0"), "{both}");
    let (a, b) = (dir.path("a"), dir.path("b"));
    imager.ok(&[
        "restore",
        "both",
        "--to",
        &format!("disk0={}", a.display()),
        "--to",
        &format!("disk1={}", b.display()),
    ]);
    for (path, label, mib) in [(a, "sda", 32), (b, "sdb", 40)] {
        assert_eq!(fs::metadata(&path).unwrap().len(), mib * MIB);
        let volume = dir.path("volume");
        fs::write(&volume, read_at(&path, MIB, 20 * MIB)).unwrap();
        assert_eq!(run("e2label", [text(&volume)]).trim(), label);
    }
    imager.ok(&["import", text(&directory.path), "--disk", "sdb", "--name", "one"]);
    let one = imager.json(&["show", "one"]).to_string();
    assert!(one.contains("Other Disk") && !one.contains("Acme Fast Disk"), "{one}");
    let words = imager.fails(2, &["import", text(&directory.path), "--disk", "sdc"]);
    assert!(words.contains("no disk sdc; it has sda, sdb"), "{words}");
}
