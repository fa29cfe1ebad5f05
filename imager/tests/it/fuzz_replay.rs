//! The corpus of every fuzz target, through the same entry function as under libFuzzer; and the making of seeds.

use std::fs;
use std::io;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imager::extent::{Extent, ExtentSet};
use imager::fs::{Note, inspect};
use imager::read_at::ReadAt;

use crate::fs_ntfs;
use crate::support::{run, sh};

#[path = "../../fuzz/entries/appliance.rs"]
pub(crate) mod appliance;
#[path = "../../fuzz/entries/block_map.rs"]
mod block_map;
#[path = "../../fuzz/entries/bytes_of.rs"]
mod bytes_of;
#[path = "../../fuzz/entries/config.rs"]
mod config;
#[path = "../../fuzz/entries/files.rs"]
mod files;
#[path = "../../fuzz/entries/filesystem.rs"]
mod filesystem;
#[path = "../../fuzz/entries/import_text.rs"]
pub(crate) mod import_text;
#[path = "../../fuzz/entries/index.rs"]
mod index;
#[path = "../../fuzz/entries/manifest.rs"]
mod manifest;
#[path = "../../fuzz/entries/mend.rs"]
mod mend;
#[path = "../../fuzz/entries/nbd.rs"]
pub(crate) mod nbd;
#[path = "../../fuzz/entries/pack.rs"]
mod pack;
#[path = "../../fuzz/entries/partclone.rs"]
mod partclone;
#[path = "../../fuzz/entries/table.rs"]
mod table;
#[path = "../../fuzz/entries/vm_disk.rs"]
mod vm_disk;
#[path = "../../fuzz/entries/volume.rs"]
pub(crate) mod volume;

pub(crate) fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, entry: fn(&[u8])) {
    let mut inputs: Vec<PathBuf> = fs::read_dir(corpus(target)).unwrap().map(|file| file.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for input in inputs {
        let bytes = fs::read(&input).unwrap();
        assert!(catch_unwind(|| entry(&bytes)).is_ok(), "{} fails", input.display());
    }
}

#[test]
fn filesystem_corpus() {
    replay("filesystem", filesystem::run);
}

#[test]
fn files_corpus() {
    replay("files", files::run);
}

#[test]
fn table_corpus() {
    replay("table", table::run);
}

#[test]
fn block_map_corpus() {
    replay("block_map", block_map::run);
}

#[test]
fn config_corpus() {
    replay("config", config::run);
}

#[test]
fn index_corpus() {
    replay("index", index::run);
}

#[test]
fn manifest_corpus() {
    replay("manifest", manifest::run);
}

#[test]
fn pack_corpus() {
    replay("pack", pack::run);
}

#[test]
fn partclone_corpus() {
    replay("partclone", partclone::run);
}

#[test]
fn vm_disk_corpus() {
    replay("vm_disk", vm_disk::run);
}

#[test]
fn nbd_corpus() {
    replay("nbd", nbd::run);
}

#[test]
fn import_text_corpus() {
    replay("import_text", import_text::run);
}

#[test]
fn appliance_corpus() {
    replay("appliance", appliance::run);
}

/// Changed images whose headers' checksums are right again: what lies behind those is reached.
#[test]
fn changed_images_of_partclone_keep_within_their_bounds() {
    let mut random = crate::volume::Random::new(7);
    for seed in fs::read_dir(corpus("partclone")).unwrap() {
        let seed = fs::read(seed.unwrap().path()).unwrap();
        for _ in 0..2000 {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(3) {
                // Most of them where something is claimed.
                let limit = if random.below(3) == 0 { bytes.len() } else { 130.min(bytes.len()) } as u64;
                let at = usize::try_from(random.below(limit)).unwrap();
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xFF,
                    2 => bytes[at] ^ (1 << random.below(8)),
                    _ => u8::try_from(random.below(256)).unwrap(),
                };
            }
            if bytes[0] == 0 && bytes.len() > 111 {
                let sum = crc::Crc::<u32>::new(&crc::CRC_32_JAMCRC).checksum(&bytes[1..107]);
                bytes[107..111].copy_from_slice(&sum.to_le_bytes());
            }
            bytes.truncate(bytes.len() - usize::try_from(random.below(4)).unwrap().min(bytes.len()));
            assert!(catch_unwind(|| partclone::run(&bytes)).is_ok(), "{bytes:?}");
        }
    }
}

#[test]
fn every_target_is_replayed() {
    let targets = fs::read_dir(corpus("")).unwrap().map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let source = include_str!("fuzz_replay.rs");
    for target in targets {
        assert!(source.contains(&format!("replay(\"{target}\"")), "the corpus of {target} is not replayed");
    }
}

/// Small images of every way that there is; the first byte says whose they are.
#[test]
#[ignore = "writes the corpus"]
fn make_partclone_seeds() {
    use crate::partclone_writer::{How, image};
    let write =
        |name: &str, kind: u8, bytes: &[u8]| fs::write(corpus("partclone").join(name), [&[kind], bytes].concat());
    let used: Vec<bool> = (0..20).map(|number| number % 5 != 2).collect();
    let volume: Vec<u8> = (0..20 * 64).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for (name, mode, reseed, stray) in [
        ("none", 0, true, false),
        ("crc32", 0x20, true, false),
        ("crc32-running-on", 0x20, false, false),
        ("xxh64", 0x30, true, false),
        ("xxh3", 0x31, true, false),
        ("version-1", 0xFF, false, false),
        ("version-1-64bit", 0xFF, false, true),
    ] {
        write(name, 0, &image(&volume, 64, &used, How { mode, blocks_per_sum: 3, reseed, stray })).unwrap();
    }
    // Three clusters of eight, and the copy of the boot sector, which is shorter.
    let mut ntfs = b"\0ntfsclone-image\x0a\x01".to_vec();
    ntfs.extend(512u32.to_le_bytes());
    ntfs.extend([8 * 512 + 300, 8, 3].iter().flat_map(|number: &u64| number.to_le_bytes()));
    ntfs.extend(56u32.to_le_bytes());
    ntfs.resize(56, 0);
    for (gap, len) in [(0u64, 512), (2, 512), (0, 512), (3, 300)] {
        if gap > 0 {
            ntfs.push(0);
            ntfs.extend(gap.to_le_bytes());
        }
        ntfs.push(1);
        ntfs.extend(&volume[..len]);
    }
    write("ntfsclone", 1, &ntfs).unwrap();
}

/// The seeds are what they were made from: read as volumes, they show a file system with a map.
#[test]
fn seeds_are_understood() {
    for (name, kind) in SEEDS.map(|seed| (seed.name, seed.kind)) {
        let mut seed = fs::read(corpus("filesystem").join(name)).unwrap();
        seed[3] &= 0x7F;
        let found = inspect(&volume::PatchedVolume::decode(&seed));
        assert_eq!(found.kind, kind, "{name}");
        assert!(found.used.total() < found.size, "{name} is read whole: {:?}", found.notes);
    }
}

/// What the log says is taken into account, also when it says something else and a checksum of it is made right.
#[test]
fn the_seed_with_a_dirty_xfs_reaches_its_replay() {
    let mut seed = fs::read(corpus("filesystem").join("xfs-recover")).unwrap();
    seed[3] &= 0x7F;
    let mut volume = volume::PatchedVolume::decode(&seed);
    assert!(matches!(&*inspect(&volume).notes, [Note::Dirty { .. }]));
    let whole = volume.read_vec(0, usize::try_from(volume.size()).unwrap()).unwrap();
    let is_record = |at: &usize| whole[*at..].starts_with(&0xFEED_BABE_u32.to_be_bytes());
    let records: Vec<usize> = (0..whole.len()).step_by(512).filter(is_record).collect();
    for at in &records {
        volume.put(*at as u64 + 32, vec![0; 4]);
    }
    assert!(matches!(&*inspect(&volume).notes, [Note::ReadWhole { .. }]), "the checksums count");
    mend::mend_xfs_log(&mut volume);
    assert!(matches!(&*inspect(&volume).notes, [Note::Dirty { .. }]));
}

/// A volume that notes what is read from it.
struct Watched {
    bytes: Vec<u8>,
    read: Mutex<Vec<Extent>>,
}

impl ReadAt for Watched {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read.lock().unwrap().push(Extent::new(offset, buf.len() as u64));
        self.bytes.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.bytes.size()
    }
}

/// What the encoding of volumes repeats a byte in multiples of, and zeros are left out by.
const UNIT: usize = 64;

/// Encodes what a reader of allocation maps looks at as a seed.
fn seed_of(image: &Path) -> Vec<u8> {
    seed_of_what_is_read(image, |volume| {
        let found = inspect(&*volume);
        assert!(found.used.total() < found.size, "{} is read whole: {:?}", image.display(), found.notes);
    })
}

fn seed_of_what_is_read(image: &Path, look: impl FnOnce(Arc<Watched>)) -> Vec<u8> {
    let volume = Arc::new(Watched { bytes: fs::read(image).unwrap(), read: Mutex::default() });
    look(Arc::clone(&volume));
    let mut read = std::mem::take(&mut *volume.read.lock().unwrap());
    read.sort_unstable();
    encode(&volume.bytes, &read.into_iter().collect())
}

/// Encodes what is in `read` of a volume.
pub(crate) fn encode(bytes: &[u8], read: &ExtentSet) -> Vec<u8> {
    let read = read.aligned_outward(UNIT as u64, bytes.size());
    let mut seed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    let mut patches: Vec<(usize, Vec<u8>)> = Vec::new();
    let units = read.iter().flat_map(|extent| (extent.start..extent.end()).step_by(UNIT));
    for start in units.map(|start| usize::try_from(start).unwrap()) {
        let unit = &bytes[start..bytes.len().min(start + UNIT)];
        match patches.last_mut() {
            _ if unit.iter().all(|&byte| byte == 0) => {}
            Some((first, patch)) if *first + patch.len() == start && is_uniform(patch) == is_uniform(unit) => {
                patch.extend(unit);
            }
            _ => patches.push((start, unit.to_vec())),
        }
    }
    for (start, patch) in patches {
        let len_max = if is_uniform(&patch) { 0x7FFF * UNIT } else { 0x7E00 };
        for (at, part) in (start..).step_by(len_max).zip(patch.chunks(len_max)) {
            seed.extend(u32::try_from(at).unwrap().to_le_bytes());
            if is_uniform(&patch) {
                seed.extend((u16::try_from(part.len() / UNIT).unwrap() | 0x8000).to_le_bytes());
                seed.push(part[0]);
            } else {
                let end = part.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                seed.extend(u16::try_from(end).unwrap().to_le_bytes());
                seed.extend(&part[..end]);
            }
        }
    }
    seed
}

fn is_uniform(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(UNIT) && bytes.iter().all(|byte| byte == &bytes[0])
}

struct Seed {
    name: &'static str,
    kind: &'static str,
    /// Makes the file system on the sparse file `$1`, of `size` bytes.
    make: &'static str,
    size: u64,
}

const fn seed(name: &'static str, kind: &'static str, size: u64, make: &'static str) -> Seed {
    Seed { name, kind, make, size }
}

const SEEDS: [Seed; 18] = [
    seed("ext2", "ext2", 1 << 20, "mkfs.ext2 -q -F -b 1024 -L seed -d /etc/default $1"),
    seed("ext3", "ext3", 4 << 20, "mkfs.ext3 -q -F -b 1024 $1"),
    seed(
        "ext3-recover",
        "ext3",
        4 << 20,
        "mkfs.ext3 -q -F -b 1024 $1; head -c 3k /dev/urandom >$1.blocks
        printf 'jo\njw -b 3000,3001,5 %s\njc\n' $1.blocks | debugfs -w -f - $1",
    ),
    seed("ext4", "ext4", 16 << 20, "mkfs.ext4 -q -F -b 1024 -g 2048 -d /etc/default $1"),
    seed("ext4-meta-bg", "ext4", 16 << 20, "mkfs.ext4 -q -F -b 4096 -g 512 -O meta_bg,^resize_inode,^metadata_csum $1"),
    seed(
        "ext4-bigalloc",
        "ext4",
        32 << 20,
        "mkfs.ext4 -q -F -O bigalloc,sparse_super2,^has_journal,^metadata_csum -C 16384 $1",
    ),
    seed("xfs-v4", "xfs", 32 << 20, "mkfs.xfs -q -f --unsupported -m crc=0 -d agcount=2 $1"),
    seed("xfs-v5", "xfs", 32 << 20, "mkfs.xfs -q -f --unsupported -L seed -d agcount=2 $1"),
    seed(
        "xfs-fragmented",
        "xfs",
        32 << 20,
        "mkfs.xfs -q -f --unsupported -b size=1024 -d agcount=2 $1; mkdir $1.mnt; mount $1 $1.mnt
        head -c 2M /dev/zero >$1.mnt/file; holes=(); for ((i = 0; i < 600; i++)); do
        holes+=(-c \"fpunch $((i * 2048)) 1024\"); done; sync; xfs_io \"${holes[@]}\" $1.mnt/file; umount $1.mnt; xfs_repair -L $1",
    ),
    // Its last changes are in its log alone.
    seed(
        "xfs-recover",
        "xfs",
        32 << 20,
        "mkfs.xfs -q -f --unsupported -d agcount=2 $1; mkdir $1.mnt; mount -o wsync $1 $1.mnt
        mkdir $1.mnt/a; for i in 1 2 3 4 5 6 7 8; do echo x >$1.mnt/a/$i; done; rm $1.mnt/a/2 $1.mnt/a/5
        xfs_io -x -c 'shutdown -f' $1.mnt; umount $1.mnt",
    ),
    seed("fat12", "vfat", 1440 << 10, "mkfs.fat -F 12 -n SEED $1; mcopy -s -i $1 /etc/default ::"),
    seed("fat16", "vfat", 12 << 20, "mkfs.fat -F 16 $1; mcopy -s -i $1 /etc/default ::"),
    seed("fat32", "vfat", 40 << 20, "mkfs.fat -F 32 -s 1 $1; mcopy -s -i $1 /etc/default ::"),
    seed("swap", "swap", 1 << 20, "mkswap -L seed $1"),
    seed("ntfs-512", "ntfs", 2 << 20, "mkntfs -F -Q -q -c 512 -L seed $1"),
    seed("ntfs-4k-sectors", "ntfs", 8 << 20, "mkntfs -F -Q -q -s 4096 -c 65536 $1"),
    seed(
        "ntfs-spare-files",
        "ntfs",
        3 << 20,
        "mkntfs -F -Q -q $1; truncate -s 20k $1.zeros
        for name in hiberfil.sys PageFile.sys; do ntfscp -f -q $1 $1.zeros $name; done",
    ),
    // The page file gets only gaps of two clusters. The clean journal keeps the file table from being looked through.
    seed(
        "ntfs-attribute-list",
        "ntfs",
        4 << 20,
        "mkntfs -F -Q -q -c 512 $1; mkdir $1.mnt; ntfs-3g $1 $1.mnt
        mkdir $1.mnt/d; n=0; while head -c 1024 /dev/urandom >$1.mnt/d/$n; do n=$((n + 1)); done
        for ((i = 0; i < n; i += 2)); do rm $1.mnt/d/$i; done; head -c 400k /dev/urandom >$1.mnt/pagefile.sys
        umount $1.mnt; while fuser -s $1; do sleep 0.1; done",
    ),
];

/// A few files of every kind, for the seeds of files; `mnt` is where the file system is mounted.
const SOME_FILES: &str = r#"
    mkdir -p $1.mnt/a/b/c $1.mnt/many; echo text >$1.mnt/a/text; ln -s ../text $1.mnt/a/b/link
    ln -s "$(printf 'long/%.0s' $(seq 40))" $1.mnt/long; ln $1.mnt/a/text $1.mnt/a/b/c/hard
    for ((i = 0; i < 40; i++)); do : >$1.mnt/many/name-$i; done; truncate -s 8M $1.mnt/sparse
    for i in 0 2 4 6 8 10 12 14 16 18 20 22 24; do printf x | dd of=$1.mnt/fragments bs=4096 seek=$i conv=notrunc status=none; done
    mknod $1.mnt/null c 1 3; setfattr -n user.name -v value $1.mnt/a/text; setfattr -n user.large -v $(printf %0600d 1) $1.mnt/a/text
    setfacl -m u:5:r $1.mnt/a/text; sync -f $1.mnt; umount $1.mnt"#;

/// What makes the seeds of files: name, size, and how to make and mount the file system on `$1`.
const FILES_SEEDS: [(&str, u64, &str); 10] = [
    ("ext2", 2 << 20, "mkfs.ext2 -q -F -b 1024 -I 128 $1; mount $1 $1.mnt"),
    ("ext4", 4 << 20, "mkfs.ext4 -q -F -b 1024 -O inline_data,ea_inode $1; mount $1 $1.mnt"),
    ("ext4-plain", 4 << 20, "mkfs.ext4 -q -F -b 4096 -O ^metadata_csum,^has_journal $1; mount $1 $1.mnt"),
    (
        "xfs-v4",
        32 << 20,
        r"printf '/\n0 0\nd--755 0 0\na d--755 0 0\ntext ---644 0 0 /etc/services\nlink l--777 0 0 ../b\n$\nb ---644 0 0 /etc/hostname\n$\n' >$1.proto
        mkfs.xfs -q -f --unsupported -m crc=0 -n ftype=0 -b size=1024 -d agcount=2 -p $1.proto $1",
    ),
    ("xfs-v5", 32 << 20, "mkfs.xfs -q -f --unsupported -d agcount=2 $1; mount $1 $1.mnt"),
    (
        "ntfs",
        2 << 20,
        "mkntfs -F -Q -q -c 1024 $1; ntfs-3g $1 $1.mnt -o compression,special_files=wsl; mkdir $1.mnt/zip; setfattr -h -n system.ntfs_attrib_be -v 0x00000810 $1.mnt/zip; seq 9000 >$1.mnt/zip/numbers",
    ),
    ("ntfs-4k", 4 << 20, "mkntfs -F -Q -q $1; ntfs-3g $1 $1.mnt -o special_files=wsl"),
    ("fat12", 1440 << 10, "mkfs.fat -F 12 $1"),
    ("fat16", 12 << 20, "mkfs.fat -F 16 $1"),
    ("fat32", 40 << 20, "mkfs.fat -F 32 -s 1 $1"),
];

#[test]
#[ignore = "writes the corpus"]
fn make_seeds_of_files() {
    fs::create_dir_all(corpus("files")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, size, make) in FILES_SEEDS {
        let image = dir.path().join(name);
        run("truncate", ["-s".as_ref(), size.to_string().as_ref(), image.as_os_str()]);
        let fill = match name {
            fat if fat.starts_with("fat") => {
                "mmd -i $1 ::/folder ::/folder/below; mcopy -s -i $1 /etc/default ::/folder/below; mcopy -i $1 /etc/services '::/a long name.text'"
            }
            ntfs if ntfs.starts_with("ntfs") => "while fuser -s $1; do sleep 0.1; done",
            _ => "",
        };
        let files = if name.starts_with("fat") || name == "xfs-v4" { "" } else { SOME_FILES };
        let files = if name.starts_with("ntfs") {
            files.replace("setfacl", ": setfacl").replace("mknod", ": mknod")
        } else {
            files.to_owned()
        };
        sh(&format!("set -- {}; mkdir -p $1.mnt; {make}\n{files}\n{fill}", image.display()));
        let seed = seed_of_what_is_read(&image, |volume| assert!(files::look(volume) >= 3, "{name}"));
        fs::write(corpus("files").join(name), seed).unwrap();
    }
}

/// The seeds are what they were made from: files can be read from each.
#[test]
fn seeds_of_files_are_understood() {
    for (name, ..) in FILES_SEEDS {
        let seed = fs::read(corpus("files").join(name)).unwrap();
        let volume = volume::PatchedVolume::decode(&seed).into_owned();
        assert!(files::look(Arc::new(volume)) >= 3, "{name}");
    }
}

/// Makes those records of an XFS' log zeros that only say that nothing was written there yet, which zeros say, too: the
/// kernel fills two megabytes with them.
fn forget_empty_records(image: &Path) {
    let mut bytes = fs::read(image).unwrap();
    let empty = [0xFEED_BABE_u32.to_be_bytes(), [0; 4]].concat();
    bytes.chunks_mut(512).filter(|block| block.starts_with(&empty)).for_each(|block| block.fill(0));
    fs::write(image, bytes).unwrap();
}

#[test]
#[ignore = "writes the corpus"]
fn make_seeds() {
    fs::create_dir_all(corpus("filesystem")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for seed in SEEDS {
        let image = dir.path().join(seed.name);
        run("truncate", ["-s".as_ref(), seed.size.to_string().as_ref(), image.as_os_str()]);
        sh(&format!("set -- {}; {}", image.display(), seed.make));
        if seed.name == "ntfs-attribute-list" {
            fs_ntfs::shut_down_cleanly(&image, 512);
        }
        let is_dirty_xfs = seed.name == "xfs-recover";
        if is_dirty_xfs {
            forget_empty_records(&image);
        }
        let mut bytes = seed_of(&image);
        if is_dirty_xfs {
            // The target makes the log's checksums right.
            bytes[3] |= 0x80;
        }
        fs::write(corpus("filesystem").join(seed.name), bytes).unwrap();
    }
}

/// Disk files with little in them: what is written, then with what options it becomes a file of which format.
const VM_DISKS: [(&str, &str, &str); 14] = [
    ("qcow2", "-f qcow2 -o cluster_size=4k", "write -P 7 8k 12k"),
    ("qcow2-v2", "-f qcow2 -o compat=0.10,cluster_size=512", "write -P 7 8k 3k"),
    ("qcow2-subclusters", "-f qcow2 -o extended_l2=on,cluster_size=16k", "write -P 7 8k 1k"),
    ("qcow2-deflate", "-f qcow2 -o cluster_size=4k", "write -c -P 7 8k 4k"),
    ("qcow2-zstd", "-f qcow2 -o cluster_size=4k,compression_type=zstd", "write -c -P 7 8k 4k"),
    ("qcow2-overlay", "-f qcow2 -u -b base -F qcow2 -o cluster_size=4k", "info"),
    ("vmdk", "-f vmdk", "write -P 7 8k 12k"),
    ("vmdk-flat", "-f vmdk -o subformat=monolithicFlat", "write -P 7 8k 12k"),
    ("vmdk-stream", "-f vmdk -o subformat=streamOptimized", "write -P 7 64k 64k"),
    ("vhdx", "-f vhdx -o block_size=1M", "write -P 7 8k 12k"),
    ("vhdx-log", "-f vhdx -o block_size=1M", "write -P 7 8k 12k"),
    ("vhd", "-f vpc", "write -P 7 8k 12k"),
    ("vhd-fixed", "-f vpc -o subformat=fixed,force_size=on", "write -P 7 8k 12k"),
    ("vdi", "-f vdi", "write -P 7 8k 12k"),
];

#[test]
#[ignore = "writes the corpus"]
fn make_vm_disk_seeds() {
    fs::create_dir_all(corpus("vm_disk")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, options, write) in VM_DISKS {
        let file = dir.path().join(name);
        let format = options.split(' ').nth(1).unwrap();
        let path = file.display();
        sh(&format!("qemu-img create -q {options} {path} 1M"));
        // What is below an overlay is not there.
        if write != "info" {
            sh(&format!("qemu-io -f {format} -c '{write}' {path} || true"));
        }
        let mut bytes = fs::read(&file).unwrap();
        if name == "vhdx-log" {
            // However QEMU ends, it carries out its log at once, and says then that it is empty.
            crate::vm_disk::with_open_log(&mut bytes, 1, 0);
            let table = usize::try_from(crate::vm_disk::block_table(&bytes)).unwrap();
            bytes[table..table + 8].fill(0);
        }
        let seed = encode(&bytes, &ExtentSet::whole(bytes.size()));
        // The first byte lets the content choose the format; one of them makes checksums right, too.
        let choice = if name == "vhdx-log" { 0xFE } else { 0xFF };
        fs::write(corpus("vm_disk").join(name), [&[choice][..], &seed].concat()).unwrap();
    }
}

/// Seeds with bytes changed at random, the same ones every time; `VM_DISK_ROUNDS` of each seed.
#[test]
fn disk_files_are_mutated() {
    let rounds = std::env::var("VM_DISK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    for (number, (name, ..)) in (0..).zip(VM_DISKS) {
        let seed = fs::read(corpus("vm_disk").join(name)).unwrap();
        let mut random = crate::volume::Random::new(number);
        for _ in 0..rounds {
            let mut input = seed.clone();
            for _ in 0..=random.below(3) {
                let at = usize::try_from(random.below(seed.len() as u64)).unwrap();
                let byte = u8::try_from(random.below(256)).unwrap();
                match random.below(4) {
                    0 => input[at] = byte,
                    1 => input[at] ^= 1 << (byte % 8),
                    2 => input[at] = if byte < 128 { 0 } else { 0xFF },
                    _ => {
                        let from = usize::try_from(random.below(seed.len() as u64 - 8)).unwrap();
                        let to = at.min(input.len() - 8);
                        input.copy_within(from..from + 8, to);
                    }
                }
            }
            assert!(catch_unwind(|| vm_disk::run(&input)).is_ok(), "{name} fails as {input:?}");
        }
    }
}

/// The seeds are what they are named after.
#[test]
fn disk_file_seeds_are_understood() {
    for (name, ..) in VM_DISKS {
        let seed = fs::read(corpus("vm_disk").join(name)).unwrap();
        let found = imager::vm_disk::detect(&volume::PatchedVolume::decode(&seed[1..])).unwrap();
        assert!(name.starts_with(found.name()), "{name}: {found}");
    }
}

/// What the log of the seed says is carried out: the table of blocks in the file is empty, and the block is there.
#[test]
fn the_seed_with_a_log_reaches_its_replay() {
    let seed = fs::read(corpus("vm_disk").join("vhdx-log")).unwrap();
    let file = volume::PatchedVolume::decode(&seed[1..]);
    let whole = file.read_vec(0, usize::try_from(file.size()).unwrap()).unwrap();
    let table = usize::try_from(crate::vm_disk::block_table(&whole)).unwrap();
    assert_eq!(whole[table..table + 8], [0; 8]);
    let disk = vm_disk::disk_in(&seed).unwrap();
    assert!(disk.notes[0].contains("what its log says was carried out in memory"), "{:?}", disk.notes);
    assert!(disk.contents.read_vec(8 << 10, 12 << 10).unwrap().iter().all(|&byte| byte == 7));
    // Also when a checksum of it is wrong, which is made right: a change that fuzzing makes comes so far.
    let at = seed.windows(4).position(|word| word == b"loge").unwrap();
    let mut changed = seed.clone();
    changed[at + 5] ^= 1;
    assert!(vm_disk::disk_in(&changed).is_some_and(|disk| disk.notes == disk_notes(&seed)));
    changed[0] = 0xFF;
    assert!(vm_disk::disk_in(&changed).is_none());
}

fn disk_notes(seed: &[u8]) -> Vec<String> {
    vm_disk::disk_in(seed).unwrap().notes
}
